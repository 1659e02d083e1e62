"""How far raters agree: percentage, Cohen's κ, Fleiss' κ and Krippendorff's α, with bootstrap intervals over items.

Everything is read off a table of counts [N, V]: how many raters gave each of N items each of V values. With equal
numbers of raters Fleiss' κ and nominal α differ by what a small sample is worth, α = 1 − (1 − κ)·(1 − 1/n) for n
ratings; α also knows ordered values.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from palate.errors import UsageError
from palate.evaluation.resampling import bootstrap_of_rows

Counts = NDArray[np.int64]
Level = Literal["nominal", "ordinal"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95 % bootstrap interval over items."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Agreement:
    """What several raters who gave the same items values say of one another.

    `items` have two ratings or more, `ratings` in all. `ordinal` is α with the values in their order, None where they
    have none. κ and α are None where every rating is the same value: then nothing can be told from chance.
    """

    items: int
    ratings: int
    percent: Estimate
    fleiss: Estimate | None
    alpha: Estimate | None
    ordinal: Estimate | None = None


def table(ratings: Sequence[Sequence[Hashable]], values: Sequence[Hashable]) -> Counts:
    """The counts [N, V] of each item's ratings, the columns in the order of `values`; what is no value is left out."""
    place = {value: column for column, value in enumerate(values)}
    counts = np.zeros((len(ratings), len(values)), dtype=np.int64)
    for row, given in enumerate(ratings):
        for value in given:
            if value in place:
                counts[row, place[value]] += 1
    return counts


# ---- figures of a table


def percent_agreement(counts: Counts) -> float:
    """The probability that two raters of an item say the same, every item with two raters or more weighing alike.

    P̄ = mean over items of Σ_v n_v(n_v − 1) / n(n − 1)
    """
    return float(_alike(counts).mean())


def fleiss_kappa(counts: Counts) -> float:
    """κ = (P̄ − P̄ₑ)/(1 − P̄ₑ), agreement beyond that of raters who draw from one common distribution.

    Fleiss, 1971, Psychological Bulletin 76(5), eq. 1–7; for different numbers of raters in the generalised form of Gwet
    (Handbook of Inter-Rater Reliability, 4th ed. 2014, ch. 2): P̄ over items with two raters or more, and P̄ₑ = Σ π_v²
    with π_v the mean over all rated items of n_v/n, so that every item weighs alike. NaN where P̄ₑ = 1.
    """
    rated = counts[counts.sum(axis=1) > 0]
    shares = (rated / rated.sum(axis=1, keepdims=True)).mean(axis=0)
    return _beyond(percent_agreement(counts), float((shares**2).sum()))


def cohen_kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> float:
    """κ = (p₀ − pₑ)/(1 − pₑ) of two raters' values for the same items, each rater with a distribution of their own.

    Cohen, 1960, Educational and Psychological Measurement 20(1); pₑ = Σ_v p₁(v)·p₂(v). NaN where pₑ = 1.
    """
    values = list(dict.fromkeys((*first, *second)))
    one, other = (table([[value] for value in side], values).mean(axis=0) for side in (first, second))
    same = np.mean([own == others for own, others in zip(first, second, strict=True)])
    return _beyond(float(same), float(one @ other))


def krippendorff_alpha(counts: Counts, level: Level = "nominal") -> float:
    """α = 1 − Dₒ/Dₑ, observed over expected disagreement, for any number of raters an item, by the package
    `krippendorff`.

    Krippendorff, Content Analysis, ch. 11 of the 2nd ed. (2004). The columns of an ordinal table stand in the values'
    order. NaN where every rating is the same value.
    """
    pairable = counts[counts.sum(axis=1) > 1]
    if (pairable.sum(axis=0) > 0).sum() < 2:
        return float("nan")
    return float(_package().alpha(value_counts=pairable, level_of_measurement=level))


# ---- with intervals


def agreement(counts: Counts, groups: Sequence[Hashable] | None = None, *, ordered: Counts | None = None) -> Agreement:
    """All figures of a table with their intervals; UsageError where no item has two ratings.

    Rows of one of the `groups` (the twos of one ranking) are drawn together; every row alone unless given. `ordered`
    is a table of the same items by ordered values, which `ordinal` is of.
    """
    if not (counts.sum(axis=1) > 1).any():
        raise UsageError(
            f"Agreement was asked for of {len(counts)} items, and none has ratings of two raters. It takes items that "
            "several raters judged: let some overlap (`palate label --overlap`), or give a file with several votes."
        )
    together = counts.sum(axis=1) > 1
    names = [group for group, several in zip(groups or range(len(counts)), together, strict=True) if several]
    counts = counts[together]
    ranked = None if ordered is None else _interval(ordered[together], names, _ordinal)
    return Agreement(
        items=len(dict.fromkeys(names)),
        ratings=int(counts.sum()),
        percent=Estimate(percent_agreement(counts), *bootstrap_of_rows(counts, names, percent_agreement)),
        fleiss=_interval(counts, names, fleiss_kappa),
        alpha=_interval(counts, names, krippendorff_alpha),
        ordinal=ranked,
    )


def _interval(counts: Counts, groups: Sequence[Hashable], figure: Callable[[Counts], float]) -> Estimate | None:
    """The figure with its interval; a draw in which nothing varies shows no agreement beyond chance, and counts 0."""
    estimate = figure(counts)
    if np.isnan(estimate):
        return None
    return Estimate(estimate, *bootstrap_of_rows(counts, groups, lambda drawn: float(np.nan_to_num(figure(drawn)))))


def _ordinal(counts: Counts) -> float:
    return krippendorff_alpha(counts, "ordinal")


def _alike(counts: Counts) -> NDArray[np.float64]:
    """The share of each item's twos of raters that say the same, of items that have two."""
    several = counts[counts.sum(axis=1) > 1]
    total = several.sum(axis=1)
    return (several * (several - 1)).sum(axis=1) / (total * (total - 1))


def _beyond(observed: float, expected: float) -> float:
    return (observed - expected) / (1 - expected) if expected < 1 else float("nan")


def _package():
    try:
        import krippendorff
    except ImportError as error:
        raise UsageError(
            "Krippendorff's alpha was asked for, and the package that computes it is not installed. Install it with "
            'pip install "palate[label]".'
        ) from error
    return krippendorff
