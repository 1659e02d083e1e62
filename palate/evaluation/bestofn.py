"""What the best of n would be worth, from more samples than n: every subset counts, none is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from math import comb, fsum


def best_of_n_worth(scores: Sequence[float], worths: Sequence[float], n: int) -> float:
    """The mean worth of that of n samples which has the highest score, over all subsets of n of the N given.

        Σ_i w_(i)·C(i − 1, n − 1)/C(N, n),   i = rank by score, lowest first

    Unbiased for n fresh samples (as the estimator of Nakano et al., arXiv 2112.09332, appendix I); samples that tie
    share their place. Raises ValueError unless 1 ≤ n ≤ N.
    """
    if not 1 <= n <= len(scores):
        raise ValueError(
            f"The best of n = {n} was asked of {len(scores)} samples. A subset has 1 to {len(scores)} of them. Draw "
            "more samples, or lower n."
        )
    ranked = sorted(zip(scores, worths, strict=True))
    total, parts, below = comb(len(ranked), n), [], 0
    for _, group in groupby(ranked, key=lambda pair: pair[0]):
        tied = [worth for _, worth in group]
        share = (comb(below + len(tied), n) - comb(below, n)) / total
        parts.append(share * fsum(tied) / len(tied))
        below += len(tied)
    return fsum(parts)
