"""The noise ceiling: bounds and Beta by hand, votes counted as they should be, and simulated annotators covered."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate import testbed
from palate.evaluation import Votes, known_ceiling, noise_ceiling, votes_of
from palate.evaluation.ceiling import ceiling_by_beta, highest_ceiling
from palate.records import PreferencePair, Prompt


def pair(prompt, chosen, rejected, **fields):
    return PreferencePair(Prompt.of(prompt, **fields), chosen, rejected)


def simulated(probabilities, votes, seed):
    random = np.random.default_rng(seed)
    first = random.binomial(votes, probabilities)
    return [Votes(int(count), votes - int(count)) for count in first]


# ---- formulas


def test_uniform_probabilities_by_hand():
    # p uniform on [0, 1], Beta(1, 1): a = E[p² + (1 − p)²] = 2/3, E max(p, 1 − p) = 3/4.
    assert ceiling_by_beta(2 / 3) == pytest.approx(3 / 4, rel=1e-12)


def test_the_arcsine_law_by_hand():
    # Beta(½, ½): E q² = 1/(2α + 1) = ½, so a = 3/4; q = |cos θ| with θ uniform, E q = 2/π.
    assert ceiling_by_beta(3 / 4) == pytest.approx(0.5 + 1 / np.pi, rel=1e-12)


def test_the_ends():
    assert ceiling_by_beta(0.5) == ceiling_by_beta(0.4) == highest_ceiling(0.4) == 0.5
    assert ceiling_by_beta(1.0) == highest_ceiling(1.0) == 1.0
    assert ceiling_by_beta(1 - 1e-9) == pytest.approx(1.0, abs=1e-8)
    assert ceiling_by_beta(0.5 + 1e-9) == pytest.approx(0.5, abs=1e-4)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50))
def test_the_bounds_hold_whatever_the_probabilities(probabilities):
    known = known_ceiling(probabilities)
    assert known.agreement - 1e-12 <= known.estimate <= highest_ceiling(known.agreement) + 1e-12


def test_the_bounds_are_reached():
    certain, alike = known_ceiling([0.0, 0.5, 1.0, 0.5]), known_ceiling([0.8, 0.2, 0.8])
    assert certain.estimate == pytest.approx(certain.agreement)
    assert alike.estimate == pytest.approx(highest_ceiling(alike.agreement))


@given(st.floats(0.5, 1))
def test_the_estimate_lies_between_the_bounds(agreement):
    assert agreement - 1e-12 <= ceiling_by_beta(agreement) <= highest_ceiling(agreement)


def test_the_agreement_of_votes():
    # Three for one, one for the other: of 6 twos of votes 3 agree. Undecided votes say nothing.
    assert Votes(3, 1).agreement == 0.5
    assert Votes(3, 1, undecided=4).agreement == 0.5
    assert Votes(0, 2).agreement == 1.0 and Votes(1, 1).agreement == 0.0


@given(st.integers(0, 1000).map(lambda thousandths: thousandths / 1000), st.integers(2, 7))
def test_the_agreement_of_votes_is_unbiased(p, count):
    from scipy.stats import binom

    ways = [binom.pmf(first, count, p) * Votes(first, count - first).agreement for first in range(count + 1)]
    assert sum(ways) == pytest.approx(p**2 + (1 - p) ** 2, abs=1e-9)


# ---- counting votes


def test_rows_of_the_same_two_texts_by_different_annotators_are_votes_on_one_pair():
    rows = [
        pair("q", "a", "b", annotator="Ada"),
        pair("q", "b", "a", annotator="Ben"),
        pair("q", "a", "b", annotator="Cem"),
        pair("another", "a", "b", annotator="Ada"),
        pair("q", "a", "c", annotator="Ada"),
    ]
    assert sorted((one.first, one.second) for one in votes_of(rows)) == [(0, 1), (0, 1), (1, 2)]


def test_a_copy_is_no_second_opinion_and_who_says_both_has_none():
    said = {"Ada": "aa", "Ben": "a", "Cem": "b", "Dua": "ab"}
    rows = [
        pair("q", *(("a", "b") if better == "a" else ("b", "a")), annotator=name)
        for name in said
        for better in said[name]
    ]
    assert votes_of(rows) == [Votes(1, 2, undecided=1)]


def test_rows_that_nothing_tells_apart_do_not_say_how_far_annotators_agree():
    rows = [pair(f"q{index}", "a", "b") for index in range(60) for _ in range(2)]
    assert noise_ceiling(votes_of(rows)) is None
    # One contradiction does not turn sixty copies into sixty agreements, nor sixty contradictions into a coin's toss.
    assert noise_ceiling(votes_of([*rows, pair("q0", "b", "a")])) is None
    assert noise_ceiling(votes_of([*rows, *(pair(f"q{index}", "b", "a") for index in range(60))])) is None


@pytest.mark.parametrize("swapped", [False, True])
def test_a_column_that_tells_rows_apart_but_no_annotators_is_seen_through(swapped):
    numbered = [pair(f"q{index}", "a", "b", row=row) for index in range(60) for row in range(2)]
    sides = ("a", "b"), ("b", "a"), ("a", "b")
    by_answer = [pair(f"q{index}", *side, better=side[0]) for index in range(60) for side in sides]
    assert noise_ceiling(votes_of(by_answer if swapped else numbered)) is None
    found = noise_ceiling(votes_of([*numbered, pair("q0", "b", "a", row=2)]))
    assert found is not None and found.items == 60


def test_columns_of_annotators_are_their_votes():
    votes = votes_of([pair("q", "a", "b", annotator1=1, annotator2=2, annotator3=0), pair("p", "a", "b")])
    assert votes == [Votes(1, 1, 1), Votes(0, 1)]


def test_too_few_items_tell_nothing():
    assert noise_ceiling([Votes(1, 1)] * 19 + [Votes(1, 0)] * 100) is None
    found = noise_ceiling([Votes(1, 1)] * 20 + [Votes(1, 0, 1)] * 100)
    assert found is not None and found.estimate == 0.5
    assert found.undecided == pytest.approx(100 / 240)
    assert (found.items, found.votes) == (20, 40)


# ---- simulated annotators


@pytest.mark.parametrize(("alpha", "votes"), [(0.5, 2), (1.0, 3), (3.0, 5)])
def test_the_interval_covers_the_truth_of_simulated_annotators(alpha, votes, monkeypatch):
    monkeypatch.setattr("palate.evaluation.resampling.DRAWS", 200)
    truth = ceiling_by_beta(0.5 + 0.5 / (2 * alpha + 1))
    random = np.random.default_rng(5)
    covered = 0
    for seed in range(300):
        found = noise_ceiling(simulated(random.beta(alpha, alpha, 150), votes, seed))
        assert found is not None
        covered += found.low <= truth <= found.high
    assert 0.91 <= covered / 300 <= 0.985  # 95 % ± 2.5 standard errors, for 200 draws are few


def test_the_bounds_cover_what_the_beta_does_not():
    # Half of the pairs are certain and half a coin: q is 0 or 1, a = ceiling = 3/4, where the Beta would say .818.
    probabilities = np.repeat([1.0, 0.5], 4000)
    found = noise_ceiling(simulated(probabilities, 2, 0))
    assert found is not None
    assert found.at_least == pytest.approx(0.75, abs=0.02) and found.at_least < found.estimate < found.at_most
    assert not found.low <= 0.75 <= found.high


def test_the_testbeds_annotators_are_covered():
    pairs = testbed.pairs(400, 3, testbed.Annotator())
    honest = testbed.Annotator()
    probabilities = [honest.probability(one.prompt, one.chosen, one.rejected) for one in pairs]
    known = known_ceiling(probabilities)
    assert known.estimate == pytest.approx(testbed.ceiling(probabilities)) and known.known
    found = noise_ceiling(simulated(probabilities, 3, 1))
    assert found is not None
    assert found.agreement_low <= known.agreement <= found.agreement_high
    assert found.at_least - 0.03 <= known.estimate <= found.at_most + 0.03
