"""A local stand-in for an OpenAI-compatible endpoint, which answers as a test tells it to."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


@dataclass(frozen=True)
class Raw:
    """A response as it is to go over the wire; `claimed` bytes are announced, `delay` seconds come before each part."""

    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    claimed: int | None = None
    delay: float = 0.0
    parts: int = 1


@dataclass
class StandIn:
    """A server, its address, and what it was sent."""

    url: str
    bodies: list[dict[str, Any]]
    headers: list[dict[str, str]]

    @property
    def asked(self) -> int:
        return len(self.bodies)


def completion(text: str | None, *, tokens: tuple[int, int] | None = (100, 10), finish: str = "stop") -> Raw:
    """A whole chat completion that says `text`."""
    usage = {} if tokens is None else {"usage": {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]}}
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    return Raw(json.dumps({"id": "1", "choices": [choice], **usage}).encode())


def texts(body: dict[str, Any]) -> dict[str, str]:
    """The fenced texts of a request, by name."""
    said = body["messages"][-1]["content"]
    return {
        name: text for name, _, text in re.findall(r"^BEGIN ([A-Z ]+) (\w+)\n(.*?)\nEND \1 \2$", said, re.DOTALL | re.M)
    }


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in the middle is what some tests are about."""


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[dict[str, Any]], Raw | str]], StandIn]]:
    """`serve(answer)` starts a server that sends what `answer(body)` returns, a text as a whole chat completion."""
    servers: list[_Server] = []

    def begin(answer: Callable[[dict[str, Any]], Raw | str]) -> StandIn:
        standin = StandIn("", [], [])
        lock = threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    standin.bodies.append(body)
                    standin.headers.append(dict(self.headers))
                said = answer(body)
                self.send(completion(said) if isinstance(said, str) else said)

            def send(self, raw: Raw) -> None:
                self.send_response(raw.status)
                for name, value in {"Content-Type": "application/json", **raw.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(raw.claimed or len(raw.body)))
                self.end_headers()
                step = -(-len(raw.body) // raw.parts) or 1
                for start in range(0, len(raw.body), step):
                    time.sleep(raw.delay)
                    self.wfile.write(raw.body[start : start + step])
                    self.wfile.flush()
                self.close_connection = raw.claimed is not None

            def log_message(self, format: str, *arguments: Any) -> None:
                """Nothing."""

        server = _Server(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        standin.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        return standin

    yield begin
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def whole() -> Callable[..., Raw]:
    """`whole(text, tokens=..., finish=...)` is a chat completion."""
    return completion


@pytest.fixture
def raw() -> type[Raw]:
    """A response byte by byte."""
    return Raw


@pytest.fixture
def material() -> Callable[[dict[str, Any]], dict[str, str]]:
    """`material(body)` finds the fenced texts of a request."""
    return texts


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key of the user's, and waits of milliseconds where half a second is the rule."""
    from palate.collect import endpoint

    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(endpoint, "FIRST_WAIT", 0.002)
