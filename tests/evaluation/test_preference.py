"""What a judge is worth on pairs: accuracy, the gain that makes its scores log-odds, the loss with them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.evaluation import likeliest_gain, preference_accuracy, preference_loss


def test_ties_count_half():
    found = preference_accuracy([2.0, 1.0, 0.0, 5.0], [1.0, 1.0, 3.0, 4.0])
    assert (found.estimate, found.pairs) == (2.5 / 4, 4)
    assert found.low < 2.5 / 4 < found.high


def test_the_gain_by_hand():
    # Three of four pairs won by 2: smoothed target t = 5/6 makes the winning share (3·5/6 + 1/6)/4 = 2/3, and
    # σ(2g) = 2/3 where 2g = ln 2.
    assert likeliest_gain([2.0, 2.0, 2.0, 0.0], [0.0, 0.0, 0.0, 2.0]) == pytest.approx(math.log(2) / 2, rel=1e-6)


def test_log_odds_are_recovered_whatever_the_scores_unit():
    random = np.random.default_rng(0)
    odds = random.normal(0, 1.5, 40_000)
    won = random.random(40_000) < 1 / (1 + np.exp(-odds))
    differences = np.where(won, odds, -odds)  # chosen less rejected
    for unit in (0.05, 1.0, 30.0):
        gain = likeliest_gain((unit * differences).tolist(), [0.0] * 40_000)
        assert gain * unit == pytest.approx(1.0, abs=0.03)  # three standard errors: 1/√(n·E[p(1 − p)·odds²]) ≈ .01


def test_a_judge_of_noise_is_made_small():
    random = np.random.default_rng(1)
    differences = random.normal(0, 3, 10_000)
    gain = likeliest_gain(differences.tolist(), [0.0] * 10_000)
    assert 0 < gain * 3 < 0.1  # noise of a spread of 3 becomes less than a tenth of a nat
    loss = preference_loss((gain * differences).tolist(), [0.0] * 10_000)
    assert loss == pytest.approx(math.log(2), abs=2e-3)


def test_a_judge_that_is_always_right_or_always_wrong_keeps_a_finite_gain():
    right = likeliest_gain([1.0, 2.0, 3.0], [0.0, 0.0, 0.0])
    assert 0 < right < 10
    wrong = likeliest_gain([0.0, 0.0, 0.0], [1.0, 2.0, 3.0])
    assert 0 < wrong < 0.02  # the order it has is kept, and weighs nothing


def test_scores_that_are_all_alike_and_no_scores_at_all():
    assert likeliest_gain([1.0, 1.0], [1.0, 1.0]) == 1.0
    assert likeliest_gain([], []) == 1.0


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=30), st.floats(0.01, 100))
def test_the_gain_undoes_the_unit(differences, unit):
    if max(map(abs, differences)) < 1e-3:
        return
    zeros = [0.0] * len(differences)
    one = likeliest_gain(differences, zeros)
    assert likeliest_gain([unit * number for number in differences], zeros) * unit == pytest.approx(one, rel=1e-4)


def test_the_loss_by_hand():
    assert preference_loss([1.0, 0.0], [0.0, 0.0]) == pytest.approx((math.log1p(math.exp(-1)) + math.log(2)) / 2)
