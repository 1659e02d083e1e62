"""Published files read as they should: every row of them is counted, and why each bad one is bad.

The counts were taken from the files by other means: splitting each side at its last "\\n\\nAssistant:",
comparing what stands before, and looking for empty texts.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from palate.data.checks import length_bias, shared_prompts, split_by_prompt
from palate.data.recognition import Dataset, Mapping, read
from palate.errors import DataError

DATA = Path(os.environ.get("PALATE_DATA", Path(__file__).parents[2].parent / "shared" / "data"))

pytestmark = pytest.mark.skipif(
    not DATA.is_dir(), reason="no published data files; name their directory in PALATE_DATA"
)


def lines_by_reason(data: Dataset) -> dict[str, list[int]]:
    words = {
        "empty": "is an empty reply",
        "differ": "differ before",
        "unanswered": "does not end with a reply",
    }
    found = {name: [line for line, reason in data.skipped if part in reason] for name, part in words.items()}
    assert sum(map(len, found.values())) == len(data.skipped)
    return {name: lines for name, lines in found.items() if lines}


@pytest.mark.parametrize(
    ("name", "rows", "dropped_equal", "bad"),
    [
        ("harmless-base/test", 247, 0, {"differ": [210]}),
        ("harmless-base/train", 1699, 0, {"empty": [59, 365, 811], "differ": [923, 1250, 1449, 1512]}),
        ("helpful-base/test", 248, 0, {"empty": [11, 87], "differ": [109, 165]}),
        ("helpful-base/train", 1741, 2, {"empty": [896, 1520], "differ": [401, 535, 739, 858, 966]}),
        ("helpful-online/test", 116, 0, {"unanswered": [74]}),
        ("helpful-online/train", 844, 1, {"empty": [422, 666, 783], "unanswered": [785]}),
        ("helpful-rejection-sampled/test", 282, 4, {"differ": [77, 176]}),
        ("helpful-rejection-sampled/train", 2066, 26, {"differ": [1776]}),
    ],
)
def test_anthropic_hh(name: str, rows: int, dropped_equal: int, bad: dict[str, list[int]]) -> None:
    data = read(DATA / "hh" / f"{name}.jsonl.gz", "pairs", on_bad="skip")
    assert data.mapping.format == "hh-pairs"
    assert lines_by_reason(data) == bad
    assert data.dropped_equal == dropped_equal
    assert len(data.records) == rows - dropped_equal - len(data.skipped)
    assert all(pair.prompt.messages[-1].role == "user" for pair in data.records)


def test_anthropic_hh_stops_at_the_first_bad_row() -> None:
    with pytest.raises(DataError) as caught:
        read(DATA / "hh/helpful-base/train.jsonl.gz")
    assert caught.value.line == 401


def test_anthropic_hh_prompts_hold_every_earlier_turn() -> None:
    first = read(DATA / "hh/helpful-base/test.jsonl.gz", on_bad="skip").records[0]
    assert [message.role for message in first.prompt.messages] == ["user", "assistant", "user"]
    assert first.prompt.messages[2].content == "I tell them to cut it out but it keeps happening"
    assert first.rejected == "i’m sorry if my catfight logic makes no sense. i hope you’re feeling better, bye."


def test_anthropic_hh_serves_as_demonstrations() -> None:
    path = DATA / "hh/helpful-base/test.jsonl.gz"
    pairs = read(path, "pairs", on_bad="skip").records
    demonstrations = read(path, "demonstrations", on_bad="skip").records
    assert [(item.prompt, item.completion) for item in demonstrations] == [(pair.prompt, pair.chosen) for pair in pairs]


def test_anthropic_hh_splits_by_prompt() -> None:
    pairs = read(DATA / "hh/helpful-base/train.jsonl.gz", on_bad="skip").records
    train, heldout = split_by_prompt(pairs, 0.1, seed=0)
    assert 100 < len(heldout) < 250
    assert shared_prompts(train, heldout).figures["count"] == 0


def test_anthropic_hh_helpful_prefers_length() -> None:
    pairs = read(DATA / "hh/helpful-base/train.jsonl.gz", on_bad="skip").records
    assert length_bias(pairs).level == "warn"


def test_alpaca() -> None:
    data = read(DATA / "alpaca/alpaca.jsonl", on_bad="skip")
    assert data.mapping.format == "alpaca"
    assert lines_by_reason(data) == {"empty": [1747, 3621]}
    assert len(data.records) == 4998


@pytest.mark.parametrize(("name", "rows"), [("train", 500), ("test", 200)])
def test_gsm8k_needs_a_mapping_and_keeps_its_answers(name: str, rows: int) -> None:
    path = DATA / "gsm8k" / f"{name}.jsonl"
    with pytest.raises(DataError, match="Rename 'question' to 'prompt' and 'answer' to 'completion'"):
        read(path)
    data = read(path, "prompts", mapping=Mapping("prompts", "prompts", {"prompt": "question"}))
    assert len(data.records) == rows
    assert all("\n#### " in prompt.fields["answer"] for prompt in data.records)


def test_ranked_answers_serve_as_prompts_alone() -> None:
    data = read(DATA / "ranked/alpaca_eval_k4.jsonl.gz", "prompts")
    assert len(data.records) == 2093
    assert set(data.records[0].fields) == {"source", "group", "judge", "responses"}
