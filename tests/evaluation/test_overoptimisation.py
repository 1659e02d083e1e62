"""Curves of over-optimisation: what is fitted, where it peaks, and when looks are past the peak."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.evaluation import Fit, Look, fit_looks, fit_points, past_peak
from palate.evaluation.overoptimisation import FEWEST_POINTS, highest

FORMS = ("rl", "best-of-n")
DISTANCES = np.linspace(0.2, 4, 20)


def curve(form, alpha, beta, d):
    return d * (alpha - beta * (np.log(d) if form == "rl" else d))


def look(step, d, heldout, proxy=None):
    """A look whose answers all have the same log-ratio."""
    heldout = tuple(np.broadcast_to(heldout, 8).tolist()) if np.ndim(heldout) == 0 else tuple(heldout)
    proxy = (float(step),) * len(heldout) if proxy is None else proxy
    return Look(step, (d * d,) * len(heldout), proxy, heldout)


# ---- the curve


@pytest.mark.parametrize(
    ("form", "alpha", "beta", "place", "height"),
    [
        # R′ = α − β·log d − β = 0 where log d = α/β − 1 = 1, and there R = d(1 − ½) = e/2.
        ("rl", 1.0, 0.5, math.e, math.e / 2),
        # R′ = α − 2βd = 0 at d = 2, and there R = 2(1 − ½) = 1.
        ("best-of-n", 1.0, 0.25, 2.0, 1.0),
        # A curve that falls from the start is highest at the start.
        ("best-of-n", -1.0, 0.5, 0.0, 0.0),
    ],
)
def test_the_peak_by_hand(form, alpha, beta, place, height):
    found = highest(form, np.array(alpha), np.array(beta))
    assert [float(number) for number in found] == pytest.approx([place, height])


@given(st.sampled_from(FORMS), st.floats(0.1, 2), st.floats(0.2, 2))
def test_the_peak_is_where_brute_force_finds_it(form, alpha, beta):
    place, height = (float(number) for number in highest(form, np.array(alpha), np.array(beta)))
    grid = place * np.linspace(0.5, 1.5, 10_001)
    values = curve(form, alpha, beta, grid)
    assert grid[values.argmax()] == pytest.approx(place, rel=1e-3)
    assert values.max() == pytest.approx(height, rel=1e-6)


@given(st.sampled_from(FORMS), st.floats(-2, 2), st.floats(-2, 2))
def test_coefficients_of_points_without_noise_are_found(form, alpha, beta):
    fit = fit_points(DISTANCES, curve(form, alpha, beta, DISTANCES), form, draws=10)
    assert (fit.alpha, fit.beta) == pytest.approx((alpha, beta), abs=1e-8)
    assert fit.points == 20
    assert fit.gain(2.0) == pytest.approx(float(curve(form, alpha, beta, 2.0)), abs=1e-8)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, -0.2), (1.0, 0.0), (3.0, 0.3)])
def test_no_peak_is_in_sight_where_the_curve_never_turns_or_only_beyond_what_was_measured(form, alpha, beta):
    # d* = α/(2β) = 5 and exp(α/β − 1) = e⁹ for the last pair, and the farthest point is at 4.
    fit = fit_points(DISTANCES, curve(form, alpha, beta, DISTANCES) + 1e-6 * np.cos(20 * DISTANCES), form)
    assert fit.peak is None


def test_the_start_is_on_every_curve_and_counts_for_nothing():
    gains = curve("rl", 1.0, 0.5, DISTANCES)
    with_start = fit_points([0.0, *DISTANCES], [0.0, *gains], draws=10)
    assert (with_start.alpha, with_start.points) == (pytest.approx(1.0), 20)
    assert Fit("rl", 1.0, 0.5, None, 3, None).gain(0.0) == 0.0


def test_too_little_to_fit():
    assert fit_points([], []) is None
    assert fit_points(DISTANCES[: FEWEST_POINTS - 1], [1.0, 2.0]) is None
    assert fit_points([1.5] * 5, [1.0, 2.0, 1.0, 2.0, 1.0]) is None  # one distance cannot tell α from β


def test_a_point_of_large_error_weighs_little():
    gains = curve("rl", 1.0, 0.5, DISTANCES)
    gains[10] += 5
    errors = np.full(20, 0.01)
    errors[10] = 10.0
    assert fit_points(DISTANCES, gains, errors=errors, draws=10).alpha == pytest.approx(1.0, abs=1e-4)
    assert abs(fit_points(DISTANCES, gains, draws=10).alpha - 1.0) > 0.05


def test_r_squared_is_one_without_noise_and_zero_for_the_mean():
    fit = fit_points(DISTANCES, curve("rl", 1.0, 0.5, DISTANCES), draws=10)
    assert fit.r_squared == pytest.approx(1.0)
    noise = np.random.default_rng(0).normal(0, 1, 20)
    assert fit_points(DISTANCES, noise, draws=10).r_squared < 0.5


def simulated(random, prompts=64, noise=0.5):
    """Looks along α = 1, β = .5, whose peak is at e with a height of e/2; an answer's luck is partly its prompt's."""
    luck = random.normal(0, noise, prompts)
    looks = [Look(0, (0.0,) * prompts, (0.0,) * prompts, tuple(luck))]
    for step, d in enumerate(np.linspace(0.4, 5, 12), start=1):
        kl = d * d + random.normal(0, 0.3, prompts)
        scores = curve("rl", 1.0, 0.5, d) + luck + random.normal(0, noise, prompts)
        looks.append(Look(step, tuple(kl), (float(step),) * prompts, tuple(scores)))
    return looks


def test_the_interval_of_the_peak_covers_it():
    random = np.random.default_rng(3)
    places, heights = 0, 0
    for _ in range(200):
        peak = fit_looks(simulated(random), "heldout", draws=200).peak
        places += peak.low <= math.e <= (math.inf if peak.high is None else peak.high)
        heights += peak.height_low <= math.e / 2 <= peak.height_high
        assert peak.low <= peak.distance and peak.height_low <= peak.height <= peak.height_high
    # 95 % of 200 are 190 with a deviation of 3; a bootstrap of 64 prompts is a little too narrow.
    assert 180 <= places <= 200 and 178 <= heights <= 200


def test_an_interval_that_reaches_beyond_what_was_measured_is_open():
    random = np.random.default_rng(4)
    looks = [one for one in simulated(random, prompts=16, noise=2.0) if one.distance < 3.4]
    found = [fit_looks(looks, "heldout", seed=seed).peak for seed in range(3)]
    assert all(peak is None or peak.high is None for peak in found) and any(found)


def test_a_curve_that_begins_elsewhere_is_not_fitted():
    looks = simulated(np.random.default_rng(0))
    assert fit_looks(looks, "heldout") is not None
    assert fit_looks(looks[1:], "heldout") is None
    assert fit_looks([], "proxy") is None


# ---- the decision


def test_two_looks_in_a_row_that_are_worse_are_past_the_peak():
    rising = [look(0, 0, 0.0), look(1, 0.2, 0.5), look(2, 0.4, 1.0)]
    once, twice = look(3, 0.6, 0.9), look(4, 0.8, 0.8)
    assert (past_peak(rising).best, past_peak(rising).worse, past_peak(rising).past) == (2, False, False)
    found = past_peak([*rising, once])
    assert (found.best, found.worse, found.past) == (2, True, False)
    found = past_peak([*rising, once, twice])
    assert (found.best, found.worse, found.past) == (2, True, True)
    # A look between them that is as good makes it one in a row again.
    assert not past_peak([*rising, once, look(4, 0.8, 1.0), look(5, 1.0, 0.9)]).past


def test_what_falls_together_with_the_reward_is_no_over_optimisation():
    rising = [look(0, 0, 0.0, (0.0,) * 8), look(1, 0.2, 1.0, (1.0,) * 8)]
    fallen = [look(2, 0.4, 0.9, (0.5,) * 8), look(3, 0.6, 0.8, (0.4,) * 8)]
    found = past_peak([*rising, *fallen])
    assert found.worse and not found.past


def test_a_single_look_and_a_single_prompt_say_nothing():
    assert past_peak([look(0, 0, 1.0)]).best == 0 and not past_peak([look(0, 0, 1.0)]).worse
    assert not past_peak([look(0, 0, [1.0]), look(1, 1, [0.0]), look(2, 2, [0.0])]).past


def test_the_t_test_by_hand():
    # Differences −1, −1, −1, 1: mean −½, deviation 1, t = −½/(1/2) = −1 with 3 degrees, one-sided p = .1955.
    looks = [look(0, 0, [0.0] * 4), look(1, 1, [-1.0, -1.0, -1.0, 1.0])]
    assert past_peak(looks, level=0.196).worse and not past_peak(looks, level=0.195).worse


@pytest.mark.parametrize("shared", [0.0, 0.7])
def test_an_equally_good_policy_is_hardly_ever_stopped_or_rolled_back(shared):
    # `shared` is how much of a score's variance is its prompt's, and the same at every look.
    random = np.random.default_rng(7)
    runs, wrong = 300, 0
    for _ in range(runs):
        luck = random.normal(size=32) * math.sqrt(shared)
        looks = [look(step, 0.2 * step, luck + random.normal(size=32) * math.sqrt(1 - shared)) for step in range(12)]
        wrong += past_peak(looks).worse or any(past_peak(looks[:count]).past for count in range(3, 12))
    assert wrong / runs <= 0.05


def test_a_real_fall_is_seen_soon():
    # Gold on the testbed falls by half a deviation between looks .2 apart in √KL; with 128 prompts that is plain.
    random = np.random.default_rng(8)
    stops = []
    for _ in range(50):
        luck = random.normal(size=128) * 0.5
        truth = [0.0, 0.3, 0.6, 0.6, 0.35, 0.1, -0.15, -0.4]
        looks = [look(step, 0.2 * step, true + luck + random.normal(size=128) * 0.5) for step, true in enumerate(truth)]
        stop = next((count for count in range(3, 9) if past_peak(looks[:count]).past), None)
        stops.append(stop)
        assert stop is not None and past_peak(looks[:stop]).best in (2, 3)
    assert np.mean(stops) <= 6.5  # the two looks after the plateau are the fifth and sixth
