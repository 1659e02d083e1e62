"""Intervals of means, and of what follows from means, by drawing the prompts again."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t

Floats = NDArray[np.float64]

DRAWS = 1000

# Fixes the draws: the same data has the same interval.
SEED = 0

# So many numbers are drawn at a time, which bounds the memory.
_AT_ONCE = 10**6


def bootstrap_interval(
    values: Sequence[float] | Sequence[Sequence[float]] | Floats,
    groups: Sequence[Hashable],
    figure: Callable[[Floats], Floats] = np.squeeze,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval (low, high) of a figure of means, over draws of whole groups with replacement.

    `values` are one number a row, or K numbers [n, K]; rows of one group (a prompt) are drawn together, as they are not
    independent. `figure` turns the means of each draw, [draws, K], into one number each; the mean itself unless given.
    The ends are those of Hesterberg's expanded interval (1411.5279), which is as wide as Student's is for few
    groups. Raises ValueError where there is no row.
    """
    rows = np.asarray(values, dtype=np.float64)
    rows = rows[:, None] if rows.ndim == 1 else rows
    if not len(rows):
        raise ValueError("A bootstrap needs at least one row, and none was given.")
    sums, counts = _by_group(rows, groups)
    random = np.random.default_rng(SEED)
    means = np.empty((DRAWS, rows.shape[1]))
    for some in np.array_split(np.arange(DRAWS), -(-DRAWS * len(sums) // _AT_ONCE)):
        drawn = random.integers(len(sums), size=(len(some), len(sums)))
        means[some] = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)[:, None]
    tail = _tail(len(sums), confidence)
    low, high = np.quantile(figure(means), [tail, 1 - tail])
    return float(low), float(high)


def bootstrap_of_rows(
    rows: NDArray[Any],
    groups: Sequence[Hashable],
    figure: Callable[[NDArray[Any]], float],
    confidence: float = 0.95,
) -> tuple[float, float]:
    """The same interval of any figure of the rows [n, K], called once for the rows of each draw.

    Raises ValueError where there is no row.
    """
    if not len(rows):
        raise ValueError("A bootstrap needs at least one row, and none was given.")
    index = places(groups)
    rows = rows[np.argsort(index, kind="stable")]
    sizes = np.bincount(index)
    starts = sizes.cumsum() - sizes
    random = np.random.default_rng(SEED)
    found = np.empty(DRAWS)
    for draw in range(DRAWS):
        drawn = random.integers(len(sizes), size=len(sizes))
        within = np.arange(sizes[drawn].sum()) - np.repeat(sizes[drawn].cumsum() - sizes[drawn], sizes[drawn])
        found[draw] = figure(rows[np.repeat(starts[drawn], sizes[drawn]) + within])
    tail = _tail(len(sizes), confidence)
    low, high = np.quantile(found, [tail, 1 - tail])
    return float(low), float(high)


def _tail(groups: int, confidence: float) -> float:
    """What is left out at each end: less than (1 − confidence)/2, for few groups vary less than what they stand for."""
    if groups == 1:
        return 0.0
    return float(norm.cdf(-np.sqrt(groups / (groups - 1)) * t.ppf((1 + confidence) / 2, groups - 1)))


def _by_group(rows: Floats, groups: Sequence[Hashable]) -> tuple[Floats, Floats]:
    """The sum of each group's rows [G, K], and how many they are [G]."""
    index = places(groups)
    sizes = np.bincount(index)
    sums = np.zeros((len(sizes), rows.shape[1]))
    np.add.at(sums, index, rows)
    return sums, sizes.astype(np.float64)


def places(groups: Sequence[Hashable]) -> NDArray[np.int64]:
    """The number of each row's group, counted from 0 in the order in which the groups are first named."""
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    return np.array([numbers[group] for group in groups], dtype=np.int64)
