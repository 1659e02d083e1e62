"""Methods that make their own data, round after round, for the supervised loop: what is kept, what is set against it.

    policy ─sample▶ Group ─examples▶ Example ─supervised loop▶ policy of the next round

Here stand the records and the choice alone; the stage samples, scores and trains. Best-of-n, the yardstick of them all,
stands here with its exact distribution.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor

from palate.algorithms.direct import DPO
from palate.algorithms.objectives import Example, Imitation, Objective
from palate.algorithms.supervised import Supervision
from palate.data.chat import ChatFormat
from palate.engine.seeding import permutation
from palate.settings import inlined, record

# What is learnt from is a small share of what is sampled: a round of few tokens should still be several steps.
_STEPS = {"batch_tokens": 2048}

Made = Literal["prompts", "demonstrations"]
Anchor = Literal["fixed", "last"]


@dataclass(frozen=True, slots=True)
class Group:
    """What the policy answered to one prompt, in token ids, EOS included where it came.

    `scores` are the judge's, one a completion; `demonstration` is a person's answer. A method asks for one of the two.
    """

    prompt: tuple[int, ...]
    completions: tuple[tuple[int, ...], ...]
    scores: tuple[float, ...] = ()
    demonstration: tuple[int, ...] = ()


class Maker(Protocol):
    """What the stage asks of a method that makes its own data."""

    data: ClassVar[Made]
    judged: ClassVar[bool]

    @property
    def rounds(self) -> int:
        """Rounds of sampling and training."""
        ...

    @property
    def prompts(self) -> int | None:
        """Prompts a round, None for all."""
        ...

    @property
    def samples(self) -> int:
        """Completions a prompt."""
        ...

    @property
    def reference(self) -> Anchor:
        """What the objective compares with: the fixed reference, or the policy as the round begins."""
        ...

    @property
    def loop(self) -> Supervision:
        """The supervised loop's settings, for each round anew."""
        ...

    def examples(self, groups: Sequence[Group], seed: int) -> list[Example]:
        """What is learnt from a round's groups; a group that teaches nothing gives no example."""
        ...

    def objective(self, chat: ChatFormat) -> Objective:
        """What the supervised loop trains with."""
        ...


@record
class Rejection:
    """Rejection-sampling fine-tuning (Touvron et al., 2307.09288, section 3.2.3): n completions a prompt, and the best
    k of them, by the reward, are learnt like demonstrations:

        L = −Σ_t log π(y_t | x, y_<t),   y ∈ best k of y_1, …, y_n ~ π_round(·|x)

    Of equal completions one alone is kept.
    """

    data: ClassVar[Made] = "prompts"
    judged: ClassVar[bool] = True
    reference: ClassVar[Anchor] = "last"

    rounds: int = Field(4, ge=1, description="rounds of sampling and training")
    prompts: int = Field(512, ge=1, description="prompts a round")
    samples: int = Field(8, ge=2, description="n, completions a prompt")
    keep: int = Field(1, ge=1, description="k, how many of a prompt's completions are kept, the best first")
    loop: Supervision = inlined(Supervision, **_STEPS)

    def __post_init__(self) -> None:
        if self.keep > self.samples:
            raise ValueError(f"must keep at most as many completions as are sampled: keep = {self.keep} of samples")

    def examples(self, groups: Sequence[Group], seed: int) -> list[Example]:
        """A prompt with one completion for each that is kept."""
        return [
            Example(group.prompt, (group.completions[index],))
            for group in groups
            for index in best(group.scores, group.completions)[: self.keep]
        ]

    def objective(self, chat: ChatFormat) -> Objective:
        """Imitation."""
        return Imitation(chat)


@record
class OnlineDPO:
    """DPO on pairs of the policy's own completions, chosen by the reward (Guo et al., 2402.04792; iterated as in
    2404.19733): each round samples, pairs a prompt's best completion with a worse one, and trains on the pairs with
    DPO's loss.

    Two samples a prompt make two random completions. Prompts whose completions all score alike teach nothing.
    """

    data: ClassVar[Made] = "prompts"
    judged: ClassVar[bool] = True

    rounds: int = Field(4, ge=1, description="rounds of sampling and training")
    prompts: int = Field(512, ge=1, description="prompts a round")
    samples: int = Field(4, ge=2, description="completions a prompt")
    rejected: Literal["worst", "random"] = Field(
        "worst", description="what the best completion is set against: the worst, or a random one that scores less"
    )
    reference: Anchor = Field(
        "fixed", description="the section's reference in all rounds, or the policy as the round begins"
    )
    beta: float = Field(0.1, gt=0, description="β: price of a nat of KL to the reference")
    loop: Supervision = inlined(Supervision, **_STEPS)

    def examples(self, groups: Sequence[Group], seed: int) -> list[Example]:
        """A pair for each prompt whose completions do not all score alike."""
        pairs = [
            Example(group.prompt, (group.completions[chosen], group.completions[rejected]))
            for place, group in enumerate(groups)
            for chosen, rejected in pair(group.scores, self.rejected, seed, place)
        ]
        return [example for example in pairs if example.completions[0] != example.completions[1]]

    def objective(self, chat: ChatFormat) -> Objective:
        """DPO."""
        return DPO(beta=self.beta).objective(chat)


@record
class SPIN:
    """Self-play fine-tuning (Chen et al., 2401.01335, eq. 4.7): demonstrations are preferred to what the policy of the
    round before writes itself:

        L = −log σ(β·(log π(y)/π_round(y) − log π(y′)/π_round(y′))),   y a demonstration, y′ ~ π_round(·|x)

    which is DPO's loss with the last iterate as reference. No reward is asked for; its fixed point is a policy that
    writes as the demonstrations are.
    """

    data: ClassVar[Made] = "demonstrations"
    judged: ClassVar[bool] = False
    reference: ClassVar[Anchor] = "last"
    samples: ClassVar[int] = 1

    rounds: int = Field(3, ge=1, description="iterations of sampling and training")
    prompts: int | None = Field(None, ge=1, description="demonstrations a round; all unless set")
    beta: float = Field(0.1, gt=0, description="β: how far one round may go from the policy it began with")
    loop: Supervision = inlined(Supervision, **_STEPS)

    def examples(self, groups: Sequence[Group], seed: int) -> list[Example]:
        """The demonstration against the policy's own completion, where the two differ."""
        return [
            Example(group.prompt, (group.demonstration, group.completions[0]))
            for group in groups
            if group.demonstration != group.completions[0]
        ]

    def objective(self, chat: ChatFormat) -> Objective:
        """DPO."""
        return DPO(beta=self.beta).objective(chat)


MAKERS: Mapping[str, type] = {"online_dpo": OnlineDPO, "rejection": Rejection, "spin": SPIN}


# ---- the choice


def best(scores: Sequence[float], completions: Sequence[Sequence[int]]) -> list[int]:
    """The places of the distinct completions, best score first; of equal completions, or scores, the first leads."""
    order = sorted(range(len(scores)), key=lambda place: -scores[place])
    first: dict[tuple[int, ...], int] = {}
    for place in order:
        first.setdefault(tuple(completions[place]), place)
    return list(first.values())


def pair(scores: Sequence[float], rejected: Literal["worst", "random"], *draw: int) -> list[tuple[int, int]]:
    """The places of the best score and of a lower one, the lowest or a random one by `draw`; none where all are equal.

    Of several best, or lowest, the first is taken.
    """
    chosen = scores.index(max(scores))
    lower = [place for place, score in enumerate(scores) if score < scores[chosen]]
    if not lower:
        return []
    if rejected == "worst":
        return [(chosen, scores.index(min(scores)))]
    seed, *names = draw
    return [(chosen, lower[int(permutation(len(lower), seed, "rejected", *names)[0])])]


# ---- best-of-n


def best_of_n(probabilities: Tensor, scores: Tensor, n: int) -> Tensor:
    """The distribution of the best of n samples, the first of those that tie:

        π_n(y) = π(y)/P(=)·((P(<) + P(=))ⁿ − P(<)ⁿ),   P(<), P(=) the mass of π that scores below y, and as y does

    `probabilities, scores [V]` → [V].
    """
    below = (probabilities * (scores < scores.unsqueeze(1))).sum(dim=1)
    level = (probabilities * (scores == scores.unsqueeze(1))).sum(dim=1)
    share = torch.where(level > 0, probabilities / level, 0)
    return share * ((below + level) ** n - below**n)


def best_of_n_kl(probabilities: Tensor, scores: Tensor, n: int) -> Tensor:
    """KL(π_n ‖ π) of best-of-n, exactly, in nats; ties included. At most `best_of_n_kl_bound(n)`."""
    chosen = best_of_n(probabilities, scores, n)
    return torch.where(chosen > 0, chosen * (chosen / probabilities).log(), 0).sum()


def best_of_n_kl_bound(n: int) -> float:
    """KL of best-of-n: log n − (n − 1)/n nats where no two completions tie and none is likely, and never more (Beirami
    et al., 2401.01879, theorem 3.1)."""
    return math.log(n) - (n - 1) / n
