"""What an iteration of the online loop works on: judged completions, and the minibatches of an update."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from palate.data.layout import Layout
from palate.data.sampling import Cursor
from palate.engine.experience import Denominators, Experience, Rollout, stacked
from palate.ops import Moments


@dataclass(frozen=True, slots=True)
class Judged:
    """Completions with the judges' numbers: `parts` [B] by name, and `dense` [B, T], what each token earned."""

    rollout: Rollout
    parts: Mapping[str, Tensor]
    dense: Tensor

    def take(self, rows: Tensor) -> Judged:
        """Some rows alone."""
        parts = {name: numbers[rows] for name, numbers in self.parts.items()}
        return Judged(self.rollout.take(rows), parts, self.dense[rows])

    def joined(self, other: Judged) -> Judged:
        """These rows and then those of `other`."""
        parts = {name: torch.cat([numbers, other.parts[name]]) for name, numbers in self.parts.items()}
        return Judged(self.rollout.joined(other.rollout), parts, stacked(self.dense, other.dense))


@dataclass(frozen=True, slots=True)
class Gathered:
    """What an iteration will learn from, `kept` of all that was `drawn`, with the scores and the place reached.

    `moments` are those that the scores were normalised by; `sampling` and `judging` are seconds.
    """

    drawn: Judged
    kept: Judged
    scores: Tensor
    moments: Moments
    cursor: Cursor
    sampling: float
    judging: float


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows of a rollout, laid out for one forward pass: the unit of memory."""

    rows: Tensor
    layout: Layout


@dataclass(frozen=True, slots=True)
class Share:
    """A minibatch: its parts, each with what is learnt from it and the mask of that, and the counts of the whole."""

    rollout: Rollout
    parts: tuple[tuple[Part, Experience, Tensor], ...]
    denominators: Denominators

    @classmethod
    def of(cls, rollout: Rollout, experience: Experience, minibatch: Sequence[Part]) -> Share:
        """The minibatch's share of an experience; rows that assigning dropped stay in the parts, masked."""
        places = torch.full((rollout.rows,), -1, device=rollout.ids.device)
        places[experience.rows] = torch.arange(len(experience.rows), device=places.device)
        parts = []
        tokens = rows = 0
        for part in minibatch:
            kept = places[part.rows] >= 0
            mask = rollout.mask[part.rows] & kept.unsqueeze(1)
            parts.append((part, experience.take(places[part.rows].clamp(min=0)), mask))
            tokens, rows = tokens + int(mask.sum()), rows + int(kept.sum())
        return cls(rollout, tuple(parts), Denominators(tokens, rows, rollout.limit))


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
