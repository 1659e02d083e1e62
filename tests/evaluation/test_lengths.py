"""The win rate at equal length: what it takes away from a judge that counts words, and what it leaves to one that does
not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit

from palate.evaluation import length_controlled, lengths
from palate.evaluation.lengths import RIDGE, fit_preference


def drawn(random, theta, phi, mean, count):
    """Outcomes by the model itself, of differences with deviation 1 around `mean`."""
    differences = random.normal(mean, 1, count)
    won = random.random(count) < expit(theta + phi * np.tanh(differences / differences.std()))
    return won.astype(float).tolist(), differences.tolist()


def test_known_coefficients_are_recovered():
    random = np.random.default_rng(0)
    lengths_ = np.tanh(random.normal(0.5, 1, 40_000))
    won = (random.random(40_000) < expit(0.7 - 1.5 * lengths_)).astype(float)
    ((theta, phi),) = fit_preference(won, lengths_, np.ones((1, 40_000)))
    # Four standard errors: 1/√(n·E[p(1 − p)]) ≈ .011, and some .02 for φ.
    assert theta == pytest.approx(0.7, abs=0.05)
    assert phi == pytest.approx(-1.5, abs=0.08)


def test_a_judge_that_only_counts_length_prefers_nobody_at_equal_length():
    random = np.random.default_rng(1)
    differences = random.normal(1, 1, 400)  # the second model's answers are mostly longer
    points = np.where(differences > 0, 1.0, 0.0)
    assert points.mean() > 0.8
    found = length_controlled(points.tolist(), differences.tolist(), range(400))
    assert found is not None
    assert found.low < 0.5 < found.high
    assert found.estimate == pytest.approx(0.5, abs=0.1)


def test_a_judge_blind_to_length_is_left_as_it_is():
    random = np.random.default_rng(2)
    differences = random.normal(0, 30, 2000)
    points = random.choice([1.0, 0.5, 0.0], 2000, p=[0.6, 0.2, 0.2])
    found = length_controlled(points.tolist(), differences.tolist(), range(2000))
    assert found is not None
    assert found.estimate == pytest.approx(points.mean(), abs=0.01)


def test_by_hand_where_lengths_are_equal():
    # With Δ = 0 throughout, θ = logit of the win rate, but for the ridge: 30 of 40 won, and Σ(y − p) = RIDGE·θ moves p
    # by RIDGE·ln 3/40 = .0003.
    found = length_controlled([1.0] * 30 + [0.0] * 10, [0.0] * 40, range(40))
    assert found is not None
    assert found.estimate == pytest.approx(0.75 - RIDGE * np.log(3) / 40, abs=1e-5)
    assert found.low < 0.65 < 0.85 < found.high


def test_the_unit_of_length_does_not_matter():
    points, differences = drawn(np.random.default_rng(3), 0.5, 1, 0.3, 100)
    in_tokens = length_controlled(points, differences, range(100))
    in_characters = length_controlled(points, [4.2 * one for one in differences], range(100))
    assert in_tokens is not None and in_characters is not None
    assert in_tokens.estimate == pytest.approx(in_characters.estimate)
    assert (in_tokens.low, in_tokens.high) == pytest.approx((in_characters.low, in_characters.high))


def test_nothing_is_said_where_every_answer_became_longer():
    assert length_controlled([1.0, 1.0, 0.0], [3, 1, 2], range(3)) is None
    assert length_controlled([1.0, 1.0, 0.0], [-3, -1, -2], range(3)) is None
    assert length_controlled([1.0, 1.0, 0.0], [3, 0, 2], range(3)) is not None


def test_no_comparison_is_an_error():
    with pytest.raises(ValueError, match="at least one"):
        length_controlled([], [], [])


def test_copies_of_a_prompts_answers_count_as_one():
    points, differences = drawn(np.random.default_rng(4), 0.5, 1, 0, 40)
    once = length_controlled(points, differences, range(40))
    thrice = length_controlled(points * 3, differences * 3, [*range(40)] * 3)
    assert once is not None and thrice is not None
    assert thrice.estimate == pytest.approx(once.estimate)
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high))


POINTS = st.sampled_from([0.0, 0.5, 1.0])
ROWS = st.lists(st.tuples(POINTS, st.integers(-50, 50)), min_size=1, max_size=40)


@given(ROWS)
def test_the_other_side_wins_what_this_one_loses(rows):
    points, differences = zip(*rows, strict=True)
    found = length_controlled(points, differences, range(len(rows)))
    other = length_controlled([1 - one for one in points], [-one for one in differences], range(len(rows)))
    if found is None or other is None:
        assert found is other
        return
    assert found.estimate == pytest.approx(1 - other.estimate, abs=1e-9)
    assert 0 <= found.low <= found.estimate <= found.high <= 1


@given(ROWS, st.integers(0, 5))
def test_the_fit_is_where_the_slope_is_nought(rows, seed):
    # Also where length, or the model alone, decides every comparison: the ridge keeps both coefficients finite.
    points, differences = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    standard = np.tanh(differences / 10)
    weights = (
        np.random.default_rng(seed).multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=3).astype(float)
    )
    found = fit_preference(points, standard, weights)
    missing = weights * (points - expit(found[:, :1] + found[:, 1:] * standard))
    slope = np.stack((missing.sum(axis=1), missing @ standard), axis=1) - RIDGE * found
    assert np.abs(slope).max() < 1e-6


# θ, φ, and the mean of the differences: a judge that likes length, one that likes brevity, one that does not care.
TRUTHS = [(0.4, 1.5, 0.5), (1.4, -1.7, -0.8), (logit(0.85), 0.0, 0.0)]


@pytest.mark.parametrize(("theta", "phi", "mean"), TRUTHS)
def test_the_interval_holds_the_truth_in_95_of_100_cases(theta, phi, mean, monkeypatch):
    monkeypatch.setattr(lengths, "DRAWS", 100)
    random = np.random.default_rng(5)
    held = 0
    for _ in range(1000):
        points, differences = drawn(random, theta, phi, mean, 60)
        found = length_controlled(points, differences, range(60))
        assert found is not None
        held += found.low <= expit(theta) <= found.high
    assert 920 <= held <= 980
