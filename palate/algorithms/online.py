"""The online loop: sample, score, assign, update, once an iteration, for every algorithm of `policies`.

    Prompts ─sample▶ Rollout ─score▶ Scored ─assign▶ Experience ─loss▶ update

Everything that changes besides the weights is one frozen `LoopState`; everything random is a function of (seed,
iteration, row). So weights, optimiser and state together are the whole run, and resuming is exact.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from palate.algorithms.auxiliary import Auxiliary
from palate.algorithms.batches import Gathered, Judged, Part, Share, balanced, occurrences
from palate.algorithms.loop_state import LoopState, Pending
from palate.algorithms.measures import (
    clearly_negative,
    experience_metrics,
    mean,
    reward_metrics,
    rollout_metrics,
    score_metrics,
    sequence_kl,
)
from palate.algorithms.parts import OnlineAlgorithm, Selective
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
from palate.ops import Moments, approx_kl, masked_mean
from palate.records import Prompt
from palate.rewards import judged
from palate.settings import record

# In float32 sampler and trainer differ by rounding alone, some 1e-5; beyond this they are not the same policy.
LARGEST_SAMPLER_GAP = 1e-3

# How much of the running mean of returns is kept from one iteration to the next: it looks back some ten iterations.
BASELINE_DECAY = 0.9


@record
class Online:
    """The online loop's own settings."""

    iterations: int = Field(100, ge=1, description="rollouts, each followed by an update")
    batch: int = Field(64, ge=1, description="prompts an iteration")
    samples: int | None = Field(
        None, ge=1, description="completions a prompt; unless set, what the algorithm asks for (1, 4 or 8)"
    )
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
    asynchronous: bool = Field(
        False, description="the next rollout is sampled while this one is learnt from, by the policy of before"
    )
    importance_cap: float | None = Field(
        None,
        gt=0,
        description="advantages are weighted by π/π_sampler, token by token and at most this much; no weights unless "
        "set, 2 where asynchronous",
    )

    @property
    def largest_weight(self) -> float | None:
        """Where importance weights are cut; None where there are none."""
        return 2.0 if self.asynchronous and self.importance_cap is None else self.importance_cap


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
    sampler: LanguageModel | None = None  # a copy of the policy, where the loop is asynchronous
    auxiliary: Auxiliary | None = None

    @property
    def samples(self) -> int:
        """Completions a prompt."""
        return self.settings.samples or self.algorithm.samples

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
        gathered = self.gather(state)
        if self.sampler is None:
            return self._learn(state, steppers, gathered)
        # The rollout of the next iteration needs nothing of this one but the place among the prompts.
        publish(self.policy, self.sampler)
        ahead = replace(state, iteration=state.iteration + 1, cursor=gathered.cursor)
        with ThreadPoolExecutor(max_workers=1) as aside:
            sampling = aside.submit(self.sample, ahead, self.sampler, version=state.iteration)
            done = self._learn(state, steppers, gathered)
            return replace(done, state=replace(done.state, pending=Pending(*sampling.result())))

    def _learn(self, state: LoopState, steppers: Mapping[str, Stepper], gathered: Gathered) -> Iteration:
        began = time.perf_counter()
        rollout = gathered.kept.rollout
        parts = self._plan(rollout, state.iteration, epoch=0)
        scored, entropy = self.score(gathered, parts, state)
        experience = self._weighted(self.algorithm.assign(scored, state.kl.coef), rollout)
        ready = time.perf_counter()
        updated = self.update(rollout, experience, parts, steppers, state)
        kl = sequence_kl(scored)
        row = {
            "step": state.iteration + 1,
            **score_metrics(gathered.drawn.parts, self.reward.name),
            **reward_metrics(scored, kl, state.kl.coef),
            **rollout_metrics(scored, entropy),
            **experience_metrics(scored, experience),
            **self._groups(gathered, experience),
            **updated,
            "tokens/useful": sum(part.layout.useful for minibatch in parts for part in minibatch),
            "tokens/padded": sum(part.layout.total - part.layout.useful for minibatch in parts for part in minibatch),
            "time/rollout": gathered.sampling,
            "time/score": gathered.judging + ready - began,
            "time/update": time.perf_counter() - ready,
        }
        following = replace(
            state,
            iteration=state.iteration + 1,
            cursor=gathered.cursor,
            kl=state.kl.update(float(kl.mean()), rollout.rows),
            scores=gathered.moments,
            baseline=self._baseline(state, scored),
            negative_kl=state.negative_kl + 1 if clearly_negative(kl) else 0,
            ended=self._over_budget(state, float(kl.mean())),
            pending=None,
        )
        return Iteration(following, row, self._samples(scored, kl, state.iteration + 1))

    @property
    def packing(self) -> bool:
        """Whether all who read the rollout can read its documents in one row, without padding."""
        readers = (self.policy, self.reference, *([] if self.critic is None else [self.critic]))
        return all(reader.supports_packing for reader in readers)

    # ---- sampling and scoring

    def sample(
        self,
        state: LoopState,
        sampler: LanguageModel,
        version: int,
        *,
        count: int | None = None,
        drawn: Sequence[int] = (),
    ) -> tuple[Rollout, Cursor]:
        """Draws `count` prompts, `batch` unless given, and lets the sampler, the policy of this version, answer each
        `samples` times; `drawn` are the rows that the iteration has already."""
        chosen, cursor = batch(len(self.prompts), count or self.settings.batch, state.cursor, self.seed)
        rows = [int(row) for row in chosen for _ in range(self.samples)]
        first = len(drawn) // self.samples
        groups = [first + group for group in range(len(chosen)) for _ in range(self.samples)]
        # A row drawn twice in one iteration (a short prompt list) must not give twice the same sample.
        samples = occurrences([*drawn, *rows])[len(drawn) :]
        u = uniforms(self.seed, state.iteration, rows, samples, self.settings.max_new_tokens)
        return self._write(sampler, rows, groups, u, self.settings.sampling, version), cursor

    def _write(
        self,
        sampler: LanguageModel,
        rows: Sequence[int],
        groups: Sequence[int],
        u: Tensor,
        sampling: Sampling,
        version: int,
    ) -> Rollout:
        generated = generate(
            sampler,
            [self.prompt_ids[row] for row in rows],
            u=u,
            eos_id=self.codec.eos_id,
            pad_id=self.codec.pad_id,
            sampling=sampling,
            slots=self.settings.slots,
        )
        device = generated.ids.device
        return Rollout(
            row_ids=torch.tensor(rows, device=device),
            group_ids=torch.tensor(groups, device=device),
            ids=generated.ids,
            mask=generated.mask,
            sampler_logprobs=generated.logprobs,
            finish=generated.finish,
            version=version,
            limit=self.settings.max_new_tokens,
        )

    @torch.no_grad()
    def gather(self, state: LoopState) -> Gathered:
        """Samples and judges; groups that the algorithm says teach nothing are dropped, and others drawn for them.

        Where nothing is left, the first batch is kept for what it tells, and `assign` will take no row of it.
        """
        began = time.perf_counter()
        rollout, cursor = self._drawn(state)
        sampling = time.perf_counter() - began
        drawn = self._judged(rollout)
        scores, moments, teaching = self._shaped(drawn, state)
        for _ in range(self.algorithm.refills if isinstance(self.algorithm, Selective) else 0):
            lacking = self.settings.batch - int(teaching.sum()) // self.samples
            if lacking == 0:
                break
            refilling = time.perf_counter()
            rollout, cursor = self.sample(
                replace(state, cursor=cursor),
                self.policy,
                rollout.version,
                count=lacking,
                drawn=drawn.rollout.row_ids.tolist(),
            )
            sampling += time.perf_counter() - refilling
            drawn = drawn.joined(self._judged(rollout))
            scores, moments, teaching = self._shaped(drawn, state)
        rows = teaching.nonzero().squeeze(1)
        if len(rows) == 0:
            rows = torch.arange(self.settings.batch * self.samples, device=scores.device)
        judging = time.perf_counter() - began - sampling
        return Gathered(drawn, drawn.take(rows), scores[rows], moments, cursor, sampling, judging)

    def _drawn(self, state: LoopState) -> tuple[Rollout, Cursor]:
        if state.pending is not None:
            return state.pending.rollout, state.pending.cursor
        return self.sample(state, self.policy, state.iteration)

    def _judged(self, rollout: Rollout) -> Judged:
        seen = self._completions(rollout)
        said = judged(self.reward, seen)
        parts = {**said.parts, **{judge.name: judged(judge, seen).scores for judge in self.judges}}
        dense = torch.zeros_like(rollout.sampler_logprobs) if said.dense is None else said.dense
        return Judged(rollout, parts, dense)

    def _shaped(self, drawn: Judged, state: LoopState) -> tuple[Tensor, Moments, Tensor]:
        """Scores of all that was drawn, the moments that they were normalised by, and which rows teach something."""
        raw = drawn.parts[self.reward.name]
        moments = self.settings.shaping.renew(state.scores, raw)
        scores = self.settings.shaping.shape(raw, drawn.rollout.ended, moments)
        if isinstance(self.algorithm, Selective):
            return scores, moments, self.algorithm.teaching(drawn.rollout, scores)
        return scores, moments, torch.ones_like(scores, dtype=torch.bool)

    @torch.no_grad()
    def score(self, gathered: Gathered, parts: Sequence[Sequence[Part]], state: LoopState) -> tuple[Scored, Tensor]:
        """Lets trainer, reference and critic look at the rollout, each over the same forward passes.

        Returns the scored rollout and the policy's entropy [B, T].
        """
        kept, rollout = gathered.kept, gathered.kept.rollout
        blank = torch.zeros_like(rollout.sampler_logprobs)
        old, entropy, reference, values = blank.clone(), blank.clone(), blank.clone(), blank.clone()
        for part in (part for minibatch in parts for part in minibatch):
            outputs = self._outputs(part.layout)
            old[part.rows], entropy[part.rows] = outputs.logprobs, outputs.entropy
            reference[part.rows], _ = completion_logprobs(self.reference, part.layout, self._temperature)
            if outputs.values is not None:
                values[part.rows] = outputs.values
        if rollout.version == state.iteration:
            self._same_policy(rollout, old)
        signals: dict[str, Callable[[], Tensor]] = {
            "reference": lambda: reference,
            "critic": lambda: values,
            "greedy": lambda: self._greedy(rollout, gathered.moments),
            "baseline": lambda: torch.full_like(gathered.scores, self._known_baseline(state, gathered.scores)),
        }
        needed = {name: signals[name]() for name in self.algorithm.needs}
        dense = kept.dense / self.settings.shaping.deviation(gathered.moments)
        return Scored(rollout, gathered.scores, dense.to(old.dtype), kept.parts, old, needed), entropy

    def _greedy(self, rollout: Rollout, moments: Moments) -> Tensor:
        """The score of the policy's likeliest completion to each row's prompt, [B]."""
        rows, where = rollout.row_ids.unique(return_inverse=True)
        u = torch.zeros(len(rows), self.settings.max_new_tokens)
        likeliest = replace(self.settings.sampling, temperature=0)
        greedy = self._write(self.policy, rows.tolist(), range(len(rows)), u, likeliest, rollout.version)
        raw = judged(self.reward, self._completions(greedy)).scores
        return self.settings.shaping.shape(raw, greedy.ended, moments)[where]

    def _baseline(self, state: LoopState, scored: Scored) -> float:
        """The running mean of the returns after this iteration."""
        returns = self.algorithm.kl.returns(scored, state.kl.coef)
        known = self._known_baseline(state, returns)
        return BASELINE_DECAY * known + (1 - BASELINE_DECAY) * float(returns.mean())

    def _known_baseline(self, state: LoopState, returns: Tensor) -> float:
        """The running mean before this iteration; in the first, these returns' own, which only shortens the step."""
        return float(returns.mean()) if state.baseline is None else state.baseline

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
        hidden = self.policy.hidden(layout, layout.predicting)
        logprobs, entropy = logprobs_from(self.policy, hidden, layout, self._temperature)
        values = None if self.critic is None else self.critic.values(layout, hidden)
        return Outputs(logprobs, entropy, values)

    def _weighted(self, experience: Experience, rollout: Rollout) -> Experience:
        """Advantages times min(π/π_sampler, cap): what the sampler would rarely have written counts for more
        (truncated importance sampling, as IMPALA's ρ̄, 1802.01561, eq. 1)."""
        cap = self.settings.largest_weight
        if cap is None:
            return experience
        weights = importance_weights(experience.old_logprobs, rollout.sampler_logprobs[experience.rows], cap)
        return replace(experience, advantages=experience.advantages * weights)

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
        if len(experience.rows) == 0:
            return {"updates": 0}
        for epoch in range(self.algorithm.epochs):
            plan = parts if epoch == 0 else self._plan(rollout, state.iteration, epoch)
            shares = [Share.of(rollout, experience, minibatch) for minibatch in plan]
            taken = [
                self._step(share, steppers, state, number=epoch * len(plan) + number)
                for number, share in enumerate(shares)
                if share.denominators.rows > 0
            ]
            steps += taken
            if self.algorithm.target_kl is not None and mean(taken, "approx_kl") > self.algorithm.target_kl:
                break
        return {
            "ratio/first": steps[0]["ratio/mean"],
            **{name: mean(steps, name) for name in steps[0]},
            "lr": steps[-1]["lr"],
            "updates": len(steps),
        }

    def _step(self, share: Share, steppers: Mapping[str, Stepper], state: LoopState, number: int) -> dict[str, float]:
        where = f"iteration {state.iteration + 1}"
        sums: dict[str, float] = {}
        for part, chosen, mask in share.parts:
            outputs = self._outputs(part.layout)
            losses = self.algorithm.loss(outputs, chosen, mask, share.denominators)
            self._finite(losses, share.rollout, part, where)
            losses.total.backward()
            for name, value in self._diagnose(outputs, chosen, mask, losses, share.denominators.tokens).items():
                sums[name] = sums.get(name, 0.0) + value
        if self.auxiliary is not None:
            sums["loss/auxiliary"] = self.auxiliary.add_gradient(
                self.policy, self.seed, state.iteration, number, self.settings.micro_tokens
            )
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
        }
        return figures | {name: float(value.detach()) for name, value in losses.figures.items()}

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

    def _groups(self, gathered: Gathered, experience: Experience) -> dict[str, float]:
        """How many groups were drawn and how many taught something, where the algorithm looks at that."""
        if not isinstance(self.algorithm, Selective):
            return {}
        rows = {"groups/drawn": gathered.drawn.rollout.rows, "groups/kept": len(experience.rows)}
        return {name: count / self.samples for name, count in rows.items()}

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


def publish(policy: LanguageModel, sampler: LanguageModel) -> None:
    """Gives the sampler the policy's weights of this moment."""
    with torch.no_grad():
        for held, current in zip(sampler.parameters(), policy.parameters(), strict=True):
            held.copy_(current)


def importance_weights(logprobs: Tensor, sampler_logprobs: Tensor, cap: float) -> Tensor:
    """min(exp(log π − log π_sampler), cap), elementwise."""
    return torch.exp(logprobs - sampler_logprobs).clamp(max=cap)
