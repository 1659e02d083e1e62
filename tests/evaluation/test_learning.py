"""Word counts and the slope of a loss, against numbers worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.evaluation import loss_slope, perplexity, unigram_loss


def test_the_perplexity_of_a_broken_model_is_a_number():
    # Log-probabilities of a model that a learning rate of 3 destroyed fall below −1,000 nats.
    assert perplexity(math.log(5)) == pytest.approx(5)
    assert math.isfinite(perplexity(709.7)) and perplexity(1e4) == perplexity(710)
    assert math.isfinite(perplexity(1e4))


def test_the_unigram_model_counts_and_smooths():
    # Seen: 0 three times, 1 once, of ids 0 to 3; with one added each, p = 4/8, 2/8, 1/8, 1/8.
    seen = [(0, 0), (0, 1)]
    assert unigram_loss(seen, [(0,)], 4) == pytest.approx(math.log(2))
    assert unigram_loss(seen, [(0, 1), (3,)], 4) == pytest.approx((math.log(2) + math.log(4) + math.log(8)) / 3)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=30))
def test_the_unigram_model_is_a_distribution(seen):
    # The probabilities e^(−loss) of all ids sum to 1.
    assert sum(math.exp(-unigram_loss([seen], [(token,)], 10)) for token in range(10)) == pytest.approx(1)


def test_a_line_in_the_logarithm_has_its_slope_for_every_doubling():
    # 3 − 0.25·log₂(step): every doubling gains a quarter of a nat, and nothing scatters.
    slope = loss_slope([3 - 0.25 * math.log2(step) for step in range(1, 41)])
    assert slope is not None
    assert (slope.gain, slope.low) == pytest.approx((0.25, 0.25))


def test_the_first_half_is_not_looked_at():
    flat = loss_slope([100.0 / step for step in range(1, 21)] + [2.0] * 20)
    assert flat is not None and (flat.gain, flat.low) == (0, 0)


def test_students_interval_of_the_gain():
    # The second half of five steps stands at 3, 4, 5; line and error by the normal equations; t(0.975; 1) = 12.706.
    losses = np.array([1.0, 0.0, 1.0])
    design = np.stack([np.ones(3), np.log2([3, 4, 5])], axis=1)
    solution, left, *_ = np.linalg.lstsq(design, losses, rcond=None)
    error = math.sqrt(float(left[0]) * np.linalg.inv(design.T @ design)[1, 1])
    slope = loss_slope([9.0, 9.0, *losses])
    assert slope is not None
    assert slope.gain == pytest.approx(-solution[1])
    assert slope.low == pytest.approx(-solution[1] - 12.7062 * error, rel=1e-5)


def test_the_interval_covers_the_truth():
    # Of 1,000 noisy trainings that gain 0.1 a doubling, the lower end lies above it in 2.5 %: 25, give or take 5.
    random = np.random.default_rng(0)
    steps = np.log2(np.arange(1, 61))
    slopes = [loss_slope((3 - 0.1 * steps + 0.05 * random.standard_normal(60)).tolist()) for _ in range(1000)]
    above = sum(slope is not None and slope.low > 0.1 for slope in slopes)
    assert 10 <= above <= 40


@pytest.mark.parametrize("count", [0, 1, 4])
def test_few_steps_have_no_slope(count):
    assert loss_slope([1.0] * count) is None
