"""Objectives of the supervised loop: each turns a record into token ids and a batch into losses.

Here stand supervised fine-tuning and reward models; what trains a policy on preferences stands in
`palate.algorithms.direct`. A new objective is one loss in `palate.losses` and one record.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from palate.data.chat import ChatFormat
from palate.data.layout import Layout, spread
from palate.engine.forward import completion_logprobs
from palate.engine.interfaces import LanguageModel
from palate.losses import (
    all_pairs,
    attribute_regression,
    bradley_terry,
    comparisons,
    negative_log_likelihood,
    plackett_luce,
)
from palate.models import RewardModel
from palate.ops import zero_masked
from palate.records import Demonstration, PreferencePair, Ranking, Rating


@dataclass(frozen=True, slots=True)
class Example:
    """A record in token ids: one prompt and its completions.

    `labels` are what people said of the completions, in the objective's own terms (a margin, ranks, scores);
    `reference` is the log-probability of each completion under the reference, where the objective compares with one.
    """

    prompt: tuple[int, ...]
    completions: tuple[tuple[int, ...], ...]
    labels: tuple[float, ...] = ()
    reference: tuple[float, ...] = ()

    @property
    def tokens(self) -> int:
        """Tokens that a forward pass over this example reads."""
        return sum(len(self.prompt) + len(completion) for completion in self.completions)

    @property
    def longest(self) -> int:
        """Tokens of its longest document."""
        return len(self.prompt) + max(len(completion) for completion in self.completions)


@dataclass(frozen=True, slots=True)
class Batch:
    """Examples laid out for one forward pass; their completions stand one after the other, example by example."""

    examples: tuple[Example, ...]
    layout: Layout


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A batch's unreduced losses (masked ones 0), how many of them count, and sums of what is worth logging.

    A sum is over the losses that count, unless `counts` says over how many things it is. What has a weight enters
    losses and sums times it, and counts as so much.
    """

    losses: Tensor
    count: float
    sums: Mapping[str, float]
    counts: Mapping[str, float] = field(default_factory=dict)


class Objective(Protocol):
    """What the supervised loop asks of a method."""

    def example(self, record) -> Example:
        """A record's token ids."""
        ...

    def evaluate(self, model: Any, batch: Batch) -> Evaluated:
        """The batch's losses under the model, which is of the kind that the objective trains."""
        ...

    def count(self, example: Example) -> float:
        """How many losses the example contributes, by its weight: the unit of the global denominator."""
        ...


@runtime_checkable
class WholeStep(Protocol):
    """An objective that looks at all examples of an optimiser step before it judges any of them."""

    @property
    def least(self) -> int:
        """How many examples a step must have."""
        ...

    def plan_step(
        self, model: Any, examples: Sequence[Example], batches: Callable[[Sequence[Example]], Iterator[Batch]]
    ) -> tuple[Objective, Sequence[Example]]:
        """The objective of this one step and what it is evaluated on; called without gradient.

        `batches` lays examples out for forward passes that fit into memory.
        """
        ...


@dataclass(frozen=True)
class Imitation:
    """Supervised fine-tuning: −log π(completion token | prompt, earlier tokens), prompts masked, EOS trained once."""

    chat: ChatFormat

    def example(self, record: Demonstration) -> Example:
        """Prompt and completion tokenised apart, the completion closed with EOS."""
        return encoded(self.chat, record, record.completion)

    def evaluate(self, model: LanguageModel, batch: Batch) -> Evaluated:
        """One loss a completion token."""
        logprobs, _ = completion_logprobs(model, batch.layout, temperature=1.0)
        losses = negative_log_likelihood(logprobs=logprobs, mask=batch.layout.mask)
        return Evaluated(losses, int(batch.layout.mask.sum()), {})

    def count(self, example: Example) -> int:
        """Completion tokens."""
        return sum(len(completion) for completion in example.completions)


@dataclass(frozen=True)
class Preference:
    """Reward modelling: −log σ(r(chosen) − r(rejected) − margin), Bradley-Terry; margins as in Llama 2
    (2307.09288, eq. 2). Of pairs with weights, Σ wᵢ·lossᵢ / Σ wᵢ: one of weight 2 is that pair twice.

    Of several `heads` on one trunk, an ensemble, head k never learns from the prompts of fold k of as many: what the
    heads were not all told, they may disagree on.
    """

    chat: ChatFormat
    heads: int = 1

    def example(self, record: PreferencePair) -> Example:
        """Both sides behind the same prompt ids, each closed with EOS; the labels are margin and weight."""
        return encoded(self.chat, record, record.chosen, record.rejected, labels=(record.margin or 0.0, record.weight))

    def evaluate(self, model: RewardModel, batch: Batch) -> Evaluated:
        """Losses [P] of P pairs, or [P, K] of K heads, with sums of accuracy (ties half), both sides' scores and their
        difference."""
        scores = model.scores(batch.layout).view(len(batch.examples), 2, self.heads)
        labels = scores.new_tensor([example.labels for example in batch.examples])
        taught = self._taught(batch.examples).to(scores.device)
        margin, weight = (label.unsqueeze(1).expand_as(taught) for label in labels.unbind(dim=1))
        chosen, rejected = (zero_masked(side, taught) for side in scores.unbind(dim=1))
        losses = zero_masked(weight * bradley_terry(chosen=chosen, rejected=rejected, margin=margin), taught)
        sums = {
            name: float((weight * side.detach()).sum()) for name, side in (("chosen", chosen), ("rejected", rejected))
        }
        count = sum(map(self.count, batch.examples))
        return Evaluated(losses, count, sums | lead(chosen[taught], rejected[taught], weight[taught]))

    def _taught(self, examples: Sequence[Example]) -> Tensor:
        """Which heads learn from which pairs, [P, K]."""
        if self.heads == 1:
            return torch.ones(len(examples), 1, dtype=torch.bool)
        folds = torch.tensor([fold_of(example.prompt, self.heads) for example in examples])
        return folds.unsqueeze(1) != torch.arange(self.heads)

    def count(self, example: Example) -> float:
        """The weight of a pair, for each head but the one that is not told of it."""
        return max(self.heads - 1, 1) * example.labels[1]


@dataclass(frozen=True)
class Order:
    """Reward modelling on rankings, every completion read once; each prompt counts once, however many it ranks.

    "pairs" is the mean over all comparisons of a prompt (InstructGPT, 2203.02155, eq. 1, where comparisons in rows of
    their own overfitted in one epoch); "plackett-luce" is the likelihood of the whole order. What equal ranks mean to
    "pairs": "skip", no comparison (a partial order); "half", half a win for each; "davidson", a tie with a probability
    of its own, ν/(2 + ν) between equals.
    """

    chat: ChatFormat
    by: Literal["pairs", "plackett-luce"] = "pairs"
    ties: Literal["skip", "half", "davidson"] = "skip"
    tie_weight: float = 1.0

    def example(self, record: Ranking) -> Example:
        """All completions behind the same prompt ids, each closed with EOS; the labels are their ranks, 0 the best."""
        return encoded(self.chat, record, *record.completions, labels=tuple(map(float, record.ranks)))

    def evaluate(self, model: RewardModel, batch: Batch) -> Evaluated:
        """A loss a prompt, with sums of accuracy (ties of the score half) and of the score's lead, each the mean over
        the prompt's comparisons."""
        scores = model.scores(batch.layout)
        sizes = torch.tensor([len(example.completions) for example in batch.examples], device=scores.device)
        mask = torch.arange(int(sizes.max()), device=scores.device) < sizes.unsqueeze(1)
        labels = [int(rank) for example in batch.examples for rank in example.labels]
        ranks = spread(torch.tensor(labels, device=scores.device), mask)
        grid = spread(scores, mask)
        if self.by == "pairs":
            losses = all_pairs(scores=grid, ranks=ranks, mask=mask, ties=self.ties, tie_weight=self.tie_weight)
        else:
            losses = plackett_luce(scores=grid, ranks=ranks, mask=mask)
        compared = comparisons(ranks=ranks, mask=mask, ties=False)
        share = compared.double() / compared.sum((1, 2), keepdim=True).clamp(min=1)
        ahead = (grid.unsqueeze(2) - grid.unsqueeze(1)).detach()
        sums = {
            "accuracy": float((share * ((ahead > 0) + 0.5 * (ahead == 0))).sum()),
            "margin": float((share * ahead).sum()),
        }
        ordered = int(compared.any(2).any(1).sum())
        count = sum(map(self.count, batch.examples))
        return Evaluated(losses, count, sums, {"accuracy": ordered, "margin": ordered})

    def count(self, example: Example) -> int:
        """One loss a prompt; none where all are equal and equals are not compared."""
        equal = self.by == "pairs" and self.ties == "skip" and len(set(example.labels)) == 1
        return 0 if equal else 1


@dataclass(frozen=True)
class Regression:
    """Reward modelling on ratings: the squared error of each attribute that a reply was scored on.

    The model gives a score for each of `attributes`, in this order: `scores` [B, A], or [B] where there is one.
    """

    chat: ChatFormat
    attributes: tuple[str, ...]

    def example(self, record: Rating) -> Example:
        """The completion closed with EOS; the labels are its scores, NaN for an attribute that was not scored."""
        labels = tuple(float(record.scores.get(name, math.nan)) for name in self.attributes)
        return encoded(self.chat, record, record.completion, labels=labels)

    def evaluate(self, model: RewardModel, batch: Batch) -> Evaluated:
        """A loss a score, with the sum of each attribute's."""
        predictions = model.scores(batch.layout).view(len(batch.examples), len(self.attributes))
        targets = predictions.new_tensor([example.labels for example in batch.examples])
        mask = ~targets.isnan()
        losses = attribute_regression(predictions=predictions, targets=targets, mask=mask)
        names = [f"error/{name}" for name in self.attributes]
        sums = dict(zip(names, losses.detach().sum(dim=0).tolist(), strict=True))
        counts = dict(zip(names, mask.sum(dim=0).tolist(), strict=True))
        return Evaluated(losses, int(mask.sum()), sums, counts)

    def count(self, example: Example) -> int:
        """Scores that were given."""
        return sum(not math.isnan(label) for label in example.labels)


def fold_of(prompt: Sequence[int], folds: int) -> int:
    """Which of so many folds a prompt belongs to, wherever it stands in the data."""
    digest = hashlib.blake2b(",".join(map(str, prompt)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % folds


def encoded(chat: ChatFormat, record: Any, *texts: str, labels: tuple[float, ...] = ()) -> Example:
    """A record's prompt and completions, tokenised apart, each completion closed with EOS."""
    sides = tuple(tuple(chat.encode_completion(text)) for text in texts)
    return Example(tuple(chat.encode_prompt(record.prompt)), sides, labels)


def lead(chosen: Tensor, rejected: Tensor, weight: Tensor | float = 1.0) -> dict[str, float]:
    """Sums over pairs, by weight, of how often the chosen side is ahead (ties half), and by how much."""
    ahead = (chosen - rejected).detach()
    right = (ahead > 0) + 0.5 * (ahead == 0)
    return {"accuracy": float((weight * right).sum()), "margin": float((weight * ahead).sum())}


def examples_of(objective: Objective, records: Sequence) -> tuple[Example, ...]:
    """All records in token ids."""
    return tuple(objective.example(record) for record in records)
