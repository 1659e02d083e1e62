"""Win rates: ties are halves, the interval is Wilson's, a model against itself is exactly one half."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.evaluation import Comparison, by_group, compare, preference_accuracy, win_rate


def test_outcomes():
    assert [compare(0.0, 1.0), compare(1.0, 0.0), compare(0.5, 0.5)] == ["win", "loss", "tie"]


def test_ties_count_half_and_the_interval_is_wilsons():
    # 6 wins, 2 ties, 2 losses: 7 of 10; Wilson's 95 % interval of 7/10 is [.3968, .8922].
    rate = win_rate(["win"] * 6 + ["tie"] * 2 + ["loss"] * 2)
    assert rate.estimate == 0.7
    assert (rate.low, rate.high) == (pytest.approx(0.3968, abs=5e-5), pytest.approx(0.8922, abs=5e-5))
    assert (rate.wins, rate.ties, rate.losses) == (6, 2, 2)


@given(outcomes=st.lists(st.sampled_from(["win", "tie", "loss"]), min_size=1))
def test_the_other_side_wins_what_this_one_loses(outcomes):
    swapped = {"win": "loss", "tie": "tie", "loss": "win"}
    rate, other = win_rate(outcomes), win_rate(swapped[outcome] for outcome in outcomes)
    assert rate.estimate == pytest.approx(1 - other.estimate)
    assert (rate.wins, rate.ties, rate.losses) == (other.losses, other.ties, other.wins)
    assert (rate.low, rate.high) == (pytest.approx(1 - other.high), pytest.approx(1 - other.low))
    assert 0 <= rate.low <= rate.estimate <= rate.high <= 1


def test_all_ties_are_one_half():
    assert win_rate(["tie"] * 9).estimate == 0.5


def test_no_comparison_is_an_error():
    with pytest.raises(ValueError, match="at least one"):
        win_rate([])


def test_groups_are_averaged_apart():
    def one(group: str, before: float, after: float) -> Comparison:
        return Comparison("p", "b", "a", before, after, compare(before, after), group, 1, 1)

    rows = by_group([one("sums", 0, 1), one("capitals", 1, 0), one("sums", 1, 1)])
    assert rows == [
        {"name": "capitals", "count": 1, "before": 1.0, "after": 0.0, "win_rate": 0.0},
        {"name": "sums", "count": 2, "before": 0.5, "after": 1.0, "win_rate": 0.75},
    ]


def test_a_judge_that_ties_is_right_half_the_time():
    accuracy = preference_accuracy([1.0, 2.0, 3.0, 0.0], [0.0, 2.0, 4.0, -1.0])
    assert (accuracy.estimate, accuracy.pairs) == (0.625, 4)
