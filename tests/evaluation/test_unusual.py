"""Unusual prompts, and which answers count as fallen apart."""

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from palate.evaluation import degenerate, unusual_prompts
from palate.evaluation.unusual import UNUSUAL, repeated_share

DATA = Path(os.environ.get("PALATE_DATA", Path(__file__).parents[3] / "shared" / "data"))


def test_there_are_some_forty_prompts_all_different_with_their_kinds():
    prompts = unusual_prompts()
    assert 40 <= len(prompts) <= 60
    assert len({prompt.text for prompt in prompts}) == len(prompts)
    kinds = Counter(prompt.fields["kind"] for prompt in prompts)
    assert kinds == {kind: len(texts) for kind, texts in UNUSUAL.items()}
    assert min(kinds.values()) >= 3


def test_the_long_ones_are_long_and_the_empty_ones_empty():
    assert all(len(text) > 2000 for text in UNUSUAL["very long"])
    assert not any(text.strip() for text in UNUSUAL["empty"])


@pytest.mark.parametrize(
    ("text", "finish", "flaw"),
    [
        ("It is Paris.", "eos", None),
        ("", "eos", "empty"),
        (" \n\t", "length", "empty"),
        ("It is Par", "length", "cut"),
        ("no " * 30, "eos", "repetitive"),
        ("哈" * 30, "eos", "repetitive"),
        ("It is Paris. " * 3, "length", "repetitive"),
        (
            " ".join(2 * ["It is Paris, which has been the capital of France, and its largest city, for long."]),
            "eos",
            None,
        ),
        ("ok", "eos", None),
        ("\x00\x01 Paris", "eos", "unprintable"),
        ("It is N\ufffd\ufffd.", "eos", "unprintable"),
        ("A long answer that ends within a letter of three bytes, as may happen: caf\ufffd", "eos", None),
        ("One line.\nAnother\tone.\r\n", "eos", None),
        ("👩‍🚀 שלום می‌خواهم 日本語です", "eos", None),  # joiners and marks of direction are part of writing
    ],
)
def test_what_is_degenerate(text, finish, flaw):
    assert degenerate(text, finish) == flaw


def test_repetition_by_hand():
    # "abcabcabc" has seven 3-grams, of which abc, bca and cab are distinct: 1 − 3/7.
    assert repeated_share("abcabcabc", gram=3) == pytest.approx(4 / 7)
    assert repeated_share("ab", gram=3) == 0


@pytest.mark.skipif(not DATA.is_dir(), reason=f"real answers are not at {DATA}; set PALATE_DATA")
def test_few_answers_that_people_wrote_or_chose_count_as_degenerate():
    lines = (DATA / "alpaca" / "alpaca.jsonl").read_text(encoding="utf-8").split("\n")[:2000]
    answers = [json.loads(line)["output"] for line in lines if line]
    flawed = [text for text in answers if degenerate(text, "eos") is not None]
    assert len(answers) == 2000 and len(flawed) <= 0.005 * len(answers)
