"""What a judge of single completions is worth on held-out preference pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar

from palate.ops import wilson_interval

# A gain is sought where it turns the spread of score differences into so many nats. Never 0: the order of a judge
# that is worth nothing is kept, and its scores become too small to pull at a policy.
NARROWEST, WIDEST = 0.01, 100.0


@dataclass(frozen=True, slots=True)
class Accuracy:
    """The share of pairs ordered as the annotator did, ties counted half, with Wilson's 95 % interval."""

    estimate: float
    low: float
    high: float
    pairs: int


def preference_accuracy(chosen: Sequence[float], rejected: Sequence[float]) -> Accuracy:
    """How often the chosen side got the higher number."""
    sides = list(zip(chosen, rejected, strict=True))
    ties = sum(ahead == behind for ahead, behind in sides)
    points = sum(ahead > behind for ahead, behind in sides) + ties / 2
    low, high = wilson_interval(points, len(sides), ties=ties)
    return Accuracy(points / max(len(sides), 1), low, high, len(sides))


def likeliest_gain(chosen: Sequence[float], rejected: Sequence[float]) -> float:
    """The factor that turns a judge's score differences into log-odds of being preferred.

    g* = argmin_g −Σ [t·log σ(gΔᵢ) + (1 − t)·log σ(−gΔᵢ)],  Δ = chosen − rejected: the inverse of a temperature
    (Guo et al., 1706.04599, §4.2), with Platt's smoothed target t = (n + 1)/(n + 2), without which a judge that
    orders every pair rightly would need an infinite gain. Scores of one value throughout have gain 1.
    """
    differences = np.subtract(chosen, rejected, dtype=np.float64)
    spread = float(np.sqrt(np.mean(differences**2))) if len(differences) else 0.0
    if spread == 0.0:
        return 1.0
    standard = differences / spread
    target = (len(standard) + 1) / (len(standard) + 2)

    def loss(logarithm: float) -> float:
        odds = np.exp(logarithm) * standard
        return float(np.mean(target * np.logaddexp(0, -odds) + (1 - target) * np.logaddexp(0, odds)))

    found = minimize_scalar(loss, bounds=(np.log(NARROWEST), np.log(WIDEST)), method="bounded", options={"xatol": 1e-9})
    return float(np.exp(found.x)) / spread


def preference_loss(chosen: Sequence[float], rejected: Sequence[float]) -> float:
    """Mean −log σ(chosen − rejected), nats: ln 2 for a judge that cannot tell, more for one that is sure and wrong."""
    return float(np.mean(np.logaddexp(0, -np.subtract(chosen, rejected, dtype=np.float64))))
