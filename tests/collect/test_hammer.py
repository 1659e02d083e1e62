"""Eight clients vote over HTTP while the label server is killed with SIGKILL and started again, many times over.

A client keeps a vote until the server says that it is stored, and sends it again under the same id. In the end the
store must hold every acknowledged vote exactly once, and no other.
"""

from __future__ import annotations

import http.client
import json
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from palate.collect import Candidate, Item, Store
from palate.records import Prompt

CLIENTS = 8
# How long votes may fail to arrive before the test fails: on a busy machine a start of the server is most of it.
PATIENCE = 120.0


@dataclass
class Client:
    """A rater's page: fetches items, answers, and keeps each vote until it is acknowledged."""

    port: int
    name: str
    stop: threading.Event
    acknowledged: list[str] = field(default_factory=list)
    failures: list[Any] = field(default_factory=list)
    again: int = 0
    cookie: str = ""

    def work(self) -> None:
        votes: list[dict[str, Any]] = []
        while votes or not self.stop.is_set():
            try:
                if not self.cookie:
                    self.cookie = self._asked("GET", f"/?as={self.name}")[0].split(";")[0]
                if not votes:
                    items = self._asked("GET", "/api/next?count=2")[1]["items"]
                    votes = [self._vote(item) for item in items]
                    time.sleep(0 if votes else 0.05)
                    continue
                answer = self._asked("POST", "/api/votes", {"votes": votes})[1]
            except (OSError, http.client.HTTPException):
                self.again += len(votes)
                time.sleep(0.02)
                continue
            self.failures += answer["refused"]
            self.acknowledged += answer["stored"]
            votes = []

    def _vote(self, item: dict[str, Any]) -> dict[str, Any]:
        answer = {"kind": "preference", "degree": 1, "both_bad": False}
        at = time.time()
        return {
            "id": str(uuid.uuid4()),
            "item": item["id"],
            "answer": answer,
            "tags": [],
            "note": "",
            "seconds": 1,
            "at": at,
        }

    def _asked(self, method: str, path: str, body: Any = None) -> tuple[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            headers = {"Cookie": self.cookie} | ({"Content-Type": "application/json"} if body else {})
            connection.request(method, path, json.dumps(body) if body else None, headers)
            answer = connection.getresponse()
            content = answer.read()
            if answer.status not in (200, 303):
                self.failures.append((answer.status, content))
                raise OSError(answer.status)
            return answer.getheader("set-cookie", ""), json.loads(content or b"null")
        finally:
            connection.close()


def start(store: Path, port: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "palate.cli.main", "label", str(store), "--port", str(port)]
    with store.with_suffix(".err").open("ab") as errors:
        return subprocess.Popen(
            [*command, "--no-open", "--repeat-share", "0"], stdout=subprocess.DEVNULL, stderr=errors
        )


def hammered(store: Path, *, kills: int, items: int) -> tuple[list[Client], int]:
    """Votes under kills: the clients when all their votes are acknowledged, and how many kills hit a busy server."""
    pytest.importorskip("starlette", reason="the label server needs the extra 'label'")
    with Store(store) as opened:
        candidates = (Candidate("Red."), Candidate("No."))
        opened.add_items(Item(Prompt.of(f"Question {number}"), candidates, wanted=CLIENTS) for number in range(items))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    stop, drawn, busy = threading.Event(), random.Random(0), 0
    clients = [Client(port, f"rater{number}", stop) for number in range(CLIENTS)]
    threads = [threading.Thread(target=client.work, daemon=True) for client in clients]
    for thread in threads:
        thread.start()
    for kill in range(kills):
        server = start(store, port)
        try:
            before = voted(clients)
            patience = time.monotonic() + PATIENCE
            while voted(clients) < before + CLIENTS:
                told = store.with_suffix(".err").read_text()[-2000:]
                assert time.monotonic() < patience, (
                    f"kill {kill}: {before} votes, and no more; the server said {told!r}"
                )
                time.sleep(0.005)
            time.sleep(drawn.uniform(0, 0.15))
            busy += server.poll() is None
        finally:
            server.send_signal(signal.SIGKILL)
            server.wait()
    stop.set()
    server = start(store, port)
    try:
        for thread in threads:
            thread.join(PATIENCE)
    finally:
        server.kill()
        server.wait()
    assert not any(thread.is_alive() for thread in threads)
    return clients, busy


def voted(clients: list[Client]) -> int:
    return sum(len(client.acknowledged) for client in clients)


def check(store: Path, clients: list[Client], kills: int, busy: int) -> str:
    acknowledged = Counter(name for client in clients for name in client.acknowledged)
    with Store(store) as opened:
        stored = Counter(judgement.id for judgement in opened.judgements())
        by_rater = Counter(judgement.rater for judgement in opened.judgements())
        twice = Counter((judgement.rater, judgement.item) for judgement in opened.judgements()).most_common(1)[0][1]
    assert [client.failures for client in clients] == [[]] * CLIENTS
    assert busy == kills
    assert stored == acknowledged and set(stored.values()) == {1}
    assert by_rater == {client.name: len(client.acknowledged) for client in clients} and twice == 1
    assert len(stored) >= CLIENTS * kills
    again = sum(client.again for client in clients)  # most of them while a server was starting
    return f"{kills} kills, {len(stored)} votes acknowledged and stored once, {again} tries without an answer"


def test_votes_outlive_kills_of_the_server(tmp_path):
    clients, busy = hammered(tmp_path / "feedback.sqlite", kills=2, items=500)
    check(tmp_path / "feedback.sqlite", clients, 2, busy)


@pytest.mark.slow
def test_votes_outlive_two_hundred_kills(tmp_path):
    clients, busy = hammered(tmp_path / "feedback.sqlite", kills=200, items=6_000)
    print(check(tmp_path / "feedback.sqlite", clients, 200, busy))
