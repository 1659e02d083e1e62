"""Feedback, rankings, ratings and votes: every format, every kind of bad row, and any texts come back as they went."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.data.recognition import read
from palate.errors import DataError
from palate.records import Feedback, Message, PreferencePair, Prompt, Ranking, Rating

TEXT = st.text().filter(str.strip)
TURNS = [{"role": "user", "content": "Q1"}, {"role": "assistant", "content": "A1"}, {"role": "user", "content": "Q"}]
CHAT = Prompt((Message("user", "Q1"), Message("assistant", "A1"), Message("user", "Q")), line=1)
REPLY = {"role": "assistant", "content": "A"}


def question(text: str = "Q", line: int = 1, **fields: Any) -> Prompt:
    return Prompt((Message("user", text),), fields, line)


def written(directory: Path, *rows: Any) -> Path:
    path = directory / "rows.jsonl"
    path.write_bytes("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
    return path


def read_back(tmp_path_factory: pytest.TempPathFactory, rows: Sequence[dict[str, Any]]) -> tuple[Any, ...]:
    return read(written(tmp_path_factory.mktemp("rows"), *rows)).records


KTO = {"prompt": "Q", "completion": "A", "label": True}
RANKED = {"prompt": "Q", "completions": ["a", "b", "c"], "ranks": [3, 1, 1]}
RESPONSES = {"prompt": "Q", "responses": [{"text": "a", "rank": 2, "score": 0.5}, {"text": "b", "rank": 1, "by": "x"}]}
LISTS = {"prompt": "Q", "chosen": ["a", "b"], "rejected": "c"}
RATED = {"prompt": "Q", "completion": "A", "scores": {"helpfulness": 4, "verbosity": 1.5}}
HELPSTEER = {"prompt": "Q", "response": "A", "helpfulness": 4, "verbosity": 0}
LLMBAR = {"input": "Q", "output_1": "a", "output_2": "b", "label": 2}
PANDALM = {"instruction": "Do", "input": "this", "response1": "a", "response2": "b"}
VOTES = {"annotator1": 2, "annotator2": 2, "annotator3": 0}


def completion(text: str, ratings: Sequence[str] = (), **scores: float) -> dict[str, Any]:
    annotations = {f"aspect {number}": {"Rating": rating} for number, rating in enumerate(ratings)}
    return {"response": text, "annotations": annotations, **scores}


def ultrafeedback(*completions: dict[str, Any]) -> dict[str, Any]:
    return {"instruction": "Q", "completions": list(completions)}


# --- formats ---

READ = [
    ("kto", KTO, Feedback(question(), "A", True)),
    ("kto", {**KTO, "label": False}, Feedback(question(), "A", False)),
    ("kto", {**KTO, "label": 0}, Feedback(question(), "A", False)),
    ("kto", {**KTO, "prompt": TURNS, "completion": [REPLY]}, Feedback(CHAT, "A", True)),
    ("kto-chat", {"messages": [*TURNS, REPLY], "label": False}, Feedback(CHAT, "A", False)),
    ("rankings", RANKED, Ranking(question(), ("a", "b", "c"), (1, 0, 0))),
    ("rankings", {**RANKED, "prompt": TURNS}, Ranking(CHAT, ("a", "b", "c"), (1, 0, 0))),
    ("rankings", {**RANKED, "ranks": [0.5, -1, 7]}, Ranking(question(), ("a", "b", "c"), (1, 0, 2))),
    ("ranked-responses", RESPONSES, Ranking(question(), ("a", "b"), (1, 0))),
    ("chosen-rejected-lists", LISTS, Ranking(question(), ("a", "b", "c"), (0, 0, 1))),
    ("chosen-rejected-lists", {**LISTS, "chosen": "a", "rejected": ["b"]}, Ranking(question(), ("a", "b"), (0, 1))),
    ("ratings", RATED, Rating(question(), "A", {"helpfulness": 4.0, "verbosity": 1.5})),
    ("helpsteer", HELPSTEER, Rating(question(), "A", {"helpfulness": 4.0, "verbosity": 0.0})),
    ("helpsteer", {**HELPSTEER, "verbosity": None}, Rating(question(), "A", {"helpfulness": 4.0})),
    ("llmbar", LLMBAR, PreferencePair(question(), "b", "a")),
    ("llmbar", {**LLMBAR, "label": 1}, PreferencePair(question(), "a", "b")),
]


@pytest.mark.parametrize(("name", "row", "record"), READ)
def test_a_row_is_read_as_its_format(tmp_path: Path, name: str, row: dict[str, Any], record: Any) -> None:
    data = read(written(tmp_path, row))
    assert (data.mapping.format, data.records) == (name, (record,))


def test_other_columns_travel_with_the_prompt(tmp_path: Path) -> None:
    for row in (KTO, RANKED, RESPONSES, LISTS, RATED, HELPSTEER, LLMBAR):
        (record,) = read(written(tmp_path, {**row, "task": "t"})).records
        assert record.prompt.fields == {"task": "t"}


@pytest.mark.parametrize(
    ("votes", "ranks"),
    [
        ((2, 2, 0), (1, 0)),
        ((1, 2, 1), (0, 1)),
        ((1, 1, 1), (0, 1)),
        ((0, 1, 0), (0, 0)),
        ((0, 1, 2), (0, 0)),
        ((2, 1, 0), (0, 0)),
    ],
)
def test_the_majority_of_three_annotators_decides(
    tmp_path: Path, votes: tuple[int, int, int], ranks: tuple[int, int]
) -> None:
    given_votes = dict(zip(VOTES, votes, strict=True))
    (ranking,) = read(written(tmp_path, {**PANDALM, **given_votes})).records
    assert ranking == Ranking(question("Do\n\nthis", **given_votes), ("a", "b"), ranks)


@pytest.mark.parametrize(
    ("completions", "ranks"),
    [
        # Means 4.5, 2, 4.5: the overall scores, which say the opposite, are not asked.
        (
            [
                completion("a", ["5", "4"], overall_score=1),
                completion("b", ["1", "3"], overall_score=10),
                completion("c", ["4", "5"], overall_score=2),
            ],
            (0, 1, 0),
        ),
        # Of 5 and N/A the mean is 5.
        ([completion("a", ["4", "5"]), completion("b", ["5", "N/A"]), completion("c", ["1"])], (1, 0, 2)),
        # The fine-grained score stands before the ratings that it sums up.
        ([completion("a", ["1"], **{"fine-grained_score": 5.0}), completion("b", ["4"])], (0, 1)),
        ([completion("a", overall_score=7.5), completion("b", overall_score=8)], (1, 0)),
    ],
)
def test_ultrafeedback_ranks_by_its_fine_grained_scores(
    tmp_path: Path, completions: list[dict[str, Any]], ranks: tuple[int, ...]
) -> None:
    (ranking,) = read(written(tmp_path, ultrafeedback(*completions))).records
    texts = tuple(one["response"] for one in completions)
    assert ranking == Ranking(question(), texts, ranks)


def test_ultrafeedback_also_gives_ratings(tmp_path: Path) -> None:
    row = ultrafeedback(completion("a", ["5", "N/A"], overall_score=9), completion("b", ["1", "2"]))
    assert read(written(tmp_path, row), "ratings").records == (
        Rating(question(), "a", {"aspect 0": 5.0, "overall": 9.0}),
        Rating(question(), "b", {"aspect 0": 1.0, "aspect 1": 2.0}),
    )
    fine = ultrafeedback(completion("a", **{"fine-grained_score": 4.5}), completion("b", ["1"]))
    assert read(written(tmp_path, fine), "ratings").records == (
        Rating(question(), "a", {"fine-grained": 4.5}),
        Rating(question(), "b", {"aspect 0": 1.0}),
    )


def test_the_models_behind_replies_travel_with_the_prompt(tmp_path: Path) -> None:
    first, second = (completion(text, ["5"], model=f"m-{text}") for text in "ab")  # pyright: ignore[reportArgumentType]
    del second["model"]
    for row in (
        ultrafeedback(first, second) | {"models": ["another", "order"]},
        {"prompt": "Q", "responses": [{"text": "a", "rank": 1, "score": 5, "model": "m-a"}, {"text": "b", "rank": 1}]},
    ):
        (ranking,) = read(written(tmp_path, row)).records
        assert ranking.prompt.fields == {"models": ["m-a", ""]}
        rating = read(written(tmp_path, row), "ratings").records[0]
        assert rating.completion == "a" and rating.prompt.fields["model"] == "m-a"


def test_a_reply_without_any_score_is_no_rating(tmp_path: Path) -> None:
    row = {"prompt": "Q", "responses": [{"text": "a", "rank": 1, "score": 0.5}, {"text": "b", "rank": 2}]}
    assert [one.completion for one in read(written(tmp_path, row), "ratings").records] == ["a"]
    del row["responses"][0]["score"]
    with pytest.raises(DataError, match="no reply has a score"):
        read(written(tmp_path, row), "ratings")


def test_ranked_responses_also_give_their_scores(tmp_path: Path) -> None:
    row = {"prompt": "Q", "responses": [{"text": text, "rank": 1, "score": 0.5, "n": 2, "by": "x"} for text in "ab"]}
    assert read(written(tmp_path, row), "ratings").records == tuple(
        Rating(question(), text, {"score": 0.5, "n": 2.0}) for text in "ab"
    )


# --- any texts ---


@given(st.lists(st.tuples(TEXT, TEXT, st.booleans(), st.booleans()), min_size=1, max_size=4))
def test_any_feedback_comes_back(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[tuple[str, str, bool, bool]]
) -> None:
    rows = [
        {
            "prompt": [{"role": "user", "content": prompt}] if chat else prompt,
            "completion": [{"role": "assistant", "content": text}] if chat else text,
            "label": label,
        }
        for prompt, text, label, chat in drawn
    ]
    assert read_back(tmp_path_factory, rows) == tuple(
        Feedback(question(prompt, line), text, label) for line, (prompt, text, label, _) in enumerate(drawn, 1)
    )


RANKS = st.lists(st.tuples(TEXT, st.integers(-3, 3)), min_size=2, max_size=5).filter(
    lambda drawn: len({text for text, _ in drawn}) > 1
)


@given(TEXT, RANKS)
def test_any_ranking_keeps_its_order_and_its_ties(
    tmp_path_factory: pytest.TempPathFactory, prompt: str, drawn: list[tuple[str, int]]
) -> None:
    texts, ranks = map(list, zip(*drawn, strict=True))
    listed = {"prompt": prompt, "completions": texts, "ranks": ranks}
    objects = {"prompt": prompt, "responses": [{"text": text, "rank": rank} for text, rank in drawn]}
    (ranking,), (again,) = read_back(tmp_path_factory, [listed]), read_back(tmp_path_factory, [objects])
    assert ranking == again
    assert (ranking.prompt, list(ranking.completions)) == (question(prompt), texts)
    for first, rank in zip(ranking.ranks, ranks, strict=True):
        for second, other in zip(ranking.ranks, ranks, strict=True):
            assert (first < second, first == second) == (rank < other, rank == other)


@given(TEXT, TEXT, st.dictionaries(st.text(), st.floats(-1e300, 1e300), min_size=1, max_size=4))
def test_any_rating_comes_back(
    tmp_path_factory: pytest.TempPathFactory, prompt: str, text: str, scores: dict[str, float]
) -> None:
    rows = [{"prompt": prompt, "completion": text, "scores": scores}]
    assert read_back(tmp_path_factory, rows) == (Rating(question(prompt), text, scores),)


@pytest.mark.parametrize("row", [KTO, RANKED, RESPONSES, LISTS, RATED, HELPSTEER, LLMBAR])
def test_text_like_a_special_token_is_text(tmp_path: Path, row: dict[str, Any]) -> None:
    control = "<|im_end|>\n<|im_start|>assistant\n</s>[INST]"
    spoilt = json.loads(json.dumps(row).replace('"Q"', json.dumps(control + "Q")).replace('"A"', json.dumps(control)))
    (record,) = read(written(tmp_path, spoilt)).records
    assert record.prompt.messages == (Message("user", control + "Q"),)
    assert getattr(record, "completion", control) == control


# --- bad rows ---

VOTED = {**PANDALM, **VOTES}
ULTRAFEEDBACK = ultrafeedback(completion("a", ["5"]), completion("b", ["1"]))
BAD_ROWS = [
    (KTO, {**KTO, "label": None}, "'label' is None; it says whether the reply is desirable"),
    (KTO, {**KTO, "completion": None, "label": 2}, "'completion' is null"),
    (KTO, {"prompt": "Q", "completion": [REPLY], "label": 2}, "'label' is 2"),
    (KTO, {"prompt": "Q", "completion": 3, "label": True}, "'completion' is a number, and must be a list of turns"),
    (KTO, {**KTO, "completion": " "}, "'completion' is an empty reply"),
    (KTO, {**KTO, "prompt": ""}, "there is no prompt"),
    (KTO, {**KTO, "completion": [{"role": "user", "content": "Q"}]}, "does not end with a reply of the assistant"),
    (KTO, {**KTO, "prompt": [], "completion": []}, "does not end with a reply of the assistant"),
    (RANKED, {**RANKED, "ranks": [1, 2]}, "has 3 completions and 2 ranks"),
    (RANKED, {**RANKED, "completions": ["a"], "ranks": [1]}, "has 1 completions and 1 ranks"),
    (RANKED, {**RANKED, "completions": [], "ranks": []}, "has 0 completions and 0 ranks"),
    (RANKED, {**RANKED, "ranks": [1, None, 2]}, "the rank of reply 2 is None, and must be a number"),
    (RANKED, {**RANKED, "ranks": [1, 2, True]}, "the rank of reply 3 is True, and must be a number"),
    (RANKED, {**RANKED, "ranks": "1 2 3"}, "'ranks' is text, and must be a list"),
    (RANKED, {**RANKED, "completions": ["a", "", "c"]}, "'completions[2]' is an empty reply"),
    (RANKED, {**RANKED, "completions": ["a", 2, "c"]}, "'completions[2]' is a number"),
    (RESPONSES, {**RESPONSES, "responses": [{"text": "a", "rank": 1}]}, "has 1 completions"),
    (RESPONSES, {**RESPONSES, "responses": [{"text": "a", "rank": 1}, {"text": "b"}]}, "the rank of reply 2 is None"),
    (RESPONSES, {**RESPONSES, "responses": [{"text": "", "rank": 1}] * 2}, "'responses[1].text' is an empty reply"),
    (RESPONSES, {**RESPONSES, "responses": ["a", "b"]}, "'responses' is a list, and must be a list of objects"),
    (LISTS, {**LISTS, "chosen": ["a", None]}, "'chosen[2]' is null"),
    (ULTRAFEEDBACK, ultrafeedback(), "has 0 completions"),
    (ULTRAFEEDBACK, ultrafeedback(completion("a", ["5"]), completion("b")), "entry 2 of 'completions' has no score"),
    (ULTRAFEEDBACK, ultrafeedback(completion("a", ["5"]), completion("", ["1"])), "'completions[2].response' is an"),
    (RATED, {**RATED, "scores": {}}, "it needs at least one"),
    (RATED, {**RATED, "scores": {"a": None}}, "it needs at least one"),
    (RATED, {**RATED, "scores": {"a": "4"}}, "the score 'a' is '4', and must be a finite number"),
    (RATED, {**RATED, "scores": {"a": 10**400}}, "must be a finite number"),
    (RATED, {**RATED, "scores": {"a": True}}, "the score 'a' is True"),
    (HELPSTEER, {**HELPSTEER, "response": None}, "'response' is null"),
    (HELPSTEER, {"prompt": "Q", "response": "A"}, "it needs at least one"),
    (LLMBAR, {**LLMBAR, "label": 3}, "'label' is 3; it is the number of the better output"),
    (LLMBAR, {**LLMBAR, "label": True}, "'label' is True"),
    (LLMBAR, {**LLMBAR, "output_2": ""}, "'output_2' is an empty reply"),
    (VOTED, {**VOTED, "annotator2": 3}, "'annotator2' is 3; it is the number of the better response"),
    (VOTED, {**VOTED, "response1": True}, "'response1' is true or false"),
]


@pytest.mark.parametrize(("good", "bad", "reason"), BAD_ROWS)
def test_a_bad_row_stops_with_its_line_or_is_counted(
    tmp_path: Path, good: dict[str, Any], bad: dict[str, Any], reason: str
) -> None:
    path = written(tmp_path, good, good, bad, good)
    with pytest.raises(DataError) as caught:
        read(path)
    assert (caught.value.path, caught.value.line) == (path, 3)
    assert reason in str(caught.value)
    assert 'on_bad = "skip"' in str(caught.value)
    data = read(path, on_bad="skip")
    assert [record.prompt.line for record in data.records] == [1, 2, 4]
    ((line, said),) = data.skipped
    assert line == 3
    assert reason in said


@pytest.mark.parametrize("row", [{"prompt": "Q", "completion": "A"}, {**KTO, "label": 2}])
def test_judged_and_unjudged_replies_do_not_mix(tmp_path: Path, row: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"mixes formats: 1 rows of kto .*, 1 rows of trl-completions"):
        read(written(tmp_path, KTO, row))
