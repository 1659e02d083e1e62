"""The best of n from more samples than n: numbers by hand, and every subset counted one by one."""

from itertools import combinations
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.evaluation import best_of_n_worth


def test_by_hand():
    # Of {1, 2, 3} in twos: {1, 2} gives 20, {1, 3} and {2, 3} give 60, so 140/3.
    assert best_of_n_worth([1, 2, 3], [10, 20, 60], 2) == pytest.approx(140 / 3)
    assert best_of_n_worth([1, 2, 3], [10, 20, 60], 1) == pytest.approx(30)
    assert best_of_n_worth([3, 2, 1], [10, 20, 60], 3) == pytest.approx(10)


def test_samples_that_tie_share_their_place():
    assert best_of_n_worth([1, 1], [0, 4], 2) == pytest.approx(2)
    # {1, 1} → 2, twice {1, 2} → 9: 20/3.
    assert best_of_n_worth([1, 1, 2], [0, 4, 9], 2) == pytest.approx(20 / 3)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(-9, 9)), min_size=1, max_size=7), st.data())
def test_it_is_the_mean_over_all_subsets(samples, data):
    n = data.draw(st.integers(1, len(samples)))
    found = []
    for subset in combinations(samples, n):
        best = max(score for score, _ in subset)
        found.append(fmean(worth for score, worth in subset if score == best))
    scores, worths = zip(*samples, strict=True)
    assert best_of_n_worth(scores, worths, n) == pytest.approx(fmean(found))


@pytest.mark.parametrize("n", [0, 3])
def test_a_subset_is_none_of_more_than_there_are(n):
    with pytest.raises(ValueError, match="A subset has 1 to 2"):
        best_of_n_worth([1, 2], [1, 2], n)
