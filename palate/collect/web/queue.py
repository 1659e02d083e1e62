"""What a rater is asked next, and what their answers mean: the desk between the page and the store.

The page speaks of places, left to right; the store of completions. Which completion stands where is a hash of (store,
rater, item), so it is random for each rater and item, the same after a reload, and kept by nobody.

Items go out in the store's order, each to as many people as it wants: what somebody looks at is leased to them. Two
kinds come in between and look like any other: gold, whose answer is known, a share of `GOLD_SHARE` or more where little
else is left; and repetitions of a `repeat_share` of a rater's own items, some items later.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import re
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from statistics import median
from typing import Any

from palate.collect.judgements import (
    NOBODY,
    Answer,
    Candidate,
    Edited,
    Item,
    Judgement,
    Mode,
    Order,
    Origin,
    Preference,
    Rater,
    Scores,
    Skipped,
    Thumb,
    Written,
)
from palate.collect.store import Event, Store
from palate.errors import DataError
from palate.records import Message, Prompt

LEASE_SECONDS = 600.0
GOLD_SHARE = 0.05
# A repetition comes so many items after its original, or up to as many more.
SOONEST, SPREAD = 8, 9
# What can be asked twice without a sigh.
REPEATABLE: tuple[Mode, ...] = ("pair", "ranking", "rating", "thumbs")
PACE_OVER = 20

# What a page may hold, ask for and send at a time.
MOST_HELD = 200
MOST_ASKED = 50
MOST_VOTES = 200
LONGEST_NOTE = 10_000
LONGEST_TEXT = 200_000
_ID = re.compile(r"[\w:.-]{8,80}", re.ASCII)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the desk remembers of an item."""

    wanted: int
    gold: bool
    repeats: str
    again: bool

    @property
    def hidden(self) -> bool:
        return self.gold or bool(self.repeats)

    @property
    def weight(self) -> int:
        return 1 + self.again


@dataclass(slots=True)
class _Person:
    """What a rater answered: items by judgement, in order, and the seconds each took."""

    human: bool = True
    answers: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    skipped: set[str] = field(default_factory=set)


class Desk:
    """Hands out the items of a store and takes in the answers; safe in threads, and with other processes on the store.

    Raises DataError for what a page should not have sent, StoreError where the disk says no.
    """

    def __init__(self, store: Store, *, repeat_share: float = 0.05, guideline: str = ""):
        self.store, self.guideline = store, guideline
        self._key = b""
        self._repeat_share = repeat_share
        self._lock = threading.RLock()
        self._seq = 0
        self._items: dict[str, _Asked] = {}
        self._raters: dict[str, Counter[str]] = {}
        self._open: dict[str, None] = {}
        self._gold: list[str] = []
        self._again: dict[str, str] = {}
        self._people: dict[str, _Person] = {}
        self._of: dict[str, tuple[str, str]] = {}
        self._guidelines = {"", guideline}
        self._welcomed: set[str] = set()
        self._refresh()

    # ---- for the page

    @property
    def name(self) -> str:
        """A name of the store that says nothing about it, for what a page keeps in the browser."""
        return self._hash("name")[:16]

    def welcome(self, rater: str) -> None:
        """Puts a person on record, once."""
        with self._lock:
            if rater not in self._welcomed:
                self.store.add_rater(Rater(rater))
                self._welcomed.add(rater)

    def progress(self, rater: str) -> dict[str, Any]:
        """How many are done, how many this rater can still be asked, and the usual seconds for one."""
        with self._lock:
            self._refresh()
            person = self._person(rater)
            seconds = list(person.seconds.values())[-PACE_OVER:]
            return {
                "done": len(person.answers),
                "left": self._left(person),
                "pace_seconds": round(median(seconds), 1) if seconds else None,
            }

    def missing(self) -> int:
        """How many judgements the items still want from all raters together."""
        with self._lock:
            self._refresh()
            return sum(self._items[item].wanted - self._judged(item) for item in self._open)

    def next(self, rater: str, count: int, have: Sequence[str]) -> list[Item]:
        """Items to look at: those this rater held already, then new ones; all of them, and `have`, stay leased."""
        with self._lock:
            self._refresh()
            mine = self._person(rater)
            judged = set(mine.answers.values())
            kept = [item for item in dict.fromkeys(have) if item in self._items and item not in judged][:MOST_HELD]
            leases = self.store.leases()
            held = [item for item, who in leases if who == rater and item in self._items and item not in judged]
            wanted = min(count, MOST_ASKED)
            chosen = [item for item in held if item not in kept][:wanted]
            others = Counter(item for item, who in leases if who != rater and who not in self._raters.get(item, ()))
            while len(chosen) < wanted:
                item = self._pick(rater, {*kept, *chosen, *judged}, len(kept) + len(chosen), others)
                if item is None:
                    break
                chosen.append(item)
            if kept or chosen:
                self.store.lease_all([*kept, *chosen], rater, time.time() + LEASE_SECONDS)
            return [item for name in chosen if (item := self.store.item(name)) is not None]

    def record(self, rater: str, vote: Any) -> str:
        """Stores a vote of the page, the same one twice once, and gives its id when it is on the disk."""
        with self._lock:
            judgement = self._judgement(rater, vote)
            self.welcome(rater)
            before = self.store.judgement(judgement.id)
            if before is not None:
                if replace(judgement, guideline=before.guideline, at=before.at) != before:
                    raise DataError(
                        f"The vote {judgement.id!r} is stored already, with another content. An id stands for one "
                        "vote. Take it back, and send the new one under an id of its own."
                    )
                return judgement.id
            self._refresh()
            if judgement.item in self._person(rater).answers.values():
                raise DataError(
                    "You have judged this item already, perhaps in another window; that judgement stands. Take it back "
                    "to change it."
                )
            self.store.record(judgement)
            return judgement.id

    def undo(self, rater: str, name: Any) -> Item:
        """Takes back a rater's own judgement, and gives them its item again."""
        with self._lock:
            self.store.retract(_identifier(name), rater)
            before = self.store.judgement(name)
            item = None if before is None else self.store.item(before.item)
            if item is None:
                raise DataError(f"The judgement {name!r} has no item. Reload the page.")
            self.store.lease_all([item.id], rater, time.time() + LEASE_SECONDS)
            return item

    def history(self, rater: str, limit: int) -> list[tuple[str, str]]:
        """A rater's judgements that hold, with their items, the newest first."""
        with self._lock:
            self._refresh()
            return list(islice(reversed(self._person(rater).answers.items()), limit))

    def shown(self, rater: str, item: Item) -> tuple[int, ...]:
        """The completions of an item from left to right, as this rater sees them."""
        return tuple(
            sorted(range(len(item.candidates)), key=lambda index: self._hash("place", rater, item.id, str(index)))
        )

    def log(self, thumb: Any) -> str:
        """Stores a thumb for a completion of a deployed model, and gives the judgement's id."""
        item, judgement = logged(thumb)
        with self._lock:
            if self.store.judgement(judgement.id) is None:
                self.welcome(judgement.rater)
                self.store.add_items([item])
                self.store.record(judgement)
            return judgement.id

    # ---- what to ask

    def _pick(self, rater: str, busy: set[str], holding: int, others: Mapping[str, int]) -> str | None:
        person = self._person(rater)
        position = len(person.answers) + holding
        pending = [again for again in self._pending(person) if self._again.get(again[1]) not in busy]
        for place, original in pending:
            if position - place >= SOONEST + int(self._hash("soon", original), 16) % SPREAD:
                return self._repetition(original)
        ordinary = next(self._free(busy, others), None)
        gold = [item for item in self._gold if item not in busy]
        if gold:
            share = max(GOLD_SHARE, len(gold) / (len(gold) + self._left(person)))
            if ordinary is None or self._uniform("gold", rater, str(position)) < share:
                return min(gold, key=lambda item: self._hash("gold", rater, item))
        if ordinary is None and pending:
            return self._repetition(pending[0][1])
        return ordinary

    def _free(self, busy: set[str], others: Mapping[str, int]) -> Iterator[str]:
        """Items that want more raters than judged or are looking at them."""
        for item in self._open:
            if item not in busy and self._items[item].wanted > self._judged(item) + others.get(item, 0):
                yield item

    def _pending(self, person: _Person) -> list[tuple[int, str]]:
        """A rater's items that are to be asked again, each with its place in their order."""
        judged = set(person.answers.values())
        return [
            (place, item)
            for place, (name, item) in enumerate(person.answers.items())
            if self._items[item].again and name not in person.skipped and self._again.get(item) not in judged
        ]

    def _repetition(self, original: str) -> str:
        """The hidden repetition of an item, stored when it is first needed."""
        if original not in self._again:
            item = self.store.item(original)
            assert item is not None
            again = replace(item, repeats=original, wanted=1, expected=None)
            self.store.add_items([again])
            self._refresh()
        return self._again[original]

    def _left(self, person: _Person) -> int:
        """What a rater can still be asked, hidden items counted beforehand, so that each answer takes one off."""
        judged = set(person.answers.values())
        ordinary = sum(self._items[item].weight for item in self._open if item not in judged)
        gold = sum(item not in judged for item in self._gold)
        return ordinary + gold + len(self._pending(person))

    # ---- what was said

    def _judgement(self, rater: str, vote: Any) -> Judgement:
        if not isinstance(vote, dict):
            raise DataError("A vote is no object. Send {id, item, answer, tags, note, guideline, seconds, at}.")
        name, item = _identifier(vote.get("id")), self.store.item(_identifier(vote.get("item")))
        if item is None:
            raise DataError("The vote names an item that this store does not hold. Reload the page.")
        # What the page showed; it may have been opened before the present guidelines were.
        guideline = _text(vote.get("guideline", self.guideline), "guideline", 100)
        if guideline not in self._guidelines:
            raise DataError("The vote goes by guidelines that this store does not hold. Reload the page.")
        shown = self.shown(rater, item)
        return Judgement(
            id=name,
            item=item.id,
            rater=rater,
            answer=answer_of(vote.get("answer"), shown),
            shown=shown,
            tags=_tags(vote.get("tags", [])),
            note=_text(vote.get("note", ""), "note", LONGEST_NOTE),
            seconds=_number(vote.get("seconds", 0), "seconds"),
            guideline=guideline,
            at=_number(vote.get("at", 0), "at"),
        )

    # ---- what the store holds

    def _refresh(self) -> None:
        """Reads what was stored since, by this process or another."""
        for event in self.store.events(after=self._seq):
            # What every process on this store knows, and keeps to for ever: a vote may arrive after a restart.
            self._key = self._key or f"{event.id} {event.at!r}".encode()
            self._seq = event.seq
            if event.kind == "item":
                self._add_item(event)
            elif event.kind == "rater":
                self._add_rater(event)
            elif event.kind == "guideline":
                self._guidelines.add(event.body["version"])
            elif event.kind == "judgement":
                self._add_judgement(event)
            elif event.kind == "retraction":
                self._take_back(event.id.removeprefix("retraction:"))

    def _add_item(self, event: Event) -> None:
        name, body = str(event.item), event.body
        gold, repeats = body["expected"] is not None, body["repeats"]
        again = body["mode"] in REPEATABLE and self._uniform("again", name) < self._repeat_share
        again = not gold and not repeats and (again or name in self._again)
        self._items[name] = _Asked(body["wanted"], gold, repeats, again)
        self._raters[name] = Counter()
        if repeats:
            self._again[repeats] = name
            if repeats in self._items:
                self._items[repeats] = replace(self._items[repeats], again=True)
        elif gold:
            self._gold.append(name)
        self._open_or_not(name)

    def _add_rater(self, event: Event) -> None:
        person = self._person(str(event.rater))
        person.human = event.body["kind"] == "human"
        for item in person.answers.values():
            self._open_or_not(item)

    def _add_judgement(self, event: Event) -> None:
        name, item, rater = event.body["id"], str(event.item), str(event.rater)
        person = self._person(rater)
        person.answers[name] = item
        person.seconds[name] = event.body["seconds"]
        if event.body["answer"]["kind"] == "skipped":
            person.skipped.add(name)
        self._of[name] = (item, rater)
        self._raters[item][rater] += 1
        self._open_or_not(item)

    def _take_back(self, name: str) -> None:
        item, rater = self._of.pop(name)
        person = self._person(rater)
        del person.answers[name], person.seconds[name]
        person.skipped.discard(name)
        self._raters[item] -= Counter({rater: 1})
        self._open_or_not(item)

    def _open_or_not(self, item: str) -> None:
        asked = self._items[item]
        if not asked.hidden and self._judged(item) < asked.wanted:
            self._open[item] = None
        else:
            self._open.pop(item, None)

    def _judged(self, item: str) -> int:
        """How many people judged an item: judges and programs are not what an item wants."""
        return sum(self._person(rater).human for rater in self._raters[item])

    def _person(self, rater: str) -> _Person:
        return self._people.setdefault(rater, _Person())

    def _hash(self, *names: str) -> str:
        return hmac.new(self._key, "\0".join(names).encode(), hashlib.sha256).hexdigest()

    def _uniform(self, *names: str) -> float:
        return int(self._hash(*names)[:13], 16) / 16**13


# ---- what came from outside


def answer_of(given: Any, shown: Sequence[int]) -> Answer:
    """A page's answer, which speaks of places, as one that speaks of completions; DataError where it is none.

    `shown[k]` is the completion at place k.
    """
    if not isinstance(given, dict):
        raise DataError("A vote has no answer. Send an object with its kind.")
    kind = given.get("kind")
    if kind == "preference":
        degree = _whole(given.get("degree"), "degree")
        return Preference(
            -degree if tuple(shown) == (1, 0) else degree, _flag(given.get("both_bad", False), "both_bad")
        )
    if kind == "order":
        ranks = given.get("ranks")
        if not isinstance(ranks, list) or len(ranks) != len(shown):
            raise DataError(f"The ranks are {str(ranks)[:100]}; there are {len(shown)} places. Give a rank for each.")
        of = dict(zip(shown, (_whole(rank, "rank") for rank in ranks), strict=True))
        return Order(tuple(of[index] for index in range(len(shown))))
    if kind == "edited":
        place = _whole(given.get("of"), "of")
        if not 0 <= place < len(shown):
            raise DataError(f"The place {place} was edited; there are {len(shown)}, from 0. Name one of them.")
        return Edited(shown[place], _text(given.get("text"), "text", LONGEST_TEXT))
    return _unplaced(kind, given)


def _unplaced(kind: Any, given: Mapping[str, Any]) -> Answer:
    """An answer in which no place is named."""
    if kind == "thumb":
        return Thumb(_flag(given.get("up"), "up"))
    if kind == "written":
        return Written(_text(given.get("text"), "text", LONGEST_TEXT))
    if kind == "scores":
        scores = given.get("scores")
        if not isinstance(scores, dict):
            raise DataError("A rating's scores are no object. Send {attribute: number}.")
        return Scores({_text(name, "attribute", 100): _number(score, name) for name, score in scores.items()})
    if kind == "skipped":
        return Skipped(_text(given.get("reason", ""), "reason", LONGEST_NOTE))
    raise DataError(
        f"An answer is of the kind {str(kind)[:50]!r}; it must be preference, order, thumb, written, edited, scores or "
        "skipped. Correct it."
    )


def logged(thumb: Any) -> tuple[Item, Judgement]:
    """A thumb from a deployed model, {prompt | messages, completion, up, model?, note?, id?}, as item and judgement."""
    if not isinstance(thumb, dict):
        raise DataError("The feedback is no object. Send {prompt, completion, up}.")
    text = _text(thumb.get("completion"), "completion", LONGEST_TEXT)
    origin = Origin("model", _text(thumb.get("model", ""), "model", 200))
    item = Item(_prompt(thumb), (Candidate(text, (origin,)),), mode="thumbs")
    given = thumb.get("id")
    return item, Judgement(
        id=f"log:{uuid.uuid4() if given is None else _identifier(given)}",
        item=item.id,
        rater=NOBODY,
        answer=Thumb(_flag(thumb.get("up"), "up")),
        note=_text(thumb.get("note", ""), "note", LONGEST_NOTE),
        at=time.time(),
    )


def _prompt(thumb: Mapping[str, Any]) -> Prompt:
    messages = thumb.get("messages")
    if messages is None:
        return Prompt.of(_text(thumb.get("prompt"), "prompt", LONGEST_TEXT))
    if not isinstance(messages, list) or not messages:
        raise DataError("'messages' is no list of turns. Send [{role, content}, …], or a text as `prompt`.")
    return Prompt(tuple(_message(turn) for turn in messages))


def _message(turn: Any) -> Message:
    if not isinstance(turn, dict) or turn.get("role") not in ("system", "user", "assistant"):
        raise DataError("A turn of 'messages' must be {role, content}, its role system, user or assistant. Correct it.")
    return Message(turn["role"], _text(turn.get("content"), "content", LONGEST_TEXT))


def _identifier(value: Any) -> str:
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise DataError(
            "An id is no text of 8 to 80 letters, digits, hyphens, underscores, full stops or colons. Send a UUID."
        )
    return value


def _text(value: Any, name: str, longest: int) -> str:
    if not isinstance(value, str) or len(value) > longest:
        raise DataError(f"{name!r} must be a text of at most {longest:,} characters. Correct it.")
    return value


def _tags(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > 50:
        raise DataError("'tags' must be a list of at most 50 texts. Correct it.")
    return tuple(dict.fromkeys(_text(tag, "tag", 100) for tag in value))


def _number(value: Any, name: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= abs(value) < math.inf:
        raise DataError(f"{name!r} must be a finite number. Correct it.")
    return float(value)


def _whole(value: Any, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise DataError(f"{name!r} must be a whole number. Correct it.")
    return value


def _flag(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise DataError(f"{name!r} must be true or false. Correct it.")
    return value
