"""Calibration: whether a judge that says 70 % is right on 70 % of such pairs.

Of a pair with score difference Δ in log-odds a judge says p = σ(|Δ|): the probability that the side it scores higher is
the one that is preferred.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from palate.engine.seeding import derive
from palate.evaluation.preference import effective_size, likeliest_gain, preference_accuracy, preference_loss
from palate.evaluation.resampling import Floats

# As many bins as Naeini et al. have, and in each enough pairs that its share is known to ± .14.
MOST_BINS, LEAST_PAIRS = 10, 50


@dataclass(frozen=True, slots=True)
class Bin:
    """Pairs of which a judge says much the same: what it says on average, and how often it is right.

    `low` and `high` are Wilson's 95 % interval of `observed`; `truth` is the mean probability that it is right, where
    the labels' probabilities are known.
    """

    predicted: float
    observed: float
    low: float
    high: float
    pairs: int
    truth: float | None = None


@dataclass(frozen=True, slots=True)
class Calibration:
    """How far what a judge says is from what happens.

    `error` is the expected calibration error, `noise` what a perfectly calibrated judge would show on so few pairs,
    `loss` the mean −log σ(Δ) in nats; `true_error` is the error without the noise of labels, where their probabilities
    are known.
    """

    error: float
    noise: float
    loss: float
    bins: tuple[Bin, ...]
    true_error: float | None = None


def calibration(
    chosen: Sequence[float],
    rejected: Sequence[float],
    probabilities: Sequence[float] | None = None,
    prompts: Sequence[Hashable] | None = None,
) -> Calibration:
    """The reliability curve and its expected calibration error.

        ECE = Σ_b (n_b/n)·|mean p − share right|,   noise = Σ_b (n_b/n)·√(2·Σ p(1 − p)/π)/n_b

    Naeini et al., 2015, and Guo et al., 1706.04599, eq. 3, over bins of equal count instead of equal width: those of
    equal width are mostly empty, and their few pairs make the error larger than it is. It is never below 0, so a
    perfect judge shows `noise` on average, the mean deviation of a normal share in each bin. A pair whose sides score
    alike says p = ½ and is half right. `probabilities` are those of each label, P(chosen ≻ rejected). Where `prompts`
    names each pair's prompt, each bin has the interval of as many independent pairs as its own are worth, and so much
    more noise: its part is √(n_b/m_b) as large for n_b pairs that are worth m_b.
    """
    differences = np.subtract(chosen, rejected, dtype=np.float64)
    said = expit(np.abs(differences))
    true = None if probabilities is None else _that_higher_wins(differences, np.asarray(probabilities))
    bins: list[Bin] = []
    noise = 0.0
    for rows in _equal_bins(said):
        of_rows = None if prompts is None else [prompts[row] for row in rows]
        bins.append(_bin(differences[rows], said[rows], None if true is None else true[rows], of_rows))
        worth = len(rows) if of_rows is None else effective_size(_right(differences[rows]), of_rows, few=False)
        noise += float(np.sqrt(2 / np.pi * (said[rows] * (1 - said[rows])).sum() * len(rows) / worth))
    count = max(len(said), 1)
    return Calibration(
        error=sum(one.pairs * abs(one.predicted - one.observed) for one in bins) / count,
        noise=noise / count,
        loss=preference_loss(chosen, rejected),
        bins=tuple(bins),
        true_error=None
        if true is None
        else sum(one.pairs * abs(one.predicted - one.truth) for one in bins if one.truth is not None) / count,
    )


def cross_fitted(
    chosen: Sequence[float], rejected: Sequence[float], groups: Sequence[Hashable], seed: int
) -> tuple[list[float], list[float]] | None:
    """The scores times a gain that was fitted without them: each half of the groups has the gain of the other half.

    Pairs of one group (a prompt) stay together. None where there are fewer than two groups.
    """
    names = list(dict.fromkeys(groups))
    if len(names) < 2:
        return None
    order = np.random.default_rng(derive(seed, "cross-fitting")).permutation(len(names))
    second = {names[place] for place in order[: len(names) // 2]}
    sides = np.array([group in second for group in groups])
    scores = np.array([chosen, rejected], dtype=np.float64)
    scaled = scores.copy()
    for half in (sides, ~sides):
        scaled[:, half] *= likeliest_gain(*scores[:, ~half].tolist())
    return scaled[0].tolist(), scaled[1].tolist()


def _that_higher_wins(differences: Floats, probabilities: Floats) -> Floats:
    """The probability that a fresh label prefers the side with the higher score, ½ for equal scores."""
    return np.where(differences == 0, 0.5, np.where(differences > 0, probabilities, 1 - probabilities))


def _equal_bins(said: Floats) -> list[NDArray[np.int64]]:
    """The pairs' places by what is said of them, in bins of equal count."""
    count = int(np.clip(len(said) // LEAST_PAIRS, 1, MOST_BINS))
    return [rows for rows in np.array_split(np.argsort(said, kind="stable"), count) if len(rows)]


def _right(differences: Floats) -> Floats:
    """1 for a pair that is ordered rightly, ½ for one whose sides score alike, else 0."""
    return np.sign(differences) / 2 + 0.5


def _bin(differences: Floats, said: Floats, true: Floats | None, prompts: Sequence[Hashable] | None) -> Bin:
    right = preference_accuracy(differences.tolist(), [0.0] * len(differences), prompts)
    truth = None if true is None else float(true.mean())
    return Bin(float(said.mean()), right.estimate, right.low, right.high, right.pairs, truth)
