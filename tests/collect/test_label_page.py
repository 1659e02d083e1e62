"""The label page in a real browser, against the real `palate label`: what is pressed is what is stored, once.

Item i asks about "question i"; its first completion speaks of apples and its second of pears, so that what stands where
on the screen can be read off, and the sign of what is stored derived from it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright.sync_api", reason="the browser tests need playwright, of the extra `dev`")
pytest.importorskip("uvicorn", reason="the browser tests need the extra `label`")

from playwright.sync_api import Browser, BrowserContext, Page, Route, expect, sync_playwright

from palate.collect.judgements import (
    Candidate,
    Edited,
    Item,
    Judgement,
    Order,
    Origin,
    Preference,
    Scores,
    Skipped,
    Thumb,
    Written,
)
from palate.collect.store import Store
from palate.records import Message, Prompt

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed, and the page wants a browser")

STATIC = Path(__file__).parents[2] / "palate" / "collect" / "web" / "static"
IMAGES = Path(__file__).parents[2] / "docs" / "images"
MODELS = ("zephyr-secret-7b", "larch-secret-13b")

# Key, and the degree for the place on the right that it stands for.
KEYS = {
    "Shift+ArrowLeft": -3,
    "ArrowLeft": -2,
    "3": -1,
    "ArrowDown": 0,
    "5": 1,
    "ArrowRight": 2,
    "Shift+ArrowRight": 3,
    "7": 3,
}


def pairs(count: int, wanted: int = 1) -> list[Item]:
    """Pairs whose first completion speaks of apples and whose second of pears."""
    apples, pears = (Origin("model", name, "0123abcd", {"temperature": 0.7}) for name in MODELS)
    return [
        Item(
            Prompt.of(f"question {row}"),
            (
                Candidate(f"Take **apples**, number {row}.", (apples,)),
                Candidate(f"Take pears, number {row}.", (pears,)),
            ),
            wanted=wanted,
        )
        for row in range(count)
    ]


@dataclass
class Desk:
    """A running `palate label`."""

    url: str
    path: Path
    items: list[Item]
    started: float
    process: subprocess.Popen[str]

    def stop(self) -> None:
        """Ends it."""
        self.process.terminate()
        self.process.communicate(timeout=20)

    def judgements(self, rater: str = "me") -> list[Judgement]:
        """What is stored and holds."""
        with Store(self.path) as store:
            return store.judgements(rater)


@dataclass
class Seen:
    """What a page asked for, and what it complained of."""

    addresses: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def watch(self, page: Page) -> None:
        """Listens to a page."""
        page.on("request", lambda request: self.addresses.append(request.url))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda line: self.complaints.append(f"{line.type}: {line.text}"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all tests; each test has contexts of its own."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def open_desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Desk]]:
    """Starts `palate label` on a store of items, and stops it in the end."""
    running: list[subprocess.Popen[str]] = []

    def start(items: list[Item], *options: str, path: Path | None = None) -> Desk:
        source = [] if path else [str(tmp_path_factory.mktemp("desk") / "feedback.sqlite")]
        path = path or Path(source[0])
        if source:
            with Store(path) as store:
                store.add_items(items)
        command = [sys.executable, "-m", "palate.cli.main", "label", *source, "--port", "auto", "--no-open"]
        started = time.monotonic()
        process = subprocess.Popen(
            [*command, "--repeat-share", "0", *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        running.append(process)
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if found := re.search(r"me: (http://127\.0\.0\.1:\d+)/", line):
                return Desk(found[1], path, items, started, process)
        raise AssertionError(said)

    yield start
    for process in running:
        if process.poll() is None:
            process.terminate()
            process.communicate(timeout=20)


@pytest.fixture(scope="module")
def desk(open_desk: Callable[..., Desk], tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """Sixty pairs that fifty raters may each judge; each test is another rater."""
    guidelines = tmp_path_factory.mktemp("guidelines") / "guidelines.md"
    guidelines.write_text("# What is good\n\nThat which **helps**.", encoding="utf-8")
    return open_desk(pairs(60, wanted=50), "--guidelines", str(guidelines), "--tags", "wrong,too long,unsafe")


@pytest.fixture
def seen() -> Iterator[Seen]:
    """Fails a test whose page complained, or asked anybody but its own server for anything."""
    seen = Seen()
    yield seen
    strangers = [one for one in seen.addresses if not re.match(r"http://127\.0\.0\.1:\d+/|data:,$", one)]
    assert not strangers
    assert not [one for one in seen.complaints if "Failed to load resource" not in one]


@pytest.fixture
def visit(browser: Browser, seen: Seen) -> Iterator[Callable[..., Page]]:
    """Opens the page of a desk as a rater, in a context of its own unless one is given."""
    contexts: list[BrowserContext] = []

    def open_page(
        desk: Desk, rater: str = "me", context: BrowserContext | None = None, look: bool = True, **options: Any
    ) -> Page:
        if context is None:
            context = browser.new_context(**options)
            context.set_default_timeout(15_000)
            contexts.append(context)
        page = context.new_page()
        seen.watch(page)
        page.goto(f"{desk.url}/?as={rater}")
        if look:
            ready(page)
        return page

    yield open_page
    for context in contexts:
        context.close()


def free_port() -> int:
    """A port that nobody has just now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def ready(page: Page) -> None:
    """Waits until an item stands there."""
    expect(page.locator("article.pane").first).to_be_visible(timeout=15_000)


def at_item(page: Page, prompt: str) -> None:
    """Waits until the item of this prompt stands there: the page holds a few items ahead, and may have to fetch one."""
    expect(page.locator("#prompt p")).to_have_text(prompt, timeout=15_000)
    ready(page)


def fulfil(route: Route, status: int, said: dict[str, Any]) -> None:
    """Answers in the server's place."""
    route.fulfill(status=status, body=json.dumps(said), content_type="application/json")


def saved(page: Page) -> None:
    """Waits until the server has everything."""
    expect(page.locator("#saved")).to_have_text("All saved", timeout=15_000)


def asked(page: Page) -> tuple[int, int]:
    """Which item stands there, and −1 where pears stand on the left: there the sign turns."""
    ready(page)
    texts = page.locator("article.pane").all_inner_texts()
    row = re.search(r"number (\d+)", texts[0])
    assert row is not None and len(texts) == 2
    return int(row[1]), 1 if "apples" in texts[0] else -1


def vote(page: Page, key: str) -> tuple[int, int]:
    """Answers by a key, and tells the item and the degree that is to be stored."""
    row, sign = asked(page)
    page.keyboard.press(key)
    page.wait_for_function("row => !document.querySelector('.pane')?.innerText.includes(`number ${row}.`)", arg=row)
    return row, sign * KEYS[key]


def stored(desk: Desk, rater: str) -> dict[int, int]:
    """The degrees of a rater by row; fails where an item was judged twice."""
    rows = {item.id: row for row, item in enumerate(desk.items)}
    judgements = desk.judgements(rater)
    assert max(Counter(one.item for one in judgements).values(), default=1) == 1
    return {rows[one.item]: one.answer.degree for one in judgements if isinstance(one.answer, Preference)}


# ---- votes


def test_fifty_pairs_by_keyboard_alone_with_undo_and_reload(desk: Desk, visit: Callable[..., Page]) -> None:
    page = visit(desk, "fifty")
    keys = list(KEYS)
    pressed: dict[int, int] = {}
    places = set()
    for turn in range(53):
        places.add(asked(page)[1])
        pressed.update([vote(page, keys[turn % len(keys)])])
        if turn == 20:
            for _ in range(3):
                page.keyboard.press("u")
        if turn == 35:
            page.reload()
            ready(page)
    saved(page)
    assert stored(desk, "fifty") == pressed
    # Both orders were shown: the order is drawn for each item.
    assert places == {1, -1}
    judgements = desk.judgements("fifty")
    assert all(sorted(one.shown) == [0, 1] and 0 <= one.seconds < 60 and one.guideline for one in judgements)
    assert page.locator("#pace b").inner_text() == "50 of 60"


def test_without_a_connection_ten_answers_wait_and_arrive_once(desk: Desk, visit: Callable[..., Page]) -> None:
    page = visit(desk, "tunnel")
    pressed = dict([vote(page, "ArrowLeft")])
    saved(page)
    page.wait_for_load_state("networkidle")
    page.context.set_offline(True)
    for key in ["ArrowRight", "ArrowDown"] * 5:
        row, degree = vote(page, key)
        pressed[row] = degree
    expect(page.locator("#saved")).to_have_text("10 kept here, not sent yet")
    assert len(desk.judgements("tunnel")) == 1
    page.context.set_offline(False)
    saved(page)
    assert stored(desk, "tunnel") == pressed


def test_a_vote_whose_reply_was_lost_is_stored_once(desk: Desk, visit: Callable[..., Page]) -> None:
    page = visit(desk, "lossy")
    lost = []

    def lose(route: Route) -> None:
        # The first request arrives and its reply does not.
        if not lost:
            lost.append(route.fetch().status)
            route.abort()
        else:
            route.continue_()

    page.route("**/api/votes", lose)
    pressed = dict([vote(page, "ArrowLeft"), vote(page, "Shift+ArrowRight")])
    saved(page)
    assert lost == [200]
    assert stored(desk, "lossy") == pressed


def test_what_was_not_sent_outlives_a_reload(desk: Desk, visit: Callable[..., Page]) -> None:
    page = visit(desk, "reload")
    page.route("**/api/votes", lambda route: route.abort())
    pressed = dict(vote(page, key) for key in ("ArrowLeft", "ArrowDown", "ArrowRight"))
    expect(page.locator("#saved")).to_have_text("3 kept here, not sent yet")
    page.reload()
    ready(page)
    expect(page.locator("#saved")).to_have_text("3 kept here, not sent yet")
    assert asked(page)[0] not in pressed
    page.unroute("**/api/votes")
    saved(page)
    assert stored(desk, "reload") == pressed


def test_a_full_disk_is_said_in_words_and_nothing_is_lost(desk: Desk, visit: Callable[..., Page]) -> None:
    page = visit(desk, "full")
    said = {"error": "The disk did not take it. Make room there."}
    page.route("**/api/votes", partial(fulfil, status=503, said=said))
    pressed = dict([vote(page, "ArrowLeft")])
    expect(page.get_by_role("alert")).to_have_text(
        "The disk did not take it. Make room there. Your answers are kept in this browser."
    )
    expect(page.locator("#saved")).not_to_have_text("All saved")
    page.unroute("**/api/votes")
    saved(page)
    expect(page.get_by_role("alert")).to_be_empty()
    assert stored(desk, "full") == pressed


def test_one_refused_vote_does_not_hold_up_the_others(desk: Desk, visit: Callable[..., Page]) -> None:
    page = visit(desk, "refused")
    spoilt = []

    def until_spoilt(route: Route) -> None:
        # An attempt may be on its way while the text is being spoilt: what it carries must not arrive.
        if not spoilt and '"degree":9' not in (route.request.post_data or ""):
            return route.abort()
        spoilt.append(True)
        return route.continue_()

    page.route("**/api/votes", until_spoilt)
    first, second = vote(page, "ArrowLeft"), vote(page, "ArrowRight")
    # The first one's text in the outbox is spoilt, as by an older version of the page.
    page.evaluate(
        """() => {
          const key = Object.keys(localStorage).filter((one) => one.startsWith("palate/outbox")).sort()[0];
          const entry = JSON.parse(localStorage.getItem(key));
          entry.vote.answer.degree = 9;
          localStorage.setItem(key, JSON.stringify(entry));
        }"""
    )
    saved(page)
    expect(page.get_by_role("alert")).to_contain_text("An answer was not stored.")
    assert stored(desk, "refused") == dict([second])
    assert first[0] not in stored(desk, "refused")


def test_two_annotators_at_once_share_the_items(open_desk: Callable[..., Desk], visit: Callable[..., Page]) -> None:
    desk = open_desk(pairs(14), "--annotators", "ann,bob")
    both = {rater: visit(desk, rater) for rater in ("ann", "bob")}
    pressed: dict[str, dict[int, int]] = {"ann": {}, "bob": {}}
    for turn in range(14):
        rater = ("ann", "bob")[turn % 2]
        page = both[rater]
        if page.locator("article.pane").count():
            row, degree = vote(page, list(KEYS)[turn % len(KEYS)])
            pressed[rater][row] = degree
    for rater, page in both.items():
        saved(page)
        assert stored(desk, rater) == pressed[rater]
    # One rater an item was wanted, and what one looks at the other is not asked.
    assert not pressed["ann"].keys() & pressed["bob"].keys()
    assert pressed["ann"] and pressed["bob"]


def test_a_second_tab_takes_over_and_the_first_rests(desk: Desk, visit: Callable[..., Page]) -> None:
    first = visit(desk, "tabs")
    pressed = dict([vote(first, "ArrowLeft")])
    second = visit(desk, "tabs", first.context)
    expect(first.get_by_role("heading", level=1)).to_have_text("This page is open in another tab")
    first.keyboard.press("ArrowLeft")
    row, degree = vote(second, "ArrowRight")
    pressed[row] = degree
    saved(second)
    assert stored(desk, "tabs") == pressed
    first.get_by_role("button", name="Go on here").click()
    ready(first)
    expect(second.get_by_role("heading", level=1)).to_have_text("This page is open in another tab")


def test_another_rater_in_the_same_browser_gets_none_of_the_votes(desk: Desk, visit: Callable[..., Page]) -> None:
    anna = visit(desk, "anna")
    visit(desk, "otto", anna.context)
    pressed = dict([vote(anna, "ArrowLeft")])
    expect(anna.get_by_role("alert")).to_contain_text("Open your own link again")
    assert stored(desk, "otto") == {}
    again = visit(desk, "anna", anna.context)
    saved(again)
    assert stored(desk, "anna") == pressed
    assert stored(desk, "otto") == {}


def test_undo_goes_back_without_limit_and_after_a_reload(desk: Desk, visit: Callable[..., Page]) -> None:
    page = visit(desk, "undone")
    pressed = [vote(page, "ArrowLeft") for _ in range(6)]
    saved(page)
    page.keyboard.press("u")
    assert asked(page)[0] == pressed[5][0]
    saved(page)
    page.reload()
    ready(page)
    for row, _ in reversed(pressed[:5]):
        page.keyboard.press("u")
        page.wait_for_function("row => document.querySelector('.pane').innerText.includes(`number ${row}.`)", arg=row)
    page.keyboard.press("u")
    expect(page.locator("#spoken")).to_have_text("There is nothing to take back.")
    assert stored(desk, "undone") == {}
    expect(page.locator("#pace b")).to_have_text("0 of 60")


def test_undo_before_sending_leaves_no_trace(desk: Desk, visit: Callable[..., Page]) -> None:
    page = visit(desk, "untold")
    page.context.set_offline(True)
    first, second = vote(page, "ArrowLeft"), vote(page, "ArrowLeft")
    page.keyboard.press("u")
    assert asked(page)[0] == second[0]
    row, degree = vote(page, "ArrowRight")
    page.context.set_offline(False)
    saved(page)
    assert stored(desk, "untold") == {first[0]: first[1], row: degree}


def test_held_keys_and_double_clicks_answer_once(desk: Desk, visit: Callable[..., Page]) -> None:
    page = visit(desk, "heavy")
    row, sign = asked(page)
    page.keyboard.down("ArrowLeft")
    page.keyboard.down("ArrowLeft")
    page.keyboard.down("ArrowLeft")
    page.keyboard.up("ArrowLeft")
    other, turned = asked(page)
    page.get_by_role("button", name="B better", exact=True).dblclick()
    saved(page)
    assert stored(desk, "heavy") == {row: -2 * sign, other: 2 * turned}


# ---- a slow server, and what is pressed meanwhile

DELAYED = """(() => {
  const fetch = window.fetch;
  window.fetch = async (...given) => {
    await new Promise((done) => setTimeout(done, window.late ?? 700));
    return fetch(...given);
  };
})()"""


@pytest.fixture
def slow(browser: Browser) -> Iterator[BrowserContext]:
    """A browser whose every request waits for 0.7 s before it is sent."""
    context = browser.new_context()
    context.set_default_timeout(15_000)
    context.add_init_script(DELAYED)
    yield context
    context.close()


def test_keys_meant_for_nothing_do_not_answer_what_appears(
    open_desk: Callable[..., Desk], visit: Callable[..., Page], slow: BrowserContext
) -> None:
    """Who presses on while nothing is there has not read what comes: their keys go on until it stands there, and one
    more is pressed on it."""
    desk = open_desk(pairs(6))
    page = visit(desk, context=slow, look=False)
    pressing = """key => new Promise((done) => {
      const press = () => document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
      let after = 0;
      const timer = setInterval(() => {
        press();
        if (document.querySelector("article.pane") && ++after === 3) done(clearInterval(timer));
      }, 100);
    })"""
    page.wait_for_function("document.readyState === 'complete'")
    page.evaluate(pressing, "ArrowLeft")
    row, sign = asked(page)
    expect(page.locator("#remark")).to_contain_text("not counted")
    assert desk.judgements() == [] and page.evaluate("Object.keys(localStorage).length") == 0
    page.wait_for_timeout(800)
    # It is no lock: who then answers is heard, and so are the answers to items that were there already.
    pressed = dict([vote(page, "ArrowRight"), vote(page, "ArrowDown")])
    assert pressed[row] == 2 * sign
    saved(page)
    assert stored(desk, "me") == pressed


def test_on_a_slow_line_every_answer_is_stored_once_and_means_what_was_on_screen(
    open_desk: Callable[..., Desk], visit: Callable[..., Page], slow: BrowserContext
) -> None:
    desk = open_desk(pairs(12))
    page = visit(desk, context=slow)
    pressed: dict[int, int] = {}
    for turn in range(12):
        pressed.update([vote(page, list(KEYS)[turn % len(KEYS)])])
    expect(page.get_by_role("heading", level=1)).to_have_text("That was the last one. Thank you!", timeout=20_000)
    saved(page)
    assert stored(desk, "me") == pressed and len(pressed) == 12


def test_two_undos_on_a_slow_line_take_two_back_and_no_key_answers_meanwhile(
    desk: Desk, visit: Callable[..., Page], slow: BrowserContext
) -> None:
    page = visit(desk, "patient", slow)
    page.evaluate("window.late = 0")
    pressed = [vote(page, "ArrowLeft") for _ in range(4)]
    saved(page)
    page.reload()
    ready(page)
    before = asked(page)[0]
    page.keyboard.press("u")
    page.keyboard.press("u")
    expect(page.get_by_role("alert")).to_contain_text("being taken back")
    # Meant for the item on screen, which is about to go.
    page.keyboard.press("ArrowRight")
    expect(page.locator("#remark")).to_contain_text("being taken back")
    assert asked(page)[0] == before
    page.wait_for_function(
        "row => document.querySelector('.pane').innerText.includes(`number ${row}.`)", arg=pressed[2][0]
    )
    expect(page.get_by_role("alert")).to_be_empty()
    saved(page)
    assert stored(desk, "patient") == dict(pressed[:2])


def test_a_tab_of_another_store_keeps_its_answers_until_that_one_is_served_again(
    open_desk: Callable[..., Desk], visit: Callable[..., Page], tmp_path: Path
) -> None:
    """The same file labelled anew under another name, at the same port: the same items, in another order of places."""
    first, port = tmp_path / "first.sqlite", str(free_port())
    second = tmp_path / "second.sqlite"
    for path in (first, second):
        with Store(path) as store:
            store.add_items(pairs(9))
    desk = open_desk(pairs(9), str(first), "--port", port, path=first)
    page = visit(desk)
    pressed = dict([vote(page, "ArrowLeft")])
    saved(page)
    page.wait_for_load_state("networkidle")
    desk.stop()
    pressed.update([vote(page, "ArrowRight")])
    expect(page.locator("#saved")).to_have_text("1 kept here, not sent yet")
    other = open_desk(pairs(9), str(second), "--port", port, path=second)
    pressed.update([vote(page, "Shift+ArrowLeft")])
    expect(page.get_by_role("alert")).to_contain_text("opened on other feedback", timeout=20_000)
    assert other.judgements() == []
    page.reload()
    ready(page)
    saved(page)
    assert other.judgements() == []
    other.stop()
    again = open_desk(pairs(9), str(first), "--port", port, path=first)
    page.reload()
    saved(page)
    assert stored(again, "me") == pressed


def test_new_guidelines_are_told_and_each_vote_keeps_those_it_saw(
    open_desk: Callable[..., Desk], visit: Callable[..., Page], tmp_path: Path
) -> None:
    path, port, guidelines = tmp_path / "one.sqlite", str(free_port()), tmp_path / "guidelines.md"
    with Store(path) as store:
        store.add_items(pairs(9))
    options = (str(path), "--port", port, "--guidelines", str(guidelines))
    guidelines.write_text("Long is good.", encoding="utf-8")
    desk = open_desk(pairs(9), *options, path=path)
    page = visit(desk)
    desk.stop()
    vote(page, "ArrowLeft")
    guidelines.write_text("Short is good.", encoding="utf-8")
    open_desk(pairs(9), *options, path=path)
    page.evaluate("window.dispatchEvent(new Event('online'))")
    expect(page.get_by_role("alert")).to_contain_text("The guidelines have changed.", timeout=20_000)
    saved(page)
    page.keyboard.press("g")
    expect(page.get_by_role("dialog", name="Guidelines")).to_contain_text("Short is good.")
    page.keyboard.press("g")
    vote(page, "ArrowLeft")
    saved(page)
    with Store(path) as store:
        said = [store.guidelines()[one.guideline] for one in store.judgements()]
    assert said == ["Long is good.", "Short is good."]


# ---- beside the vote


def test_reasons_a_note_and_a_skip_are_stored(desk: Desk, visit: Callable[..., Page]) -> None:
    page = visit(desk, "talker")
    page.keyboard.press("r")
    page.keyboard.press("2")
    page.keyboard.press("3")
    page.keyboard.press("2")
    page.keyboard.press("n")
    page.keyboard.type("x s u ←")
    page.keyboard.press("Escape")
    page.keyboard.press("x")
    page.keyboard.press("s")
    page.keyboard.press("2")
    page.keyboard.press("s")
    page.keyboard.press("Tab")
    page.get_by_label("Another reason").fill("a language that I do not read")
    page.keyboard.press("Enter")
    page.keyboard.press("s")
    page.keyboard.press("Enter")
    saved(page)
    bad, *skipped = desk.judgements("talker")
    assert (bad.answer, bad.tags, bad.note) == (Preference(0, both_bad=True), ("unsafe",), "x s u ←")
    reasons = ["makes no sense", "a language that I do not read", ""]
    assert [one.answer for one in skipped] == [Skipped(reason) for reason in reasons]
    assert all(not one.tags and not one.note for one in skipped)


def test_only_time_in_sight_counts(desk: Desk, visit: Callable[..., Page]) -> None:
    page = visit(desk, "slow")
    hide = """state => {
      Object.defineProperty(document, "visibilityState", { configurable: true, get: () => state });
      document.dispatchEvent(new Event("visibilitychange"));
    }"""
    page.clock.install()
    page.reload()
    ready(page)
    vote(page, "ArrowLeft")
    page.clock.fast_forward(3_000)
    page.evaluate(hide, "hidden")
    page.clock.fast_forward(60_000)
    page.evaluate(hide, "visible")
    page.clock.fast_forward(2_000)
    vote(page, "ArrowLeft")
    saved(page)
    # Three seconds and two in sight, and sixty out of it.
    assert 5 <= desk.judgements("slow")[-1].seconds < 15


def test_guidelines_keys_and_differences_open_and_close(desk: Desk, visit: Callable[..., Page]) -> None:
    page = visit(desk, "reader")
    page.keyboard.press("g")
    expect(page.get_by_role("dialog", name="Guidelines")).to_contain_text("That which helps.")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("g")
    page.keyboard.press("?")
    keys = page.get_by_role("dialog", name="Keys")
    expect(keys).to_contain_text("take the last answer back")
    page.keyboard.press("Escape")
    expect(keys).not_to_be_visible()
    page.keyboard.press("d")
    assert sorted(page.locator(".pane mark").all_inner_texts()) == ["**apples**", "pears"] or sorted(
        page.locator(".pane mark").all_inner_texts()
    ) == ["apples", "pears"]
    page.keyboard.press("d")
    assert page.locator(".pane mark").count() == 0
    assert not desk.judgements("reader")


def test_differences_are_those_of_the_longest_common_subsequence(desk: Desk, visit: Callable[..., Page]) -> None:
    page = visit(desk, "words")
    cases = [
        ("a b c", "a x c"),
        ("the cat sat, and slept", "the dog sat"),
        ("same", "same"),
        ("no word", "in common"),
        ("", ""),
        ("Größe ändern", "Größe lassen"),
        ("word " * 3000, "other " * 3000 + "word"),
    ]
    found = page.evaluate(
        "async (cases) => { const { differences } = await import('/static/differences.js');"
        " return cases.map(([one, other]) => differences(one, other)); }",
        cases,
    )

    def only(runs: list[dict[str, Any]]) -> list[str]:
        return [run["text"].strip() for run in runs if run["only"]]

    for (first, second), both in zip(cases, found, strict=True):
        if both is not None:
            assert ["".join(run["text"] for run in runs) for runs in both] == [first, second]
    marked = [both and [only(runs) for runs in both] for both in found]
    assert marked[:6] == [
        [["b"], ["x"]],
        [["cat", "and slept"], ["dog"]],
        [[], []],
        None,
        None,
        [["ändern"], ["lassen"]],
    ]
    # 36 million cells: too long to compare.
    assert marked[6] is None


# ---- modes


def of_each_mode() -> list[Item]:
    """One item of each mode but pair."""

    def texts(*given: str) -> tuple[Candidate, ...]:
        return tuple(map(Candidate, given))

    aspects = {"attributes": ["helpfulness", "clarity"]}
    return [
        Item(Prompt.of("rank"), texts("one apple", "two pears", "three plums"), mode="ranking"),
        Item(Prompt.of("rate"), texts("one apple"), mode="rating"),
        Item(Prompt((Message("user", "rate twice"),), aspects), texts("one apple"), mode="rating"),
        Item(Prompt.of("thumb"), texts("one apple"), mode="thumbs"),
        Item(Prompt.of("write"), (), mode="demonstration"),
        Item(Prompt.of("edit"), texts("one apple", "two pears"), mode="edit"),
        Item(Prompt.of("edit one"), texts("one apple"), mode="edit"),
    ]


def test_each_mode_by_keyboard_and_the_page_at_the_end(
    open_desk: Callable[..., Desk], visit: Callable[..., Page]
) -> None:
    desk = open_desk(of_each_mode())
    page = visit(desk)
    press = page.keyboard.press
    # The ranking: apples first, pears and plums behind, by digits where they stand.
    at_item(page, "rank")
    for text in page.locator("article.pane").all_inner_texts():
        press("1" if "apple" in text else "3")
    press("Enter")
    at_item(page, "rate")
    press("4")
    at_item(page, "rate twice")
    press("2")
    press("Enter")
    press("5")
    press("Enter")
    at_item(page, "thumb")
    press("ArrowUp")
    at_item(page, "write")
    page.keyboard.type("What I would ← say? ")
    page.reload()
    at_item(page, "write")
    page.keyboard.press("End")
    page.keyboard.type("Yes, ux.")
    press("Control+Enter")
    at_item(page, "edit")
    place = next(at for at, text in enumerate(page.locator("article.pane").all_inner_texts()) if "pears" in text)
    press(str(place + 1))
    press("End")
    page.keyboard.type(" and a half")
    press("Control+Enter")
    at_item(page, "edit one")
    press("ControlOrMeta+a")
    page.keyboard.type("better")
    press("Control+Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("That was the last one. Thank you!")
    saved(page)
    assert [one.answer for one in desk.judgements()] == [
        Order((0, 1, 1)),
        Scores({"quality": 4.0}),
        Scores({"helpfulness": 2.0, "clarity": 5.0}),
        Thumb(up=True),
        Written("What I would ← say? Yes, ux."),
        Edited(1, "two pears and a half"),
        Edited(0, "better"),
    ]
    expect(page.locator("main")).to_contain_text("You gave 7 answers")
    # Undo after a reload brings back what was written.
    page.reload()
    expect(page.get_by_role("heading", level=1)).to_have_text("That was the last one. Thank you!")
    press("u")
    expect(page.get_by_role("textbox")).to_have_value("better")
    press("u")
    expect(page.get_by_role("textbox")).to_have_value("two pears and a half")
    assert len(desk.judgements()) == 5


def test_a_blind_comparison_names_nobody_to_raters_and_the_winner_to_its_owner(
    open_desk: Callable[..., Desk], visit: Callable[..., Page], tmp_path: Path
) -> None:
    sides = {name: tmp_path / f"{name}.jsonl" for name in MODELS}
    for name, fruit in zip(MODELS, ("apples", "pears"), strict=True):
        rows = [{"prompt": f"question {row}", "completion": f"{fruit}, number {row}."} for row in range(60)]
        sides[name].write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    store = tmp_path / f"{MODELS[0]}-against-{MODELS[1]}.feedback.sqlite"
    desk = open_desk([], "--compare", *map(str, sides.values()), "--annotators", "ann", path=store)
    page = visit(desk, "ann")
    for _ in range(60):
        assert not [name for name in MODELS if name in page.content()]
        vote(page, "ArrowRight" if asked(page)[1] > 0 else "ArrowLeft")
    saved(page)
    expect(page.locator("main")).to_contain_text("They say which of two models answers better")
    page.goto(f"{desk.url}/results")
    expect(page.locator("main")).to_contain_text("Only the owner sees the result")
    owner = visit(desk, look=False)
    owner.goto(f"{desk.url}/results")
    verdict = f"{MODELS[1]} is preferred to {MODELS[0]}."
    expect(owner.get_by_role("heading", level=1)).to_have_text(verdict, timeout=30_000)
    expect(owner.locator("main")).to_contain_text(f"{MODELS[1]} wins 100.0 %")
    assert owner.locator("dd").all_inner_texts() == ["60", "0", "0", "0"]


# ---- what must not be


def test_text_that_is_script_stays_text_and_no_model_is_named(
    open_desk: Callable[..., Desk], visit: Callable[..., Page], tmp_path: Path, seen: Seen
) -> None:
    script = (
        "<script>window.ran = 1</script><img src=x onerror='window.ran = 2'> [go](javascript:window.ran=3) "
        "![x](http://example.org/x.png) <svg onload='window.ran=4'>"
    )
    apples, pears = (Origin("model", name, "0123abcd") for name in MODELS)
    items = [
        Item(Prompt.of(f"{script} first"), (Candidate(f"{script} one", (apples,)), Candidate("two", (pears,)))),
        Item(Prompt.of("second"), (Candidate(f"{script} one", (apples,)), Candidate(f"{script} two", (pears,)))),
    ]
    guidelines = tmp_path / "guidelines.md"
    guidelines.write_text(script, encoding="utf-8")
    desk = open_desk(items, "--guidelines", str(guidelines), "--tags", "<img src=x onerror=window.ran=5>")
    page = visit(desk)
    bodies: list[str] = []
    page.on("response", lambda response: bodies.append(response.text()) if "/api/" in response.url else None)
    page.reload()
    ready(page)
    for key in ("g", "g", "d", "d", "r", "1"):
        page.keyboard.press(key)
    page.keyboard.press("n")
    page.keyboard.type(script)
    page.keyboard.press("Escape")
    page.keyboard.press("ArrowLeft")
    saved(page)
    page.keyboard.press("u")
    page.keyboard.press("n")
    expect(page.get_by_label("A note to this item")).to_have_value(script)
    assert page.evaluate("window.ran") is None
    assert page.locator("main :is(script, img, svg)").count() == 0
    shown = page.content() + "".join(bodies)
    assert bodies and not [name for name in (*MODELS, "0123abcd") if name in shown]
    assert not [one for one in seen.addresses if "example.org" in one]


def test_there_is_no_inline_script_or_style() -> None:
    text = (STATIC / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", text)
    for path in STATIC.glob("*.js"):
        assert "http://" not in path.read_text(encoding="utf-8") and "https://" not in path.read_text(encoding="utf-8")


# ---- for everyone


def test_a_screen_reader_finds_its_way(desk: Desk, visit: Callable[..., Page]) -> None:
    page = visit(desk, "listener")
    for role in ("banner", "main"):
        expect(page.get_by_role(role)).to_have_count(1)  # type: ignore[arg-type]
    for name in ("Prompt", "Answers", "Your answer"):
        expect(page.get_by_role("region", name=name)).to_be_visible()
    expect(page.get_by_role("heading", level=1)).to_have_text("Which answer is better?")
    expect(page.get_by_role("heading", level=1)).to_be_focused()
    expect(page.get_by_role("article", name="Answer A")).to_be_visible()
    expect(page.get_by_role("progressbar", name="Answered")).to_be_visible()
    expect(page.get_by_role("status").first).to_have_text("All saved")
    unnamed = page.evaluate(
        "[...document.querySelectorAll('button, input, textarea')]"
        ".filter((one) => !(one.innerText || one.ariaLabel || one.labels?.length)).length"
    )
    assert unnamed == 0
    # By Tab from the heading through all buttons of the answer, each with a ring.
    names = []
    for _ in range(13):
        page.keyboard.press("Tab")
        held = page.evaluate(
            "(() => { const held = document.activeElement;"
            " return [held.querySelector('span')?.innerText, getComputedStyle(held).outlineStyle]; })()"
        )
        names.append(held[0])
        assert held[1] != "none"
    answers = ["A much better", "A better", "A slightly better", "Tie"]
    answers += ["B slightly better", "B better", "B much better", "Both bad"]
    assert names == [*answers, "Skip", "Undo", "Reasons", "Note", "Differences"]
    row, sign = asked(page)
    page.get_by_role("button", name="B slightly better").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#spoken")).to_have_text("B slightly better. Next item.")
    saved(page)
    assert stored(desk, "listener") == {row: sign}


def test_single_keys_can_be_switched_off(desk: Desk, visit: Callable[..., Page]) -> None:
    page = visit(desk, "dictating")
    page.keyboard.press("?")
    page.get_by_role("checkbox").uncheck()
    page.keyboard.press("Escape")
    row, sign = asked(page)
    page.keyboard.press("ArrowLeft")
    assert asked(page) == (row, sign)
    page.get_by_role("button", name="A better", exact=True).click()
    saved(page)
    assert stored(desk, "dictating") == {row: -2 * sign}


@pytest.mark.parametrize("width", [1280, 390])
def test_panes_are_equally_wide_and_nothing_hangs_over(desk: Desk, visit: Callable[..., Page], width: int) -> None:
    page = visit(desk, f"wide{width}", viewport={"width": width, "height": 800}, has_touch=width < 500)
    boxes = [box for pane in page.locator("article.pane").all() if (box := pane.bounding_box())]
    assert boxes[0]["width"] == pytest.approx(boxes[1]["width"], abs=0.5)
    assert (boxes[0]["y"] == boxes[1]["y"]) == (width > 500)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    if width < 500:
        heights = [box["height"] for one in page.locator("#answering button").all() if (box := one.bounding_box())]
        assert min(heights) >= 44


def hard_to_show() -> list[Item]:
    """Items that burst a page: many answers, long scales, code among right-to-left text, no text at all."""

    def texts(*given: str) -> tuple[Candidate, ...]:
        return tuple(map(Candidate, given))

    scales = {"attributes": ["helpfulness", {"name": "an attribute of a long name", "low": 0, "high": 9}]}
    code = "קוד:\n\n```python\nprint('x' * 3, 1)  # " + "long " * 60 + "\n```\n\n- ראשון\n\n" + "x" * 300
    table = "| " + " | ".join(f"column {n}" for n in range(20)) + " |\n" + "|--" * 20 + "|\n"
    return [
        Item(Prompt.of("rank"), texts(*(f"option {n}. " * (9 * n + 1) for n in range(8))), mode="ranking"),
        Item(Prompt((Message("user", "rate"),), scales), texts("one apple"), mode="rating"),
        Item(Prompt.of("כתוב קוד"), texts(code, table)),
        Item(Prompt.of("nothing"), texts("", " \n ")),
    ]


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_bursts_the_page(open_desk: Callable[..., Desk], visit: Callable[..., Page], width: int) -> None:
    desk = open_desk(hard_to_show())
    page = visit(desk, viewport={"width": width, "height": 800}, has_touch=width < 500)

    def no_wider() -> None:
        assert page.evaluate("document.documentElement.scrollWidth") <= width

    at_item(page, "rank")
    no_wider()
    for place in range(8):
        # The digits go to the marked answer, which is in sight: below the bar above, over the buttons below.
        seen = page.evaluate(
            "(() => { const box = document.querySelector('.pane.cursor header').getBoundingClientRect();"
            " const bar = document.querySelector('#answering').getBoundingClientRect();"
            " return [box.top >= 0, box.bottom <= bar.top]; })()"
        )
        assert seen == [True, True], place
        page.keyboard.press(str(place + 1))
    page.keyboard.press("Enter")
    at_item(page, "rate")
    no_wider()
    page.keyboard.press("4")
    page.keyboard.press("0")
    page.keyboard.press("Enter")
    at_item(page, "כתוב קוד")
    no_wider()
    assert page.locator(".pane pre").evaluate("one => getComputedStyle(one).direction") == "ltr"
    assert page.locator(".pane li").evaluate("one => getComputedStyle(one).direction") == "rtl"
    page.keyboard.press("ArrowDown")
    at_item(page, "nothing")
    expect(page.locator("article.pane").first).to_contain_text("An answer without text.")
    # A digit that stands for no reason to skip is no answer to the pair either.
    page.keyboard.press("s")
    page.keyboard.press("7")
    expect(page.get_by_role("group", name="Why do you skip it?")).to_be_visible()
    saved(page)
    assert len(desk.judgements()) == 3


def test_contrast_is_that_of_wcag_aa() -> None:
    style = (STATIC / "style.css").read_text(encoding="utf-8")
    light, dark = (dict(re.findall(r"--([\w-]+): (#\w{6})", one)) for one in style.split("@media", 2)[:2])

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def ratio(one: str, other: str) -> float:
        brighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
        return (brighter + 0.05) / (darker + 0.05)

    assert ratio("#000000", "#ffffff") == pytest.approx(21)
    texts = [(text, ground) for text in ("ink", "muted") for ground in ("paper", "card", "wash", "soft")]
    texts += [("ink", "only"), ("accent", "paper"), ("accent", "card"), ("on-accent", "accent")]
    texts += [("trouble", "paper"), ("trouble", "trouble-wash")]
    for colours in (light, {**light, **dark}):
        assert {
            pair: ratio(*(colours[name] for name in pair)) for pair in texts if ratio(*(colours[n] for n in pair)) < 4.5
        } == {}
        assert ratio(colours["edge"], colours["card"]) >= 3


# ---- how fast


def test_the_first_item_is_soon_there(
    open_desk: Callable[..., Desk], visit: Callable[..., Page], record_property: Any
) -> None:
    desk = open_desk(pairs(200))
    visit(desk)
    seconds = time.monotonic() - desk.started
    record_property("seconds", seconds)
    print(f"first item after {seconds:.2f} s")
    # Two seconds on a quiet machine; a crowded one may take some more.
    assert seconds < 10


# ---- pictures

ASSIGNS = """`list.sort()` sorts in place and returns `None`, so `names` is `None` from the second line on:

```python
names = ["Mina", "Ada", "Otto"]
names = names.sort()   # None
for name in names:     # TypeError
    print(name)
```

Either drop the assignment, or take `sorted`, which returns a new list:

```python
names = sorted(names)
```
"""
GUARDS = """This error happens because Python cannot iterate over `None`. There can be many reasons. Try these steps:

1. **Check your variables.** Make sure that the variable holds a list.
2. **Check your functions.** One without `return` gives `None`.
3. **Use a guard**, so that the loop is skipped:

```python
if names is not None:
    for name in names:
        print(name)
```

I hope this helps! Let me know if you have any other questions.
"""


@pytest.mark.slow
def test_the_pictures_of_the_documentation(
    open_desk: Callable[..., Desk], visit: Callable[..., Page], tmp_path: Path
) -> None:
    """With PALATE_WRITE_IMAGES=1 they are written to docs/images."""
    place = IMAGES if os.environ.get("PALATE_WRITE_IMAGES") else tmp_path
    question = (
        "My loop fails with `TypeError: 'NoneType' object is not iterable` right after I sorted the names. "
        "What is wrong?"
    )
    shown = Item(Prompt.of(question), (Candidate(ASSIGNS), Candidate(GUARDS)), wanted=9)
    guidelines = tmp_path / "guidelines.md"
    guidelines.write_text("Right before nice.", encoding="utf-8")
    desk = open_desk([shown, *pairs(61, wanted=9)], "--guidelines", str(guidelines))
    looks: dict[str, dict[str, Any]] = {
        "light": {"viewport": {"width": 1280, "height": 800}},
        "dark": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "dark"},
        "phone": {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True},
    }
    for name, options in looks.items():
        page = visit(desk, "ann", **options)
        expect(page.locator("#pace b")).to_have_text("0 of 62")
        reply = {"items": [], "done": 23, "left": 39, "pace_seconds": 21}
        page.route("**/api/next*", partial(fulfil, status=200, said=reply))
        page.evaluate("window.dispatchEvent(new Event('online'))")
        expect(page.locator("#pace b")).to_have_text("23 of 62")
        if name == "dark":
            page.keyboard.press("r")
            page.keyboard.press("1")
            page.keyboard.press("2")
        page.screenshot(path=place / f"label-{name}.png")
        assert (place / f"label-{name}.png").stat().st_size < 150_000
