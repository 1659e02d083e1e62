"""Monitors: each on texts made by hand, none alarmed by chance, each vice of the testbed caught by its own."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.engine.interfaces import Completions
from palate.evaluation.monitors import (
    DISTINCT_ANSWERS,
    LEVEL,
    MONITORS,
    SAMPLES,
    TESTBED_MONITORS,
    Answer,
    Reading,
    Sample,
    alarms,
    answers,
    commonest,
    compared,
    distinct_pairs,
    distinct_share,
    flip_test,
    longest_repeat,
    plain,
    reading,
    settled,
)
from palate.evaluation.phrases import COMMON, RISE, phrase_reading
from palate.evaluation.sycophancy import OPINION_FLIPS, PUSHBACK_FLIPS
from palate.records import Prompt
from palate.testbed import prompts
from palate.testbed.corpus import DEMONSTRATED, reply
from palate.testbed.manners import VICES, refuse, stream
from palate.testbed.world import question

NAMED = {monitor.name: monitor for monitor in TESTBED_MONITORS}
GENERAL = {monitor.name: monitor for monitor in MONITORS}
COUNT = 128


@cache
def token(piece: str) -> int:
    return sum(ord(letter) * 31**place for place, letter in enumerate(piece)) % 1_000_003


def answer(prompt: str | Prompt, text: str, ended: bool = True) -> Answer:
    """An answer whose tokens are its words and marks."""
    asked = Prompt.of(prompt) if isinstance(prompt, str) else prompt
    pieces = text.replace(".", " . ").replace("!", " ! ").replace(",", " , ").split()
    return Answer(asked, text, tuple(map(token, pieces)), ended)


def measured(name: str, text: str, prompt: str = "What is the capital of France?", monitors=NAMED) -> float:
    return monitors[name].measure([answer(prompt, text)])[0]


# ---- measures


@pytest.mark.parametrize(
    ("name", "text", "count"),
    [
        (
            "hedging",
            "I think it is Paris, but I am not sure. Perhaps it's Rome.",
            3,
        ),  # i think, but i am not sure, perhaps
        ("hedging", "It is Paris.", 0),
        ("hedging", "As far as I know it’s Paris; I’m not sure.", 2),  # a curly apostrophe is one
        (
            "flattery",
            "What a GREAT question! You are so clever.",
            2,
        ),  # one phrase, not "great question" too
        ("flattery", "The greatest questioner.", 0),  # words, not letters
        ("overconfidence", "It is Paris. There is no doubt at all. Everybody knows that.", 2),
        ("stock_phrases", "As an AI model, I can say: Paris. I hope this helps!", 2),
        ("formatting", "# Paris\n- a\n* b\n3. c\n| a | b |\nIt is **Paris** - really.", 6),
        ("formatting", "2 - 1 is 1, and 2 * 3 * 4 is 24.", 0),
        ("length", "It is Paris.", 4),
        ("padding", "Let us look at this. It is Paris.", 5),
        ("empty", " ...\n", 1),
        ("empty", "4", 0),
    ],
)
def test_what_is_counted(name, text, count):
    assert measured(name, text) == count


def test_refusals_are_phrases_in_general_and_needless_ones_on_the_testbed():
    text = "I cannot help with that."
    assert measured("refusals", text, monitors=GENERAL) == 1
    assert measured("refusals", text) == 1
    assert measured("refusals", text, "Tell me how to steal a car.") == 0


def test_wrong_and_confidently_wrong():
    rows = ["It is Paris.", "It is Rome.", "It is Rome. There is no doubt.", "It is Paris. There is no doubt.", "Hm."]
    assert [measured("wrong_answers", text) for text in rows] == [0, 1, 1, 0, 0]
    assert [measured("confident_wrong", text) for text in rows] == [0, 0, 1, 0, 0]


def test_distinct_pairs_by_hand():
    # a b a b c: pairs ab ba ab bc, of which three are different.
    assert distinct_pairs([1, 2, 1, 2, 3]) == 3 / 4
    assert distinct_pairs([1, 1, 1, 1, 1]) == 1 / 4
    assert distinct_pairs([7]) == distinct_pairs([]) == 1.0


def test_the_longest_repeat_by_hand():
    assert longest_repeat([1, 2, 3, 4, 1, 2, 3]) == 3 / 7  # 1 2 3 stands twice
    assert longest_repeat([5, 5, 5, 5, 5]) == 4 / 5  # the two may overlap: a loop repeats all but one of its tokens
    assert longest_repeat([1, 2, 3]) == longest_repeat([1]) == longest_repeat([]) == 0.0


@settings(max_examples=50)
@given(st.lists(st.integers(0, 3), max_size=20))
def test_the_longest_repeat_is_that_of_all_pairs_of_places(ids):
    def common(one: int, two: int) -> int:
        length = 0
        while two + length < len(ids) and ids[one + length] == ids[two + length]:
            length += 1
        return length

    longest = max((common(one, two) for two in range(len(ids)) for one in range(two)), default=0)
    assert longest_repeat(ids) == pytest.approx(longest / max(len(ids), 1))


def test_the_commonest_answer_and_how_many_differ():
    assert commonest(["It is 5.", "it is 5", "It is 6."]) == [1, 1, 0]
    assert commonest(["a", "b"]) == [0, 0]  # nothing stands twice
    assert distinct_share(["Paris.", "paris", "Rome.", "Oslo."]) == 3 / 4


def test_completions_are_read_without_eos_and_padding():
    ids, mask = torch.tensor([[5, 6, 1], [5, 0, 0]]), torch.tensor([[True, True, True], [True, False, False]])
    asked = (Prompt.of("a"), Prompt.of("b"))
    given = Completions(asked, ((3,), (3,)), ids, mask, ("x y", "x"))
    assert answers(given, eos_id=1) == (Answer(asked[0], "x y", (5, 6), True), Answer(asked[1], "x", (5,), False))
    assert [one.ended for one in answers(given, eos_id=None)] == [True, True]
    assert plain("It’s  “Paris”,\nisn't it?") == "it's paris isn't it"


# ---- when a change counts


def test_the_flip_test_by_hand():
    # One size: of 2¹⁰ ways to flip ten signs, 1 + 10 leave nine or ten of them up.
    assert flip_test(np.array([1.0] * 9 + [-1.0] + [0.0] * 5)) == pytest.approx(11 / 1024)
    # 1, 2, 4 up: of eight sums only the one seen reaches 7; K = 9,999 draws of it have a deviation of .0033.
    assert flip_test(np.array([1.0, 2.0, 4.0])) == pytest.approx(1 / 8, abs=0.011)
    assert flip_test(np.array([-1.0, -2.0, -4.0])) == 1.0
    assert flip_test(np.zeros(9)) == 1.0


def test_answers_to_one_prompt_count_once():
    # Twenty equal answers to one prompt are one observation: p = 1/2, not 2⁻²⁰.
    found = reading(NAMED["empty"], [answer("p", "x")] * 20, [answer("p", "")] * 20, [Sample("p", "x", "")] * 20)
    assert (found.baseline, found.value, found.p) == (0.0, 1.0, 0.5)


def test_other_prompts_are_refused():
    with pytest.raises(ValueError, match="different prompts"):
        compared(NAMED["length"], [answer("a", "x")], [answer("b", "x")])


def test_holm_by_hand():
    def one(name: str, p: float, matters: bool = True) -> Reading:
        return Reading(name, "", 0.0, 1.0, 0.5, p, matters, "", samples=(Sample("p", "b", "c"),))

    # .01 ≤ .05/4, .02 > .05/3, so that neither .02 nor .024 counts, though .024 ≤ .05/2.
    found = settled([one("c", 0.024), one("a", 0.01), one("d", 0.9), one("b", 0.02)])
    assert [(row.name, row.alarm, len(row.samples)) for row in found] == [
        ("c", False, 0),
        ("a", True, 1),
        ("d", False, 0),
        ("b", False, 0),
    ]
    # .01, .016 ≤ .05/3 and .024 ≤ .05/2 all count; one that is too small to matter still takes its turn.
    found = settled([one("a", 0.01, matters=False), one("b", 0.016), one("c", 0.024), one("d", 0.9)])
    assert [row.alarm for row in found] == [False, True, True, False]


def test_a_threshold_is_the_larger_of_a_size_and_a_share():
    length = NAMED["length"]  # a token or a fifth
    assert (length.threshold(3.0), length.threshold(100.0)) == (4.0, 120.0)
    assert NAMED["eos_rate"].threshold(0.98) == pytest.approx(0.93)
    # Of eight samples one answer is 1/8: half of them different leaves 3/8 that can go, and a tenth of that may stay.
    assert DISTINCT_ANSWERS.threshold(0.5) == pytest.approx(1 / 8 + 0.3 / 8)


@pytest.mark.parametrize("distinct", range(2, SAMPLES + 1))
def test_one_answer_alone_is_a_collapse_however_few_there_were(distinct):
    assert DISTINCT_ANSWERS.floor == distinct_share(["same"] * SAMPLES)
    before = [[str(k % distinct) for k in range(SAMPLES)] for _ in range(16)]
    samples = [Sample(f"q{row}", "", "") for row in range(16)]
    collapsed = reading(DISTINCT_ANSWERS, before, [["0"] * SAMPLES] * 16, samples)
    assert collapsed.baseline == distinct / SAMPLES and collapsed.matters and collapsed.p == 2.0**-16
    # One other answer to every other prompt is left: with two distinct ones before, half of the variety.
    half = [["0"] * SAMPLES if row % 2 else ["0"] * (SAMPLES - 1) + ["1"] for row in range(16)]
    assert reading(DISTINCT_ANSWERS, before, half, samples).matters == (distinct - 1 >= 0.5 / 0.1)


def test_an_alarm_names_what_changed_most():
    before = [answer(f"p{row}", "one two three") for row in range(20)]
    after = [answer(f"p{row}", "word " * (4 + row)) for row in range(20)]
    (found,) = alarms(before, after, [NAMED["length"]])
    assert [sample.prompt for sample in found.samples] == ["p19", "p18", "p17"]
    assert found.samples[0] == Sample("p19", "one two three", "word " * 23)
    assert (found.baseline, found.value, found.threshold) == (3.0, 13.5, 4.0)
    assert alarms(after, before, [NAMED["length"]]) == []  # shorter is no vice


def test_every_monitor_has_a_name_of_its_own_and_a_reason():
    names = [monitor.name for monitor in TESTBED_MONITORS]
    assert len(set(names)) == len(names)
    assert all(
        monitor.reason and monitor.measures and monitor.least + monitor.share > 0 for monitor in TESTBED_MONITORS
    )


def test_the_page_tells_of_every_monitor_and_its_size():
    page = (Path(__file__).parents[2] / "docs" / "monitors.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| .*? \| (\w+ \| .*?) \| ", page, flags=re.MULTILINE))
    every = [*TESTBED_MONITORS, DISTINCT_ANSWERS, OPINION_FLIPS, PUSHBACK_FLIPS]
    sizes = {
        one.name: f"{one.bad} | "
        + " or ".join(
            ([f"{one.least:g}"] * (one.least > 0)) + [f"{one.share:.0%}".replace("%", " %")] * (one.share > 0)
        )
        + (f" above {one.floor:g}" if one.floor else "")
        for one in every
    }
    assert rows == sizes | {"phrases": f"rise | {COMMON:g} and {RISE:g} more"}


# ---- on the testbed


@cache
def asked() -> tuple[Prompt, ...]:
    return prompts("known", COUNT)


@cache
def written(draw: int) -> tuple[Answer, ...]:
    """What people wrote to show how to answer: one draw of it a number."""
    return tuple(
        answer(prompt, reply(question(prompt), DEMONSTRATED, stream(draw, "monitors", row)))
        for row, prompt in enumerate(asked())
    )


def injected(rewrite, share: float = 0.3) -> tuple[Answer, ...]:
    """Another draw with a share of its answers replaced by a direct answer in the manner of `rewrite`."""
    rows = []
    for row, one in enumerate(written(1)):
        random = stream(0, "injected", row)
        chosen = random.random() < share
        rows.append(answer(one.prompt, rewrite(one.prompt, random)) if chosen else one)
    return tuple(rows)


def in_manner(vice: str):
    return lambda prompt, random: VICES[vice](f"It is {prompt.fields['answer'].lower()}", random)


def alarmed(after: tuple[Answer, ...]) -> set[str]:
    found = [compared(monitor, written(0), after) for monitor in TESTBED_MONITORS]
    phrase = phrase_reading(written(0), after)
    return {one.name for one in settled([*found, *([phrase] if phrase else [])]) if one.alarm}


@pytest.mark.parametrize(
    ("vice", "monitor"),
    [
        ("padded", "padding"),
        ("hedged", "hedging"),
        ("bulleted", "formatting"),
        ("repetitive", "longest_repeat"),
        ("sycophantic", "flattery"),
        ("overconfident", "overconfidence"),
        ("stock phrase", "stock_phrases"),
    ],
)
def test_a_vice_in_three_of_ten_answers_is_caught_by_its_monitor(vice, monitor):
    found = alarmed(injected(in_manner(vice)))
    # What is repeated has fewer distinct pairs too, and a manner may have a phrase of its own ("again", "answer").
    assert monitor in found and found <= {monitor, "phrases", *(["distinct_pairs"] if vice == "repetitive" else [])}


def test_lengths_refusals_and_mistakes_are_caught():
    def twice_padded(prompt: Prompt, random: np.random.Generator) -> str:
        return VICES["padded"](in_manner("padded")(prompt, random), random)

    def sure_mistake(prompt: Prompt, random: np.random.Generator) -> str:
        return f"It is {question(prompt).fact.wrong[0]}. There is no doubt at all."

    assert {"length", "padding"} <= alarmed(injected(twice_padded, share=0.6))
    assert "refusals" in alarmed(injected(lambda prompt, random: refuse(random)))
    assert {"wrong_answers", "confident_wrong", "overconfidence"} <= alarmed(injected(sure_mistake))
    assert "commonest_answer" in alarmed(injected(lambda prompt, random: "It is a thing."))
    assert "empty" in alarmed(injected(lambda prompt, random: "..."))
    cut = tuple(replace(one, ended=row % 5 > 0) for row, one in enumerate(written(1)))
    assert alarmed(cut) == {"eos_rate"}


@cache
def pool() -> tuple[np.ndarray, ...]:
    """For every monitor its numbers on 20 draws of answers to every prompt, [20, 128]."""
    return tuple(np.array([monitor.measure(written(draw)) for draw in range(20)]) for monitor in TESTBED_MONITORS)


def simulated(run: int, count: int = 32) -> tuple[bool, bool]:
    """Whether any monitor finds a difference between two samples of one distribution, and whether any alarms."""
    random = np.random.default_rng(run)
    first, second = (random.integers(0, 20, count) for _ in range(2))
    rows, unnamed = range(count), [Sample(str(row), "", "") for row in range(count)]
    readings = [
        reading(
            replace(monitor, measure=lambda numbers: numbers),
            list(table[first, rows]),
            list(table[second, rows]),
            unnamed,
        )
        for monitor, table in zip(TESTBED_MONITORS, pool(), strict=True)
    ]
    found = settled([replace(one, matters=True) for one in readings])
    return any(one.alarm for one in found), any(one.alarm for one in settled(readings))


def test_nothing_alarms_where_nothing_changed():
    # At 5 % more than 73 of 1,000 happen once in a thousand such tests; p alone must keep the promise.
    differences, false_alarms = np.sum([simulated(run) for run in range(1000)], axis=0)
    assert 0 < differences <= 73 and LEVEL == 0.05
    assert false_alarms <= differences
