"""The supervised loop: SFT, reward models and the direct methods run through these functions alone.

    Example ─collate▶ Batch ─evaluate▶ losses ─▶ update

Which examples form which step is a pure function of (seed, epoch), so the whole position of a run is its step count.
A step's loss is the sum over all its micro-batches divided by the step's own count: micro-batches change nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from pydantic import Field

from palate.algorithms.objectives import Batch, Evaluated, Example, Objective, WholeStep
from palate.data.layout import completions, packed, padded
from palate.data.sampling import token_batches
from palate.engine.checkpoint import Checkpoints
from palate.engine.interfaces import Onlooker
from palate.engine.metrics import JsonLines
from palate.engine.optimiser import Optimiser, Stepper
from palate.errors import RecipeError, TrainingError
from palate.models import CausalLM, RewardModel
from palate.settings import record


@record
class Supervision:
    """The supervised loop's own settings."""

    epochs: int = Field(1, ge=1, description="passes over the data")
    learning_rate: float = Field(1e-4, gt=0, description="peak learning rate")
    batch_tokens: int = Field(8192, ge=1, description="tokens of one optimiser step, prompts included")
    micro_tokens: int = Field(
        16384, ge=1, description="tokens of one forward pass; smaller needs less memory, changes nothing else"
    )
    optimiser: Optimiser = Field(default_factory=Optimiser, description="AdamW and the schedule")
    checkpoint_every: int = Field(50, ge=1, description="steps between checkpoints")


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps of a run: for each epoch, which examples form which step."""

    steps: tuple[tuple[int, ...], ...]
    per_epoch: tuple[int, ...]

    @classmethod
    def of(cls, examples: Sequence[Example], settings: Supervision, seed: int, least: int = 1) -> Plan:
        """Deterministic in the seed; every example exactly once an epoch.

        Raises RecipeError where steps would have fewer than `least` examples; what is left over at an epoch's end joins
        another step.
        """
        lengths = [example.tokens for example in examples]
        epochs = [token_batches(lengths, settings.batch_tokens, seed, epoch) for epoch in range(settings.epochs)]
        epochs = [_with_leftover(epoch, least) for epoch in epochs]
        steps = tuple(tuple(int(row) for row in batch) for epoch in epochs for batch in epoch)
        small = sum(len(step) < least for step in steps)
        if small:
            raise RecipeError(
                f"batch_tokens = {settings.batch_tokens} gives {small} of {len(steps)} optimiser steps fewer than "
                f"{least} examples. This objective estimates over a step's examples together what it measures each of "
                f"them by, and a batch of one has nothing to estimate from. Set batch_tokens = {least * max(lengths)} "
                f"or more, with {least} examples at least."
            )
        return cls(steps, tuple(len(epoch) for epoch in epochs))


def _with_leftover(batches: list[tuple[int, ...]], least: int) -> list[tuple[int, ...]]:
    """An epoch's batches, the only one that is too small joined to its neighbour."""
    small = [index for index, batch in enumerate(batches) if len(batch) < least]
    if len(small) != 1 or len(batches) == 1:
        return batches
    (index,) = small
    start = max(index - 1, 0)
    return [*batches[:start], (*batches[start], *batches[start + 1]), *batches[start + 2 :]]


def collate(examples: Sequence[Example], *, pad_id: int, packing: bool) -> Batch:
    """Examples as one forward pass, packed without padding where the model can read that."""
    prompts = [example.prompt for example in examples for _ in example.completions]
    ids, mask = completions([completion for example in examples for completion in example.completions], pad_id)
    layout = packed(prompts, ids, mask) if packing else padded(prompts, ids, mask, pad_id=pad_id)
    return Batch(tuple(examples), layout)


def micro_batches(examples: Sequence[Example], limit: int) -> Iterator[list[Example]]:
    """Cuts a step's examples into runs of at most `limit` tokens; an example alone may exceed it."""
    run: list[Example] = []
    held = 0
    for example in examples:
        if run and held + example.tokens > limit:
            yield run
            run, held = [], 0
        run.append(example)
        held += example.tokens
    if run:
        yield run


@dataclass(frozen=True, slots=True)
class Reader:
    """How examples are laid out for a model: `limit` tokens a forward pass, on the model's device."""

    model: CausalLM | RewardModel
    limit: int
    pad_id: int

    def batches(self, examples: Sequence[Example]) -> Iterator[Batch]:
        """The examples in forward passes, in order."""
        device = next(self.model.parameters()).device
        for part in micro_batches(examples, self.limit):
            batch = collate(part, pad_id=self.pad_id, packing=self.model.supports_packing)
            yield replace(batch, layout=batch.layout.to(device))

    @torch.no_grad()
    def planned(self, objective: Objective, examples: Sequence[Example]) -> tuple[Objective, Sequence[Example]]:
        """The objective of one optimiser step over these examples, and what it is evaluated on."""
        if isinstance(objective, WholeStep):
            return objective.plan_step(self.model, examples, self.batches)
        return objective, examples


def looked_at(step: int) -> bool:
    """Whether a model is measured after so many steps: after 4, 8, 16 and so on, however long the training is."""
    return step >= 4 and step & (step - 1) == 0


@dataclass(frozen=True)
class SupervisedLoop:
    """A model, its objective and its examples, ready to train; `train` runs or resumes it."""

    model: CausalLM | RewardModel
    objective: Objective
    examples: Sequence[Example]
    settings: Supervision
    seed: int
    pad_id: int
    measure: Callable[[], Mapping[str, float]] | None = None  # further figures, of the model as it stands

    def train(self, checkpoints: Checkpoints, metrics: JsonLines, onlooker: Onlooker) -> int:
        """Trains to the end from the newest checkpoint; returns the number of steps."""
        least = self.objective.least if isinstance(self.objective, WholeStep) else 1
        plan = Plan.of(self.examples, self.settings, self.seed, least)
        stepper = Stepper(
            self.model,
            self.settings.optimiser,
            learning_rate=self.settings.learning_rate,
            total=len(plan.steps),
        )
        start = self._resume(stepper, checkpoints, metrics)
        onlooker.begin(len(plan.steps), start)
        for step in range(start, len(plan.steps)):
            row = self._step(stepper, plan.steps[step], step)
            if self.measure is not None and looked_at(step + 1):
                row |= self.measure()
            metrics.append(row)
            onlooker.advance(row)
            last = step + 1 == len(plan.steps)
            if last or (step + 1) % self.settings.checkpoint_every == 0 or onlooker.stopping():
                tensors, state = stepper.saved("model")
                metrics.sync()
                checkpoints.save(step + 1, tensors, state)
            onlooker.check()
        return len(plan.steps)

    def _resume(self, stepper: Stepper, checkpoints: Checkpoints, metrics: JsonLines) -> int:
        found = checkpoints.latest()
        metrics.cut_after(found.step if found else 0)
        if found is None:
            return 0
        stepper.restore("model", found.tensors(), found.state)
        return found.step

    def _step(self, stepper: Stepper, rows: Sequence[int], step: int) -> dict[str, float]:
        started = time.perf_counter()
        reader = Reader(self.model, self.settings.micro_tokens, self.pad_id)
        objective, examples = reader.planned(self.objective, [self.examples[row] for row in rows])
        # A step without anything to learn from is harmless: its losses are all 0.
        count = sum(objective.count(example) for example in examples) or 1
        means = Means()
        useful = total = 0
        for batch in reader.batches(examples):
            evaluated = objective.evaluate(self.model, batch)
            loss = evaluated.losses.sum() / count
            loss.backward()
            means.add(evaluated)
            useful, total = useful + batch.layout.useful, total + batch.layout.total
        figures = means.figures()
        if not math.isfinite(figures["loss"]):
            raise TrainingError(
                f"The loss is {figures['loss']} at step {step + 1}, whose first example is row {rows[0]} of the data: "
                "no step "
                "was taken and the last checkpoint is good. Lower the learning rate, or look at that step's examples."
            )
        norm, rate = stepper.step(f"step {step + 1}")
        return {
            "step": step + 1,
            **figures,
            "lr": rate,
            "grad_norm": norm,
            "tokens/useful": useful,
            "tokens/padded": total - useful,
            "time/step": time.perf_counter() - started,
        }


class Means:
    """The mean loss and the means of an objective's other figures, gathered batch by batch."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {"loss": 0.0}
        self.counts: dict[str, float] = {"loss": 0}

    def add(self, evaluated: Evaluated) -> None:
        """Takes in one batch."""
        for name, value in {"loss": float(evaluated.losses.detach().sum()), **evaluated.sums}.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + evaluated.counts.get(name, evaluated.count)

    def figures(self) -> dict[str, float]:
        """Every mean; one of nothing is absent, but for the loss, which is 0 then."""
        loss = self.sums["loss"] / (self.counts["loss"] or 1)
        return {"loss": loss} | {
            name: value / self.counts[name] for name, value in self.sums.items() if self.counts[name]
        }


@torch.no_grad()
def held_out(
    model: CausalLM | RewardModel,
    objective: Objective,
    examples: Sequence[Example],
    *,
    limit: int,
    pad_id: int,
) -> dict[str, float]:
    """Means of the loss and of the objective's other figures over examples that were not trained on."""
    reader, means = Reader(model, limit, pad_id), Means()
    # Neighbours of like length share a batch: less padding, and the same batches whatever order the data came in.
    ordered = sorted(examples, key=lambda example: (example.longest, example.prompt, example.completions))
    objective, ordered = reader.planned(objective, ordered)
    for batch in reader.batches(ordered):
        means.add(objective.evaluate(model, batch))
    return means.figures()
