"""The label server: what a rater is asked and in which order, and that every answer is stored once, as it was meant."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.client import HTTPConnection
from typing import Any
from unittest import mock

import pytest
from starlette.testclient import TestClient

from palate.collect import Candidate, Edited, Item, Order, Origin, Preference, Rater, Scores, Skipped, Store, Thumb
from palate.collect.judgements import MODES, REASONS, Judgement, Written
from palate.collect.web import queue, server
from palate.collect.web.queue import Desk, answer_of
from palate.collect.web.security import LOOPBACK, Access
from palate.errors import DataError
from palate.records import Prompt

OPEN = Access(b"secret" * 8, open=True)


def pairs(count: int, wanted: int = 1) -> list[Item]:
    return [
        Item(
            Prompt.of(f"question {number}", hint="a hidden column"),
            (
                Candidate(f"one {number}", (Origin("model", "secret-model"),)),
                Candidate(f"two {number}", (Origin("model", "other-model"),)),
            ),
            slice="uncertain",
            wanted=wanted,
        )
        for number in range(count)
    ]


@pytest.fixture
def store(tmp_path):
    """A store whose random orders are the same on every run: they follow from its first event and its time."""
    with Store(tmp_path / "feedback.sqlite") as opened:
        with mock.patch.object(time, "time", return_value=1e9):
            opened.add_guideline("v1", "Prefer what helps.")
        yield opened


def client(store: Store, items: list[Item] = (), *, name: str = "", access: Access = OPEN, **given: Any) -> TestClient:  # pyright: ignore[reportArgumentType]
    """A browser at a server on the store; with the items in it, under a name."""
    store.add_items(items)
    desk = Desk(store, repeat_share=given.pop("repeat_share", 0.0), guideline="v1")
    app = server.application(desk, access, server.Showing(**given), LOOPBACK)
    browser = TestClient(app, base_url="http://127.0.0.1:8765")
    if name:
        assert browser.get(f"/?as={name}").status_code == 200
    return browser


def another(browser: TestClient, name: str) -> TestClient:
    """A second browser at the same server."""
    second = TestClient(browser.app, base_url="http://127.0.0.1:8765")
    second.get(f"/?as={name}")
    return second


def ask(browser: TestClient, count: int = 1, have: str = "") -> list[dict[str, Any]]:
    return browser.get(f"/api/next?count={count}&have={have}").json()["items"]


LEFT = {"kind": "preference", "degree": -2, "both_bad": False}


def ballot(item: str, answer: dict[str, Any] = LEFT, name: str = "", **more: Any) -> dict[str, Any]:
    return {"id": name or f"vote-{item}", "item": item, "answer": answer, "seconds": 2.0, "at": 1e9, **more}


def vote(browser: TestClient, *votes: dict[str, Any]) -> dict[str, Any]:
    answer = browser.post("/api/votes", json={"votes": list(votes)})
    assert answer.status_code == 200, answer.text
    return answer.json()


def judge(browser: TestClient, times: int, prefix: str = "vote") -> list[str]:
    """Takes the first of what is asked, so many times; the items in order."""
    asked = []
    for _ in range(times):
        item = ask(browser)[0]["id"]
        assert vote(browser, ballot(item, name=f"{prefix}-{item}"))["stored"]
        asked.append(item)
    return asked


# ---- one rater


def test_a_vote_is_stored_in_terms_of_completions(store):
    browser = client(store, pairs(20))
    for item in ask(browser, 20):
        vote(browser, ballot(item["id"], tags=["clear"], note="short"))
    orders = set()
    for judgement in store.judgements():
        item = store.item(judgement.item)
        assert item is not None
        # The left one was better by 2: the first completion where it stood left, else the second.
        assert judgement.answer == Preference(-2 if judgement.shown == (0, 1) else 2)
        assert judgement.tags == ("clear",) and judgement.note == "short"
        assert (judgement.guideline, judgement.seconds, judgement.rater) == ("v1", 2.0, "me")
        orders.add(judgement.shown)
    assert orders == {(0, 1), (1, 0)} and len(store.judgements()) == 20


def test_what_is_shown_stands_in_the_shown_order(store):
    browser = client(store, pairs(8))
    for item in ask(browser, 8):
        texts = [place["text"] for place in item["places"]]
        vote(browser, ballot(item["id"]))
        judgement = store.judgements()[-1]
        stored = store.item(item["id"])
        assert stored and texts == [stored.candidates[index].text for index in judgement.shown]


def test_the_order_is_random_by_rater_and_item_and_the_same_after_a_restart(store):
    browser = client(store, pairs(200, wanted=2))
    desk = Desk(store)
    items = store.items()
    ann, bob = ([desk.shown(name, item) for item in items] for name in ("ann", "bob"))
    # 200 fair tosses: 100 ± 7 each; four standard deviations are 28.
    assert abs(ann.count((0, 1)) - 100) < 28
    assert abs(sum(one == other for one, other in zip(ann, bob, strict=True)) - 100) < 28
    again = Desk(Store(store.path))
    assert [again.shown("ann", item) for item in items] == ann
    again.store.close()
    assert [p["text"] for p in ask(browser)[0]["places"]] == [p["text"] for p in ask(browser)[0]["places"]]


def test_the_same_vote_twice_is_stored_once_and_acknowledged_twice(store):
    browser = client(store, pairs(1))
    sent = ballot(ask(browser)[0]["id"])
    assert vote(browser, sent)["stored"] == vote(browser, sent)["stored"] == [sent["id"]]
    assert vote(browser, {**sent, "at": 5.0})["stored"] == [sent["id"]]
    assert len(store.events("judgement")) == 1
    refused = vote(browser, {**sent, "answer": {**LEFT, "degree": 3}})["refused"]
    assert [one["id"] for one in refused] == [sent["id"]] and "another content" in refused[0]["reason"]


def test_a_vote_sent_again_after_the_guidelines_changed_is_the_same_vote(store):
    browser = client(store, pairs(1))
    sent = ballot(ask(browser)[0]["id"])
    vote(browser, sent)
    app = server.application(Desk(store, guideline="v2"), OPEN, server.Showing(), LOOPBACK)
    later = TestClient(app, base_url="http://localhost")
    assert vote(later, sent)["stored"] == [sent["id"]]


def test_a_second_judgement_of_one_item_is_refused_until_the_first_is_taken_back(store):
    browser = client(store, pairs(1))
    item = ask(browser)[0]["id"]
    vote(browser, ballot(item, name="first-vote"))
    assert vote(browser, ballot(item, name="second-vote"))["refused"]
    assert browser.post("/api/undo", json={"id": "first-vote"}).json()["item"]["id"] == item
    assert vote(browser, ballot(item, name="second-vote"))["stored"] == ["second-vote"]
    assert [one.id for one in store.judgements()] == ["second-vote"]


def test_undo_goes_back_without_limit_and_after_a_restart(store):
    judged = judge(client(store, pairs(12)), 12)
    browser = client(store)
    history = browser.get("/api/history").json()["judgements"]
    assert [one["item"] for one in history] == judged[::-1]
    assert len(browser.get("/api/history?limit=5").json()["judgements"]) == 5
    for one in history:
        answer = browser.post("/api/undo", json={"id": one["id"]}).json()
        assert answer["item"]["id"] == one["item"] and answer["item"]["places"]
    assert store.judgements() == [] and len(store.events("retraction")) == 12
    assert answer["done"] == 0 and answer["left"] == 12
    assert {item["id"] for item in ask(browser, 12)} == set(judged)


def test_nobody_takes_back_what_another_said(store):
    ann = client(store, pairs(1), name="ann")
    item = judge(ann, 1)[0]
    answer = another(ann, "bob").post("/api/undo", json={"id": f"vote-{item}"})
    assert answer.status_code == 400 and len(store.judgements()) == 1


def test_after_a_reload_come_the_items_that_were_on_the_page(store):
    browser = client(store, pairs(30))
    first = [item["id"] for item in ask(browser, 3)]
    assert [item["id"] for item in ask(browser, 3)] == first
    more = [item["id"] for item in ask(browser, 2, ",".join(first))]
    assert len({*first, *more}) == 5


def test_progress_counts_down_by_one_and_gives_the_pace(store):
    browser = client(store, pairs(4))
    session = browser.get("/api/session").json()
    assert (session["done"], session["left"], session["missing"], session["pace_seconds"]) == (0, 4, 4, None)
    assert session["reasons"] == list(REASONS)
    for seconds in (1.0, 9.0, 2.0):
        item = ask(browser)[0]["id"]
        answer = vote(browser, ballot(item, seconds=seconds))
    assert (answer["done"], answer["left"], answer["pace_seconds"]) == (3, 1, 2.0)


@pytest.mark.parametrize(
    ("given", "shown", "answer"),
    [
        ({"kind": "preference", "degree": -3}, (1, 0), Preference(3)),
        ({"kind": "preference", "degree": 0, "both_bad": True}, (1, 0), Preference(0, True)),
        # Places 0, 1, 2 hold completions 2, 0, 1: place 0 is the worst, so completion 2 has rank 2.
        ({"kind": "order", "ranks": [2, 0, 1]}, (2, 0, 1), Order((0, 1, 2))),
        ({"kind": "order", "ranks": [0, 0, 1]}, (1, 2, 0), Order((1, 0, 0))),
        ({"kind": "edited", "of": 0, "text": "better"}, (2, 0, 1), Edited(2, "better")),
        ({"kind": "thumb", "up": False}, (0,), Thumb(False)),
        ({"kind": "written", "text": "mine"}, (), Written("mine")),
        ({"kind": "scores", "scores": {"quality": 4}}, (0,), Scores({"quality": 4.0})),
        ({"kind": "skipped", "reason": "unclear"}, (1, 0), Skipped("unclear")),
    ],
)
def test_answers_in_places_mean_completions(given, shown, answer):
    assert answer_of(given, shown) == answer


@pytest.mark.parametrize(
    "given",
    [
        *(None, [], {}, {"kind": "no"}, {"kind": ["preference"]}, {"kind": "preference"}),
        *({"kind": "preference", "degree": one} for one in (4, 1.5, True, "1", None)),
        {"kind": "preference", "degree": 1, "both_bad": True},
        *({"kind": "order", "ranks": one} for one in ([0], [0, 2], [0, 0.5], [0, True], "01", None)),
        *({"kind": "edited", "of": one, "text": "x"} for one in (2, -1, True, None)),
        *({"kind": "scores", "scores": one} for one in ({}, {"a": float("nan")}, {"a": True}, [1], {"a": "1"})),
        *({"kind": "written", "text": one} for one in (None, 3, "x" * 200_001)),
        {"kind": "thumb", "up": 1},
    ],
)
def test_an_answer_that_is_none_is_refused(given):
    with pytest.raises(DataError):
        answer_of(given, (1, 0))


@pytest.mark.parametrize(
    "change",
    [
        *({"id": one} for one in (None, "", "short", "a b c d e f", "x" * 81, 12345678, "ümläut-ümläut")),
        *({"item": one} for one in (None, "item-unknown")),
        *({"seconds": one} for one in (-1, "2", None, True, float("inf"))),
        *({"at": one} for one in (-1, "now", float("nan"))),
        *({"tags": one} for one in ("a", [1], ["x"] * 51, ["x" * 101])),
        *({"note": one} for one in (1, "x" * 10_001)),
        {"answer": {"kind": "thumb", "up": True}},
    ],
)
def test_a_bad_vote_is_refused_by_itself(store, change):
    browser = client(store, pairs(2))
    good, bad = (ballot(item["id"]) for item in ask(browser, 2))
    body = json.dumps({"votes": [{**bad, **change}, good]})
    answer = browser.post("/api/votes", content=body, headers={"content-type": "application/json"}).json()
    assert answer["stored"] == [good["id"]] and len(answer["refused"]) == 1
    assert len(store.judgements()) == 1


@pytest.mark.parametrize("body", ["", "{", "[]", '"votes"', '{"votes": 1}', "{}", "[" * 200_000, b"\xff\xfe"])
def test_what_is_no_vote_at_all_is_refused(store, body):
    answer = client(store).post("/api/votes", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400 and answer.json()["error"]


def test_too_many_votes_at_once_are_refused(store):
    assert client(store).post("/api/votes", json={"votes": [{}] * 201}).status_code == 400


# ---- every mode


def test_every_mode_is_asked_and_answered(store):
    texts = tuple(Candidate(text) for text in ("a", "b", "c"))
    asked = {
        "ranking": (texts, {"kind": "order", "ranks": [0, 1, 2]}),
        "rating": (texts[:1], {"kind": "scores", "scores": {"helpfulness": 3, "honesty": 1.5}}),
        "thumbs": (texts[:1], {"kind": "thumb", "up": True}),
        "demonstration": ((), {"kind": "written", "text": "My own answer."}),
        "edit": (texts, {"kind": "edited", "of": 1, "text": "Better."}),
    }
    fields = {"attributes": ["helpfulness", "honesty"]}
    items = [Item(Prompt.of(mode, **fields), asked[mode][0], mode=mode) for mode in MODES if mode in asked]
    browser = client(store, items)
    for item in ask(browser, 10):
        assert len(item["places"]) == len(asked[item["mode"]][0])
        assert item.get("attributes") == (fields["attributes"] if item["mode"] == "rating" else None)
        assert vote(browser, ballot(item["id"], asked[item["mode"]][1]))["stored"]
    said = {store.item(one.item).mode: one for one in store.judgements()}  # pyright: ignore[reportOptionalMemberAccess]
    assert said.keys() == asked.keys()
    edited, order = said["edit"], said["ranking"]
    assert edited.answer == Edited(edited.shown[1], "Better.")
    assert isinstance(order.answer, Order) and [order.answer.ranks[index] for index in order.shown] == [0, 1, 2]


def test_half_a_surrogate_pair_goes_through(store):
    item = Item(Prompt.of("half \ud83d"), (Candidate("\udc00 a"), Candidate("b")))
    browser = client(store, [item])
    asked = browser.get("/api/next").content
    assert b"\\ud83d" in asked
    body = json.dumps({"votes": [ballot(item.id, note="\ud83d")]})
    answer = browser.post("/api/votes", content=body, headers={"content-type": "application/json"})
    assert answer.json()["stored"] and store.judgements()[0].note == "\ud83d"


# ---- several raters


def test_two_raters_share_the_work_and_nothing_is_done_twice(store):
    ann = client(store, pairs(10), name="ann")
    bob = another(ann, "bob")
    first, second = ask(ann, 3), ask(bob, 3)
    assert not {one["id"] for one in first} & {one["id"] for one in second}
    judged = [item for _ in range(5) for browser in (ann, bob) for item in judge(browser, 1)]
    assert len(set(judged)) == 10 and ask(ann) == ask(bob) == []
    assert Counter(one.rater for one in store.judgements()) == {"ann": 5, "bob": 5}


def test_overlap_asks_as_many_as_are_wanted_and_no_more(store):
    ann = client(store, pairs(4, wanted=2), name="ann")
    raters = [ann, another(ann, "bob"), another(ann, "cat")]
    assert len(ask(raters[0], 9)) == len(ask(raters[1], 9)) == 4
    assert ask(raters[2], 9) == []
    assert raters[2].get("/api/session").json()["missing"] == 8
    judge(raters[0], 4)
    assert raters[2].get("/api/session").json()["missing"] == 4
    assert ask(raters[2], 9) == []
    store.lease_all([item.id for item in store.items()], "bob", 0.0)
    assert len(ask(raters[2], 9)) == 4


def test_a_lease_runs_out_and_is_renewed(store, monkeypatch):
    ann = client(store, pairs(1), name="ann")
    bob = another(ann, "bob")
    monkeypatch.setattr(queue, "LEASE_SECONDS", 0.05)
    item = ask(ann)[0]["id"]
    time.sleep(0.06)
    assert [one["id"] for one in ask(bob)] == [item]
    monkeypatch.setattr(queue, "LEASE_SECONDS", 60.0)
    time.sleep(0.06)
    assert ask(ann, 1, have=item) == []
    assert ask(bob) == []
    vote(ann, ballot(item))
    assert ask(bob) == []


def test_a_late_vote_is_kept_though_enough_have_judged(store):
    ann = client(store, pairs(1), name="ann")
    bob = another(ann, "bob")
    item = ask(ann)[0]["id"]
    store.lease_all([item], "ann", 0.0)
    judge(bob, 1)
    assert vote(ann, ballot(item, name="late-vote"))["stored"] and len(store.judgements()) == 2


def test_what_a_judge_said_leaves_the_item_to_people(store):
    browser = client(store, pairs(3))
    store.add_rater(Rater("llm", "judge"))
    for item in store.items():
        store.record(Judgement(f"llm-{item.id}", item.id, "llm", Preference(1)))
    assert len(ask(browser, 5)) == 3 and browser.get("/api/session").json()["missing"] == 3


def test_what_another_process_stores_is_asked_and_counted(store):
    browser = client(store)
    assert ask(browser) == []
    with Store(store.path) as other:
        other.add_items(pairs(2))
        item = ask(browser)[0]["id"]
        other.record(Judgement("elsewhere", item, "bob", Preference(0)))
        assert browser.get("/api/session").json()["missing"] == 1
        # What stands on the page stays there, though enough have judged it since.
        assert [one["id"] for one in ask(browser, 5)] == [one.id for one in pairs(2)]


def test_a_judges_name_is_no_persons(store):
    store.add_rater(Rater("llm", "judge"))
    browser = client(store, pairs(1), name="llm")
    assert browser.get("/api/session").status_code == 400
    assert vote(browser, ballot(store.items()[0].id))["refused"]


def test_a_page_does_not_vote_under_the_name_that_its_browser_took_since(store):
    browser = client(store, pairs(2), name="ann")
    item = ask(browser)[0]["id"]
    browser.get("/?as=bob")
    for address, body in (("/api/votes", {"votes": [ballot(item)]}), ("/api/undo", {"id": "vote-one"})):
        assert browser.post(address, json={"rater": "ann", **body}).status_code == 409
    assert store.judgements() == []
    browser.get("/?as=ann")
    assert browser.post("/api/votes", json={"rater": "ann", "votes": [ballot(item)]}).json()["stored"]
    assert [one.rater for one in store.judgements()] == ["ann"]


def test_a_page_of_another_store_is_neither_heard_nor_served(store, tmp_path):
    """At the same address another store may be served since: it knows the same items, in another order of places."""
    page = client(store, pairs(2))
    own, item = page.get("/api/session").json()["store"], ask(page)[0]["id"]
    with Store(tmp_path / "copy.sqlite") as copy:
        since = client(copy, pairs(2))
        assert since.get("/api/session").json()["store"] != own
        for address, body in (("/api/votes", {"votes": [ballot(item)]}), ("/api/undo", {"id": "vote-one"})):
            answer = since.post(address, json={"rater": "me", "store": own, **body})
            assert answer.status_code == 409 and "other feedback" in answer.json()["error"]
        for address in ("/api/next", "/api/history"):
            assert since.get(address, params={"store": own}).status_code == 409
        assert copy.judgements() == [] and copy.leases() == []
    assert page.post("/api/votes", json={"store": own, "votes": [ballot(item)]}).json()["stored"]
    assert page.get("/api/next", params={"store": own}).status_code == 200


def test_a_vote_keeps_the_guidelines_that_its_page_showed(store):
    """The tab was open before the server started again with others."""
    first, second, third = pairs(3)
    client(store, [first, second, third])
    store.add_guideline("v2", "Prefer what is short.")
    app = server.application(Desk(store, guideline="v2"), OPEN, server.Showing(), LOOPBACK)
    later = TestClient(app, base_url="http://127.0.0.1:8765")
    assert later.get("/api/next").json()["guideline"] == "v2"
    assert vote(later, ballot(first.id, guideline="v1"), ballot(second.id, guideline="v2"), ballot(third.id))["stored"]
    assert [one.guideline for one in store.judgements()] == ["v1", "v2", "v2"]
    for unknown in ("v3", 1, None, {}):
        assert vote(later, ballot(third.id, name="another-vote", guideline=unknown))["refused"]


def test_the_result_is_peoples_though_a_judge_answered_the_same_store(store):
    """`palate judge --compare A B` and `palate label --compare A B` meet in one store."""
    items = [
        Item(
            Prompt.of(f"question {row}"),
            (Candidate(f"one {row}", (Origin("file", "A"),)), Candidate(f"two {row}", (Origin("file", "B"),))),
        )
        for row in range(3)
    ]
    page = client(store, items, experiment="compare")
    store.add_raters([Rater("ann"), Rater("m@1", "judge")])
    store.record_all(Judgement(f"judge-{row}", item.id, "m@1", Preference(-1)) for row, item in enumerate(items))
    store.record_all(Judgement(f"person-{row}", item.id, "ann", Preference(2)) for row, item in enumerate(items))
    result = page.get("/api/result").json()
    assert (result["wins_a"], result["wins_b"], result["win_rate"]) == (0, 3, 1.0)


# ---- hidden items


def test_repetitions_come_later_and_count_down_like_any_other(store):
    browser = client(store, pairs(60), repeat_share=0.2)
    left, order, repeated = browser.get("/api/session").json()["left"], [], []
    assert 60 < left < 60 + 30
    for _ in range(left):
        item = ask(browser)[0]["id"]
        order.append(item)
        answer = vote(browser, ballot(item))
        assert answer["left"] == left - len(order)
    assert ask(browser) == []
    stored = {item.id: item for item in store.items()}
    for place, name in enumerate(order):
        original = stored[name].repeats
        if original:
            repeated.append(place - order.index(original))
            assert stored[name] == replace(stored[original], repeats=original)
    assert len(repeated) == left - 60 and Counter(order).most_common(1)[0][1] == 1
    # Near the end there is too little left to put between.
    assert sum(distance >= queue.SOONEST for distance in repeated) >= 0.6 * len(repeated)
    assert Desk(store).missing() == 0


def test_repetitions_that_are_in_the_store_already_are_asked_too(store):
    items = pairs(12)
    planted = [replace(item, repeats=item.id) for item in items[:2]]
    browser = client(store, [*items, *planted], repeat_share=0.0)
    left = browser.get("/api/session").json()["left"]
    order = judge(browser, left)
    assert left == 14 and {one.id for one in planted} < set(order) and ask(browser) == []
    assert order.index(planted[0].id) - order.index(items[0].id) >= queue.SOONEST


def test_a_repetition_is_for_who_judged_the_original(store):
    ann = client(store, pairs(30), name="ann", repeat_share=1.0)
    judge(ann, 29)
    bob = another(ann, "bob")
    asked = [store.item(one["id"]) for one in ask(bob, 20)]
    assert asked and not any(item is not None and item.repeats for item in asked)


def test_gold_is_mixed_in_at_its_rate_and_asked_of_everyone(store):
    gold = [
        replace(item, prompt=Prompt.of(f"gold {number}"), expected=Preference(-1))
        for number, item in enumerate(pairs(4))
    ]
    ann = client(store, [*gold, *pairs(76)], name="ann")
    order = judge(ann, 40)
    known = {item.id for item in gold}
    # A share of .05 of 40 is 2 ± 1.4, and four at most are there.
    assert 0 < sum(item in known for item in order) < 4
    assert ann.get("/api/session").json()["left"] == 80 - 40
    bob = another(ann, "bob")
    judge(bob, bob.get("/api/session").json()["left"], "bob")
    assert {one.item for one in store.judgements("bob")} >= known


def test_no_page_ever_learns_of_models_slices_or_gold(store):
    gold = replace(pairs(1)[0], prompt=Prompt.of("gold"), expected=Preference(-1))
    browser = client(store, [gold, *pairs(30)], repeat_share=0.5, tags=("clear",))
    seen = [browser.get(path).text for path in ("/", "/api/session", "/api/result", "/api/nothing")]
    while item := ask(browser, 1):
        seen += [json.dumps(item), json.dumps(vote(browser, ballot(item[0]["id"])))]
        assert item[0].keys() == {"id", "mode", "messages", "places"}
    seen += [browser.get("/api/history").text, browser.post("/api/undo", json={"id": f"vote-{gold.id}"}).text]
    assert Desk(store).missing() == 0 and len(seen) > 60
    for word in ("model", "uncertain", "expected", "repeats", "slice", "origin", "propensity", "a hidden column"):
        assert not [text for text in seen[1:] if re.search(word, text)], word


# ---- the disk, and many at once


def test_a_full_disk_is_said_and_loses_nothing(store):
    browser = client(store, pairs(60))
    judge(browser, 3)
    connection = store._connection
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages + 1}")
    kept, said = [], 0
    for item in store.items()[3:]:
        sent = ballot(item.id, note="a long note " * 100)
        answer = browser.post("/api/votes", json={"votes": [sent]})
        if answer.status_code == 503:
            said += 1
            assert "disk" in answer.json()["error"] and str(store.path) not in answer.text
            kept.append(sent)
        else:
            assert answer.json()["stored"]
    assert said and kept
    connection.execute("PRAGMA max_page_count = 1000000")
    for sent in kept:
        assert vote(browser, sent)["stored"]
    assert len(store.judgements()) == 60 and Desk(store).missing() == 0


@pytest.fixture
def running(store):
    """`running(items)` serves a store on a real socket of this process; the port."""
    started: list[tuple[Any, threading.Thread]] = []

    def start(items: list[Item], **given: Any) -> int:
        browser = client(store, items, **given)
        listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        ready, serving = threading.Event(), server.server(browser.app)
        thread = threading.Thread(target=server.serve, args=(serving, listener, ready.set))
        thread.start()
        started.append((serving, thread))
        assert ready.wait(10)
        return listener.getsockname()[1]

    yield start
    for serving, thread in started:
        serving.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


def hammer(port: int, rater: str, items: list[str]) -> int:
    """Votes on each item over one connection; how many were acknowledged."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", f"/?as={rater}")
    answer = connection.getresponse()
    answer.read()
    cookie = str(answer.getheader("set-cookie")).partition(";")[0]
    stored = 0
    for item in items:
        body = json.dumps({"votes": [ballot(item, name=f"{rater}-{item}")]})
        connection.request("POST", "/api/votes", body, {"content-type": "application/json", "cookie": cookie})
        answer = connection.getresponse()
        stored += len(json.loads(answer.read())["stored"])
        assert answer.status == 200
    connection.close()
    return stored


def test_many_clients_at_once(store, running):
    port = running(pairs(20, wanted=8))
    items = [item.id for item in store.items()]
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(lambda rater: hammer(port, rater, items), [f"rater-{n}" for n in range(8)])) == 160
    assert len(store.judgements()) == 160 and Desk(store).missing() == 0


@pytest.mark.slow
def test_thirty_two_clients_of_a_hundred_votes(store, running):
    port = running(pairs(100, wanted=32))
    items = [item.id for item in store.items()]
    with ThreadPoolExecutor(32) as pool:
        assert sum(pool.map(lambda rater: hammer(port, rater, items), [f"rater-{n}" for n in range(32)])) == 3200
    assert len(store.judgements()) == 3200 and Desk(store).missing() == 0


# ---- a deployed model's log


def test_thumbs_of_a_deployed_model(store):
    browser = client(store, log=True)
    headers = {"authorization": f"Bearer {OPEN.log_token}"}
    thumb = {"prompt": "2 + 2?", "completion": "5", "up": False, "model": "ours", "note": "no", "id": "request-1"}
    for _ in range(2):
        assert browser.post("/api/log", json=thumb, headers=headers).json() == {"stored": "log:request-1"}
    turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    answer = browser.post("/api/log", json={"messages": turns, "completion": "Hello", "up": True}, headers=headers)
    assert answer.status_code == 200
    one, other = store.judgements()
    item = store.item(one.item)
    assert item is not None and item.mode == "thumbs"
    assert item.candidates == (Candidate("5", (Origin("model", "ours"),)),)
    assert (one.answer, one.note, other.answer) == (Thumb(False), "no", Thumb(True))
    assert store.raters()[one.rater] == Rater("user:log") and Desk(store).missing() == 0 and ask(browser) == []


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer no"}, {"authorization": OPEN.log_token}])
def test_the_log_wants_its_token(store, headers):
    thumb = {"prompt": "2 + 2?", "completion": "5", "up": False}
    assert client(store, log=True).post("/api/log", json=thumb, headers=headers).status_code == 401
    assert client(store).post("/api/log", json=thumb, headers=headers).status_code == 404
    assert store.items() == [] and store.raters() == {}


@pytest.mark.parametrize(
    "thumb",
    [
        *([], {}, {"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": "b", "up": 1}),
        *({"messages": one, "completion": "b", "up": True} for one in ([], "a", [{"role": "tool", "content": "a"}])),
        {"prompt": "a", "completion": "b", "up": True, "id": "../../etc/passwd"},
    ],
)
def test_a_thumb_that_is_none_is_refused(store, thumb):
    headers = {"authorization": f"Bearer {OPEN.log_token}"}
    assert client(store, log=True).post("/api/log", json=thumb, headers=headers).status_code == 400


# ---- the command


def rows(path, given):
    path.write_text("".join(json.dumps(row) + "\n" for row in given))
    return path


def test_the_command_shows_its_first_item_soon_and_ends_cleanly(tmp_path):
    file = rows(tmp_path / "pairs.jsonl", ({"prompt": f"q{n}", "chosen": "a", "rejected": "b"} for n in range(50)))
    words = [sys.executable, "-m", "palate.cli.main", "label", file, "--port", "auto", "--no-open"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert "50 judgements are wanted" in process.stdout.readline()
    link = process.stdout.readline().split()[-1]
    with urllib.request.urlopen(f"{link}api/next") as answer:
        assert len(json.load(answer)["items"]) == 3
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0 and err == ""
    assert "Stored: 0 judgements" in out and "palate quality" in out and "palate export" in out


def test_nothing_heavy_is_loaded_on_the_way(tmp_path):
    program = (
        "import sys, palate.cli.main, palate.stages.people.labelling, palate.collect.web.server; "
        "print(*{'torch', 'transformers', 'numpy', 'scipy', 'pydantic', 'rich'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
