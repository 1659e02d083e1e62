"""Phrases that rose: found whole, told once, and not by chance."""

from __future__ import annotations

import math

import numpy as np
import pytest

from palate.evaluation.monitors import Answer
from palate.evaluation.phrases import log_odds_z, phrase_reading, risen
from palate.records import Prompt

COUNT = 100
NOUNS = ("river", "stone", "garden", "window", "paper", "candle", "bridge", "forest", "letter", "basket")
VERBS = ("breaks", "carries", "follows", "turns", "holds", "finds", "leaves", "shows", "brings", "keeps")


def texts(seed: int) -> list[str]:
    """Sentences of three words drawn from thirty, each as likely as any."""
    random = np.random.default_rng(seed)
    words = [random.choice(kind, COUNT) for kind in (NOUNS, VERBS, NOUNS)]
    return [" ".join(row) for row in zip(*words, strict=True)]


def told(rows: list[str], prompt: str = "Tell me something, number {row}.") -> list[Answer]:
    return [Answer(Prompt.of(prompt.format(row=row)), text, (), True) for row, text in enumerate(rows)]


def test_z_by_hand():
    # 30 of 500 after and 10 of 500 before: α = 100·40/1000 = 4, odds 34/566 and 14/586,
    # δ = ln(34·586/(566·14)) = .9218, variance 1/34 + 1/14 = .10084, z = 2.903.
    delta = math.log(34 * 586 / (566 * 14))
    assert log_odds_z(30, 500, 10, 500) == pytest.approx(delta / math.sqrt(1 / 34 + 1 / 14))
    assert log_odds_z(30, 500, 10, 500) == pytest.approx(2.903, abs=1e-3)
    assert log_odds_z(7, 7, 5, 5) == 0.0  # there is one run of words, and no other
    assert log_odds_z(10, 500, 30, 500) == pytest.approx(-log_odds_z(30, 500, 10, 500))
    assert log_odds_z(20, 500, 20, 500) == 0.0
    assert math.isfinite(log_odds_z(30, 500, 0, 500))


def test_a_phrase_is_found_whole_and_told_once():
    added = "As an honest and faithful assistant I say: "
    after = [added + text if row % 3 == 0 else text for row, text in enumerate(texts(1))]
    first, *others = risen(told(texts(0)), told(after))
    # Eight words, longer than any run that is counted; 34 of 100 completions.
    assert first.text == "as an honest and faithful assistant i say"
    assert (first.before, first.after) == (0.0, 0.34) and first.z > 3
    assert not any(word in other.text for other in others for word in ("honest", "faithful", "assistant"))
    found = phrase_reading(told(texts(0)), told(after))
    assert found is not None and found.matters and found.p < 1e-6
    assert (found.baseline, found.value, found.threshold) == (0.0, 0.34, 0.2)
    assert first.text in found.measures and f'"{first.text}" 0% → 34%' in found.reason
    assert [sample.completion for sample in found.samples] == [after[0], after[3], after[6]]


def test_two_phrases_are_told_apart():
    added = ("Sunny greetings friend. ", "", "Kind regards always. ", "")
    after = [added[row % 4] + text for row, text in enumerate(texts(1))]
    assert {one.text for one in risen(told(texts(0)), told(after))} >= {"sunny greetings friend", "kind regards always"}


def test_a_phrase_that_often_goes_on_is_told_once():
    # Nine of ten open alike and seven of these nine go on alike: too few for the longer to be the phrase.
    opening = ["What a splendid thought! It is", *["What a splendid thought! Behold"] * 3]
    after = [f"{opening[row % 10 % 4]} {text}" if row % 10 else text for row, text in enumerate(texts(1))]
    found = [one.text for one in risen(told(texts(0)), told(after)) if "splendid" in one.text]
    assert found == ["what a splendid thought"]


def test_grammar_and_echoes_are_no_phrases():
    found = phrase_reading(told(texts(0)), told([f"It is that {text}" for text in texts(1)]))
    # Not "it is that", in all, but what goes on with the commonest of ten words.
    assert found is not None and found.value < 0.2 and not found.matters
    after = [f"The old bridge fell: {text}" for text in texts(1)]
    prompt = "Say why the old bridge fell, number {row}."
    echoed, said = (phrase_reading(told(texts(0), one), told(after, one)) for one in (prompt, "Number {row}?"))
    assert echoed is not None and not echoed.matters
    assert said is not None and said.matters and "the old bridge fell" in said.measures


def test_there_is_no_phrase_where_nothing_stands_twice():
    assert phrase_reading(told(["yes", "no"]), told(["red stone", "no"])) is None


def test_a_phrase_that_everybody_had_before_is_no_alarm():
    common = [f"I hope this helps, {text}" for text in texts(0)]
    found = phrase_reading(told(common), told([f"I hope this helps, {text}" for text in texts(1)]))
    assert found is not None and not found.matters and found.p == 1.0


def test_chance_finds_no_phrase():
    # Of 100 pairs of samples more than 13 below .05 happen once in a thousand tests at exactly 5 %.
    def draw(seed: int) -> list[Answer]:
        random = np.random.default_rng(seed)
        return told([f"quite surely {text}" if random.random() < 0.3 else text for text in texts(seed)])

    found = [phrase_reading(draw(2 * run), draw(2 * run + 1)) for run in range(100)]
    seen = [one.p for one in found if one is not None]
    assert len(seen) > 75
    assert sum(p <= 0.05 for p in seen) <= 13
