"""Over-optimisation: held-out scores against the distance from the start, their peak, and whether it is behind us.

A policy that is trained on a judge moves away from where it began, and the judge's score rises with the distance
d = √KL. The score of another judge rises too, and then falls: beyond that peak only the first judge is pleased. What is
looked at are answers to the same prompts, drawn with the same random numbers, so that looks are compared pair by pair.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtr

Form = Literal["rl", "best-of-n"]
Judged = Literal["heldout", "proxy"]
Numbers = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

# Two coefficients go through any two points: a third is the first that says something of the form.
FEWEST_POINTS = 3

# The start is where the policy is its reference. A curve that begins elsewhere is not of the fitted form.
START = 0.01

# How often a look that is as good as the best may be called worse, all earlier looks taken together: at this level
# stops and roll-backs without a cause stay, both together, below 5 % of runs of 12 looks.
LEVEL = 0.025


@dataclass(frozen=True, slots=True)
class Look:
    """What one moment's policy answers to the watched prompts: log π(y) − log π_ref(y) in nats and scores, answer by
    answer; `heldout` is empty where there is no judge but the reward."""

    step: int
    kl: tuple[float, ...]
    proxy: tuple[float, ...]
    heldout: tuple[float, ...] = ()

    @property
    def distance(self) -> float:
        """d = √KL, 0 where sampling noise makes the estimate negative."""
        return math.sqrt(max(_mean(self.kl), 0.0))

    def mean(self, judged: Judged) -> float:
        """The mean score of a judge."""
        return _mean(self.heldout if judged == "heldout" else self.proxy)


# ---- the curve


@dataclass(frozen=True, slots=True)
class Peak:
    """Where a fitted curve is highest, and how high, each with a 95 % bootstrap interval; `high` is None where the data
    leave open whether the peak lies beyond what was measured."""

    distance: float
    low: float
    high: float | None
    height: float
    height_low: float
    height_high: float


@dataclass(frozen=True, slots=True)
class Fit:
    """Gao et al.'s curve through measured gains; `peak` is None where none is in sight."""

    form: Form
    alpha: float
    beta: float
    r_squared: float | None
    points: int
    peak: Peak | None

    def gain(self, distance: float) -> float:
        """R(d), the gain over the start."""
        bend = distance if self.form == "best-of-n" else math.log(distance) if distance > 0 else 0.0
        return distance * (self.alpha - self.beta * bend)


def fit_points(
    distances: ArrayLike,
    gains: ArrayLike,
    form: Form = "rl",
    *,
    errors: ArrayLike | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> Fit | None:
    """Fits gains over the start at distances d by weighted least squares; the interval resamples the points.

        RL:         R(d) = d(α − β log d),   d* = exp(α/β − 1),   R(d*) = βd*
        best-of-n:  R(d) = d(α − βd),        d* = α/(2β),         R(d*) = α²/(4β)

    Gao et al., arXiv 2210.10760, §3. `errors` are the gains' standard errors. None where fewer than three points lie
    away from the start.
    """
    d, gain = np.asarray(distances, dtype=np.float64), np.asarray(gains, dtype=np.float64)
    error = np.ones_like(gain) if errors is None else np.asarray(errors, dtype=np.float64)
    away = d > 0
    d, gain, error = d[away], gain[away], error[away]
    chosen = np.random.default_rng(seed).integers(len(d), size=(draws, len(d))) if len(d) else np.zeros((0, 0), int)
    return _fitted(form, d, gain, _weights(error)[chosen], error, d[chosen], gain[chosen])


def fit_looks(
    looks: Sequence[Look], judged: Judged, form: Form = "rl", *, draws: int = 1000, seed: int = 0
) -> Fit | None:
    """The same for looks, the first of which is the start: gains and errors are pair by pair, the interval resamples
    the prompts, KL and scores together.

    None where the first look is not at the start, or fewer than three others lie away from it.
    """
    if not looks or looks[0].distance > START:
        return None
    later = [look for look in looks[1:] if look.distance > 0]
    if len(later) < FEWEST_POINTS:
        return None
    kl = np.array([look.kl for look in later])
    first, others = _scores(looks[0], judged), np.array([_scores(look, judged) for look in later])
    gains = others - first
    count = gains.shape[1]
    error = gains.std(axis=1, ddof=1) / math.sqrt(count) if count > 1 else np.zeros(len(later))
    share = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws) / count
    drawn = np.sqrt(np.maximum(share @ kl.T, 0))
    d = np.sqrt(np.maximum(kl.mean(axis=1), 0))
    weights = np.broadcast_to(_weights(error), drawn.shape)
    return _fitted(form, d, gains.mean(axis=1), weights, error, drawn, share @ gains.T)


def _fitted(
    form: Form, d: Numbers, gain: Numbers, drawn_weights: Numbers, error: Numbers, drawn: Numbers, drawn_gain: Numbers
) -> Fit | None:
    if len(d) < FEWEST_POINTS:
        return None
    weights = _weights(error)
    alpha, beta = (float(number) for number in _coefficients(form, d, gain, weights))
    if not math.isfinite(alpha):
        return None
    left = gain - d * (alpha - beta * _bend(form, d))
    spread = float(np.sum(weights * (gain - np.average(gain, weights=weights)) ** 2))
    r_squared = 1 - float(np.sum(weights * left**2)) / spread if spread > 0 else None
    peak = _peak(form, alpha, beta, float(d.max()), *_coefficients(form, drawn, drawn_gain, drawn_weights))
    return Fit(form, alpha, beta, r_squared, len(d), peak)


def _peak(
    form: Form, alpha: float, beta: float, farthest: float, drawn_alpha: Numbers, drawn_beta: Numbers
) -> Peak | None:
    place, height = (float(number) for number in highest(form, np.array(alpha), np.array(beta)))
    if place > farthest:
        return None
    whole = np.isfinite(drawn_alpha)
    places, heights = highest(form, drawn_alpha[whole], drawn_beta[whole])
    # Order statistics and no averages between them: a draw without a peak has it at infinity.
    low, high = np.quantile(places, [0.025, 0.975], method="inverted_cdf")
    # Beyond what was measured a curve only goes on: the height is that reached within it.
    reached = np.where(places <= farthest, heights, _curve(form, drawn_alpha[whole], drawn_beta[whole], farthest))
    height_low, height_high = np.quantile(reached, [0.025, 0.975], method="inverted_cdf")
    return Peak(
        distance=place,
        low=float(min(low, place)),
        high=float(max(high, place)) if high <= farthest else None,
        height=height,
        height_low=float(min(height_low, height)),
        height_high=float(max(height_high, height)),
    )


def highest(form: Form, alpha: Numbers, beta: Numbers) -> tuple[Numbers, Numbers]:
    """Where R(d) is highest and how high, elementwise; both infinite where β ≤ 0, since it never turns."""
    turns = beta > 0
    safe = np.where(turns, beta, 1.0)
    with np.errstate(over="ignore"):
        place = np.exp(alpha / safe - 1) if form == "rl" else np.maximum(alpha / (2 * safe), 0.0)
        height = safe * (place if form == "rl" else place**2)
    return np.where(turns, place, np.inf), np.where(turns, height, np.inf)


def _coefficients(form: Form, d: Numbers, gain: Numbers, weights: Numbers) -> tuple[Numbers, Numbers]:
    """α and β by weighted least squares over the last axis; NaN where the distances cannot tell them apart."""
    straight, bent = d, -d * _bend(form, d)
    ss, sb, bb = (np.sum(weights * one * two, axis=-1) for one, two in ((d, d), (d, bent), (bent, bent)))
    sg, bg = np.sum(weights * straight * gain, axis=-1), np.sum(weights * bent * gain, axis=-1)
    determinant = ss * bb - sb * sb
    told = determinant > 1e-9 * ss * bb
    safe = np.where(told, determinant, 1.0)
    alpha, beta = (bb * sg - sb * bg) / safe, (ss * bg - sb * sg) / safe
    return np.where(told, alpha, np.nan), np.where(told, beta, np.nan)


def _curve(form: Form, alpha: Numbers, beta: Numbers, distance: float) -> Numbers:
    return distance * (alpha - beta * _bend(form, np.array(distance)))


def _bend(form: Form, d: Numbers) -> Numbers:
    """What β is multiplied by: log d, or d; 0 at the start."""
    return d if form == "best-of-n" else np.log(np.where(d > 0, d, 1.0))


def _weights(errors: Numbers) -> Numbers:
    """1/error², such that they sum to 1; alike where an error is 0, as that of scores without noise is."""
    if len(errors) == 0 or errors.min() <= 0:
        return np.ones_like(errors)
    return (errors.min() / errors) ** 2


# ---- the decision


@dataclass(frozen=True, slots=True)
class Decision:
    """Where the best look stands (by its index), whether the last one is worse, and whether the peak is behind us."""

    best: int
    worse: bool
    past: bool


def past_peak(looks: Sequence[Look], level: float = LEVEL) -> Decision:
    """Whether the two last looks are both worse than the best before them, while the reward's own score did not fall.

    A look is worse than the best of k earlier ones where the paired differences of the held-out scores have a mean
    below 0 by a one-sided t-test at `level`/k. The t-test, since a difference's own spread is all that is known of its
    noise and prompts may be few; the k-th part (Bonferroni), since the best of k looks is the luckiest of them too; two
    in a row, since every look is a chance for a false alarm.
    """
    best = 0
    worse: list[bool] = []
    for index in range(1, len(looks)):
        worse.append(_below(looks[index].heldout, looks[best].heldout, level / index))
        if looks[index].mean("heldout") > looks[best].mean("heldout"):
            best = index
    twice = len(worse) > 1 and worse[-1] and worse[-2]
    return Decision(
        best=best,
        worse=bool(worse) and worse[-1],
        past=twice and not _below(looks[-1].proxy, looks[best].proxy, level),
    )


def _below(later: Sequence[float], earlier: Sequence[float], level: float) -> bool:
    """Whether the paired differences' mean lies below 0 by a one-sided t-test."""
    gaps = np.subtract(later, earlier, dtype=np.float64)
    if len(gaps) < 2:
        return False
    mean, error = float(gaps.mean()), float(gaps.std(ddof=1)) / math.sqrt(len(gaps))
    if error == 0:
        return mean < 0
    return float(stdtr(len(gaps) - 1, mean / error)) < level


def _scores(look: Look, judged: Judged) -> Numbers:
    return np.array(look.heldout if judged == "heldout" else look.proxy)


def _mean(numbers: Sequence[float]) -> float:
    return math.fsum(numbers) / len(numbers)
