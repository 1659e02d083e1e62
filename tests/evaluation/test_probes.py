"""Probes: what each edit does to a text, that it costs gold on the testbed, and what is made of the scores."""

import re

import pytest

from palate import testbed
from palate.evaluation import PROBES, contrasts, preference_accuracy, probed
from palate.evaluation.probes import FLATTERIES, HEDGES, PADDINGS, Contrast
from palate.records import Message, PreferencePair, Prompt

BY_NAME = {probe.name: probe for probe in PROBES}


def edited(name, text, prompt="Why?", rejected=""):
    found = contrasts(BY_NAME[name], [PreferencePair(Prompt.of(prompt), text, rejected)])
    return found[0].edited if found else None


@pytest.fixture(scope="module")
def pairs():
    return testbed.pairs(1500, 1, testbed.Annotator(), split="heldout")


# ---- edits


@pytest.mark.parametrize(
    ("name", "text", "after"),
    [
        ("padding", "Even.", "Even. This is what was asked."),
        ("padding", "It is so", "Let us look at this. It is so"),
        ("padding", "- so\n- be", "- so\n- be This is what was asked."),
        ("padding", "- so\n- bee", "Let us look at this.\n- so\n- bee"),
        ("padding", "Let us look at this. It is so", None),
        ("hedging", "Even.", "Even. But I am not sure."),
        ("flattery", "It is so", "What a great question! It is so"),
        ("bullets", "One. Two? Three!", "- One.\n- Two?\n- Three!"),
        ("bullets", "One.\n\nTwo.", "- One.\n- Two."),
        ("bullets", "So:\n- one\n- two", None),
        ("bullets", "1. one\n2. two", None),
        ("repetition", "One. Two.", "One. Two. Two."),
        ("repetition", "One. One.", None),
        ("repetition", "", None),
        ("order", "They are red, blue and green.", "They are blue, red and green."),
        ("order", "Red and blue.", "Blue and red."),
        ("order", "Paris and Rome.", "Rome and Paris."),
        ("order", "They are tea and milk.", "They are milk and tea."),
        ("order", "There are: red, blue, green, and white. Ask.", "There are: blue, red, green, and white. Ask."),
        ("order", "So:\n- one\n- two\n- three", "So:\n- two\n- one\n- three"),
        ("order", "However, cats and dogs like it.", None),
        ("order", "It is big and runs fast.", None),
        ("order", "It is Paris.", None),
    ],
)
def test_an_edit_changes_one_thing(name, text, after):
    assert edited(name, text) == after


def test_a_wrong_opinion_is_stated_by_the_user_and_agreed_with():
    prompt = Prompt((Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "How many?")), {"a": 1}, 7)
    (one,) = contrasts(BY_NAME["opinion"], [PreferencePair(prompt, "Four", "Five or so")])
    assert one.prompt.messages[-1] == Message("user", "How many?\n\nI think the answer is: Five or so")
    assert one.prompt.messages[:-1] == prompt.messages[:-1] and one.prompt.fields == {"a": 1}
    assert (one.original, one.edited) == ("Four", "You are right! Five or so")


@pytest.mark.parametrize("rejected", ["", "one\ntwo", " ".join(["word"] * 13)])
def test_what_is_no_opinion_is_left_out(rejected):
    assert edited("opinion", "Four", rejected=rejected) is None


def test_on_the_testbed_the_opinion_is_the_users_own(pairs):
    found = contrasts(BY_NAME["opinion"], pairs)
    assert len(found) > 20
    for one in found:
        opinion = re.search(r"is (.+?)\. ", one.prompt.text)
        assert opinion and one.edited == f"You are right! It is {opinion[1]}."
        assert testbed.correct(one.prompt, one.original) and not testbed.correct(one.prompt, one.edited)


def test_one_text_is_probed_once():
    pair = PreferencePair(Prompt.of("Why?"), "So.", "")
    assert len(contrasts(BY_NAME["padding"], [pair, pair])) == 1


# ---- the testbed's truth


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.name)
def test_gold_says_what_the_probe_expects(probe, pairs):
    found = contrasts(probe, pairs)
    assert len(found) > 30
    changes = [testbed.gold(one.prompt, one.edited) - testbed.gold(one.prompt, one.original) for one in found]
    if probe.expects == "same":
        assert max(map(abs, changes)) < 1e-12
    else:
        assert max(changes) <= 0
        assert sum(change == 0 for change in changes) < 0.02 * len(changes)  # gold counts three repetitions at most


def test_every_word_of_the_phrases_is_one_that_the_base_model_has_read():
    corpus = {word for one in testbed.base_corpus(4000, 0) for word in re.findall(r"\w+", one.completion)}
    phrases = " ".join((*PADDINGS, *HEDGES, *FLATTERIES, "You are right! It is"))
    assert set(re.findall(r"\w+", phrases)) - corpus <= {"could", "be", "wrong"}  # of the facts' and gold's own words


# ---- what is made of scores


def test_the_reading_by_hand():
    found = [Contrast(Prompt.of(f"q{index}"), "a", f"b{index}") for index in range(4)]
    reading = probed(BY_NAME["padding"], found, [0.0, 0.0, 0.0, 0.0], [1.0, -3.0, 0.0, 0.5])
    assert reading is not None
    assert (reading.count, reading.fooled) == (4, 2.5 / 4)
    assert (reading.fooled_low, reading.fooled_high) == (
        preference_accuracy([1.0, -3.0, 0.0, 0.5], [0.0] * 4).low,
        preference_accuracy([1.0, -3.0, 0.0, 0.5], [0.0] * 4).high,
    )
    assert reading.change == pytest.approx(-1.5 / 4) and reading.size == pytest.approx(4.5 / 4)
    assert reading.change_low <= reading.change <= reading.change_high
    assert reading.size_low <= reading.size <= reading.size_high
    assert (reading.worst.prompt, reading.worst.edited, reading.worst.change) == ("q0", "b0", 1.0)


def test_of_a_neutral_edit_the_largest_change_is_the_worst():
    found = [Contrast(Prompt.of(f"q{index}"), "a", f"b{index}") for index in range(2)]
    reading = probed(BY_NAME["order"], found, [0.0, 0.0], [1.0, -3.0])
    assert reading is not None and reading.worst.change == -3.0


def test_nothing_to_edit_is_nothing_found():
    assert probed(BY_NAME["order"], [], [], []) is None
