"""The store of feedback: append-only events in one SQLite file, each on the disk before it is acknowledged.

    events(seq, id, kind, item, rater, at, body)     kind = item | rater | guideline | judgement | retraction

An event's id is its kind and a name, so that no name that a client makes up can stand for an event of another kind.

Nothing is changed or deleted, which triggers in the file enforce: an undone vote is a retraction after it. The file is
in WAL mode with synchronous = FULL, so an acknowledged vote outlives kill −9 and power failure. Threads share a store;
processes share the file.

Beside the events stand tables that hold no feedback: what follows from the events and would take long to find anew
(`standing`, the judgements that were not taken back; `asked`, how many raters each item wants and has; triggers keep
them), and who looks at what (`leases`).
"""

from __future__ import annotations

import json
import sqlite3
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palate.collect.judgements import Item, Judgement, Rater, fits, named
from palate.errors import DataError, StoreError

# Tells our files from other SQLite files ("Pala" in ASCII).
APPLICATION = 0x50616C61
VERSION = 1

# How long one process waits for another's transaction, in seconds.
PATIENCE = 30.0

_SCHEMA = """
CREATE TABLE events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL CHECK (kind IN ('item', 'rater', 'guideline', 'judgement', 'retraction')),
    item TEXT,
    rater TEXT,
    at REAL NOT NULL,
    body TEXT NOT NULL
) STRICT;
CREATE INDEX events_by_kind ON events (kind, seq);
CREATE TRIGGER nothing_changes BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'events are never changed'); END;
CREATE TRIGGER nothing_goes BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'events are never deleted'); END;

CREATE TABLE asked (
    seq INTEGER PRIMARY KEY, item TEXT NOT NULL UNIQUE, wanted INTEGER NOT NULL, judged INTEGER NOT NULL
) STRICT;
CREATE INDEX asked_open ON asked (seq, item, wanted, judged) WHERE judged < wanted;
CREATE TABLE standing (seq INTEGER PRIMARY KEY, asked INTEGER NOT NULL, rater TEXT NOT NULL) STRICT;
CREATE INDEX standing_by_item ON standing (asked, rater);
CREATE INDEX standing_by_rater ON standing (rater, asked);
CREATE TRIGGER item_asked AFTER INSERT ON events WHEN new.kind = 'item' BEGIN
    INSERT INTO asked SELECT new.seq, new.item, iif(  -- hidden items come in between, and nobody waits for them
        json_extract(new.body, '$.expected') IS NULL AND json_extract(new.body, '$.repeats') = '',
        json_extract(new.body, '$.wanted'), 0
    ), 0;
END;
CREATE TRIGGER judgement_stands AFTER INSERT ON events WHEN new.kind = 'judgement' BEGIN
    INSERT INTO standing SELECT new.seq, seq, new.rater FROM asked WHERE item = new.item;
    UPDATE asked SET judged = (SELECT COUNT(DISTINCT rater) FROM standing WHERE standing.asked = asked.seq)
        WHERE item = new.item;
END;
CREATE TRIGGER judgement_falls AFTER INSERT ON events WHEN new.kind = 'retraction' BEGIN
    DELETE FROM standing WHERE seq = (
        SELECT seq FROM events WHERE id = 'judgement:' || substr(new.id, length('retraction:') + 1)
    );
    UPDATE asked SET judged = (SELECT COUNT(DISTINCT rater) FROM standing WHERE standing.asked = asked.seq)
        WHERE item = new.item;
END;
CREATE TABLE leases (item TEXT NOT NULL, rater TEXT NOT NULL, until REAL NOT NULL, PRIMARY KEY (item, rater)) STRICT;
"""

# Items that want more raters than have judged them or, by lease, are looking at them.
_WAITING = """
SELECT events.body FROM asked JOIN events USING (seq) WHERE judged < wanted
    AND NOT EXISTS (SELECT 1 FROM standing WHERE standing.asked = asked.seq AND standing.rater = :rater)
    AND wanted > judged + (
        SELECT COUNT(*) FROM leases WHERE leases.item = asked.item AND leases.rater != :rater AND until > :now
        AND NOT EXISTS (SELECT 1 FROM standing WHERE standing.asked = asked.seq AND standing.rater = leases.rater)
    )
ORDER BY seq LIMIT :limit
"""


@dataclass(frozen=True, slots=True)
class Event:
    """One row of the log, as it stands."""

    seq: int
    id: str
    kind: str
    item: str | None
    rater: str | None
    at: float
    body: dict[str, Any]


class Store:
    """An open store of feedback; `Store(path)` makes the file where there is none. Close it, or use it in `with`.

    Every method is safe in threads. StoreError where the disk says no; DataError where what is given does not fit.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._lock = threading.RLock()
        try:
            self._connection = sqlite3.connect(
                self.path, timeout=PATIENCE, isolation_level=None, check_same_thread=False
            )
            try:
                self._prepare()
            except BaseException:
                self._connection.close()
                raise
        except sqlite3.Error as error:
            raise StoreError(
                f"{self.path} cannot be opened as a store of feedback ({error}). It must be a file that `palate "
                "label` or `palate collect` made, in a directory that can be written. Give another path."
            ) from error

    @classmethod
    def existing(cls, path: str | Path) -> Store:
        """The store that is there; DataError where there is none, so that who only reads makes no empty one."""
        if not Path(path).is_file():
            raise DataError(
                "there is no store of feedback here. `palate import`, `palate collect` and `palate label` make one. "
                "Is the path right?",
                path,
            )
        return cls(path)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets the file go; what was acknowledged is on the disk already."""
        with self._lock:
            self._connection.close()

    # ---- writing

    def add_items(self, items: Iterable[Item]) -> int:
        """Stores items to be judged; how many of them were not there yet."""
        with self._writing() as connection:
            return sum(_add_item(connection, item, time.time()) for item in items)

    def add_rater(self, rater: Rater) -> None:
        """Stores who judges. The same name again must be of the same kind."""
        self.add_raters((rater,))

    def add_raters(self, raters: Iterable[Rater]) -> int:
        """Stores several who judge; how many of them were not there yet."""
        with self._writing() as connection:
            return sum(_add_rater(connection, rater, time.time()) for rater in raters)

    def add_guideline(self, version: str, text: str) -> None:
        """Stores a version of the guidelines that raters see. The same version again must be the same text."""
        with self._writing() as connection:
            _add_guideline(connection, version, text, time.time())

    def add_events(self, events: Iterable[Event]) -> int:
        """Stores what the log of another store says, in its order; how many of its events were not there yet."""
        with self._writing() as connection:
            return sum(_add_event(connection, event) for event in events)

    def record(self, judgement: Judgement) -> bool:
        """Stores a judgement durably; False where this very one is stored already.

        DataError where its item is unknown, where it does not answer that item, or where its id stands for another.
        """
        return self.record_all((judgement,)) == 1

    def record_all(self, judgements: Iterable[Judgement]) -> int:
        """Stores judgements durably, all or none of them; how many were not there yet."""
        with self._writing() as connection:
            return sum(_record(connection, judgement, judgement.at or time.time()) for judgement in judgements)

    def retract(self, judgement: str, rater: str) -> bool:
        """Takes a rater's own judgement back; False where it was taken back already."""
        with self._writing() as connection:
            return _retract(connection, judgement, rater, time.time())

    def lease_all(self, items: Sequence[str], rater: str, until: float) -> None:
        """Keeps items for a rater until a Unix time, so that nobody else is asked what they are looking at."""
        with self._writing() as connection:
            connection.execute("DELETE FROM leases WHERE until <= ?", (time.time(),))
            connection.executemany(
                "INSERT OR REPLACE INTO leases VALUES (?, ?, ?)", [(item, rater, until) for item in items]
            )

    # ---- reading

    def items(self) -> list[Item]:
        """Everything there is to judge, in the order it was stored."""
        return [Item.from_json(event.body) for event in self.events("item")]

    def item(self, name: str) -> Item | None:
        """One item."""
        rows = self._query("SELECT body FROM events WHERE id = ?", (f"item:{name}",))
        return Item.from_json(json.loads(rows[0][0])) if rows else None

    def judgement(self, name: str) -> Judgement | None:
        """One judgement, taken back or not."""
        rows = self._query("SELECT body FROM events WHERE id = ?", (f"judgement:{name}",))
        return Judgement.from_json(json.loads(rows[0][0])) if rows else None

    def leases(self) -> list[tuple[str, str]]:
        """Who looks at what now: items with their raters, in the order they were leased."""
        return self._query("SELECT item, rater FROM leases WHERE until > ? ORDER BY rowid", (time.time(),))

    def judgements(self, rater: str | None = None) -> list[Judgement]:
        """What holds, in the order it was said: judgements that were not taken back, of one rater or of all."""
        statement = "SELECT body FROM standing JOIN events USING (seq)"
        if rater is None:
            rows = self._query(f"{statement} ORDER BY seq")
        else:
            rows = self._query(f"{statement} WHERE standing.rater = ? ORDER BY seq", (rater,))
        return [Judgement.from_json(json.loads(body)) for (body,) in rows]

    def raters(self) -> dict[str, Rater]:
        """Who judges, by name."""
        return {event.rater: Rater(event.rater, event.body["kind"]) for event in self.events("rater") if event.rater}

    def guidelines(self) -> dict[str, str]:
        """The texts of the guidelines by version, the newest last."""
        return {event.body["version"]: event.body["text"] for event in self.events("guideline")}

    def waiting(self, rater: str, limit: int = 1) -> list[Item]:
        """Items that this rater has not judged and that want more raters than have judged or are looking at them."""
        rows = self._query(_WAITING, {"rater": rater, "now": time.time(), "limit": limit})
        return [Item.from_json(json.loads(body)) for (body,) in rows]

    def events(self, kind: str | None = None, after: int = 0) -> list[Event]:
        """The log as it is, retractions and what they took back included, or the events of one kind; those `after` a
        number of the sequence."""
        columns = "SELECT seq, id, kind, item, rater, at, body FROM events WHERE seq > ?"
        rows = (
            self._query(f"{columns} ORDER BY seq", (after,))
            if kind is None
            else self._query(f"{columns} AND kind = ? ORDER BY seq", (after, kind))
        )
        return [
            Event(seq, name, kind, item, rater, at, json.loads(body)) for seq, name, kind, item, rater, at, body in rows
        ]

    # ---- the file

    def _prepare(self) -> None:
        connection = self._connection
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN IMMEDIATE")  # two processes may be making the file at once
        if not connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]:
            for statement in _statements(_SCHEMA):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION}")
            connection.execute(f"PRAGMA user_version = {VERSION}")
        application, version = (
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
        )
        if application != APPLICATION:
            raise sqlite3.DatabaseError("it is another program's database")
        if version != VERSION:
            raise sqlite3.DatabaseError(f"it is of version {version}, and this Palate reads version {VERSION}")
        connection.execute("COMMIT")
        _turn_to_wal(connection)

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction: on the disk whole when the block ends, or not there at all."""
        with self._lock:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                try:
                    yield self._connection
                    self._connection.execute("COMMIT")
                except BaseException:
                    if self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                raise StoreError(
                    f"{self.path}: this was not stored ({error}); everything acknowledged before is there. Make room "
                    "or let go of the file, and send it again: what arrives twice is stored once."
                ) from error

    def _query(self, statement: str, arguments: Any = ()) -> list[Any]:
        with self._lock:
            try:
                return self._connection.execute(statement, arguments).fetchall()
            except sqlite3.Error as error:
                raise StoreError(f"{self.path} cannot be read ({error}). Look at the disk and the file.") from error


def _add_item(connection: sqlite3.Connection, item: Item, at: float) -> bool:
    return _append(connection, f"item:{item.id}", item.id, None, at, item.to_json())


def _add_rater(connection: sqlite3.Connection, rater: Rater, at: float) -> bool:
    name = f"rater:{rater.name}"
    added = _append(connection, name, None, rater.name, at, {"kind": rater.kind})
    if not added and (kind := _body(connection, name)["kind"]) != rater.kind:
        raise DataError(
            f"The rater {rater.name!r} was given as {rater.kind}, and is on record as {kind}. A name stands for one "
            "rater. Take another name."
        )
    return added


def _add_guideline(connection: sqlite3.Connection, version: str, text: str, at: float) -> bool:
    name, body = f"guideline:{named(version, 'version of the guidelines')}", {"version": version, "text": text}
    added = _append(connection, name, None, None, at, body)
    if not added and _body(connection, name) != body:
        raise DataError(
            f"The version {version!r} of the guidelines is on record with another text, and judgements may rest on "
            "it. Give the new text a version of its own."
        )
    return added


def _record(connection: sqlite3.Connection, judgement: Judgement, at: float) -> bool:
    asked = _body(connection, f"item:{judgement.item}")
    if asked is None:
        raise DataError(
            f"A judgement names the item {judgement.item!r}, and the store has none of that name. Store the item "
            "first, or send the judgement to the store that it was asked from."
        )
    fits(Item.from_json(asked), judgement)
    name, body = f"judgement:{judgement.id}", judgement.to_json()
    added = _append(connection, name, judgement.item, judgement.rater, at, body)
    if not added and _body(connection, name) != body:
        raise DataError(
            f"The judgement {judgement.id!r} is stored already, with another content. An id stands for one judgement, "
            "and none is changed. Take it back, and send the new one under an id of its own."
        )
    return added


def _retract(connection: sqlite3.Connection, judgement: str, rater: str, at: float) -> bool:
    found = _body(connection, f"judgement:{judgement}")
    if found is None or found["rater"] != rater:
        raise DataError(
            f"The judgement {judgement!r} of {rater!r} was to be taken back, and there is none. Only one's own stored "
            "judgement can be. Reload, and look at what is stored."
        )
    return _append(connection, f"retraction:{judgement}", found["item"], rater, at, {})


def _add_event(connection: sqlite3.Connection, event: Event) -> bool:
    """What an event of another store says, said anew: it is checked as if it came for the first time."""
    try:
        kind, _, name = event.id.partition(":")
        if not 0 <= event.at <= sys.float_info.max:
            raise ValueError(f"at = {event.at!r:.100}")
        match event.kind if event.kind == kind else "":
            case "item":
                return _add_item(connection, Item.from_json(event.body), event.at)
            case "rater":
                return _add_rater(connection, Rater(name, event.body["kind"]), event.at)
            case "guideline":
                return _add_guideline(connection, name, str(event.body["text"]), event.at)
            case "judgement":
                return _record(connection, Judgement.from_json(event.body), event.at)
            case "retraction":
                return _retract(connection, name, str(event.rater), event.at)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"The event {event.id!r} has a body that says nothing ({error!r}). Export it anew.") from error
    raise DataError(f"An event has the id {event.id!r} and the kind {event.kind!r}; an id begins with a known kind.")


def _append(
    connection: sqlite3.Connection, name: str, item: str | None, rater: str | None, at: float, body: Mapping[str, Any]
) -> bool:
    """One event; False where its id is there."""
    kind, text = name.partition(":")[0], _text(body)
    done = connection.execute(
        "INSERT INTO events (id, kind, item, rater, at, body) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
        (name, kind, item, rater, at, text),
    )
    return done.rowcount == 1


def _body(connection: sqlite3.Connection, name: str) -> Any:
    """What an event says, None where there is none of that id."""
    row = connection.execute("SELECT body FROM events WHERE id = ?", (name,)).fetchone()
    return None if row is None else json.loads(row[0])


def _turn_to_wal(connection: sqlite3.Connection) -> None:
    """SQLite does not wait here by itself when another process has the file open."""
    give_up = time.monotonic() + PATIENCE
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > give_up:
                raise
            time.sleep(0.01)


def _statements(script: str) -> Iterator[str]:
    """The statements of a script, one by one: `executescript` would commit the transaction it stands in."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _text(value: Any) -> str:
    """Compact ASCII: half a surrogate pair or a NUL stands escaped, and comes back as it was."""
    try:
        return json.dumps(value, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"Feedback is to be stored that is no plain JSON ({error}). Leave that value out.") from error
