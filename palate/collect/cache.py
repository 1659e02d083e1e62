"""Answers of endpoints, kept by the hash of their request, so that none is paid for twice."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from palate.errors import StoreError

# Tells a cache from other SQLite files ("PalC" in ASCII).
APPLICATION = 0x50616C43

_SCHEMA = (
    "CREATE TABLE answers (hash TEXT PRIMARY KEY, at REAL NOT NULL, body TEXT NOT NULL) STRICT",
    "CREATE TRIGGER nothing_changes BEFORE UPDATE ON answers BEGIN SELECT RAISE(ABORT, 'never changed'); END",
    "CREATE TRIGGER nothing_goes BEFORE DELETE ON answers BEGIN SELECT RAISE(ABORT, 'never deleted'); END",
    f"PRAGMA application_id = {APPLICATION}",
)


class Cache:
    """Answers by the hash of their request, append-only in one SQLite file: each is on the disk before it is used.

    Threads share it, processes share the file, and the first answer to a request stands. Without a path it is kept in
    memory alone. StoreError where the disk says no.
    """

    def __init__(self, path: str | Path | None = None):
        self.path = path
        self._lock = threading.Lock()
        try:
            self._connection = sqlite3.connect(
                ":memory:" if path is None else path, timeout=30, isolation_level=None, check_same_thread=False
            )
            self._prepare()
        except sqlite3.Error as error:
            raise StoreError(
                f"{path} cannot be opened as a cache of answers ({error}). It must be a file that Palate made for "
                "that, in a directory that can be written. Give another path."
            ) from error

    def close(self) -> None:
        """Lets the file go."""
        with self._lock:
            self._connection.close()

    def get(self, name: str) -> dict[str, Any] | None:
        """The answer to the request of that hash, where there is one."""
        rows = self._do("SELECT body FROM answers WHERE hash = ?", name)
        return json.loads(rows[0][0]) if rows else None

    def put(self, name: str, answer: Mapping[str, Any]) -> dict[str, Any]:
        """Keeps an answer; what stands, which is another's where that was faster."""
        self._do(
            "INSERT INTO answers VALUES (?, ?, ?) ON CONFLICT (hash) DO NOTHING", name, time.time(), json.dumps(answer)
        )
        return self.get(name) or dict(answer)

    def _prepare(self) -> None:
        connection = self._connection
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN IMMEDIATE")
        if not connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]:
            for statement in _SCHEMA:
                connection.execute(statement)
        elif connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION:
            raise sqlite3.DatabaseError("it is another program's database")
        connection.execute("COMMIT")

    def _do(self, statement: str, *arguments: Any) -> list[Any]:
        with self._lock:
            try:
                return self._connection.execute(statement, arguments).fetchall()
            except sqlite3.Error as error:
                raise StoreError(
                    f"{self.path}: the cache of answers cannot be read or written ({error}). Look at the disk; what "
                    "was kept is whole, and the same command goes on from it."
                ) from error
