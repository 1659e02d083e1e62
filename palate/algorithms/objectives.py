"""Objectives of the supervised loop: each turns a record into token ids and a batch into losses.

A new objective is one loss in `palate.losses` and one record here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from palate.data.chat import ChatFormat
from palate.data.layout import Layout
from palate.engine.forward import completion_logprobs
from palate.losses import bradley_terry, negative_log_likelihood
from palate.models import CausalLM, RewardModel
from palate.records import Demonstration, PreferencePair


@dataclass(frozen=True, slots=True)
class Example:
    """A record in token ids: one prompt and its completions (one for a demonstration; chosen, rejected for a pair)."""

    prompt: tuple[int, ...]
    completions: tuple[tuple[int, ...], ...]
    margin: float = 0.0

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
    """A batch's unreduced losses (masked ones 0), how many of them count, and sums of what is worth logging."""

    losses: Tensor
    count: int
    sums: Mapping[str, float]


class Objective(Protocol):
    """What the supervised loop asks of a method."""

    def example(self, record) -> Example:
        """A record's token ids."""
        ...

    def evaluate(self, model: Any, batch: Batch) -> Evaluated:
        """The batch's losses under the model, which is of the kind that the objective trains."""
        ...

    def count(self, example: Example) -> int:
        """How many losses the example contributes: the unit of the global denominator."""
        ...


@dataclass(frozen=True)
class Imitation:
    """Supervised fine-tuning: −log π(completion token | prompt, earlier tokens), prompts masked, EOS trained once."""

    chat: ChatFormat

    def example(self, record: Demonstration) -> Example:
        """Prompt and completion tokenised apart, the completion closed with EOS."""
        completion = tuple(self.chat.encode_completion(record.completion))
        return Example(tuple(self.chat.encode_prompt(record.prompt)), (completion,))

    def evaluate(self, model: CausalLM, batch: Batch) -> Evaluated:
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
    (2307.09288, eq. 2)."""

    chat: ChatFormat

    def example(self, record: PreferencePair) -> Example:
        """Both sides behind the same prompt ids, each closed with EOS."""
        sides = tuple(tuple(self.chat.encode_completion(text)) for text in (record.chosen, record.rejected))
        return Example(tuple(self.chat.encode_prompt(record.prompt)), sides, record.margin or 0.0)

    def evaluate(self, model: RewardModel, batch: Batch) -> Evaluated:
        """Pair losses, with sums of accuracy (ties half), both sides' scores and their difference."""
        scores = model.scores(batch.layout).view(-1, 2)
        chosen, rejected = scores[:, 0], scores[:, 1]
        margin = torch.tensor([example.margin for example in batch.examples], device=scores.device)
        losses = bradley_terry(chosen=chosen, rejected=rejected, margin=margin)
        ahead = (chosen - rejected).detach()
        sums = {
            "accuracy": float((ahead > 0).sum() + 0.5 * (ahead == 0).sum()),
            "chosen": float(chosen.detach().sum()),
            "rejected": float(rejected.detach().sum()),
            "margin": float(ahead.sum()),
        }
        return Evaluated(losses, len(batch.examples), sums)

    def count(self, example: Example) -> int:
        """One loss a pair."""
        return 1


def examples_of(objective: Objective, records: Sequence) -> tuple[Example, ...]:
    """All records in token ids."""
    return tuple(objective.example(record) for record in records)
