"""What an interval promises: of 1,000 simulations, 92 to 98 % of the 95 % intervals hold the truth."""

import numpy as np
import pytest

from palate.evaluation import bootstrap_interval, preference_accuracy
from palate.evaluation.preference import effective_size
from palate.evaluation.rewardreport import correlation, gap
from palate.ops import wilson_interval

RUNS = 1000


def inside(covered):
    return 0.92 <= covered / RUNS <= 0.98


@pytest.mark.parametrize("ties", [0.0, 0.1, 0.3, 0.6])
@pytest.mark.parametrize(("n", "p"), [(50, 0.5), (50, 0.7), (120, 0.65), (400, 0.55), (400, 0.3)])
def test_shares_with_ties_as_halves(n, p, ties):
    wins = p - ties / 2
    random = np.random.default_rng(0)
    covered = 0
    for won, tied, _ in random.multinomial(n, [wins, ties, 1 - wins - ties], size=RUNS):
        low, high = wilson_interval(won + tied / 2, n, ties=int(tied))
        covered += low <= p <= high
    assert inside(covered)


def test_ties_that_are_not_told_make_the_interval_too_wide():
    random = np.random.default_rng(0)
    covered = 0
    for won, tied, _ in random.multinomial(100, [0.2, 0.6, 0.2], size=RUNS):
        low, high = wilson_interval(won + tied / 2, 100)
        covered += low <= 0.5 <= high
    assert covered / RUNS > 0.99


def test_ties_by_hand():
    # 10 comparisons, 4 won, 4 tied: p = .6, v = .6·.4 − 4/40 = .14, the variance of 4 ones, 4 halves and 2 noughts.
    z2, n, p = 1.959963984540054**2, 10, 0.6
    half = np.sqrt(z2 * 0.14 / n + z2 * z2 / 400) / (1 + z2 / n)
    centre = (p + z2 / 20) / (1 + z2 / n)
    assert wilson_interval(6, 10, ties=4) == pytest.approx((centre - half, centre + half), rel=1e-12)
    assert np.var([1] * 4 + [0.5] * 4 + [0] * 2) == pytest.approx(0.14)
    low, high = wilson_interval(25, 50, ties=50)
    assert low < 0.5 < high  # all tied: not a point


@pytest.mark.parametrize(("wins", "n", "ties"), [(1, 10, 4), (9, 10, 4), (5, 10, -1)])
def test_more_ties_than_there_can_be_are_refused(wins, n, ties):
    with pytest.raises(ValueError, match="ties"):
        wilson_interval(wins, n, ties=ties)


def test_accuracy_counts_ties():
    tied = preference_accuracy([1.0, 1.0, 0.0, 2.0], [0.0, 1.0, 0.0, 3.0])
    assert (tied.low, tied.high) == wilson_interval(2, 4, ties=2)


# ---- bootstrap


def test_a_mean_by_hand():
    # Two groups of one value each are three means: 0, ½, 1, with chances ¼, ½, ¼: both ends are in the 95 %.
    assert bootstrap_interval([0.0, 1.0], ["a", "b"]) == (0.0, 1.0)
    assert bootstrap_interval([0.0, 1.0], ["a", "a"]) == (0.5, 0.5)  # one prompt is always drawn whole
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_interval([], [])


@pytest.mark.parametrize(("groups", "rows"), [(50, 1), (60, 4)])
def test_means_over_prompts(monkeypatch, groups, rows):
    monkeypatch.setattr("palate.evaluation.resampling.DRAWS", 400)
    random = np.random.default_rng(1)
    names = np.repeat(np.arange(groups), rows).tolist()
    covered = 0
    for _ in range(RUNS):
        values = np.repeat(random.normal(0.3, 1.0, groups), rows) + random.normal(0, 0.5, groups * rows)
        low, high = bootstrap_interval(values, names)
        covered += low <= 0.3 <= high
    assert inside(covered)


def test_rows_of_a_prompt_taken_for_independent_would_cover_too_rarely():
    random = np.random.default_rng(2)
    values = np.repeat(random.normal(0, 1, 60), 10)
    together = bootstrap_interval(values, np.repeat(np.arange(60), 10).tolist())
    apart = bootstrap_interval(values, range(600))
    assert together[1] - together[0] > 2 * (apart[1] - apart[0])


def test_gaps():
    random = np.random.default_rng(3)
    covered = 0
    for train, heldout in zip(random.binomial(200, 0.8, RUNS), random.binomial(80, 0.7, RUNS), strict=True):
        one, other = (
            preference_accuracy([1.0] * wins, [0.0] * wins)
            if wins == n
            else preference_accuracy([1.0] * wins + [0.0] * (n - wins), [0.0] * wins + [1.0] * (n - wins))
            for wins, n in ((train, 200), (heldout, 80))
        )
        found = gap(one, other)
        covered += found.low <= 0.1 <= found.high
    assert inside(covered)


def test_correlations(monkeypatch):
    monkeypatch.setattr("palate.evaluation.resampling.DRAWS", 400)
    random = np.random.default_rng(4)
    # Spearman's correlation of normal variables with Pearson's ρ is 6/π·arcsin(ρ/2).
    truth = 6 / np.pi * np.arcsin(0.3)
    covered = 0
    for _ in range(RUNS):
        first = random.normal(0, 1, 80)
        _, low, high = correlation(first, 0.6 * first + 0.8 * random.normal(0, 1, 80), range(80))
        covered += low <= truth <= high
    assert inside(covered)


# ---- several pairs of a prompt


@pytest.mark.parametrize("together", [0.05, 0.3, 0.95])
@pytest.mark.parametrize(
    ("prompts", "most", "p"), [(50, 7, 0.7), (20, 9, 0.6), (200, 5, 0.8), (378, 28, 0.75), (12, 15, 0.65)]
)
def test_accuracies_on_several_pairs_of_a_prompt(prompts, most, p, together):
    # Each prompt has an accuracy of its own, Beta with mean p and variance p(1 − p)·`together`, and 1 to `most` pairs.
    random = np.random.default_rng(6)
    spread = (1 - together) / together
    covered = 0
    for _ in range(RUNS):
        names = np.repeat(np.arange(prompts), random.integers(1, most + 1, prompts))
        right = (random.random(len(names)) < random.beta(p * spread, (1 - p) * spread, prompts)[names]).astype(float)
        found = preference_accuracy(right, 1 - right, names.tolist())
        covered += found.low <= p <= found.high
    assert inside(covered)


def test_pairs_of_a_prompt_taken_for_independent_would_cover_too_rarely():
    random = np.random.default_rng(7)
    covered = 0
    for _ in range(RUNS):
        right = np.repeat(random.random(40) < 0.7, 8).astype(float)
        found = preference_accuracy(right, 1 - right)
        covered += found.low <= 0.7 <= found.high
    assert covered / RUNS < 0.7


def test_how_many_pairs_they_are_worth():
    assert effective_size([1.0, 0.0, 1.0], ["p", "q", "r"]) == 3.0
    assert effective_size([1.0, 1.0, 1.0], ["p", "p", "q"]) == 2.0  # nothing tells
    assert effective_size([1.0, 0.0, 1.0], ["p", "p", "p"]) == 1.0
    # Three prompts whose two pairs are alike, 1, 1, 0 right: Σ (xᵢ − ⅔)² = 4/3, over prompts 4·(1/9 + 1/9 + 4/9) = 8/3,
    # so n·(4/3)/(3/2·8/3) = 2, the prompts less one; and (1.96/4.303)² of it, which is less than one: one.
    points, prompts = [1.0, 1.0, 1.0, 1.0, 0.0, 0.0], list("ppqqrr")
    assert effective_size(points, prompts) == 1.0
    many = effective_size(points * 200, [f"{name}{copy}" for copy in range(200) for name in prompts])
    assert many == pytest.approx(599 * (1.959964 / 1.963940) ** 2, rel=1e-5)
    # A prompt whose pairs make up for one another is worth no more than its pairs.
    assert effective_size([1.0, 0.0] * 50, np.repeat(np.arange(50), 2).tolist()) == 100.0


def test_one_pair_a_prompt_changes_nothing():
    sides = ([1.0, 0.0, 2.0, 1.0], [0.0, 1.0, 1.0, 1.0])
    assert preference_accuracy(*sides, "pqrs") == preference_accuracy(*sides)
    grouped = preference_accuracy(*sides, "ppqq")
    assert grouped.estimate == preference_accuracy(*sides).estimate and grouped.pairs == 4
