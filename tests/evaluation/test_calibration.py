"""Calibration against simulated annotators, whose truth is known: the error goes to 0 with data, a wrong gain shows."""

import math

import numpy as np
import pytest
from scipy.special import expit

from palate.evaluation import likeliest_gain
from palate.evaluation.calibration import calibration, cross_fitted


def annotated(count, seed, spread=1.5):
    """Differences of score, chosen less rejected, of a judge that knows the log-odds; and each label's probability."""
    random = np.random.default_rng(seed)
    odds = random.normal(0, spread, count)
    probability = 1 / (1 + np.exp(-odds))
    won = random.random(count) < probability
    return np.where(won, odds, -odds), np.where(won, probability, 1 - probability)


def of(differences, probabilities=None):
    return calibration(list(differences), [0.0] * len(differences), probabilities)


def test_the_error_by_hand():
    # One bin of three pairs: Δ = ±ln 3 says 3/4 each time and is right twice: |3/4 − 2/3| = 1/12.
    found = of([math.log(3), math.log(3), -math.log(3)])
    assert found.error == pytest.approx(1 / 12, rel=1e-12)
    assert found.noise == pytest.approx(math.sqrt(2 * 3 * 3 / 16 / math.pi) / 3, rel=1e-12)
    (one,) = found.bins
    assert (one.predicted, one.observed, one.pairs) == (pytest.approx(0.75), pytest.approx(2 / 3), 3)


def test_a_pair_that_scores_alike_is_half_right_and_says_so():
    found = of([0.0, 0.0])
    assert found.error == 0.0 and found.bins[0].observed == 0.5


def test_bins_are_of_equal_count_and_weigh_by_it():
    found = of(annotated(1010, 0)[0])
    assert [one.pairs for one in found.bins] == [101] * 10
    assert list(found.bins) == sorted(found.bins, key=lambda one: one.predicted)
    assert [one.pairs for one in of(annotated(120, 0)[0]).bins] == [60, 60]


@pytest.mark.parametrize("count", [1_000, 10_000, 100_000])
def test_the_error_goes_to_nought_with_data_as_fast_as_its_noise(count):
    found = of(*annotated(count, 1))
    assert 0.3 * found.noise < found.error < 2 * found.noise
    assert found.noise == pytest.approx(0.4 / math.sqrt(count / 10), rel=0.25)  # √(2/π·p(1 − p)·10/n), p(1 − p) near ¼
    assert found.true_error == pytest.approx(0.0, abs=1e-12)


def test_the_noise_is_what_a_perfect_judge_shows_on_average():
    found = [of(annotated(500, seed)[0]) for seed in range(200)]
    assert np.mean([one.error for one in found]) == pytest.approx(np.mean([one.noise for one in found]), rel=0.05)


@pytest.mark.parametrize("gain", [0.3, 3.0])
def test_a_wrong_gain_shows_however_much_data_there_is(gain):
    differences, probabilities = annotated(100_000, 2)
    found = of(gain * differences, probabilities)
    assert found.error > 0.1 and found.true_error is not None
    assert found.true_error == pytest.approx(found.error, abs=0.01)  # two ways to the same number
    better = of(likeliest_gain(list(gain * differences), [0.0] * len(differences)) * gain * differences)
    assert better.error < 0.02 and better.loss < found.loss


def test_cross_fitting_undoes_a_wrong_gain_without_having_seen_the_pairs():
    differences, _ = annotated(20_000, 3)
    scaled = cross_fitted(list(5 * differences), [0.0] * 20_000, range(20_000), seed=0)
    assert scaled is not None
    assert of(np.subtract(*scaled)).error < 0.02 < 0.1 < of(5 * differences).error


def test_each_half_is_judged_by_the_other():
    # Prompt 0 is always right, prompt 1 always wrong: each is given the gain of the other, so the right ones become
    # too small and the wrong ones keep a size that their own gain would have taken from them.
    scaled = cross_fitted([1.0, 2.0, 0.0, 0.0], [0.0, 0.0, 1.0, 2.0], [0, 0, 1, 1], seed=0)
    assert scaled is not None
    differences = np.subtract(*scaled)
    right, wrong = likeliest_gain([1.0, 2.0], [0.0, 0.0]), likeliest_gain([0.0, 0.0], [1.0, 2.0])
    assert differences == pytest.approx([wrong, 2 * wrong, -right, -2 * right])


def test_pairs_of_a_prompt_stay_in_one_half_and_one_prompt_is_too_few():
    differences, _ = annotated(300, 4)
    groups = [row // 3 for row in range(300)]
    scaled = cross_fitted(list(differences), [0.0] * 300, groups, seed=1)
    assert scaled is not None
    gains = (np.array(scaled[0]) / differences).reshape(-1, 3)
    assert np.allclose(gains, gains[:, :1]) and len(np.unique(gains.round(9))) == 2
    assert cross_fitted([1.0, 2.0], [0.0, 0.0], ["q", "q"], seed=0) is None


def test_a_judge_of_noise_that_is_fitted_and_judged_on_the_same_pairs_looks_better_than_it_is():
    # 40 pairs told apart by chance alone: the gain that is fitted on them believes the chance.
    random = np.random.default_rng(6)
    within, across = [], []
    for _ in range(200):
        differences = random.normal(0, 1, 40)
        own = likeliest_gain(list(differences), [0.0] * 40)
        within.append(of(own * differences).loss)
        scaled = cross_fitted(list(differences), [0.0] * 40, range(40), seed=0)
        assert scaled is not None
        across.append(of(np.subtract(*scaled)).loss)
    assert np.mean(within) < math.log(2) < np.mean(across)


def test_pairs_of_one_prompt_make_more_noise_and_wider_bins():
    """Ten copies of each of 60 pairs are worth 60: a perfect judge shows the error of 60, and is told so."""
    random = np.random.default_rng(0)
    errors, told, naive = [], [], []
    for _ in range(40):
        sure = random.normal(0, 1.5, 60)
        right = random.random(60) < expit(sure)
        chosen = np.repeat(np.where(right, sure, -sure), 10)
        prompts = np.repeat(np.arange(60), 10).tolist()
        known, unknown = (calibration(chosen.tolist(), [0.0] * 600, prompts=one) for one in (prompts, None))
        errors.append(known.error)
        told.append(known.noise)
        naive.append(unknown.noise)
        assert known.error == unknown.error
        assert all(
            one.high - one.low > other.high - other.low for one, other in zip(known.bins, unknown.bins, strict=True)
        )
    assert np.mean(told) == pytest.approx(np.mean(errors), rel=0.2)
    assert np.mean(naive) < np.mean(errors) / 2
