"""Win rates: ties are halves, the interval is Wilson's, a model against itself is exactly one half."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.evaluation import Comparison, by_group, compare, preference_accuracy, win_rate, win_rate_bootstrap
from palate.evaluation.comparison import Outcome
from palate.ops import wilson_interval


def test_outcomes():
    assert [compare(0.0, 1.0), compare(1.0, 0.0), compare(0.5, 0.5)] == ["win", "loss", "tie"]


def test_without_ties_the_interval_is_wilsons():
    # 7 of 10; Wilson's 95 % interval is [.3968, .8922].
    rate = win_rate(["win"] * 7 + ["loss"] * 3)
    assert rate.estimate == 0.7
    assert (rate.low, rate.high) == (pytest.approx(0.3968, abs=5e-5), pytest.approx(0.8922, abs=5e-5))


def test_ties_count_half_and_make_the_interval_narrower():
    # 6 wins, 2 ties, 2 losses: p = .7, variance .7·.3 − 2/40 = .16, z² = 3.8415. Centre (.7 + z²/20)/(1 + z²/10) =
    # .89207/1.38415; half (z·√(.016 + z²/400))/1.38415 = 1.96·.16001/1.38415.
    rate = win_rate(["win"] * 6 + ["tie"] * 2 + ["loss"] * 2)
    assert rate.estimate == 0.7
    assert (rate.low, rate.high) == (pytest.approx(0.41792, abs=5e-5), pytest.approx(0.87107, abs=5e-5))
    assert (rate.wins, rate.ties, rate.losses) == (6, 2, 2)


def test_answers_to_one_prompt_are_averaged_first():
    # Prompt a: two wins of four, ½; prompt b: one win of one. The mean of prompts is ¾, that of answers 3/5.
    outcomes: list[Outcome] = ["win", "loss", "win", "loss", "win"]
    rate = win_rate(outcomes, ["a", "a", "a", "a", "b"])
    assert rate.estimate == 0.75
    # By their design effect, 3, times (1.96/12.71)² for so few prompts, they are worth less than the two that they are.
    assert (rate.low, rate.high) == wilson_interval(3.75, 5, effective=2)
    assert (rate.wins, rate.ties, rate.losses) == (3, 0, 2)
    # Drawing prompts again gives ½ and ½, ½ and 1, or 1 and 1: the interval spans them all.
    assert win_rate_bootstrap(outcomes, ["a", "a", "a", "a", "b"]) == (0.5, 1.0)


@given(outcomes=st.lists(st.sampled_from(["win", "tie", "loss"]), min_size=1))
def test_the_other_side_wins_what_this_one_loses(outcomes):
    swapped = {"win": "loss", "tie": "tie", "loss": "win"}
    rate, other = win_rate(outcomes), win_rate(swapped[outcome] for outcome in outcomes)
    assert rate.estimate == pytest.approx(1 - other.estimate)
    assert (rate.wins, rate.ties, rate.losses) == (other.losses, other.ties, other.wins)
    assert (rate.low, rate.high) == (pytest.approx(1 - other.high), pytest.approx(1 - other.low))
    assert 0 <= rate.low <= rate.estimate <= rate.high <= 1
    low, high = win_rate_bootstrap(outcomes)
    assert win_rate_bootstrap(swapped[outcome] for outcome in outcomes) == (
        pytest.approx(1 - high),
        pytest.approx(1 - low),
    )


# A truth by its chances of a win and a tie, and whether a prompt is answered once or four times.
TRUTHS = [(0.5, 0.0, 1), (0.75, 0.0, 1), (0.6, 0.3, 1), (0.25, 0.6, 1), (0.55, 0.1, 4)]


@pytest.mark.parametrize(("win", "tie", "samples"), TRUTHS)
def test_the_intervals_hold_the_truth_in_95_of_100_cases(win, tie, samples):
    prompts, simulations = 60, 1000
    random = np.random.default_rng(0)
    names: list[Outcome] = ["win", "tie", "loss"]
    held = np.zeros(2)
    for _ in range(simulations):
        # Some prompts are easier to win on: answers to one prompt are alike, and are not so many prompts.
        ease = random.uniform(-0.2, 0.2, prompts) * (samples > 1)
        drawn = random.random((prompts, samples))
        codes = (drawn > (win + ease)[:, None]) * 1 + (drawn > (win + tie + ease)[:, None])
        outcomes = [names[code] for code in codes.flatten()]
        rows = np.repeat(np.arange(prompts), samples).tolist()
        rate = win_rate(outcomes, rows)
        for index, (low, high) in enumerate(((rate.low, rate.high), win_rate_bootstrap(outcomes, rows))):
            held[index] += low <= win + tie / 2 <= high
    assert all(0.92 <= share / simulations <= 0.98 for share in held)


def test_more_answers_a_prompt_are_worth_what_they_add():
    """Four independent answers a prompt are nearly four prompts; four that are all alike are one."""
    random = np.random.default_rng(1)
    rows = np.repeat(np.arange(100), 4).tolist()
    names: list[Outcome] = ["win", "loss"]

    def width(outcomes: list[Outcome], prompts: list[int]) -> float:
        rate = win_rate(outcomes, prompts)
        return rate.high - rate.low

    once: list[Outcome] = [names[code] for code in (random.random(100) > 0.5) * 1]
    apart: list[Outcome] = [names[code] for code in (random.random(400) > 0.5) * 1]
    alike: list[Outcome] = [one for one in once for _ in range(4)]
    alone = width(once, list(range(100)))
    assert width(apart, rows) == pytest.approx(alone / 2, rel=0.15)
    assert width(alike, rows) == pytest.approx(alone, rel=0.03)


@pytest.mark.parametrize("prompts", [3, 7, 49, 93, 107])
@pytest.mark.parametrize("outcome", ["win", "tie", "loss"])
def test_rounding_puts_no_rate_beyond_its_bounds(prompts: int, outcome: Outcome):
    """One prompt of many is answered three times, so that weights are no round numbers."""
    outcomes: list[Outcome] = [outcome] * (prompts + 2)
    rate = win_rate(outcomes, [*range(prompts), 0, 0])
    assert rate.estimate == pytest.approx({"win": 1.0, "tie": 0.5, "loss": 0.0}[outcome])
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
