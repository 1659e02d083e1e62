"""Annotators against Bradley-Terry by hand, their biases one by one, and the figures that bound every judge."""

from __future__ import annotations

import math
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.errors import UsageError
from palate.testbed.annotators import (
    BIASES,
    TEMPERATURE,
    Annotator,
    agreement,
    ceiling,
    expected_accuracy,
)
from palate.testbed.comparisons import pairs
from palate.testbed.gold import gold

PROMPT = "What is the capital of France?"
DIRECT, HEDGED, WRONG = "It is Paris.", "I think it is Paris.", "It is Rome."
SHOWING = {
    "length": "It is Paris, so they say over there.",
    "sycophancy": "What a great question! It is Paris.",
    "format": "- It is Paris.",
    "hedging": HEDGED,
    "confidence": "It is Paris. There is no doubt at all.",
    "refusal": "I cannot help with that.",
    "stock phrase": "It is Paris. I hope this helps!",
    "blindness": WRONG,
}


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def test_preference_is_bradley_terry_on_gold():
    # gold is 1 and 1 − .45, so at temperature .9 the log-odds are .45 / .9 = 1/2.
    assert logit(Annotator(temperature=0.9).probability(PROMPT, DIRECT, HEDGED)) == pytest.approx(0.5)


@given(st.sampled_from(list(SHOWING.values())), st.sampled_from(list(SHOWING.values())))
def test_the_two_orders_are_complementary(first, second):
    annotator = Annotator()
    both = annotator.probability(PROMPT, first, second) + annotator.probability(PROMPT, second, first)
    assert both == pytest.approx(1)


def test_random_labels_are_a_coin():
    annotator = Annotator(random_labels=True)
    assert annotator.probability(PROMPT, DIRECT, WRONG) == 0.5
    assert annotator.prefers(PROMPT, WRONG, DIRECT, 0.49) and not annotator.prefers(PROMPT, WRONG, DIRECT, 0.5)


@pytest.mark.parametrize("bias", BIASES)
def test_a_bias_moves_what_shows_it_and_nothing_else(bias):
    biased, honest = Annotator(biases={bias: 1.0}), Annotator()
    moved = {name: biased.utility(PROMPT, text) - honest.utility(PROMPT, text) for name, text in SHOWING.items()}
    # By length every word counts 1; blindness gives back the difference of a right and a false answer, .5 + 1.25.
    expected = {
        "length": {name: len(text.split()) for name, text in SHOWING.items()},
        "blindness": {"blindness": 1.75},
    }.get(bias, {bias: 1.0})
    assert moved == pytest.approx({name: expected.get(name, 0.0) for name in SHOWING})


def test_a_blind_annotator_cannot_tell_right_from_wrong():
    assert Annotator(biases={"blindness": 1.0}).probability(PROMPT, DIRECT, WRONG) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"biases": {"lenght": 1.0}}, "'lenght'.*length"),
        ({"biases": {"length": math.inf}}, "finite"),
        ({"biases": {"blindness": 1.5}}, "share from 0 to 1"),
    ],
)
def test_an_impossible_annotator_is_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        Annotator(**settings)


def test_agreement_and_ceiling_by_hand():
    # .9² + .1² = .82 and .5² + .5² = .5; max(p, 1 − p) is .9 and .5.
    assert agreement([0.9, 0.5]) == pytest.approx(0.66)
    assert ceiling([0.1, 0.5]) == pytest.approx(0.7)


def test_two_annotators_agree_on_73_percent_of_pairs():
    sample = pairs(6000, 0, Annotator())
    probabilities = [Annotator().probability(pair.prompt, pair.chosen, pair.rejected) for pair in sample]
    assert agreement(probabilities) == pytest.approx(0.73, abs=0.006)
    # The labels are draws with these probabilities: P(chosen) is p of what was drawn, whose mean is E[p² + (1 − p)²].
    spread = math.sqrt(0.25 / len(sample))
    mean = math.fsum(probabilities) / len(sample)
    assert abs(mean - agreement(probabilities)) < NormalDist().inv_cdf(0.999) * spread


def test_a_judge_by_gold_reaches_the_ceiling_and_a_constant_judge_one_half():
    sample = pairs(300, 1, Annotator())
    golds = [pair.prompt.fields["gold"] for pair in sample]
    figures = expected_accuracy(sample, [chosen for chosen, _ in golds], [rejected for _, rejected in golds])
    for kind in ("", "_manner", "_correctness", "_both"):
        # Where gold ties the label is a coin, and the ceiling counts it as one half too.
        assert figures[f"of_ceiling{kind}"] == pytest.approx(1)
    constant = expected_accuracy(sample, [0.0] * 300, [0.0] * 300)
    assert constant["expected_accuracy"] == 0.5
    assert constant["ceiling"] == figures["ceiling"]


def test_expected_accuracy_by_hand():
    pair = next(pair for pair in pairs(50, 2, Annotator()) if pair.prompt.fields["kind"] == "correctness")
    gap = (gold(pair.prompt, pair.chosen) - gold(pair.prompt, pair.rejected)) / TEMPERATURE
    p = 1 / (1 + math.exp(-gap))
    assert expected_accuracy([pair], [1.0], [0.0])["expected_accuracy_correctness"] == pytest.approx(p)
    assert expected_accuracy([pair], [0.0], [1.0])["expected_accuracy"] == pytest.approx(1 - p)
