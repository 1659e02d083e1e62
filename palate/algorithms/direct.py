"""Direct methods: a policy learns from preferences or judgements themselves, without a reward model, in the supervised
loop.

Each is one loss in `palate.losses` and one record here. What they compare with the reference is computed once, before
training, by `with_reference`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import ClassVar, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor

from palate.algorithms.objectives import Batch, Evaluated, Example, Objective, encoded, lead
from palate.algorithms.supervised import Reader, Supervision
from palate.data.chat import ChatFormat
from palate.data.layout import Layout
from palate.engine.forward import completion_logprobs
from palate.engine.interfaces import LanguageModel
from palate.errors import DataError
from palate.losses import dpo, hinge, ipo, kto, log_odds, orpo, simpo
from palate.models import CausalLM
from palate.ops import masked_mean
from palate.records import Feedback, PreferencePair
from palate.settings import inlined, record

Feed = Literal["pairs", "feedback"]


class DirectMethod(Protocol):
    """What the alignment stage asks of a direct method."""

    data: ClassVar[Feed]
    needs_reference: ClassVar[bool]

    @property
    def loop(self) -> Supervision:
        """The supervised loop's settings."""
        ...

    def objective(self, chat: ChatFormat) -> Objective:
        """What the supervised loop trains with."""
        ...


@dataclass(frozen=True, slots=True)
class Sides:
    """A batch of pairs in log-probabilities, all [B, 2], chosen before rejected: `sums` over a completion's tokens,
    `means` over them, `reference` the reference's sums; 0 where the method asks for no reference."""

    sums: Tensor
    means: Tensor
    reference: Tensor

    @property
    def ratios(self) -> Tensor:
        """log π − log π_ref of both sides."""
        return self.sums - self.reference

    def compared(self) -> dict[str, Tensor]:
        """What losses with a reference take, by name."""
        names = ("chosen", "rejected", "ref_chosen", "ref_rejected")
        return dict(zip(names, [*self.sums.unbind(dim=1), *self.reference.unbind(dim=1)], strict=True))


class PairMethod(Protocol):
    """A method that compares the two sides of a pair."""

    needs_reference: ClassVar[bool]

    def losses(self, sides: Sides) -> Tensor:
        """One loss a pair, [B]."""
        ...

    def strengths(self, sides: Sides) -> Tensor:
        """What the loss compares, in its own units, [B, 2]."""
        ...


@dataclass(frozen=True)
class Contrast:
    """The objective of a method that compares the two sides of a pair. Of pairs with weights, Σ wᵢ·lossᵢ / Σ wᵢ: one
    of weight 2 is that pair twice."""

    chat: ChatFormat
    method: PairMethod

    @property
    def needs_reference(self) -> bool:
        """Whether examples must carry the reference's log-probabilities."""
        return self.method.needs_reference

    def example(self, record: PreferencePair) -> Example:
        """Both sides behind the same prompt ids, each closed with EOS; the label is the pair's weight."""
        return encoded(self.chat, record, record.chosen, record.rejected, labels=(record.weight,))

    def evaluate(self, model: LanguageModel, batch: Batch) -> Evaluated:
        """A loss a pair, with sums of accuracy (ties half), margin, log-probabilities and, where there is a reference,
        rewards."""
        sums, means = (numbers.view(-1, 2) for numbers in sequence_logprobs(model, batch.layout))
        reference = references(batch, sums) if self.needs_reference else torch.zeros_like(sums)
        sides = Sides(sums, means, reference)
        strengths = self.method.strengths(sides).detach()
        weight = sums.new_tensor([self.count(example) for example in batch.examples])
        figures = lead(strengths[:, 0], strengths[:, 1], weight) | _both("logprobs", sums, weight)
        if self.needs_reference:
            figures |= _both("rewards", strengths, weight)
        return Evaluated(weight * self.method.losses(sides), sum(map(self.count, batch.examples)), figures)

    def count(self, example: Example) -> float:
        """The weight of a pair; 1 of one that came without, as those do that the policy wrote."""
        return example.labels[0] if example.labels else 1.0


@dataclass(frozen=True)
class Judged:
    """The objective of KTO: completions judged one by one, against a zero that moves with the policy.

    An example's completions are its own and one that answers another prompt; the second serves the KL term alone.
    """

    chat: ChatFormat
    method: KTO
    kl: float = 0.0
    needs_reference: ClassVar[bool] = True
    least: ClassVar[int] = 2

    def example(self, record: Feedback) -> Example:
        """The completion closed with EOS; the label is 1 where it is desirable, else 0."""
        return encoded(self.chat, record, record.completion, labels=(float(record.desirable),))

    def plan_step(
        self, model: LanguageModel, examples: Sequence[Example], batches: Callable[[Sequence[Example]], Iterator[Batch]]
    ) -> tuple[Judged, list[Example]]:
        """The KL to the reference, estimated on all the step's mismatched completions; then their own are judged."""
        own = [replace(one, completions=one.completions[:1], reference=one.reference[:1]) for one in examples]
        others = [replace(one, completions=one.completions[1:], reference=one.reference[1:]) for one in examples]
        gaps: list[float] = []
        for batch in batches(others):
            sums, _ = sequence_logprobs(model, batch.layout)
            gaps += (sums - references(batch, sums).squeeze(1)).tolist()
        return replace(self, kl=sum(gaps) / len(gaps)), own

    def evaluate(self, model: LanguageModel, batch: Batch) -> Evaluated:
        """A loss a completion, with sums of accuracy, rewards and log-probabilities, and the KL estimate before it is
        cut off at 0."""
        sums, _ = sequence_logprobs(model, batch.layout)
        reference = references(batch, sums).squeeze(1)
        desirable = sums.new_tensor([example.labels for example in batch.examples]).squeeze(1) > 0
        losses = self.method.losses(sums, reference, desirable, sums.new_tensor(self.kl))
        rewards = self.method.beta * (sums - reference).detach()
        zero = self.method.beta * max(self.kl, 0.0)
        count, good = len(batch.examples), int(desirable.sum())
        right = torch.where(desirable, rewards > zero, rewards < zero) + 0.5 * (rewards == zero)
        figures = {"accuracy": float(right.sum()), "kl": self.kl * count}
        for name, numbers in (("rewards", rewards), ("logprobs", sums.detach())):
            figures[f"{name}/chosen"] = float(numbers[desirable].sum())
            figures[f"{name}/rejected"] = float(numbers[~desirable].sum())
        counts = {name: good if name.endswith("chosen") else count - good for name in figures if "/" in name}
        return Evaluated(losses, count, figures, counts)

    def count(self, example: Example) -> int:
        """One loss a completion."""
        return 1


@record
class DPO:
    """Direct preference optimisation (Rafailov et al., 2305.18290, eq. 7):

    L = −(1 − ε)·log σ(β·h) − ε·log σ(−β·h),   h = log π(y_c)/π_ref(y_c) − log π(y_r)/π_ref(y_r)
    """

    data: ClassVar[Feed] = "pairs"
    needs_reference: ClassVar[bool] = True

    beta: float = Field(0.1, gt=0, description="β: price of a nat of KL to the reference")
    label_smoothing: float = Field(0.0, ge=0, lt=0.5, description="ε: share of the labels believed to be flipped")
    loop: Supervision = inlined(Supervision)

    def objective(self, chat: ChatFormat) -> Contrast:
        """What the supervised loop trains with."""
        return Contrast(chat, self)

    def losses(self, sides: Sides) -> Tensor:
        """One loss a pair, [B]."""
        return dpo(**sides.compared(), beta=self.beta, label_smoothing=self.label_smoothing)

    def strengths(self, sides: Sides) -> Tensor:
        """The rewards that the policy stands for, β·(log π − log π_ref), [B, 2]."""
        return self.beta * sides.ratios


@record
class IPO:
    """Identity preference optimisation (Azar et al., 2310.12036, eq. 17): L = (h − 1/(2τ))², h as in DPO."""

    data: ClassVar[Feed] = "pairs"
    needs_reference: ClassVar[bool] = True

    tau: float = Field(0.1, gt=0, description="τ: price of a nat of KL; a pair's log-ratios are drawn to 1/(2τ) apart")
    loop: Supervision = inlined(Supervision)

    def objective(self, chat: ChatFormat) -> Contrast:
        """What the supervised loop trains with."""
        return Contrast(chat, self)

    def losses(self, sides: Sides) -> Tensor:
        """One loss a pair, [B]."""
        return ipo(**sides.compared(), tau=self.tau)

    def strengths(self, sides: Sides) -> Tensor:
        """τ·(log π − log π_ref), [B, 2]."""
        return self.tau * sides.ratios


@record
class Hinge:
    """A margin of 1/β between log-ratios, and no more (Zhao et al., 2305.10425; Liu et al., 2309.06657):
    L = max(0, 1 − β·h), h as in DPO."""

    data: ClassVar[Feed] = "pairs"
    needs_reference: ClassVar[bool] = True

    beta: float = Field(0.1, gt=0, description="β: a pair whose log-ratios are 1/β apart teaches nothing more")
    loop: Supervision = inlined(Supervision)

    def objective(self, chat: ChatFormat) -> Contrast:
        """What the supervised loop trains with."""
        return Contrast(chat, self)

    def losses(self, sides: Sides) -> Tensor:
        """One loss a pair, [B]."""
        return hinge(**sides.compared(), beta=self.beta)

    def strengths(self, sides: Sides) -> Tensor:
        """β·(log π − log π_ref), [B, 2]."""
        return self.beta * sides.ratios


@record
class SimPO:
    """Mean log-probabilities as rewards, no reference (Meng et al., 2405.14734, eq. 6): L = −log σ(β·(c̄ − r̄) − γ)."""

    data: ClassVar[Feed] = "pairs"
    needs_reference: ClassVar[bool] = False

    beta: float = Field(2.0, gt=0, description="β: scale of the mean log-probabilities c̄, r̄ of the two sides")
    gamma: float = Field(1.0, ge=0, description="γ: what the chosen side must win by, in units of β·c̄")
    # Nothing holds the policy to where it was: at 1e-4 answers of the testbed's model went wrong.
    loop: Supervision = inlined(Supervision, learning_rate=3e-5)

    def objective(self, chat: ChatFormat) -> Contrast:
        """What the supervised loop trains with."""
        return Contrast(chat, self)

    def losses(self, sides: Sides) -> Tensor:
        """One loss a pair, [B]."""
        chosen, rejected = sides.means.unbind(dim=1)
        return simpo(chosen_mean=chosen, rejected_mean=rejected, beta=self.beta, gamma=self.gamma)

    def strengths(self, sides: Sides) -> Tensor:
        """β times the mean log-probabilities, [B, 2]."""
        return self.beta * sides.means


@record
class ORPO:
    """The chosen side's likelihood and, beside it, its odds over the rejected side's, no reference (Hong et al.,
    2403.07691, eq. 6 and 7): L = −c̄ − λ·log σ(log odds c̄ − log odds r̄), c̄ the mean log-probability."""

    data: ClassVar[Feed] = "pairs"
    needs_reference: ClassVar[bool] = False

    weight: float = Field(0.1, ge=0, description="λ: of the odds ratio beside the likelihood")
    loop: Supervision = inlined(Supervision)

    def objective(self, chat: ChatFormat) -> Contrast:
        """What the supervised loop trains with."""
        return Contrast(chat, self)

    def losses(self, sides: Sides) -> Tensor:
        """One loss a pair, [B]."""
        chosen, rejected = sides.means.unbind(dim=1)
        return orpo(chosen_mean=chosen, rejected_mean=rejected, weight=self.weight)

    def strengths(self, sides: Sides) -> Tensor:
        """Log-odds of the mean log-probabilities, [B, 2]."""
        return log_odds(sides.means)


@record
class KTO:
    """Kahneman-Tversky optimisation on unpaired judgements (Ethayarajh et al., 2402.01306, eq. 8):

        L = λ_D·(1 − σ(β·(r − z₀))) where desirable,  λ_U·(1 − σ(β·(z₀ − r))) where not,   r = log π(y)/π_ref(y)

    z₀ = max(0, KL(π‖π_ref)) is estimated over each optimiser step, on completions of other prompts, without gradient.
    """

    data: ClassVar[Feed] = "feedback"
    needs_reference: ClassVar[bool] = True

    beta: float = Field(0.1, gt=0, description="β: price of a nat of KL to the reference")
    desirable_weight: float = Field(1.0, ge=0, description="λ_D: of desirable completions")
    undesirable_weight: float = Field(1.0, ge=0, description="λ_U: of undesirable ones; raise the rarer kind's")
    loop: Supervision = inlined(Supervision)

    def objective(self, chat: ChatFormat) -> Judged:
        """What the supervised loop trains with."""
        return Judged(chat, self)

    def losses(self, sums: Tensor, reference: Tensor, desirable: Tensor, kl: Tensor) -> Tensor:
        """One loss a completion, [B]."""
        weights = (self.desirable_weight, self.undesirable_weight)
        return kto(logprobs=sums, ref_logprobs=reference, desirable=desirable, kl=kl, beta=self.beta, weights=weights)


DIRECT: Mapping[str, type[DirectMethod]] = {
    "dpo": DPO,
    "hinge": Hinge,
    "ipo": IPO,
    "kto": KTO,
    "orpo": ORPO,
    "simpo": SimPO,
}


def sequence_logprobs(model: LanguageModel, layout: Layout) -> tuple[Tensor, Tensor]:
    """Sum and mean of the log-probabilities of each completion's tokens, EOS included, [B] each, in nats."""
    logprobs, _ = completion_logprobs(model, layout, temperature=1.0)
    return logprobs.sum(dim=1), masked_mean(logprobs, layout.mask, dim=1)


def references(batch: Batch, like: Tensor) -> Tensor:
    """The reference's log-probabilities that the examples carry, [B, completions], in the type of `like`."""
    return like.new_tensor([example.reference for example in batch.examples])


@torch.no_grad()
def with_reference(
    objective: Objective, examples: Sequence[Example], reference: CausalLM, *, limit: int, pad_id: int
) -> tuple[Example, ...]:
    """The examples with all that an objective compares with: the reference's log-probabilities of each completion and,
    for KTO, a completion of another prompt.

    Call it once before training; the numbers depend on the reference alone, so a resumed run may compute them anew.
    `limit` is tokens a forward pass. Examples of an objective that needs no reference come back as they are.
    """
    if not getattr(objective, "needs_reference", False):
        return tuple(examples)
    if isinstance(objective, Judged):
        examples = mismatched(examples)
    known = list(examples)
    # Neighbours of like length share a batch, as in training.
    order = sorted(range(len(known)), key=lambda index: known[index].longest)
    numbers: list[tuple[float, ...]] = []
    for batch in Reader(reference, limit, pad_id).batches([known[index] for index in order]):
        sums, _ = sequence_logprobs(reference, batch.layout)
        flat = iter(sums.tolist())
        numbers += [tuple(next(flat) for _ in example.completions) for example in batch.examples]
    for index, found in zip(order, numbers, strict=True):
        known[index] = replace(known[index], reference=found)
    return tuple(known)


def mismatched(examples: Sequence[Example]) -> list[Example]:
    """Each example with a second completion, one that answers another prompt: the same in every epoch and batch.

    No longer than lets the whole fit where the longest example fits. Raises DataError where there is one prompt only.
    """
    order = sorted(range(len(examples)), key=lambda index: _shuffled(examples[index].prompt))
    paired = list(examples)
    room = max((example.longest for example in examples), default=0)
    start = 0
    for _, group in groupby(order, key=lambda index: examples[index].prompt):
        members = list(group)
        end, others = start + len(members), len(order) - len(members)
        if not others:
            raise DataError(
                f"KTO was given {len(order)} judged completions of one prompt. It measures how far the policy has gone "
                "on completions that answer other prompts, so a batch of one, or of one prompt, tells it nothing. Give "
                "feedback on two prompts at least, or take DPO."
            )
        for offset, index in enumerate(members):
            other = examples[order[(end + offset % others) % len(order)]].completions[0]
            own = examples[index]
            fitting = other[: room - len(own.prompt)]
            paired[index] = replace(own, completions=(own.completions[0], fitting))
        start = end
    return paired


def _shuffled(prompt: tuple[int, ...]) -> tuple[bytes, tuple[int, ...]]:
    """A key that puts prompts into an order without meaning, the same whatever order they came in."""
    return hashlib.blake2b(repr(prompt).encode(), digest_size=8).digest(), prompt


def _both(name: str, numbers: Tensor, weight: Tensor) -> dict[str, float]:
    chosen, rejected = (weight.unsqueeze(1) * numbers.detach()).sum(dim=0).tolist()
    return {f"{name}/chosen": chosen, f"{name}/rejected": rejected}
