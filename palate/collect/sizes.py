"""How many votes, items and trials a question needs: the arithmetic behind a plan, with the formula of each.

z(q) is the q-quantile of the normal distribution. Everything is rounded up. Each count is of independent units: votes
on different prompts, not several votes on one.
"""

from __future__ import annotations

import math
from statistics import NormalDist

from scipy.stats import binom

CONFIDENCE = 0.95
POWER = 0.8


def win_rate_votes(difference: float, ties: float = 0.0, power: float = POWER, confidence: float = CONFIDENCE) -> int:
    """Comparisons that find a win rate of ½ + `difference` to differ from ½, with probability `power`.

    n = ((z(1 − α/2)·√v₀ + z(power)·√v₁) / d)²,  v₀ = (1 − t)/4,  v₁ = p(1 − p) − t/4,  p = ½ + d

    A tie counts as half a win, and `ties` is their share t. Raises ValueError unless 0 < d and p ≤ 1 − t/2.
    """
    rate = 0.5 + difference
    if not (difference > 0 and 0 <= ties < 1 and rate <= 1 - ties / 2):
        raise ValueError(f"A win rate of {rate} with a share of ties of {ties} is none that lies above one half.")
    even, real = (1 - ties) / 4, rate * (1 - rate) - ties / 4
    reach = _z((1 + confidence) / 2) * math.sqrt(even) + _z(power) * math.sqrt(max(real, 0.0))
    return _up((reach / difference) ** 2)


def share_items(share: float, half_width: float, confidence: float = CONFIDENCE) -> int:
    """Items after which an interval of a share near `share` reaches no further than `half_width` to each side.

    n = z(1 − α/2)²·a(1 − a)/w²

    For the accuracy of a reward model, items are held-out pairs on different prompts.
    """
    return _up(_z((1 + confidence) / 2) ** 2 * share * (1 - share) / half_width**2)


def kappa_items(agreement: float, chance: float, half_width: float, confidence: float = CONFIDENCE) -> int:
    """Items judged by two raters after which κ is known to ± `half_width`.

    κ = (a − c)/(1 − c),  n = z(1 − α/2)²·a(1 − a)/(w·(1 − c))²

    Cohen, 1960, eq. 6 and 7: a is the share of agreement and c that by chance, which is taken as known.
    """
    return share_items(agreement, half_width * (1 - chance), confidence)


def trials_below(rate: float, failures: int = 0, confidence: float = CONFIDENCE) -> int:
    """Trials after which at most `failures` failures show, with `confidence`, that they are rarer than `rate`.

    The least n with P(X ≤ failures) ≤ α for X ~ Binomial(n, rate)

    Without a failure that is n = ln α / ln(1 − rate), which the rule of three puts at 3/rate for α = .05.
    """
    low, high = failures, failures + 1
    while binom.cdf(failures, high, rate) > 1 - confidence:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if binom.cdf(failures, middle, rate) <= 1 - confidence else (middle, high)
    return high


def pass_probability(items: int, mark: int, accuracy: float) -> float:
    """The probability that someone who is right with probability `accuracy` is so on at least `mark` of `items`."""
    return float(binom.sf(mark - 1, items, accuracy))


def pass_mark(items: int, guessing: float = 0.5, risk: float = 0.05) -> int:
    """The least number of right answers that guessing reaches with a probability of no more than `risk`.

    Raises ValueError where even all of them right would not be proof enough.
    """
    marks = (mark for mark in range(items + 1) if pass_probability(items, mark, guessing) <= risk)
    try:
        return next(marks)
    except StopIteration:
        raise ValueError(f"{items} items are too few: guessing gets all of them right too often.") from None


def _z(quantile: float) -> float:
    return NormalDist().inv_cdf(quantile)


def _up(value: float) -> int:
    """Rounded up, a whole number that floating point missed by a hair excepted."""
    return math.ceil(value - 1e-9)
