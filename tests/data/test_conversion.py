"""One kind of records as another: what is kept, what is left out, and that nothing is drawn anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.data.conversion import SERVES, best_pair, converted
from palate.data.recognition import Mapping, read
from palate.data.rows import Kind, Record
from palate.errors import DataError
from palate.records import Demonstration, Feedback, PreferencePair, Prompt, Ranking, Rating

QUESTION = Prompt.of("Q", task="t")
PAIR = PreferencePair(QUESTION, "good", "bad", 1.0)
RANKING = Ranking(QUESTION, ("d", "a", "b", "c"), (2, 0, 1, 1))
RANKING_COLUMNS = {name: name for name in ("prompt", "completions", "ranks")}


@pytest.mark.parametrize(
    ("record", "kind", "records"),
    [
        (PAIR, "pairs", [PAIR]),
        (PAIR, "demonstrations", [Demonstration(QUESTION, "good")]),
        (PAIR, "feedback", [Feedback(QUESTION, "good", True), Feedback(QUESTION, "bad", False)]),
        (PAIR, "rankings", [Ranking(QUESTION, ("good", "bad"), (0, 1))]),
        (PAIR, "prompts", [QUESTION]),
        (RANKING, "rankings", [RANKING]),
        (RANKING, "pairs", [PreferencePair(QUESTION, "a", "d")]),
        (RANKING, "demonstrations", [Demonstration(QUESTION, "a")]),
        (RANKING, "feedback", [Feedback(QUESTION, "a", True), Feedback(QUESTION, "d", False)]),
        (RANKING, "prompts", [QUESTION]),
        (Feedback(QUESTION, "A", False), "prompts", [QUESTION]),
        (Rating(QUESTION, "A", {"x": 1.0}), "prompts", [QUESTION]),
        (Demonstration(QUESTION, "A"), "prompts", [QUESTION]),
    ],
)
def test_a_record_as_another_kind(record: Record, kind: Kind, records: list[Record]) -> None:
    assert converted([record], kind, "worst") == records


def test_every_offered_conversion_is_tried_above() -> None:
    assert sum(map(len, SERVES.values())) == 11


@pytest.mark.parametrize("kind", ["pairs", "demonstrations", "feedback"])
def test_a_ranking_that_ties_throughout_prefers_nothing(kind: Kind) -> None:
    tied = Ranking(QUESTION, ("a", "b"), (0, 0))
    assert converted([tied], kind, "random") == []
    assert converted([tied], "rankings", "random") == [tied]
    assert converted([tied], "prompts", "random") == [QUESTION]


@pytest.mark.parametrize("kind", ["pairs", "rankings", "feedback"])
def test_equal_replies_prefer_nothing(kind: Kind) -> None:
    assert converted([PreferencePair(QUESTION, "a", "a")], kind, "random") == []
    assert converted([Ranking(QUESTION, ("a", "a"), (0, 1))], kind, "random") == []


def test_the_best_text_is_never_its_own_rejected_side() -> None:
    ranking = Ranking(QUESTION, ("a", "b", "a"), (0, 1, 2))
    assert best_pair(ranking, "worst") == PreferencePair(QUESTION, "a", "b")
    assert best_pair(ranking, "random") == PreferencePair(QUESTION, "a", "b")


RANKINGS = st.lists(st.integers(0, 3), min_size=2, max_size=6).map(
    lambda drawn: Ranking(
        QUESTION,
        tuple(f"reply {place}" for place in range(len(drawn))),
        tuple(sorted(set(drawn)).index(value) for value in drawn),
    )
)


@given(RANKINGS, st.sampled_from(("random", "worst")))
def test_a_pair_of_a_ranking_prefers_as_the_ranking_does(ranking: Ranking, rejected: Any) -> None:
    pair = best_pair(ranking, rejected)
    if max(ranking.ranks) == 0:
        assert pair is None
        return
    assert pair is not None
    ranks = dict(zip(ranking.completions, ranking.ranks, strict=True))
    assert 0 == ranks[pair.chosen] < ranks[pair.rejected]
    if rejected == "worst":
        assert ranks[pair.rejected] == max(ranking.ranks)


def test_the_random_other_one_is_any_of_them_about_as_often() -> None:
    prompts = [Prompt.of(f"Q{number}") for number in range(3000)]
    pairs = [best_pair(Ranking(prompt, ("a", "b", "c", "d"), (0, 1, 2, 3)), "random") for prompt in prompts]
    counts = [sum(pair is not None and pair.rejected == text for pair in pairs) for text in "bcd"]
    assert sum(counts) == 3000
    # Each is binomial(3000, 1/3), whose standard deviation is √(3000·2/9) = 25.8: four of them are 103.
    assert all(abs(count - 1000) < 103 for count in counts)


def written(directory: Path, *rows: dict[str, Any]) -> Path:
    path = directory / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_row_is_drawn_alike_wherever_it_stands(tmp_path: Path) -> None:
    rows = [{"prompt": f"Q{number}", "completions": list("abcd"), "ranks": [0, 1, 2, 3]} for number in range(20)]
    forwards = {pair.prompt.text: pair.rejected for pair in read(written(tmp_path, *rows), "pairs").records}
    backwards = {pair.prompt.text: pair.rejected for pair in read(written(tmp_path, *rows[::-1]), "pairs").records}
    assert forwards == backwards
    assert set(forwards.values()) == set("bcd")


def test_the_rejected_reply_is_pinned_in_the_mapping(tmp_path: Path) -> None:
    path = written(tmp_path, {"prompt": "Q", "completions": list("abcd"), "ranks": [2, 1, 3, 4]})
    found = read(path, "pairs").mapping
    assert found.to_dict() == {
        "format": "rankings",
        "kind": "rankings",
        "columns": RANKING_COLUMNS,
        "rejected": "random",
    }
    worst = Mapping.from_dict({**found.to_dict(), "rejected": "worst"})
    (pair,) = read(path, "pairs", mapping=worst).records
    assert (pair.chosen, pair.rejected) == ("b", "d")
    assert "the worst other one" in worst.also["pairs"] and "a random other one" in found.also["pairs"]
    assert Mapping.from_dict({name: value for name, value in found.to_dict().items() if name != "rejected"}) == found


def test_a_mapping_that_is_not_of_rankings_holds_no_rejected(tmp_path: Path) -> None:
    mapping = read(written(tmp_path, {"prompt": "Q", "chosen": "a", "rejected": "b"})).mapping
    assert mapping.to_dict().keys() == {"format", "kind", "columns"}


def test_rows_that_prefer_nothing_are_counted(tmp_path: Path) -> None:
    rows = [{"prompt": "Q", "completions": ["a", "b"], "ranks": ranks} for ranks in ([1, 1], [1, 2], [0, 0])]
    path = written(tmp_path, *rows, {"prompt": "Q", "completions": ["a", "a"], "ranks": [1, 2]})
    assert (len(read(path).records), read(path).dropped_equal) == (3, 1)
    assert (len(read(path, "pairs").records), read(path, "pairs").dropped_equal) == (1, 3)


def test_both_labels_of_one_reply_stay_two_judgements(tmp_path: Path) -> None:
    path = written(tmp_path, *({"prompt": "Q", "completion": "A", "label": label} for label in (True, False)))
    assert [record.desirable for record in read(path).records] == [True, False]
    with pytest.raises(DataError, match="pairs are wanted"):
        read(path, "pairs")


@pytest.mark.parametrize("kind", ["pairs", "rankings", "demonstrations", "feedback"])
def test_scores_are_turned_into_no_labels(tmp_path: Path, kind: Kind) -> None:
    with pytest.raises(DataError, match=f"{kind} are wanted"):
        read(written(tmp_path, {"prompt": "Q", "completion": "A", "scores": {"x": 1}}), kind)
