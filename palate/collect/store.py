"""The store of feedback: append-only events in one SQLite file, each on the disk before it is acknowledged.

    events(seq, id, kind, item, rater, at, body)     kind = item | rater | guideline | judgement | retraction

An event's id is its kind and a name, so that no name that a client makes up can stand for an event of another kind.

Nothing is changed or deleted, which triggers in the file enforce: an undone vote is a retraction after it. The file is
in WAL mode with synchronous = FULL, so an acknowledged vote outlives kill −9 and power failure. Leases, which say who
looks at what, are no feedback and stand in a table of their own. Threads share a store; processes share the file.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palate.collect.judgements import Item, Judgement, Rater, fits
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
CREATE INDEX events_by_item ON events (item, kind);
CREATE INDEX events_by_rater ON events (rater, kind);
CREATE INDEX events_by_kind ON events (kind, seq);
CREATE TRIGGER nothing_changes BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'events are never changed'); END;
CREATE TRIGGER nothing_goes BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'events are never deleted'); END;
CREATE TABLE leases (item TEXT NOT NULL, rater TEXT NOT NULL, until REAL NOT NULL, PRIMARY KEY (item, rater)) STRICT;
CREATE VIEW live AS SELECT * FROM events AS one WHERE kind = 'judgement'
    AND NOT EXISTS (SELECT 1 FROM events
                    WHERE kind = 'retraction' AND id = 'retraction:' || substr(one.id, length('judgement:') + 1));
"""

_WAITING = """
SELECT seq, body FROM events AS item WHERE kind = 'item'
    AND NOT EXISTS (SELECT 1 FROM live WHERE live.item = item.item AND live.rater = :rater)
    AND json_extract(body, '$.wanted') >
        (SELECT COUNT(DISTINCT rater) FROM live WHERE live.item = item.item)
        + (SELECT COUNT(*) FROM leases WHERE leases.item = item.item AND rater != :rater AND until > :now
           AND NOT EXISTS (SELECT 1 FROM live WHERE live.item = leases.item AND live.rater = leases.rater))
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
            self._prepare()
        except sqlite3.Error as error:
            raise StoreError(
                f"{self.path} cannot be opened as a store of feedback ({error}). It must be a file that `palate "
                "label` or `palate collect` made, in a directory that can be written. Give another path."
            ) from error

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
        rows = [(f"item:{item.id}", "item", item.id, None, time.time(), _text(item.to_json())) for item in items]
        with self._writing() as connection:
            return sum(_append(connection, row) for row in rows)

    def add_rater(self, rater: Rater) -> None:
        """Stores who judges. The same name again must be of the same kind."""
        known = self.raters().get(rater.name)
        if known is not None and known != rater:
            raise DataError(
                f"The rater {rater.name!r} was given as {rater.kind}, and is on record as {known.kind}. A name stands "
                "for one rater. Take another name."
            )
        row = (f"rater:{rater.name}", "rater", None, rater.name, time.time(), _text({"kind": rater.kind}))
        with self._writing() as connection:
            _append(connection, row)

    def add_guideline(self, version: str, text: str) -> None:
        """Stores a version of the guidelines that raters see."""
        row = (f"guideline:{version}", "guideline", None, None, time.time(), _text({"version": version, "text": text}))
        with self._writing() as connection:
            _append(connection, row)

    def record(self, judgement: Judgement) -> bool:
        """Stores a judgement durably; False where this very one is stored already.

        DataError where its item is unknown, where it does not answer that item, or where its id stands for another.
        """
        return self.record_all((judgement,)) == 1

    def record_all(self, judgements: Sequence[Judgement]) -> int:
        """Stores judgements durably, all or none of them; how many were not there yet."""
        with self._writing() as connection:
            return sum(self._record(connection, judgement) for judgement in judgements)

    def retract(self, judgement: str, rater: str) -> bool:
        """Takes a rater's own judgement back; False where it was taken back already."""
        with self._writing() as connection:
            found = connection.execute(
                "SELECT item, rater FROM events WHERE id = ?", (f"judgement:{judgement}",)
            ).fetchone()
            if found is None or found[1] != rater:
                raise DataError(
                    f"The judgement {judgement!r} of {rater!r} was to be taken back, and there is none. Only one's own "
                    "stored judgement can be. Reload, and look at what is stored."
                )
            row = (f"retraction:{judgement}", "retraction", found[0], rater, time.time(), "{}")
            return _append(connection, row)

    def lease(self, item: str, rater: str, until: float) -> None:
        """Keeps an item for a rater until a Unix time, so that nobody else is asked what they are looking at."""
        with self._writing() as connection:
            connection.execute("DELETE FROM leases WHERE until <= ?", (time.time(),))
            connection.execute("INSERT OR REPLACE INTO leases VALUES (?, ?, ?)", (item, rater, until))

    def release(self, rater: str) -> None:
        """Lets go what a rater had leased."""
        with self._writing() as connection:
            connection.execute("DELETE FROM leases WHERE rater = ?", (rater,))

    # ---- reading

    def items(self) -> list[Item]:
        """Everything there is to judge, in the order it was stored."""
        return [Item.from_json(event.body) for event in self.events("item")]

    def item(self, name: str) -> Item | None:
        """One item."""
        rows = self._query("SELECT body FROM events WHERE id = ?", (f"item:{name}",))
        return Item.from_json(json.loads(rows[0][0])) if rows else None

    def judgements(self, rater: str | None = None) -> list[Judgement]:
        """What holds, in the order it was said: judgements that were not taken back, of one rater or of all."""
        if rater is None:
            rows = self._query("SELECT body FROM live ORDER BY seq")
        else:
            rows = self._query("SELECT body FROM live WHERE rater = ? ORDER BY seq", (rater,))
        return [Judgement.from_json(json.loads(body)) for (body,) in rows]

    def raters(self) -> dict[str, Rater]:
        """Who judges, by name."""
        return {event.rater: Rater(event.rater, event.body["kind"]) for event in self.events("rater") if event.rater}

    def guidelines(self) -> dict[str, str]:
        """The texts of the guidelines by version, the newest last."""
        return {event.body["version"]: event.body["text"] for event in self.events("guideline")}

    def waiting(self, rater: str, limit: int = 1) -> list[Item]:
        """Items that this rater has not judged and that want more raters than judged or are looking at them."""
        rows = self._query(_WAITING, {"rater": rater, "now": time.time(), "limit": limit})
        return [Item.from_json(json.loads(body)) for _, body in rows]

    def missing(self) -> int:
        """How many judgements the items still want."""
        rows = self._query(
            "SELECT SUM(MAX(json_extract(body, '$.wanted') - (SELECT COUNT(DISTINCT rater) FROM live WHERE live.item ="
            " events.item), 0)) FROM events WHERE kind = 'item'"
        )
        return rows[0][0] or 0

    def events(self, kind: str | None = None) -> list[Event]:
        """The log as it is, retractions and what they took back included, or the events of one kind."""
        columns = "SELECT seq, id, kind, item, rater, at, body FROM events"
        rows = (
            self._query(f"{columns} ORDER BY seq")
            if kind is None
            else self._query(f"{columns} WHERE kind = ? ORDER BY seq", (kind,))
        )
        return [
            Event(seq, name, kind, item, rater, at, json.loads(body)) for seq, name, kind, item, rater, at, body in rows
        ]

    # ---- the file

    def _prepare(self) -> None:
        connection = self._connection
        connection.execute("PRAGMA synchronous = FULL")
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        empty = not connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]
        if application != APPLICATION and not empty:
            raise sqlite3.DatabaseError("it is another program's database")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("BEGIN IMMEDIATE")
        if not connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]:  # nobody else was faster
            for statement in _statements(_SCHEMA):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION}")
            connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version != VERSION:
            raise sqlite3.DatabaseError(f"it is of version {version}, and this Palate reads version {VERSION}")

    def _record(self, connection: sqlite3.Connection, judgement: Judgement) -> bool:
        row = connection.execute("SELECT body FROM events WHERE id = ?", (f"item:{judgement.item}",)).fetchone()
        if row is None:
            raise DataError(
                f"A judgement names the item {judgement.item!r}, and the store has none of that name. Store the item "
                "first, or send the judgement to the store that it was asked from."
            )
        fits(Item.from_json(json.loads(row[0])), judgement)
        body = _text(judgement.to_json())
        name, at = f"judgement:{judgement.id}", judgement.at or time.time()
        stored = _append(connection, (name, "judgement", judgement.item, judgement.rater, at, body))
        if not stored:
            before = connection.execute("SELECT body FROM events WHERE id = ?", (name,)).fetchone()[0]
            if json.loads(before) != json.loads(body):
                raise DataError(
                    f"The judgement {judgement.id!r} is stored already, with another content. An id stands for one "
                    "judgement, and none is changed. Take it back, and send the new one under an id of its own."
                )
        return stored

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


def _append(connection: sqlite3.Connection, row: tuple[Any, ...]) -> bool:
    """One event; False where its id is there."""
    done = connection.execute(
        "INSERT INTO events (id, kind, item, rater, at, body) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
        row,
    )
    return done.rowcount == 1


def _statements(script: str) -> Iterator[str]:
    """The statements of a script, one by one: `executescript` would commit the transaction it stands in."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
