"""How many votes, items and trials: derived numbers, and that the interval or test then is as promised."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from palate.collect import sizes
from palate.ops import wilson_interval


@pytest.mark.parametrize(
    ("difference", "ties", "votes"),
    [
        # z(.975) = 1.95996, z(.8) = .84162. v₀ = ¼, v₁ = .55·.45 = .2475: 1.95996·.5 + .84162·.49749 = 1.39868;
        # (1.39868 / .05)² = 782.5.
        (0.05, 0.0, 783),
        # v₀ = ¼, v₁ = .6·.4 = .24: .97998 + .84162·.48990 = 1.39229; (1.39229 / .1)² = 193.85.
        (0.1, 0.0, 194),
        # v₀ = .8/4 = .2, v₁ = .24 − .05 = .19: 1.95996·.44721 + .84162·.43589 = 1.24338; (1.24338 / .1)² = 154.6.
        (0.1, 0.2, 155),
        # p = .9 and t = .2: every vote that is no tie is a win, v₁ = .09 − .05 = .04: .87653 + .84162·.2 = 1.04485;
        # (1.04485 / .4)² = 6.8.
        (0.4, 0.2, 7),
    ],
)
def test_votes_for_a_win_rate(difference: float, ties: float, votes: int) -> None:
    assert sizes.win_rate_votes(difference, ties) == votes


def test_the_planned_votes_find_the_difference_as_often_as_promised() -> None:
    # 194 votes, p = .6: the two-sided test at 5 % by the normal approximation is right in about 80 of 100 samples.
    votes = sizes.win_rate_votes(0.1)
    wins = np.random.default_rng(0).binomial(votes, 0.6, 20_000)
    found = np.abs(wins / votes - 0.5) > 1.95996 * math.sqrt(0.25 / votes)
    assert 0.77 < found.mean() < 0.83


@pytest.mark.parametrize(("difference", "ties"), [(0.0, 0.0), (-0.1, 0.0), (0.45, 0.2), (0.1, 1.0)])
def test_a_win_rate_that_cannot_be_is_refused(difference: float, ties: float) -> None:
    with pytest.raises(ValueError, match="win rate"):
        sizes.win_rate_votes(difference, ties)


def test_items_for_a_share_and_for_kappa() -> None:
    # 3.84146·.7·.3 / .0004 = 2016.8, and near one half 3.84146·.25 / .0016 = 600.2.
    assert sizes.share_items(0.7, 0.02) == 2017
    assert sizes.share_items(0.5, 0.04) == 601
    # κ's interval is that of the agreement, over 1 − c: 3.84146·.73·.27 / (.1·.5)² = 302.9.
    assert sizes.kappa_items(0.73, 0.5, 0.1) == 303
    assert sizes.kappa_items(0.73, 0.0, 0.05) == 303


@given(st.floats(0.55, 0.9), st.floats(0.02, 0.1))
def test_wilsons_interval_is_then_about_as_wide_as_promised(share: float, width: float) -> None:
    items = sizes.share_items(share, width)
    low, high = wilson_interval(round(share * items), items)
    assert high - low == pytest.approx(2 * width, rel=0.12)


def test_trials_without_a_failure_follow_the_logarithm_and_the_rule_of_three() -> None:
    # ln .05 / ln .99 = 298.07; ln .05 / ln .95 = 58.4. The rule of three says 300 and 60.
    assert [sizes.trials_below(rate) for rate in (0.01, 0.05)] == [299, 59]
    # Each failure costs more trials: .99ⁿ·(1 + n/99) ≤ .05 first holds at 473.
    assert sizes.trials_below(0.01, 1) == 473
    assert 0.99**473 * (1 + 473 / 99) <= 0.05 < 0.99**472 * (1 + 472 / 99)


@given(st.floats(0.002, 0.5), st.integers(0, 4))
def test_the_trials_are_the_fewest(rate: float, failures: int) -> None:
    trials = sizes.trials_below(rate, failures)
    assert binom.cdf(failures, trials, rate) <= 0.05 + 1e-12
    assert trials == failures + 1 or binom.cdf(failures, trials - 1, rate) > 0.05 - 1e-12


def test_the_pass_mark_keeps_guessers_out() -> None:
    # Of 4,096 ways of twelve coins 79 have ten heads or more (66 + 12 + 1), 299 nine or more: .019 and .073.
    assert sizes.pass_probability(12, 10, 0.5) == pytest.approx(79 / 4096)
    assert sizes.pass_mark(12) == 10
    assert sizes.pass_mark(5) == 5  # 1/32 = .031
    with pytest.raises(ValueError, match="too few"):
        sizes.pass_mark(4)  # 1/16 = .0625
