"""From files to items to label: what suits a file, what a mode makes of it, gold, comparisons, the store beside."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from palate.collect import Item, Judgement, Order, Preference, Store, Thumb
from palate.collect.web import server
from palate.collect.web.queue import Desk
from palate.collect.web.security import LOOPBACK, Access
from palate.data.recognition import read
from palate.errors import DataError, UsageError
from palate.stages.people.labelling import (
    Serving,
    compared,
    gold_items,
    items_of,
    label,
    prepare,
    prepare_comparison,
)


def written(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


PAIR = {"prompt": "p", "chosen": "a", "rejected": "b", "kind": "sums"}
RANKING = {"prompt": "p", "completions": ["a", "b", "c"], "ranks": [1, 0, 2]}
ANSWERS = [{"prompt": "p", "completion": text} for text in ("a", "b", "a")]


def shape(items: list[Item]) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(one.mode, one.prompt.text, tuple(candidate.text for candidate in one.candidates)) for one in items]


@pytest.mark.parametrize(
    ("rows", "mode", "expected"),
    [
        ([PAIR], None, [("pair", "p", ("a", "b"))]),
        ([PAIR, PAIR], None, [("pair", "p", ("a", "b"))]),
        ([PAIR], "thumbs", [("thumbs", "p", ("a",)), ("thumbs", "p", ("b",))]),
        ([PAIR], "edit", [("edit", "p", ("a", "b"))]),
        ([PAIR], "demonstration", [("demonstration", "p", ())]),
        ([RANKING], None, [("ranking", "p", ("a", "b", "c"))]),
        ([RANKING], "pair", [("pair", "p", ("a", "b")), ("pair", "p", ("a", "c")), ("pair", "p", ("b", "c"))]),
        ([{"prompt": "p"}], None, [("demonstration", "p", ())]),
        (ANSWERS[:1], None, [("thumbs", "p", ("a",))]),
        (ANSWERS, None, [("pair", "p", ("a", "b"))]),
        ([*ANSWERS, {"prompt": "p", "completion": "c"}], None, [("ranking", "p", ("a", "b", "c"))]),
        (ANSWERS, "rating", [("rating", "p", ("a",)), ("rating", "p", ("b",))]),
        ([{**ANSWERS[0], "label": True}], None, [("thumbs", "p", ("a",))]),
        ([{**ANSWERS[0], "label": True}, {**ANSWERS[1], "label": False}], "pair", [("pair", "p", ("a", "b"))]),
        ([{**ANSWERS[0], "scores": {"honesty": 2}}], None, [("rating", "p", ("a",))]),
    ],
)
def test_a_file_gives_the_items_that_suit_it_or_are_asked_for(tmp_path, rows, mode, expected):
    items = items_of(read(written(tmp_path / "data.jsonl", *rows)), mode, 3)
    assert shape(items) == expected
    assert {one.wanted for one in items} == {3}


def test_items_keep_their_row_and_where_it_came_from(tmp_path):
    data = read(written(tmp_path / "data.jsonl", PAIR))
    (item,) = items_of(data)
    assert item.prompt.fields == {"kind": "sums"}
    (origin,) = {origin for one in item.candidates for origin in one.origins}
    assert (origin.kind, origin.name, origin.hash) == ("file", "data.jsonl", data.sha256)


def test_a_rating_is_asked_for_by_the_files_attributes(tmp_path):
    row = {**ANSWERS[0], "scores": {"honesty": 2, "tone": 1}}
    (item,) = items_of(read(written(tmp_path / "data.jsonl", row)))
    assert item.prompt.fields["attributes"] == ["honesty", "tone"]


def test_a_mode_that_no_row_can_have_is_refused(tmp_path):
    data = read(written(tmp_path / "data.jsonl", ANSWERS[0]))
    with pytest.raises(DataError, match="mode 'pair'"):
        items_of(data, "pair")


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        (PAIR, Preference(-1)),
        (RANKING, Order((1, 0, 2))),
        ({**ANSWERS[0], "label": False}, Thumb(False)),
    ],
)
def test_gold_knows_its_answer(tmp_path, row, answer):
    (item,) = gold_items(written(tmp_path / "gold.jsonl", row))
    assert item.expected == answer and item.candidates[0].text == "a"


@pytest.mark.parametrize("row", [ANSWERS[0], {"prompt": "p"}])
def test_what_has_no_answer_is_no_gold(tmp_path, row):
    with pytest.raises(DataError, match="no answer is known"):
        gold_items(written(tmp_path / "gold.jsonl", row))


# ---- the store beside a file


def test_a_file_gets_a_store_beside_it_and_finds_it_again(tmp_path):
    file = written(tmp_path / "data.jsonl", PAIR)
    gold = written(tmp_path / "gold.jsonl", {**PAIR, "prompt": "gold"})
    path = prepare(file, None, 2, gold, False)
    assert path == tmp_path / "data.jsonl.feedback.sqlite"
    with Store(path) as store:
        known, item = store.items()
        assert known.expected == Preference(-1) and item.wanted == 2
        store.record(Judgement("one", item.id, "ann", Preference(1)))
    assert prepare(file, None, None, None, False) == prepare(path, None, None, None, False) == path
    with Store(path) as store:
        assert [one.prompt for one in store.waiting("ben", 9)] == [item.prompt] and len(store.items()) == 2


def test_what_was_asked_is_not_asked_of_others_in_silence(tmp_path):
    path = prepare(written(tmp_path / "data.jsonl", PAIR), None, None, None, False)
    prepare(path, None, 1, None, False)
    with pytest.raises(UsageError, match="holds items that want 1;"):
        prepare(path, None, 3, None, False)
    with pytest.raises(UsageError, match="--mode"):
        prepare(path, "thumbs", None, None, False)


def test_only_a_log_begins_an_empty_store(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        prepare(tmp_path / "feedback.sqlite", None, None, None, False)
    assert prepare(tmp_path / "feedback.sqlite", None, None, None, True) == tmp_path / "feedback.sqlite"


# ---- blind comparison


def test_two_files_are_joined_by_prompt(tmp_path):
    before = written(
        tmp_path / "before.jsonl",
        *({"prompt": prompt, "completion": f"{prompt} old", "sample": 0} for prompt in "pqr"),
        {"prompt": "s", "completion": "same"},
    )
    after = written(
        tmp_path / "after.jsonl",
        {"prompt": "s", "completion": "same"},
        *({"prompt": prompt, "completion": f"{prompt} new"} for prompt in "rqt"),
    )
    items, said = compared(before, after)
    assert shape(items) == [("pair", "q", ("q old", "q new")), ("pair", "r", ("r old", "r new"))]
    assert [one.origins[0].name for one in items[0].candidates] == ["before", "after"]
    assert said == [
        "1 prompts have the same completion from both and are not asked.",
        "2 prompts stand in one of the two files alone and are left out.",
    ]


def test_several_answers_to_a_prompt_are_joined_in_their_order(tmp_path):
    one = written(tmp_path / "one.jsonl", *({"prompt": "p", "completion": f"one {n}"} for n in range(2)))
    two = written(tmp_path / "two.jsonl", *({"prompt": "p", "completion": f"two {n}"} for n in range(3)))
    assert [texts for _, _, texts in shape(compared(one, two)[0])] == [("one 0", "two 0"), ("one 1", "two 1")]


def test_files_of_one_name_are_told_apart(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    first = written(tmp_path / "a" / "out.jsonl", {"prompt": "p", "completion": "x"})
    second = written(tmp_path / "b" / "out.jsonl", {"prompt": "p", "completion": "y"})
    (item,), _ = compared(first, second)
    assert [one.origins[0].name for one in item.candidates] == [str(first), str(second)]


def test_files_without_a_common_prompt_are_not_compared(tmp_path):
    first = written(tmp_path / "one.jsonl", {"prompt": "p", "completion": "x"})
    second = written(tmp_path / "two.jsonl", {"prompt": "q", "completion": "y"})
    with pytest.raises(DataError, match="0 prompts in common"):
        compared(first, second)


def test_a_comparison_ends_in_a_result(tmp_path):
    """Of 40 prompts the second is better in 30 and the first in 10: a win rate of 3/4 for the second."""
    from starlette.testclient import TestClient

    sides = tuple(
        written(tmp_path / f"{name}.jsonl", *({"prompt": f"p{n}", "completion": f"{name} {n}"} for n in range(40)))
        for name in ("old", "new")
    )
    path = prepare_comparison((sides[0], sides[1]), None, lambda sentence: None)
    with Store(path) as store:
        desk = Desk(store, repeat_share=0)
        app = server.application(desk, Access(b"s" * 32, open=True), server.Showing(experiment="compare"), LOOPBACK)
        page = TestClient(app, base_url="http://localhost")
        assert page.get("/api/session").json()["experiment"] == "compare"
        for number in range(40):
            (asked,) = page.get("/api/next?count=1").json()["items"]
            winner = "new" if number < 30 else "old"
            degree = -1 if asked["places"][0]["text"].startswith(winner) else 1
            vote = {
                "id": f"vote-{asked['id']}",
                "item": asked["id"],
                "answer": {"kind": "preference", "degree": degree},
            }
            assert page.post("/api/votes", json={"votes": [vote]}).json()["stored"]
        result = page.get("/api/result").json()
    assert (result["a"], result["b"], result["wins_a"], result["wins_b"], result["ties"]) == ("old", "new", 10, 30, 0)
    assert result["win_rate"] == pytest.approx(0.75) and result["low"] < 0.75 < result["high"]


# ---- the command


def test_what_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "palate.collect.web.server")
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(UsageError, match=r"'uvicorn'.*palate\[label\]"):
        label(tmp_path / "a.jsonl", Serving(), mode=None, overlap=None, gold=None, say=print)


def test_a_port_in_use_and_an_unreadable_guideline_are_said(tmp_path):
    file = written(tmp_path / "data.jsonl", PAIR)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match="--port auto"):
            label(file, Serving(port=port), mode=None, overlap=None, gold=None, say=print)
    serving = Serving(port=0, guidelines=tmp_path / "missing.md")
    with pytest.raises(DataError, match="guidelines"):
        label(file, serving, mode=None, overlap=None, gold=None, say=print)


@pytest.mark.parametrize(
    "words",
    [
        ("label",),
        ("label", "a.jsonl", "--compare", "b", "c"),
        ("label", "a.jsonl", "--port", "99999"),
        ("label", "a.jsonl", "--mode", "guess"),
        ("label", "missing.jsonl"),
        ("label", "missing.jsonl", "--host", "0.0.0.0"),
        ("label", "missing.jsonl", "--annotators", "a b"),
        ("label", "--compare", "missing.jsonl", "missing.jsonl"),
    ],
)
def test_wrong_use_ends_with_two(palate_command, words):
    result = palate_command(*words, *(() if "--port" in words else ("--port", "auto")))
    assert result.code == 2 and "Traceback" not in result.err
