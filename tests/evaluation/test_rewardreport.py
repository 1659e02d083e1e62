"""The reward model's report: each part by hand on a few pairs, and the habits of made-up judges."""

import json
import math
from dataclasses import asdict

import numpy as np
import pytest

from palate import testbed
from palate.engine.files import encode_json
from palate.errors import UsageError
from palate.evaluation import Accuracy, preference_accuracy, reward_figures, reward_report
from palate.evaluation.rewardreport import agreement, by_margin, correlation, gap, leanings, ordered_as, slices
from palate.records import Message, PreferencePair, Prompt


def pair(chosen, rejected, prompt="q", turns=1, **fields):
    return PreferencePair(Prompt((Message("user", prompt),) * turns, fields), chosen, rejected)


@pytest.fixture(scope="module")
def world():
    """Pairs of the testbed with a judge that is gold in the annotators' own log-odds."""
    pairs = testbed.pairs(1200, 2, testbed.Annotator(), split="heldout")
    gold = [one.prompt.fields["gold"] for one in pairs]
    chosen, rejected = ([both[side] / testbed.TEMPERATURE for both in gold] for side in (0, 1))
    return pairs, chosen, rejected


def test_accuracy_by_margin():
    found = by_margin([1.0, 0.0, 3.0, 9.0], [0.8, 0.2, 0.0, 0.0], "pqrs")
    assert [(one.name, one.accuracy, one.pairs) for one in found] == [
        ("margin: 0 to 0.5", 0.5, 2),
        ("margin: 2 to 4", 1.0, 1),
        ("margin: 4 and more", 1.0, 1),
    ]


def test_slices_by_column_turns_and_longer_side():
    pairs = [
        pair("aa", "b", source="web", text="one"),
        pair("a", "bb", source="book", text="two"),
        pair("a", "b", turns=3, source="web", text="three", number=3),
    ]
    found = {one.name: (one.accuracy, one.pairs) for one in slices(pairs, [1.0, 1.0, 0.0], [0.0, 0.0, 1.0])}
    assert found["longer side: chosen"] == (1.0, 1) and found["longer side: neither"] == (0.0, 1)
    assert found["turns: 1"] == (1.0, 2) and found["turns: 2 or 3"] == (0.0, 1)
    assert found["source: web"] == (0.5, 2) and found["source: book"] == (1.0, 1)
    assert not any(name.startswith("number") for name in found)


def test_a_column_of_texts_is_no_way_to_sort_pairs():
    pairs = [pair("a", "bb", text=f"text {index}") for index in range(17)]
    assert slices(pairs, [1.0] * 17, [0.0] * 17) == ()


# ---- habits


def test_a_judge_of_length_is_found_whatever_was_labelled():
    random = np.random.default_rng(0)
    pairs = [pair("x" * random.integers(1, 90), "x" * random.integers(1, 90), f"q{index}") for index in range(300)]
    lengths = [(len(one.chosen), len(one.rejected)) for one in pairs]
    (found,) = leanings(pairs, *(list(side) for side in zip(*lengths, strict=True)))
    assert found.feature == "length" and found.correlation == pytest.approx(1.0)
    assert found.judge.estimate == 1.0 and found.labels.low < 0.5 < found.labels.high


def test_labels_that_prefer_the_longer_are_no_correlation_of_a_judge_that_does_not_look_at_length():
    # Every chosen side is longer and scores higher by the same amount: within pairs the two always go together. A judge
    # that gives noise has no correlation, although the labels follow length.
    random = np.random.default_rng(1)
    pairs = [pair("x" * (index % 7 + 2), "x", f"q{index}") for index in range(400)]
    (found,) = leanings(pairs, random.normal(0, 1, 400).tolist(), random.normal(0, 1, 400).tolist())
    assert found.low < 0 < found.high and found.labels.estimate == 1.0
    (certain,) = leanings(pairs, [1.0] * 400, [0.0] * 400)
    assert certain.correlation > 0.8


def test_bullets_and_markdown_are_counted_where_the_sides_differ():
    pairs = [pair("- a\n- b", "a, b", "1"), pair("**a**", "a", "2"), pair("a", "1. a", "3"), pair("aaaa", "a", "4")]
    found = {one.feature: one for one in leanings(pairs, [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0])}
    assert (found["bullets"].judge.estimate, found["bullets"].judge.pairs) == (0.5, 2)
    assert (found["markdown"].judge.estimate, found["markdown"].judge.pairs) == (1.0, 1)


def test_the_correlation_does_not_depend_on_which_side_comes_first():
    random = np.random.default_rng(2)
    first, second, flips = random.normal(0, 1, 50), random.normal(0, 1, 50), random.choice([-1, 1], 50)
    once, turned = (correlation(sign * first, sign * second, range(50)) for sign in (np.ones(50), flips))
    assert once == pytest.approx(turned)
    assert correlation(np.zeros(9), np.ones(9), range(9))[0] == 0.0


# ---- members, gap, gold


def test_members_that_agree_and_members_that_do_not():
    one, same, other = ([1.0, 0.0], [0.0, 1.0]), ([5.0, 0.0], [0.0, 2.0]), ([0.0, 0.0], [1.0, 1.0])
    assert agreement([one, same], ["a", "b"]).alike == 1.0
    found = agreement([one, same, other], ["a", "b"])
    # Of three twos, the first agrees on both pairs, the others on one of two: (1 + ½ + ½)/3.
    assert found.alike == pytest.approx(2 / 3) and found.members == 3
    assert found.accuracies == (0.5, 0.5, 0.0)
    # Differences 1, 5, −1 and −1, −2, −1: standard deviations √(56/9) and √(2/9).
    assert found.spread == pytest.approx((math.sqrt(56 / 9) + math.sqrt(2 / 9)) / 2)


def test_a_member_that_ties_agrees_by_half():
    assert agreement([([0.0], [0.0]), ([1.0], [0.0])], ["a"]).alike == 0.5
    assert agreement([([0.0], [0.0]), ([2.0], [2.0])], ["a"]).alike == 1.0


def test_newcombes_interval_by_hand():
    # Newcombe (1998), table II, (a): 56/70 − 48/80 = .2, method 10 gives .0524 to .3339.
    one, other = (
        preference_accuracy([1.0] * wins + [0.0] * (n - wins), [0.0] * wins + [1.0] * (n - wins))
        for wins, n in ((56, 70), (48, 80))
    )
    found = gap(one, other)
    assert (found.estimate, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)


def test_gold_orders_only_what_differs():
    found = ordered_as([(1.0, 0.0), (0.0, 1.0), (0.5, 0.5)], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0], "pqr")
    assert found is not None and (found.estimate, found.pairs) == (0.5, 2)
    assert ordered_as([(0.5, 0.5)], [1.0], [0.0], "p") is None


# ---- the whole


def test_a_judge_that_knows_the_truth_is_calibrated_and_reaches_the_ceiling(world):
    pairs, chosen, rejected = world
    honest = testbed.Annotator()
    probabilities = [honest.probability(one.prompt, one.chosen, one.rejected) for one in pairs]
    gold = [one.prompt.fields["gold"] for one in pairs]
    report = reward_report(pairs, chosen, rejected, probabilities=probabilities, gold=gold)
    assert report.gold is not None and report.gold.estimate == 1.0
    assert report.before.true_error == pytest.approx(0, abs=1e-9)
    assert report.before.error < 2.5 * report.before.noise
    assert report.accuracy.low <= testbed.ceiling(probabilities) <= report.accuracy.high
    assert {one.by for one in report.slices} >= {"kind", "task", "longer side"}


def test_before_is_without_the_gain(world):
    pairs, chosen, rejected = world
    scaled = [[4 * score for score in side] for side in (chosen, rejected)]
    report, plain = reward_report(pairs, *scaled, gain=4.0), reward_report(pairs, chosen, rejected)
    assert report.before.error == pytest.approx(plain.before.error)
    assert report.after is not None and plain.after is not None
    assert report.after.error == pytest.approx(plain.after.error, abs=1e-3)  # the gain is found again
    assert report.margins.difference == pytest.approx([4 * number for number in plain.margins.difference])


def test_what_does_not_apply_is_absent():
    pairs = [pair("ab", "cd")] * 3
    report = reward_report(pairs, [1.0, 2.0, 3.0], [0.0, 0.0, 0.0])
    assert report.after is None  # one prompt cannot be cut in two
    assert (report.ceiling, report.gap, report.agreement, report.mismatched, report.gold) == (None,) * 5
    figures = reward_figures(report)
    assert set(figures) == {
        *("accuracy", "accuracy_low", "accuracy_high", "length_accuracy", "ece", "ece_noise", "ece_before"),
    }


def test_figures_of_all_that_applies(world):
    pairs, chosen, rejected = world
    some = Accuracy(0.9, 0.8, 0.95, 100)
    report = reward_report(pairs, chosen, rejected, train=some, mismatched=some, members=[(chosen, rejected)] * 2)
    figures = reward_figures(report)
    assert figures["train_accuracy_low"] == 0.8 and figures["mismatched_accuracy"] == 0.9
    assert figures["gap"] == pytest.approx(0.9 - report.accuracy.estimate)
    assert figures["ensemble_agreement"] == 1.0
    assert figures["length_correlation_low"] <= figures["length_correlation"] <= figures["length_correlation_high"]


def test_the_report_is_plain_json(world):
    report = reward_report(*world)
    assert json.loads(encode_json(asdict(report)))["accuracy"]["pairs"] == 1200


def test_no_pairs_are_refused():
    with pytest.raises(UsageError, match="No pairs"):
        reward_report([], [], [])
