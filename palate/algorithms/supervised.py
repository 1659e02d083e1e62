"""The supervised loop: SFT, reward models and, later, the direct methods run through these functions alone.

    Example ─collate▶ Batch ─evaluate▶ losses ─▶ update

Which examples form which step is a pure function of (seed, epoch), so the whole position of a run is its step count.
A step's loss is the sum over all its micro-batches divided by the step's own count: micro-batches change nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from pydantic import Field

from palate.algorithms.objectives import Batch, Evaluated, Example, Objective
from palate.data.layout import completions, packed, padded
from palate.data.sampling import token_batches
from palate.engine.checkpoint import Checkpoints
from palate.engine.interfaces import Onlooker
from palate.engine.metrics import JsonLines
from palate.engine.optimiser import Optimiser, Stepper
from palate.errors import TrainingError
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
    def of(cls, examples: Sequence[Example], settings: Supervision, seed: int) -> Plan:
        """Deterministic in the seed; every example exactly once an epoch."""
        lengths = [example.tokens for example in examples]
        epochs = [token_batches(lengths, settings.batch_tokens, seed, epoch) for epoch in range(settings.epochs)]
        steps = tuple(tuple(int(row) for row in batch) for epoch in epochs for batch in epoch)
        return cls(steps, tuple(len(epoch) for epoch in epochs))


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


@dataclass(frozen=True)
class SupervisedLoop:
    """A model, its objective and its examples, ready to train; `train` runs or resumes it."""

    model: CausalLM | RewardModel
    objective: Objective
    examples: Sequence[Example]
    settings: Supervision
    seed: int
    pad_id: int

    def train(self, checkpoints: Checkpoints, metrics: JsonLines, onlooker: Onlooker) -> int:
        """Trains to the end from the newest checkpoint; returns the number of steps."""
        plan = Plan.of(self.examples, self.settings, self.seed)
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
        examples = [self.examples[row] for row in rows]
        count = sum(self.objective.count(example) for example in examples)
        sums: dict[str, float] = {"loss": 0.0}
        useful = total = 0
        for part in micro_batches(examples, self.settings.micro_tokens):
            batch = collate(part, pad_id=self.pad_id, packing=self.model.supports_packing)
            evaluated = self.objective.evaluate(self.model, batch)
            loss = evaluated.losses.sum() / count
            loss.backward()
            _add(sums, evaluated)
            useful, total = useful + batch.layout.useful, total + batch.layout.total
        if not math.isfinite(sums["loss"]):
            raise TrainingError(
                f"The loss is {sums['loss']} at step {step + 1}, whose first example is row {rows[0]} of the data: "
                "no step "
                "was taken and the last checkpoint is good. Lower the learning rate, or look at that step's examples."
            )
        norm, rate = stepper.step(f"step {step + 1}")
        return {
            "step": step + 1,
            **{name: value / count for name, value in sums.items()},
            "lr": rate,
            "grad_norm": norm,
            "tokens/useful": useful,
            "tokens/padded": total - useful,
            "time/step": time.perf_counter() - started,
        }


def _add(sums: dict[str, float], evaluated: Evaluated) -> None:
    sums["loss"] += float(evaluated.losses.detach().sum())
    for name, value in evaluated.sums.items():
        sums[name] = sums.get(name, 0.0) + value


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
    sums: dict[str, float] = {"loss": 0.0}
    count = 0
    # Neighbours of like length share a batch: less padding, and the same batches whatever order the data came in.
    ordered = sorted(examples, key=lambda example: (example.longest, example.prompt, example.completions))
    for part in micro_batches(ordered, limit):
        evaluated = objective.evaluate(model, collate(part, pad_id=pad_id, packing=model.supports_packing))
        _add(sums, evaluated)
        count += evaluated.count
    return {name: value / max(count, 1) for name, value in sums.items()}
