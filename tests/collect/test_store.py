"""The store keeps what was acknowledged, changes nothing, and says so when the disk says no."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.collect import (
    Answer,
    Candidate,
    Edited,
    Item,
    Judgement,
    Order,
    Origin,
    Preference,
    Rater,
    Scores,
    Skipped,
    Store,
    Thumb,
    Written,
)
from palate.collect.judgements import answer_from_json, answer_to_json
from palate.errors import DataError, StoreError
from palate.records import Message, Prompt


def pair(question: str = "Name a colour.", wanted: int = 1, **others) -> Item:
    return Item(Prompt.of(question), (Candidate("Red."), Candidate("No.")), wanted=wanted, **others)


def vote(name: str, item: Item, rater: str = "ann", degree: int = 1) -> Judgement:
    return Judgement(name, item.id, rater, Preference(degree))


@pytest.fixture
def store(tmp_path: Path):
    with Store(tmp_path / "feedback.sqlite") as opened:
        yield opened


# ---- what is stored comes back

# Every code point, halves of surrogate pairs and NUL among them.
TEXTS = st.text(st.characters(codec=None, exclude_categories=()), max_size=30)
NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30).filter(str.isprintable)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
ORIGINS = st.builds(
    Origin,
    st.sampled_from(["model", "file", "person", "program"]),
    TEXTS,
    TEXTS,
    st.dictionaries(TEXTS, JSON, max_size=2),
)
DEGREES = st.builds(Preference, st.integers(-3, 3)) | st.just(Preference(0, both_bad=True))


def orders(count: int) -> st.SearchStrategy[Order]:
    def dense(ranks: list[int]) -> Order:
        steps = sorted(set(ranks))
        return Order(tuple(steps.index(rank) for rank in ranks))

    return st.lists(st.integers(0, 3), min_size=count, max_size=count).map(dense)


@st.composite
def questions(draw) -> tuple[Item, Answer]:
    """An item of any mode, and an answer to it."""
    mode = draw(st.sampled_from(["pair", "ranking", "rating", "thumbs", "demonstration", "edit"]))
    count = {"pair": 2, "rating": 1, "thumbs": 1, "demonstration": 0}.get(mode) or 0
    if mode in ("ranking", "edit"):
        count = draw(st.integers(2, 4))
    texts = draw(st.lists(TEXTS, min_size=count, max_size=count, unique=True))
    answers = {
        "pair": DEGREES,
        "ranking": orders(count),
        "rating": st.builds(Scores, st.dictionaries(TEXTS, NUMBERS, min_size=1, max_size=3)),
        "thumbs": st.builds(Thumb, st.booleans()),
        "demonstration": st.builds(Written, TEXTS),
        "edit": st.builds(Edited, st.integers(0, max(0, count - 1)), TEXTS),
    }[mode]
    item = Item(
        Prompt(
            tuple(draw(st.lists(st.builds(Message, st.sampled_from(["system", "user"]), TEXTS), min_size=1))),
            draw(st.dictionaries(TEXTS, JSON, max_size=3)),
        ),
        tuple(Candidate(text, tuple(draw(st.lists(ORIGINS, max_size=2)))) for text in texts),
        mode=mode,
        slice=draw(st.sampled_from(["random", "uncertain", "adversarial", "given"])),
        propensity=draw(st.floats(min_value=0, max_value=1, exclude_min=True)),
        wanted=draw(st.integers(1, 5)),
        round=draw(st.integers(1, 9)),
        expected=draw(st.none() | answers),
        repeats=draw(st.just("") | NAMES),
    )
    return item, draw(answers | st.builds(Skipped, TEXTS))


@settings(max_examples=25)
@given(
    asked=questions(),
    name=NAMES,
    rater=NAMES,
    note=TEXTS,
    tags=st.lists(TEXTS, max_size=3),
    seconds=st.floats(0, 1e9),
    at=st.floats(0, 1e12),
)
def test_whatever_is_stored_comes_back_as_it_was(tmp_path_factory, asked, name, rater, note, tags, seconds, at):
    item, answer = asked
    shown = tuple(reversed(range(len(item.candidates))))
    judgement = Judgement(name, item.id, rater, answer, shown, tuple(tags), note, seconds, "v1", at)
    path = tmp_path_factory.mktemp("store") / "feedback.sqlite"
    with Store(path) as opened:
        assert opened.add_items([item]) == 1
        assert opened.record(judgement)
        assert not opened.record(judgement)
    with Store(path) as opened:
        assert opened.items() == [item] and opened.item(item.id) == item
        assert opened.items()[0].prompt.fields == item.prompt.fields
        assert opened.judgements() == [judgement] == opened.judgements(rater)
    assert answer_from_json(json.loads(json.dumps(answer_to_json(answer)))) == answer


def test_a_text_of_ten_megabytes_comes_back(store):
    item = Item(Prompt.of("Tell a long story."), (), mode="demonstration")
    written = Judgement("long", item.id, "ann", Written("tale \U0001f409\n" * 1_700_000))
    store.add_items([item])
    store.record(written)
    assert store.judgements() == [written]


def test_an_item_is_named_by_what_is_asked():
    item = pair()
    assert item.id == dataclasses.replace(item, wanted=3, slice="random", propensity=0.5).id
    others = [
        pair("Name a number."),
        pair(round=2),
        pair(repeats=item.id),
        Item(item.prompt, item.candidates[::-1]),
        Item(item.prompt, item.candidates, mode="ranking"),
    ]
    assert len({item.id, *(other.id for other in others)}) == 6


@pytest.mark.parametrize(
    "given",
    [
        {},
        [],
        {"kind": "preference"},
        {"kind": ["preference"], "degree": 1},
        {"kind": "preference", "degree": 4},
        {"kind": "preference", "degree": 1.0},
        {"kind": "preference", "degree": True},
        {"kind": "preference", "degree": "1"},
        {"kind": "preference", "degree": 1, "both_bad": True},
        {"kind": "preference", "degree": 0, "both_bad": 1},
        {"kind": "preference", "degree": 0, "winner": "a"},
        {"kind": "order", "ranks": []},
        {"kind": "order", "ranks": [1, 2]},
        {"kind": "order", "ranks": [0, 10**12]},
        {"kind": "order", "ranks": [0.0, 1.0]},
        {"kind": "order", "ranks": "01"},
        {"kind": "scores", "scores": {}},
        {"kind": "scores", "scores": {"a": float("nan")}},
        {"kind": "scores", "scores": {"a": 10**400}},
        {"kind": "scores", "scores": {"a": True}},
        {"kind": "thumb", "up": "yes"},
        {"kind": "edited", "of": 0.5, "text": ""},
        {"kind": "written", "text": None},
        {"kind": "skipped", "reason": 3},
    ],
)
def test_no_answer_of_another_kind_or_type_is_taken(given):
    with pytest.raises(DataError, match=r"."):
        answer_from_json(given)


@pytest.mark.parametrize("name", ["", "x" * 201, "a\nb", "a\0b", "\ud800", 3])
def test_names_are_printable_and_short(store, name):
    for what in (
        lambda: Rater(name),
        lambda: Judgement(name, "item", "ann", Thumb(True)),
        lambda: Judgement("one", "item", name, Thumb(True)),
        lambda: store.add_guideline(name, "Be fair."),
    ):
        with pytest.raises(DataError, match="1 to 200 printable characters"):
            what()


def test_what_is_no_plain_json_is_refused_and_nothing_of_its_batch_is_stored(store):
    odd = Item(Prompt.of("Name a colour.", seen=float("nan")), (Candidate("Red."), Candidate("No.")))
    for fields in ({"seen": float("nan")}, {"seen": Path("x")}):
        with pytest.raises(DataError, match="no plain JSON"):
            store.add_items([pair("first"), dataclasses.replace(odd, prompt=Prompt.of("Name a colour.", **fields))])
    assert store.events() == []


# ---- what is refused


def test_a_judgement_must_answer_an_item_that_is_there(store):
    item = pair()
    with pytest.raises(DataError, match="has none of that name"):
        store.record(vote("one", item))
    store.add_items([item])
    for answer in (Thumb(True), Order((0, 1)), Written("Red."), Scores({"a": 1.0}), Edited(0, "Red!")):
        with pytest.raises(DataError, match="Answer with a preference"):
            store.record(Judgement("one", item.id, "ann", answer))
    for shown in ((0,), (0, 0), (1, 2), (0, 1, 2)):
        with pytest.raises(DataError, match="was shown"):
            store.record(dataclasses.replace(vote("one", item), shown=shown))
    assert store.judgements() == []
    assert store.record(Judgement("one", item.id, "ann", Skipped("too hard")))


def test_gold_must_be_an_answer_to_its_item():
    assert pair(expected=Preference(1)).expected == Preference(1)
    for answer in (Thumb(True), Skipped(), Order((0, 1))):
        with pytest.raises(DataError, match="does not answer it"):
            pair(expected=answer)


def test_all_judgements_of_a_batch_or_none(store):
    item = pair()
    store.add_items([item])
    with pytest.raises(DataError):
        store.record_all([vote("one", item), vote("two", pair("unknown"))])
    assert store.judgements() == []
    assert store.record_all([vote("one", item), vote("one", item), vote("two", item)]) == 2


def test_an_id_stands_for_one_judgement(store):
    item = pair()
    store.add_items([item])
    store.record(vote("one", item))
    for other in (vote("one", item, degree=2), vote("one", item, "ben")):
        with pytest.raises(DataError, match="stored already, with another content"):
            store.record(other)
    assert store.judgements() == [vote("one", item)]


def test_a_judgement_cannot_stand_for_an_event_of_another_kind(store):
    item, other = pair(), pair("Name a number.")
    store.add_items([item, other])
    store.record(vote("one", item))
    store.record(vote("retraction:one", item, "ben"))
    store.record(vote(f"item:{other.id}", item, "eve"))
    assert len(store.judgements()) == 3 and store.items() == [item, other]


def test_a_name_stands_for_one_rater_and_a_version_for_one_text(store):
    store.add_rater(Rater("gpt", "judge"))
    store.add_rater(Rater("gpt", "judge"))
    with pytest.raises(DataError, match="is on record as judge"):
        store.add_rater(Rater("gpt"))
    store.add_guideline("v1", "Be fair.")
    store.add_guideline("v1", "Be fair.")
    with pytest.raises(DataError, match="with another text"):
        store.add_guideline("v1", "Be quick.")
    assert store.raters() == {"gpt": Rater("gpt", "judge")} and store.guidelines() == {"v1": "Be fair."}
    with pytest.raises(DataError, match="human, judge, program"):
        Rater("ann", "robot")


# ---- append only


def test_no_event_can_be_changed_or_deleted(store):
    item = pair()
    store.add_items([item])
    store.record(vote("one", item))
    before = store.events()
    with sqlite3.connect(store.path) as other:
        for statement in (
            "UPDATE events SET rater = 'eve'",
            "UPDATE events SET id = 'x' WHERE kind = 'judgement'",
            "DELETE FROM events",
            "DELETE FROM events WHERE seq = 2",
        ):
            with pytest.raises(sqlite3.IntegrityError, match="never"):
                other.execute(statement)
    other.close()
    assert store.events() == before


def test_a_vote_that_is_taken_back_stays_in_the_log(store):
    item = pair()
    store.add_items([item])
    store.record(vote("one", item))
    with pytest.raises(DataError, match="there is none"):
        store.retract("one", "ben")
    with pytest.raises(DataError, match="there is none"):
        store.retract("two", "ann")
    assert store.retract("one", "ann") and not store.retract("one", "ann")
    assert store.judgements() == [] and store.waiting("eve") == [item]
    assert [event.kind for event in store.events()] == ["item", "judgement", "retraction"]
    assert not store.record(vote("one", item))  # sent again, late: it was stored, and is taken back
    assert store.judgements() == []
    assert store.record(vote("two", item, degree=-1))
    assert store.judgements() == [vote("two", item, degree=-1)] and store.waiting("eve") == []


# ---- who is asked


def test_items_wait_until_as_many_as_wanted_have_judged(store):
    first, second = pair("first", wanted=2), pair("second")
    store.add_items([first, second])
    assert store.waiting("ann", 9) == [first, second] and store.waiting("ann") == [first]
    store.record(vote("1", first, "ann"))
    store.record(vote("2", first, "ann", degree=-1))  # the same rater counts once
    assert store.waiting("ann", 9) == [second] and store.waiting("ben", 9) == [first, second]
    store.record(vote("3", first, "ben"))
    assert store.waiting("eve", 9) == [second]
    store.retract("1", "ann")
    assert store.waiting("eve", 9) == [second]
    store.retract("2", "ann")
    assert store.waiting("eve", 9) == [first, second]


def test_what_others_look_at_is_not_asked_twice(store):
    first, second = pair("first"), pair("second", wanted=2)
    store.add_items([first, second])
    soon = time.time() + 60
    store.lease_all([first.id], "ann", soon)
    store.lease_all([second.id], "ann", soon)
    assert store.waiting("ann", 9) == [first, second]
    assert store.waiting("ben", 9) == [second]
    store.lease_all([second.id], "ben", soon)
    assert store.waiting("eve", 9) == []
    store.record(vote("1", second, "ann"))  # a lease that was used counts once
    assert store.waiting("eve", 9) == [] and store.waiting("ben", 9) == [second]
    store.lease_all([second.id], "ben", 0.0)
    assert store.waiting("eve", 9) == [second]
    store.lease_all([first.id], "ann", time.time() - 1)
    assert store.waiting("eve", 9) == [first, second]


def test_gold_is_stored_though_its_question_is_asked_already(store):
    item, gold = pair(), pair(expected=Preference(-1))
    assert item.id != gold.id != pair(expected=Preference(-2)).id
    assert store.add_items([item]) == store.add_items([gold]) == 1
    assert store.items() == [item, gold] and store.waiting("ann", 9) == [item]


def test_hidden_items_wait_for_nobody(store):
    item = pair()
    store.add_items([item, pair("gold", expected=Preference(1)), pair(repeats=item.id)])
    assert store.waiting("ann", 9) == [item]


@settings(max_examples=30)
@given(
    st.lists(
        st.tuples(st.sampled_from("vr"), st.integers(0, 2), st.sampled_from(["ann", "ben", "eve"]), st.integers(0, 5)),
        max_size=25,
    )
)
def test_what_is_counted_is_what_the_log_says(tmp_path_factory, acts):
    items = [pair("a"), pair("b", wanted=2), pair("c", wanted=3)]
    with Store(tmp_path_factory.mktemp("store") / "feedback.sqlite") as opened:
        opened.add_items(items)
        standing: dict[str, tuple[int, str]] = {}
        said: dict[str, str] = {}
        for act, place, rater, number in acts:
            name = f"{place}{rater}{number}"
            if act == "v":
                if opened.record(vote(name, items[place], rater)):
                    standing[name], said[name] = (place, rater), rater
            elif name in said:
                opened.retract(name, rater)
                standing.pop(name, None)
        assert [one.id for one in opened.judgements()] == [name for name in said if name in standing]
        raters = [{rater for at, rater in standing.values() if at == place} for place in range(3)]
        for rater in ("ann", "ben", "eve"):
            open_to = [
                one for one, who in zip(items, raters, strict=True) if len(who) < one.wanted and rater not in who
            ]
            assert opened.waiting(rater, 9) == open_to


def test_the_next_item_comes_at_once_however_many_were_judged(store):
    items = [pair(f"Question {number}. {'word ' * 40}") for number in range(4_000)]
    store.add_items(items)
    store.record_all([vote(str(number), item) for number, item in enumerate(items[:3_990])])
    times = []
    for rater in ("ann", "ben") * 5:
        begun = time.perf_counter()
        assert store.waiting(rater, 3) == items[3_990:3_993]
        times.append(time.perf_counter() - begun)
    assert min(times) < 0.02  # without an index over what is open it is a second


# ---- several at once


def test_threads_share_a_store(store):
    """32 threads × 10 votes; with 100 votes each it is the slow test below."""
    hammered(store, threads=32, votes=10)


@pytest.mark.slow
def test_thirty_two_threads_of_a_hundred_votes(store):
    hammered(store, threads=32, votes=100)


def hammered(store: Store, threads: int, votes: int) -> None:
    items = [pair(f"Question {number}") for number in range(votes)]
    store.add_items(items)

    def voting(number: int) -> int:
        rater = f"rater {number}"
        store.add_rater(Rater(rater))
        return sum(store.record(vote(f"{number}-{place}", item, rater)) for place, item in enumerate(items))

    with ThreadPoolExecutor(threads) as pool:
        assert list(pool.map(voting, range(threads))) == [votes] * threads
    names = [judgement.id for judgement in store.judgements()]
    assert len(names) == threads * votes and set(names) == {f"{t}-{v}" for t in range(threads) for v in range(votes)}


VOTING = """
import sys
from palate.collect import Candidate, Item, Judgement, Preference, Store
from palate.records import Prompt
with Store(sys.argv[1]) as store:
    item = Item(Prompt.of("Name a colour."), (Candidate("Red."), Candidate("No.")), wanted=100)
    store.add_items([item])
    for number in range(40):
        store.record(Judgement(f"{sys.argv[2]}-{number}", item.id, sys.argv[2], Preference(1)))
"""


def test_processes_make_and_share_one_file(tmp_path):
    path = tmp_path / "feedback.sqlite"
    processes = [subprocess.Popen([sys.executable, "-c", VOTING, path, str(number)]) for number in range(4)]
    assert [process.wait(120) for process in processes] == [0, 0, 0, 0]
    with Store(path) as opened:
        assert len(opened.items()) == 1
        assert {one.id for one in opened.judgements()} == {f"{p}-{v}" for p in range(4) for v in range(40)}


def test_many_open_a_new_file_at_once(tmp_path):
    path, ready = tmp_path / "feedback.sqlite", threading.Barrier(16)

    def opening(_: int) -> int:
        ready.wait()
        with Store(path) as opened:
            return len(opened.waiting("ann"))

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(opening, range(16))) == [0] * 16


# ---- what is no store, and what the disk refuses


def other_program(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE mine (x)")
    connection.close()


def other_version(path: Path) -> None:
    Store(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 2")
    connection.close()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (other_program, "another program's database"),
        (other_version, "of version 2, and this Palate reads version 1"),
        (lambda path: path.write_text("prompt,chosen,rejected\n" * 100), "file is not a database"),
        (lambda path: path.mkdir(), "unable to open"),
    ],
)
def test_what_is_no_store_of_ours_is_refused_and_left_alone(tmp_path, make: Callable[[Path], None], reason):
    path = tmp_path / "feedback.sqlite"
    make(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(StoreError, match=reason):
        Store(path)
    assert before is None or path.read_bytes() == before


def test_a_directory_that_cannot_be_written_is_refused():
    with pytest.raises(StoreError, match="cannot be opened"):
        Store("/proc/feedback.sqlite")


def test_who_only_reads_makes_no_store(tmp_path):
    with pytest.raises(DataError, match="there is no store"):
        Store.existing(tmp_path / "feedback.sqlite")
    assert list(tmp_path.iterdir()) == []


def test_a_closed_store_says_so(tmp_path):
    opened = Store(tmp_path / "feedback.sqlite")
    opened.close()
    with pytest.raises(StoreError, match="closed"):
        opened.items()


def test_a_full_disk_refuses_the_vote_and_loses_none(store):
    item = Item(Prompt.of("Tell a story."), (), mode="demonstration", wanted=99)
    store.add_items([item])
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count = {pages + 20}")
    acknowledged: list[str] = []
    with pytest.raises(StoreError, match=r"was not stored \(database or disk is full\)") as refused:
        for number in range(1_000):
            store.record(Judgement(str(number), item.id, "ann", Written("x" * 5_000)))
            acknowledged.append(str(number))
    assert "everything acknowledged before is there" in str(refused.value)
    assert 0 < len(acknowledged) < 30
    assert [one.id for one in store.judgements()] == acknowledged
    with pytest.raises(StoreError):
        store.record_all(Judgement(f"b{number}", item.id, "ann", Written("x" * 5_000)) for number in range(9))
    assert [one.id for one in store.judgements()] == acknowledged
    store._connection.execute("PRAGMA max_page_count = 1000000")  # room was made
    assert store.record(Judgement(str(len(acknowledged)), item.id, "ann", Written("x" * 5_000)))
    with Store(store.path) as again:
        assert len(again.judgements()) == len(acknowledged) + 1


FILLING = """
import resource, sys
from palate.collect import Item, Judgement, Store, Written
from palate.errors import StoreError
from palate.records import Prompt
with Store(sys.argv[1]) as store:
    item = Item(Prompt.of("Tell a story."), (), mode="demonstration", wanted=9)
    store.add_items([item])
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
    for number in range(10_000):
        try:
            store.record(Judgement(str(number), item.id, "ann", Written("x" * 5_000)))
        except StoreError as error:
            print("refused", error)
            break
        print(number, flush=True)
"""


def test_a_file_that_may_not_grow_refuses_the_vote_and_loses_none(tmp_path):
    path = tmp_path / "feedback.sqlite"
    done = subprocess.run([sys.executable, "-c", FILLING, path], capture_output=True, text=True, timeout=120)
    *acknowledged, refused = done.stdout.splitlines()
    assert done.returncode == 0 and refused.startswith("refused") and "was not stored" in refused, done.stderr
    assert len(acknowledged) > 3
    with Store(path) as opened:
        assert [one.id for one in opened.judgements()] == acknowledged


def test_the_store_survives_its_process_being_killed_in_a_transaction(tmp_path):
    path = tmp_path / "feedback.sqlite"
    killed = """
import os, signal, sys
from palate.collect import Candidate, Item, Judgement, Preference, Store
from palate.records import Prompt
store = Store(sys.argv[1])
item = Item(Prompt.of("Name a colour."), (Candidate("Red."), Candidate("No.")))
store.add_items([item])
store.record(Judgement("acknowledged", item.id, "ann", Preference(1)))
def dying():
    yield Judgement("half", item.id, "ann", Preference(1))
    os.kill(os.getpid(), signal.SIGKILL)
store.record_all(dying())
"""
    done = subprocess.run([sys.executable, "-c", killed, path], timeout=120)
    assert done.returncode == -9
    with Store(path) as opened:
        assert [one.id for one in opened.judgements()] == ["acknowledged"]


def test_every_acknowledged_event_is_flushed(store):
    assert store._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
