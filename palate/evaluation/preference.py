"""What a judge of single completions is worth on held-out preference pairs."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.stats import norm, t

from palate.evaluation.resampling import places
from palate.ops import wilson_interval

# A gain is sought where it turns the spread of score differences into so many nats. Never 0: the order of a judge
# that is worth nothing is kept, and its scores become too small to pull at a policy.
NARROWEST, WIDEST = 0.01, 100.0

# Variances below this, in numbers between 0 and 1, are what rounding leaves of none.
ROUNDING = 1e-12


@dataclass(frozen=True, slots=True)
class Accuracy:
    """The share of pairs ordered as the annotator did, ties counted half, with Wilson's 95 % interval, which allows for
    several pairs of a prompt."""

    estimate: float
    low: float
    high: float
    pairs: int


def preference_accuracy(
    chosen: Sequence[float], rejected: Sequence[float], prompts: Sequence[Hashable] | None = None
) -> Accuracy:
    """How often the chosen side got the higher number.

    `prompts` names each pair's prompt: pairs of one are not independent, and the interval is that of so many
    independent pairs as they are worth. Every pair is taken for independent unless given.
    """
    points = np.sign(np.subtract(chosen, rejected, dtype=np.float64)) / 2 + 0.5
    ties, total = int((points == 0.5).sum()), float(points.sum())
    effective = None if prompts is None or not len(points) else effective_size(points, prompts)
    low, high = wilson_interval(total, len(points), ties=ties, effective=effective)
    return Accuracy(total / max(len(points), 1), low, high, len(points))


def effective_size(
    points: Sequence[float] | NDArray[np.float64],
    groups: Sequence[Hashable],
    weights: NDArray[np.float64] | None = None,
    few: bool = True,
) -> float:
    """How many independent numbers n of them are worth of which some share a group (a prompt): between 1 and n.

    m = n·s²/(G/(G − 1)·Σ_g (Σ_{i∈g} (xᵢ − x̄))²/n)·(z/t)²,  s² = Σ (xᵢ − x̄)²/n

    n over the design effect (Kish, 1965, ch. 5), the variance of the mean over whole groups (linearised, as for a
    ratio) over that of independent numbers: Rao and Scott, 1992, Biometrics 48(2), for shares. (z/t)², the normal
    quantile over Student's with G − 1 degrees of freedom, allows for the variance being known from G groups alone: Korn
    and Graubard, 1998, Survey Methodology 24(2). G where no number differs from another: nothing then tells what the
    rows of a group add. n where every row is a group of its own. With `weights`, whose mean is 1, sums and means above
    are weighted ones; without `few` the last factor is left out, as for what is no interval.
    """
    numbers, index = np.asarray(points, dtype=np.float64), places(groups)
    count, sizes = len(numbers), np.bincount(index)
    if len(sizes) == count or count == 0:
        return float(count)
    share = np.ones(count) if weights is None else weights
    apart = numbers - float((share * numbers).mean())
    within = float((share * apart**2).sum())
    between = float((np.bincount(index, weights=share * apart) ** 2).sum())
    if len(sizes) == 1 or within <= ROUNDING * count:
        return float(len(sizes))
    freedom = len(sizes) - 1
    design = between / within * len(sizes) / freedom
    allowed = float(norm.ppf(0.975) / t.ppf(0.975, freedom)) ** 2 if few else 1.0
    return float(np.clip(count / max(design, ROUNDING) * allowed, 1.0, count))


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
