"""The online loop: sample, score, assign, update, once an iteration, for every algorithm of `policies`.

    Prompts ─sample▶ Rollout ─score▶ Scored ─assign▶ Experience ─loss▶ update

Everything that changes besides the weights is one frozen `LoopState`; everything random is a function of (seed,
iteration, row). So weights, optimiser and state together are the whole run, and resuming is exact.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from palate.algorithms.measures import (
    clearly_negative,
    experience_metrics,
    mean,
    rollout_metrics,
    score_metrics,
    sequence_kl,
)
from palate.algorithms.policies import Controller, OnlineAlgorithm
from palate.algorithms.shaping import Shaping
from palate.data.layout import Layout, packed, padded
from palate.data.sampling import Cursor, batch
from palate.engine.experience import Experience, Losses, Outputs, Rollout, Scored
from palate.engine.forward import completion_logprobs, logprobs_from
from palate.engine.generation import Sampling, generate
from palate.engine.interfaces import Codec, Completions, LanguageModel, Reward, ValueFunction
from palate.engine.optimiser import Optimiser, Stepper
from palate.engine.seeding import permutation, uniforms
from palate.errors import TrainingError
from palate.ops import Moments, approx_kl, clip_fraction, masked_mean
from palate.records import Prompt
from palate.rewards import checked_scores
from palate.settings import record

# In float32 sampler and trainer differ by rounding alone, some 1e-5; beyond this they are not the same policy.
LARGEST_SAMPLER_GAP = 1e-3


@record
class Online:
    """The online loop's own settings."""

    iterations: int = Field(100, ge=1, description="rollouts, each followed by an update")
    batch: int = Field(64, ge=1, description="prompts an iteration")
    samples: int = Field(1, ge=1, description="completions a prompt")
    max_new_tokens: int = Field(64, ge=1, description="longest completion, EOS included")
    slots: int | None = Field(
        None,
        ge=1,
        description="rows decoded at a time, the others taking the places of those that end; all at once unless set",
    )
    learning_rate: float = Field(1e-4, gt=0, description="the policy's peak learning rate")
    sampling: Sampling = Field(default_factory=Sampling, description="temperature; it holds in every log-probability")
    shaping: Shaping = Field(default_factory=Shaping, description="from a judge's number to the score")
    optimiser: Optimiser = Field(default_factory=Optimiser, description="AdamW and the schedule, of policy and critic")
    micro_tokens: int = Field(
        16384, ge=1, description="tokens of one forward pass; smaller needs less memory, changes nothing else"
    )


@dataclass(frozen=True, slots=True)
class LoopState:
    """All that changes from iteration to iteration, besides weights and optimisers."""

    iteration: int
    cursor: Cursor
    kl: Controller
    scores: Moments
    negative_kl: int = 0  # iterations in a row whose KL was below 0 beyond its noise
    ended: str | None = None  # why the stage is over before its last iteration

    def to_json(self) -> dict[str, Any]:
        """Plain numbers for a checkpoint."""
        return {
            "iteration": self.iteration,
            "cursor": asdict(self.cursor),
            "kl": asdict(self.kl),
            "scores": [float(number) for number in self.scores],
            "negative_kl": self.negative_kl,
            "ended": self.ended,
        }

    @classmethod
    def from_json(cls, plain: Mapping[str, Any], controller: type[Controller]) -> LoopState:
        """The state that `to_json` wrote; `controller` is the class of its KL controller."""
        return cls(
            iteration=plain["iteration"],
            cursor=Cursor(**plain["cursor"]),
            kl=controller(**plain["kl"]),
            scores=Moments(*(torch.tensor(number, dtype=torch.float64) for number in plain["scores"])),
            negative_kl=plain["negative_kl"],
            ended=plain["ended"],
        )


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows of a rollout, laid out for one forward pass: the unit of memory."""

    rows: Tensor
    layout: Layout


@dataclass(frozen=True, slots=True)
class Iteration:
    """What one iteration leaves: the next state, its row of metrics, and a few samples."""

    state: LoopState
    row: dict[str, float]
    samples: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class OnlineLoop:
    """The actors of alignment. `policy` and `critic` learn; `reference` and the judges do not.

    `reward` makes the score; `judges` look on and are logged. `prompts` are records, `prompt_ids` the same in tokens.
    """

    policy: LanguageModel
    reference: LanguageModel
    critic: ValueFunction | None
    reward: Reward
    algorithm: OnlineAlgorithm
    prompts: Sequence[Prompt]
    prompt_ids: Sequence[Sequence[int]]
    codec: Codec
    settings: Online
    critic_learning_rate: float
    seed: int
    judges: tuple[Reward, ...] = ()

    def steppers(self) -> dict[str, Stepper]:
        """The optimisers of what learns, by name."""
        total = self.settings.iterations * self.algorithm.epochs * self.algorithm.minibatches
        learning: dict[str, tuple[Any, float]] = {"policy": (self.policy, self.settings.learning_rate)}
        if self.critic is not None:
            learning["critic"] = (self.critic, self.critic_learning_rate)
        return {
            name: Stepper(module, self.settings.optimiser, learning_rate=rate, total=total)
            for name, (module, rate) in learning.items()
        }

    def start(self, scores: Moments) -> LoopState:
        """The state before the first iteration; `scores` are the judge's moments on the reference's completions."""
        return LoopState(0, Cursor(0, 0), self.algorithm.kl.controller(), scores)

    def iterate(self, state: LoopState, steppers: Mapping[str, Stepper]) -> Iteration:
        """One iteration: rollout, scoring, assignment, update, and the next state."""
        began = time.perf_counter()
        rollout, cursor = self.sample(state)
        sampled = time.perf_counter()
        parts = self._plan(rollout, state.iteration, epoch=0)
        scored, moments, entropy = self.score(rollout, parts, state)
        experience = self.algorithm.assign(scored, state.kl.coef)
        judged = time.perf_counter()
        updated = self.update(rollout, experience, parts, steppers, state)
        kl = sequence_kl(scored)
        row = {
            "step": state.iteration + 1,
            **score_metrics(scored, kl, self.reward.name, state.kl.coef),
            **rollout_metrics(scored, entropy),
            **experience_metrics(scored, experience),
            **updated,
            "tokens/useful": sum(part.layout.useful for minibatch in parts for part in minibatch),
            "tokens/padded": sum(part.layout.total - part.layout.useful for minibatch in parts for part in minibatch),
            "time/rollout": sampled - began,
            "time/score": judged - sampled,
            "time/update": time.perf_counter() - judged,
        }
        following = replace(
            state,
            iteration=state.iteration + 1,
            cursor=cursor,
            kl=state.kl.update(float(kl.mean()), rollout.rows),
            scores=moments,
            negative_kl=state.negative_kl + 1 if clearly_negative(kl) else 0,
            ended=self._over_budget(state, float(kl.mean())),
        )
        return Iteration(following, row, self._samples(scored, kl, state.iteration + 1))

    @property
    def packing(self) -> bool:
        """Whether all who read the rollout can read its documents in one row, without padding."""
        readers = (self.policy, self.reference, *([] if self.critic is None else [self.critic]))
        return all(reader.supports_packing for reader in readers)

    # ---- sampling and scoring

    def sample(self, state: LoopState) -> tuple[Rollout, Cursor]:
        """Draws prompts and lets the policy answer each `samples` times."""
        settings = self.settings
        drawn, cursor = batch(len(self.prompts), settings.batch, state.cursor, self.seed)
        rows = [int(row) for row in drawn for _ in range(settings.samples)]
        groups = [group for group in range(len(drawn)) for _ in range(settings.samples)]
        # A row drawn twice in one batch (a short prompt list) must not give twice the same sample.
        samples = occurrences(rows)
        u = uniforms(self.seed, state.iteration, rows, samples, settings.max_new_tokens)
        generated = generate(
            self.policy,
            [self.prompt_ids[row] for row in rows],
            u=u,
            eos_id=self.codec.eos_id,
            pad_id=self.codec.pad_id,
            sampling=settings.sampling,
            slots=settings.slots,
        )
        device = generated.ids.device
        return Rollout(
            row_ids=torch.tensor(rows, device=device),
            group_ids=torch.tensor(groups, device=device),
            ids=generated.ids,
            mask=generated.mask,
            sampler_logprobs=generated.logprobs,
            finish=generated.finish,
            version=state.iteration,
        ), cursor

    @torch.no_grad()
    def score(
        self, rollout: Rollout, parts: Sequence[Sequence[Part]], state: LoopState
    ) -> tuple[Scored, Moments, Tensor]:
        """Lets judges, trainer, reference and critic look at the rollout, each over the same forward passes.

        Returns the scored rollout, the moments its scores were normalised by, and the policy's entropy [B, T].
        """
        seen = self._completions(rollout)
        named = {judge.name: checked_scores(judge, seen) for judge in (self.reward, *self.judges)}
        raw = named[self.reward.name]
        shaping = self.settings.shaping
        moments = shaping.renew(state.scores, raw)
        blank = torch.zeros_like(rollout.sampler_logprobs)
        old, entropy, reference, values = blank.clone(), blank.clone(), blank.clone(), blank.clone()
        for part in (part for minibatch in parts for part in minibatch):
            outputs = self._outputs(part.layout)
            old[part.rows], entropy[part.rows] = outputs.logprobs, outputs.entropy
            reference[part.rows], _ = completion_logprobs(self.reference, part.layout, self._temperature)
            if outputs.values is not None:
                values[part.rows] = outputs.values
        self._same_policy(rollout, old)
        signals = {"reference": reference, "critic": values}
        needed = {name: signals[name] for name in self.algorithm.needs}
        return (
            Scored(rollout, shaping.shape(raw, rollout.ended, moments), named, old, needed),
            moments,
            entropy,
        )

    def _completions(self, rollout: Rollout) -> Completions:
        rows = rollout.row_ids.tolist()
        return Completions(
            prompts=tuple(self.prompts[row] for row in rows),
            prompt_ids=tuple(tuple(self.prompt_ids[row]) for row in rows),
            ids=rollout.ids,
            mask=rollout.mask,
            texts=tuple(
                self.codec.decode(ids[:length].tolist())
                for ids, length in zip(rollout.ids, rollout.lengths.tolist(), strict=True)
            ),
        )

    @property
    def _temperature(self) -> float:
        return self.settings.sampling.temperature

    def _outputs(self, layout: Layout) -> Outputs:
        hidden = self.policy.hidden(layout)
        logprobs, entropy = logprobs_from(self.policy, hidden, layout, self._temperature)
        values = None if self.critic is None else self.critic.values(layout, hidden)
        return Outputs(logprobs, entropy, values)

    def _same_policy(self, rollout: Rollout, old: Tensor) -> None:
        gap = float((rollout.sampler_logprobs - old).abs().max())
        if not gap <= LARGEST_SAMPLER_GAP and old.dtype == torch.float32:
            row = int((rollout.sampler_logprobs - old).abs().amax(dim=1).argmax())
            raise TrainingError(
                f"Sampler and trainer differ by {gap:.2g} nats on a token of row {row} in iteration "
                f"{rollout.version + 1}. In float32 "
                f"they must agree within {LARGEST_SAMPLER_GAP}, else the ratios of the update are those of another "
                "policy. "
                "Look for a model whose output depends on padding, position ids or its cache."
            )

    # ---- updating

    def _plan(self, rollout: Rollout, iteration: int, epoch: int) -> list[list[Part]]:
        """The minibatches of one pass, each cut into parts that fit the memory; every row once."""
        order = permutation(rollout.rows, self.seed, "minibatches", iteration, epoch).to(rollout.ids.device)
        lengths = self._lengths(rollout)
        minibatches = balanced(order, lengths, min(self.algorithm.minibatches, rollout.rows))
        return [[self._part(rollout, rows) for rows in self._fitting(rollout, chosen)] for chosen in minibatches]

    def _fitting(self, rollout: Rollout, rows: Tensor) -> list[Tensor]:
        """Cuts rows into runs of like length whose size, padding included, stays within `micro_tokens`."""
        lengths = self._lengths(rollout)[rows].tolist()
        runs: list[Tensor] = []
        run: list[int] = []
        held = 0
        for index in sorted(range(len(lengths)), key=lengths.__getitem__):
            size = held + lengths[index] if self.packing else (len(run) + 1) * lengths[index]
            if run and size > self.settings.micro_tokens:
                runs.append(rows[run])
                run, size = [], lengths[index]
            run.append(index)
            held = size
        return [*runs, rows[run]]

    def _lengths(self, rollout: Rollout) -> Tensor:
        """Tokens of each row's prompt and completion, [B]."""
        prompts = torch.tensor([len(self.prompt_ids[row]) for row in rollout.row_ids.tolist()])
        return prompts.to(rollout.lengths.device) + rollout.lengths

    def _part(self, rollout: Rollout, rows: Tensor) -> Part:
        prompts = [self.prompt_ids[row] for row in rollout.row_ids[rows].tolist()]
        ids, mask = rollout.ids[rows], rollout.mask[rows]
        layout = packed(prompts, ids, mask) if self.packing else padded(prompts, ids, mask, pad_id=self.codec.pad_id)
        return Part(rows, layout.to(rollout.ids.device))

    def update(
        self,
        rollout: Rollout,
        experience: Experience,
        parts: Sequence[Sequence[Part]],
        steppers: Mapping[str, Stepper],
        state: LoopState,
    ) -> dict[str, float]:
        """Passes over the experience, `parts` being the first; returns the update's metrics."""
        steps: list[dict[str, float]] = []
        for epoch in range(self.algorithm.epochs):
            plan = parts if epoch == 0 else self._plan(rollout, state.iteration, epoch)
            taken = [self._step(rollout, experience, minibatch, steppers, state) for minibatch in plan]
            steps += taken
            if self.algorithm.target_kl is not None and mean(taken, "approx_kl") > self.algorithm.target_kl:
                break
        return {
            "ratio/first": steps[0]["ratio/mean"],
            **{name: mean(steps, name) for name in steps[0]},
            "lr": steps[-1]["lr"],
            "updates": len(steps),
        }

    def _step(
        self,
        rollout: Rollout,
        experience: Experience,
        minibatch: Sequence[Part],
        steppers: Mapping[str, Stepper],
        state: LoopState,
    ) -> dict[str, float]:
        where = f"iteration {state.iteration + 1}"
        tokens = sum(int(rollout.mask[part.rows].sum()) for part in minibatch)
        sums: dict[str, float] = {}
        for part in minibatch:
            chosen, mask = experience.take(part.rows), rollout.mask[part.rows]
            outputs = self._outputs(part.layout)
            losses = self.algorithm.loss(outputs, chosen, mask, tokens)
            self._finite(losses, rollout, part, where)
            losses.total.backward()
            for name, value in self._diagnose(outputs, chosen, mask, losses, tokens).items():
                sums[name] = sums.get(name, 0.0) + value
        norms = {name: stepper.step(f"{where}, of the {name}") for name, stepper in steppers.items()}
        sums["grad_norm"], sums["lr"] = norms["policy"]
        return sums

    def _diagnose(
        self, outputs: Outputs, batch: Experience, mask: Tensor, losses: Losses, tokens: int
    ) -> dict[str, float]:
        """This part's share of the minibatch's figures: means over the minibatch's tokens add up over its parts."""
        share = float(mask.sum()) / tokens
        logprobs = outputs.logprobs.detach()
        ratio = torch.exp(logprobs - batch.old_logprobs)
        figures = {
            "ratio/mean": float(masked_mean(ratio, mask)) * share,
            "approx_kl": float(approx_kl(logprobs=logprobs, old_logprobs=batch.old_logprobs, mask=mask)) * share,
            "loss/policy": float(losses.policy.detach()),
        }
        clip = getattr(self.algorithm, "clip", None)
        if clip is not None:
            clipped = clip_fraction(
                logprobs=logprobs,
                old_logprobs=batch.old_logprobs,
                advantages=batch.advantages,
                mask=mask,
                clip=clip,
            )
            figures["clip_fraction"] = float(clipped) * share
        if losses.value is not None:
            figures["loss/value"] = float(losses.value.detach())
        return figures

    def _finite(self, losses: Losses, rollout: Rollout, part: Part, where: str) -> None:
        total = float(losses.total.detach())
        if math.isfinite(total):
            return
        row = int(rollout.row_ids[part.rows[0]])
        raise TrainingError(
            f"The loss is {total} at {where}, in a minibatch whose first sample answers prompt {row} "
            f"({self.prompts[row].text[:60]!r}): no step was taken and the last checkpoint is good. Lower the learning "
            "rate, or look at that iteration's samples."
        )

    # ---- what is told

    def _over_budget(self, state: LoopState, kl: float) -> str | None:
        exceeded = getattr(state.kl, "exceeded", None)
        if exceeded is None or not exceeded(kl):
            return None
        return f"the KL of {kl:.2f} nats is over the budget of {self.algorithm.kl.target:g}"

    def _samples(self, scored: Scored, kl: Tensor, step: int, count: int = 4) -> tuple[dict[str, Any], ...]:
        seen = self._completions(scored.rollout)
        raw = scored.parts[self.reward.name]
        return tuple(
            {
                "step": step,
                "prompt": seen.prompts[row].text,
                "completion": seen.texts[row],
                "score": float(raw[row]),
                "kl": float(kl[row]),
                "finish": scored.rollout.finish[row],
            }
            for row in range(min(count, scored.rollout.rows))
        )


def balanced(order: Tensor, lengths: Tensor, parts: int) -> list[Tensor]:
    """Deals rows, in a random order, to minibatches of like size: as many rows each as can be, and like many tokens.

    The longest rows are dealt first, one to each minibatch, back and forth; within each round chance decides.
    """
    falling = order[lengths[order].argsort(descending=True, stable=True)]
    rounds = [deal if number % 2 == 0 else deal.flip(0) for number, deal in enumerate(falling.split(parts))]
    hands: list[list[int]] = [[] for _ in range(parts)]
    for deal in rounds:
        for hand, row in zip(hands, deal.tolist(), strict=False):
            hand.append(row)
    return [torch.tensor(hand, device=order.device) for hand in hands]


def occurrences(rows: Sequence[int]) -> list[int]:
    """For each entry, how often its value stood there before: [5, 7, 5] → [0, 0, 1]."""
    seen: dict[int, int] = {}
    counts = []
    for row in rows:
        counts.append(seen.get(row, 0))
        seen[row] = counts[-1] + 1
    return counts
