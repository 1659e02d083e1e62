"""What a judge of single completions is worth on held-out preference pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from palate.ops import wilson_interval


@dataclass(frozen=True, slots=True)
class Accuracy:
    """The share of pairs ordered as the annotator did, ties counted half, with Wilson's 95 % interval."""

    estimate: float
    low: float
    high: float
    pairs: int


def preference_accuracy(chosen: Sequence[float], rejected: Sequence[float]) -> Accuracy:
    """How often the chosen side got the higher number."""
    points = sum(
        1.0 if ahead > behind else 0.5 if ahead == behind else 0.0
        for ahead, behind in zip(chosen, rejected, strict=True)
    )
    low, high = wilson_interval(points, len(chosen))
    return Accuracy(points / max(len(chosen), 1), low, high, len(chosen))
