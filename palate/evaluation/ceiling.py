"""The noise ceiling: how often any judge can agree with annotators who do not agree with one another.

Where an annotator prefers the first of two replies with probability p, nobody can foretell single labels more often
than E max(p, 1 − p). Two annotators of one pair agree with probability a = E[p² + (1 − p)²], which repeated labels
tell. With q = |2p − 1|: a = (1 + E q²)/2 and ceiling = (1 + E q)/2, and since E q² ≤ E q ≤ √(E q²)

    a  ≤  ceiling  ≤  ½ + ½·√(2a − 1)

The left end is reached where every p is 0, ½ or 1, the right end where all pairs are equally hard.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import gammaln

from palate.evaluation.resampling import bootstrap_interval
from palate.records import PreferencePair

# Fewer repeated items than this say next to nothing: their agreement is known to ± .2.
LEAST_ITEMS = 20

# Columns that hold one annotator's vote each: the number of the better reply, or 0 for neither.
_ANNOTATOR = re.compile(r"annotator_?\d+")


@dataclass(frozen=True, slots=True)
class Votes:
    """What several annotators said of one pair: so many for one reply, so many for the other, and undecided ones."""

    first: int
    second: int
    undecided: int = 0

    @property
    def agreement(self) -> float:
        """The share of decided votes' pairs that agree, which estimates p² + (1 − p)² without bias."""
        decided = self.first + self.second
        alike = math.comb(self.first, 2) + math.comb(self.second, 2)
        return alike / math.comb(decided, 2)


@dataclass(frozen=True, slots=True)
class Ceiling:
    """The highest accuracy that one annotator's labels allow.

    `estimate` supposes that p follows a symmetric Beta distribution, `low` and `high` are its 95 % bootstrap interval
    over items; `at_least` and `at_most` hold whatever p's distribution, at the agreement found. Where the truth is
    `known` they are all the same number. `undecided` is the share of votes for neither, which are left out.
    """

    estimate: float
    low: float
    high: float
    at_least: float
    at_most: float
    agreement: float
    agreement_low: float
    agreement_high: float
    items: int
    votes: int
    undecided: float
    known: bool = False


def votes_of(pairs: Iterable[PreferencePair]) -> list[Votes]:
    """The votes on every pair of texts under one prompt, however many rows they stand in and whichever side was chosen.

    A row whose prompt has columns `annotator1`, `annotator2`, … holds their votes. Other rows are votes of different
    annotators where some column tells them apart, such as the annotator's name: without one, a second opinion that
    agrees looks like a copy, and whether such rows count or not, agreement would come out wrong. Who says both is
    undecided. Where those told apart never disagree, or never agree, the column numbers the rows or goes by the answer,
    and every item is one vote.
    """
    known: list[Votes] = []
    rows: dict[Hashable, dict[str, set[str]]] = {}
    for pair in pairs:
        annotators = [value for name, value in pair.prompt.fields.items() if _ANNOTATOR.fullmatch(name)]
        if annotators:
            known.append(_counted(annotators))
        else:
            item = (pair.prompt.messages, *sorted((pair.chosen, pair.rejected)))
            annotator = repr(sorted(pair.prompt.fields.items()))
            rows.setdefault(item, {}).setdefault(annotator, set()).add(pair.chosen)
    repeated = [_of_annotators(list(told.values())) for told in rows.values()]
    agree = any(max(votes.first, votes.second) > 1 for votes in repeated)
    differ = any(min(votes.first, votes.second) > 0 for votes in repeated)
    return known + (repeated if agree and differ else [Votes(0, 1)] * len(repeated))


def noise_ceiling(votes: Sequence[Votes]) -> Ceiling | None:
    """The ceiling by repeated votes, None where fewer than 20 items have two decided ones.

    Every item weighs alike. Labels that are a majority's are less noisy than one annotator's, and allow more.
    """
    items = [one for one in votes if one.first + one.second >= 2]
    if len(items) < LEAST_ITEMS:
        return None
    agreements = np.array([one.agreement for one in items])
    agreement = float(agreements.mean())
    low, high = bootstrap_interval(agreements, range(len(items)))
    undecided = sum(one.undecided for one in votes)
    return Ceiling(
        estimate=ceiling_by_beta(agreement),
        low=ceiling_by_beta(low),
        high=ceiling_by_beta(high),
        at_least=max(agreement, 0.5),
        at_most=highest_ceiling(agreement),
        agreement=agreement,
        agreement_low=low,
        agreement_high=high,
        items=len(items),
        votes=sum(one.first + one.second for one in items),
        undecided=undecided / max(sum(one.first + one.second + one.undecided for one in votes), 1),
    )


def known_ceiling(probabilities: Sequence[float]) -> Ceiling:
    """The ceiling where the probability of every label is known: the mean of max(p, 1 − p)."""
    p = np.asarray(probabilities, dtype=np.float64)
    ceiling, agreement = float(np.maximum(p, 1 - p).mean()), float((p**2 + (1 - p) ** 2).mean())
    return Ceiling(*[ceiling] * 5, *[agreement] * 3, items=len(p), votes=len(p), undecided=0.0, known=True)


def ceiling_by_beta(agreement: float) -> float:
    """The ceiling (1 + E q)/2 where p ~ Beta(α, α), by the agreement alone.

    E q² = 1/(2α + 1) gives α = (1 − a)/(2a − 1), and E q = 2·2^{−2α}/(α·B(α, α)) = 2^{1−2α}·Γ(2α)/(α·Γ(α)²)

    No agreement above one half leaves ½; full agreement leaves 1.
    """
    if agreement <= 0.5:
        return 0.5
    if agreement >= 1:
        return 1.0
    alpha = (1 - agreement) / (2 * agreement - 1)
    log_mean = (1 - 2 * alpha) * math.log(2) - math.log(alpha) + float(gammaln(2 * alpha) - 2 * gammaln(alpha))
    return min(0.5 + math.exp(log_mean) / 2, highest_ceiling(agreement))


def highest_ceiling(agreement: float) -> float:
    """½ + ½·√(2a − 1), the ceiling where all pairs are equally hard; ½ where a is no more than that."""
    return 0.5 + 0.5 * math.sqrt(max(2 * agreement - 1, 0.0))


def _of_annotators(chosen: Sequence[set[str]]) -> Votes:
    """The votes of annotators by what each of them chose, the rarer side first."""
    counts = Counter(text for one in chosen if len(one) == 1 for text in one)
    first, second = sorted([*counts.values(), 0, 0])[-2:]
    return Votes(first, second, len(chosen) - first - second)


def _counted(annotators: Sequence[Any]) -> Votes:
    first, second = annotators.count(1), annotators.count(2)
    return Votes(first, second, len(annotators) - first - second)
