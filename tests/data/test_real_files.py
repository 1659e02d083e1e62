"""Published files read as they should: every row of them is counted, and why each bad one is bad.

The counts were taken from the files by other means: splitting each side at its last "\\n\\nAssistant:",
comparing what stands before, and looking for empty texts.
"""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from rich.console import Console

from palate.data.checks import length_bias, shared_prompts, split_by_prompt
from palate.data.inspect import inspect_file, render
from palate.data.recognition import Dataset, Mapping, read
from palate.errors import DataError
from palate.records import PreferencePair

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
def test_gsm8k_gives_solutions_and_final_numbers(name: str, rows: int) -> None:
    path = DATA / "gsm8k" / f"{name}.jsonl"
    prompts, solutions = read(path, "prompts").records, read(path, "demonstrations").records
    assert len(prompts) == len(solutions) == rows
    assert tuple(solution.prompt for solution in solutions) == prompts
    assert all(prompt.fields["answer"].lstrip("-").isdecimal() for prompt in prompts)  # eight have commas in the file
    assert all("\n#### " in solution.completion for solution in solutions)


def test_gsm8k_keeps_its_columns_where_a_mapping_says_so() -> None:
    mapping = Mapping("prompts", "prompts", {"prompt": "question"})
    data = read(DATA / "gsm8k/test.jsonl", "prompts", mapping=mapping)
    assert all("\n#### " in prompt.fields["answer"] for prompt in data.records)


def test_four_ranked_answers() -> None:
    path = DATA / "ranked/alpaca_eval_k4.jsonl.gz"
    with pytest.raises(DataError, match=r"line 433: 'responses\[1\].text' is an empty reply"):
        read(path)
    data = read(path, on_bad="skip")
    assert (data.mapping.format, len(data.records)) == ("ranked-responses", 2092)
    assert data.records[0].ranks == (2, 1, 0, 3)
    assert data.records[0].completions[3].endswith("are Tom Hanks, Meryl Streep, and Christopher Walken.")
    assert sum(len(set(ranking.ranks)) < 4 for ranking in data.records) == 573
    assert set(data.records[0].prompt.fields) == {"source", "group", "judge", "models"}


def test_four_ranked_answers_serve_as_pairs_and_ratings() -> None:
    path = DATA / "ranked/alpaca_eval_k4.jsonl.gz"
    rankings = {ranking.prompt.line: ranking for ranking in read(path, on_bad="skip").records}
    pairs = read(path, "pairs", on_bad="skip")
    assert (len(pairs.records), pairs.dropped_equal) == (2091, 1)  # one row ties throughout
    for pair in pairs.records:
        ranked = rankings[pair.prompt.line]
        chosen, rejected = map(ranked.completions.index, (pair.chosen, pair.rejected))
        assert 0 == ranked.ranks[chosen] < ranked.ranks[rejected]
    ratings = read(path, "ratings", on_bad="skip").records
    assert len(ratings) == 4 * 2092
    assert ratings[1].scores == {"score": 5.77e-06, "logit": -12.0628}


@pytest.mark.parametrize(("name", "rows"), [("llmbar", 264), ("mtbench_human_majority", 120)])
def test_llmbar_chooses_the_output_of_its_label(name: str, rows: int) -> None:
    pairs = read(DATA / "llmbar" / f"{name}.jsonl").records
    assert len(pairs) == rows
    assert all(isinstance(pair, PreferencePair) for pair in pairs)


def test_llmbar_by_two_rows_of_known_label() -> None:
    natural = read(DATA / "llmbar/llmbar.jsonl").records
    assert natural[-1].chosen == "What is the meaning of life"
    majority = read(DATA / "llmbar/mtbench_human_majority.jsonl").records
    assert majority[60].chosen.split() == ["Literature.", "History.", "Science.", "Art."]


def test_pandalm_ranks_by_the_majority_of_its_annotators() -> None:
    data = read(DATA / "multi_annotator/pandalm.jsonl", on_bad="skip")
    # 44 rows have an empty response and 6 one that is true or false. Of all rows 411 vote for the second, 354 for the
    # first and 97 for neither; nobody disagrees on all three.
    reasons = [reason for _, reason in data.skipped]
    assert sum("is an empty reply" in reason for reason in reasons) == 44
    assert sum("is true or false" in reason for reason in reasons) == 6
    assert len(data.records) == 862 - 50
    assert data.records[0].ranks == (1, 0)
    assert data.records[0].prompt.fields["annotator3"] == 2
    ties = sum(ranking.ranks == (0, 0) for ranking in data.records)
    pairs = read(DATA / "multi_annotator/pandalm.jsonl", "pairs", on_bad="skip")
    assert (len(pairs.records), pairs.dropped_equal) == (812 - ties, ties)
    assert 0 < ties <= 97


def test_truthfulqa_serves_as_pairs_under_a_mapping() -> None:
    path = DATA / "truthfulqa/truthfulqa.jsonl"
    with pytest.raises(DataError, match="'best_answer' to 'chosen' and 'best_incorrect_answer' to 'rejected'"):
        read(path)
    columns = {"prompt": "question", "chosen": "best_answer", "rejected": "best_incorrect_answer"}
    pairs = read(path, mapping=Mapping("trl-pairs", "pairs", columns)).records
    assert len(pairs) == 496
    assert pairs[0].rejected == "You grow watermelons in your stomach"


@pytest.mark.parametrize("name", ["judgments", "arguments"])
def test_judgements_apart_from_their_texts_are_refused(name: str) -> None:
    with pytest.raises(DataError, match="the format is not known"):
        read(DATA / "multi_annotator/ukp_convarg" / f"{name}.jsonl.gz")


def test_votes_without_texts_are_shown_as_prompts_with_their_columns() -> None:
    inspection = inspect_file(DATA / "multi_annotator/llm_judges_alpaca_eval.jsonl.gz")
    assert inspection.mapping.kind == "prompts"
    assert inspection.fields == ("model_1", "model_2", "preference_1_to_2")


@pytest.mark.parametrize(
    "name",
    [
        "alpaca/alpaca.jsonl",
        "gsm8k/test.jsonl",
        "hh/helpful-online/test.jsonl.gz",
        "llmbar/llmbar.jsonl",
        "multi_annotator/pandalm.jsonl",
        "ranked/alpaca_eval_k4.jsonl.gz",
    ],
)
def test_every_kind_can_be_shown(name: str) -> None:
    inspection = inspect_file(DATA / name)
    console = Console(width=120, file=io.StringIO())
    console.print(render(inspection))
    assert isinstance(console.file, io.StringIO)
    assert f"format {inspection.mapping.format}" in console.file.getvalue()
