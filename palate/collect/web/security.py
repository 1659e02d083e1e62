"""What stands between the label server and everyone else: hosts, origins, sizes, times, headers, names.

`guarded` wraps the whole application, so that no route, static file or error answers before it was asked. A page that
some other site makes the rater's browser send is stopped by the Host allow-list (DNS rebinding), by Origin, and by the
content type; what a stranger's text could do in our page by the content security policy.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})

# The largest request, in bytes, and the seconds it may take to arrive.
LARGEST = 1_000_000
ARRIVAL_SECONDS = 20.0

# Connections that wait for their client (no request, half a request, a body nobody reads): how long, and how many.
PATIENCE_SECONDS = 20.0
PATIENT = 100

# What a browser says of a request that another site's page made it send, another port's of this machine included.
ELSEWHERE = ("cross-site", "same-site")

NAME = re.compile(r"[\w.@+-]{1,64}")

_HEADERS = [
    (name.encode(), value.encode())
    for name, value in {
        "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "cache-control": "no-store",
    }.items()
]


# ---- every request


class Refusal(Exception):
    """A request that is not served: its status and, for a person, what was given, the rule and the fix."""

    def __init__(self, status: int, reason: str):
        self.status, self.reason = status, reason
        super().__init__(reason)


def guarded(app: ASGIApp, hosts: Iterable[str]) -> ASGIApp:
    """The application behind its checks: Host, Origin, content type, size, time of arrival; safe headers on all."""
    allowed = frozenset(host.lower() for host in hosts)

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        answering = _Answering(send)
        try:
            _check(scope, allowed)
            await app(scope, _limited(receive), answering.send)
        except Refusal as refusal:
            await answering.refuse(refusal)

    return guard


class _Answering:
    """Sends with our headers, and knows whether an answer has begun."""

    def __init__(self, send: Send):
        self._send, self._begun = send, False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._begun = True
            message = {**message, "headers": [*message["headers"], *_HEADERS]}
        await self._send(message)

    async def refuse(self, refusal: Refusal) -> None:
        if self._begun:
            raise refusal
        body = json.dumps({"error": refusal.reason}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await self.send({"type": "http.response.start", "status": refusal.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})


def _check(scope: Scope, allowed: frozenset[str]) -> None:
    host = _only(scope, b"host")
    if _without_port(host) not in allowed:
        raise Refusal(
            403,
            f"The request is for the host {host[:100]!r}, and this server answers to {', '.join(sorted(allowed))} "
            "alone. Use one of these, or start it with --allow-host.",
        )
    origin = _only(scope, b"origin")
    if origin and origin.partition("://")[2] != host:
        raise Refusal(
            403,
            f"The request comes from a page of {origin[:100]!r}; only this server's own pages may ask. Open the link "
            "that `palate label` printed.",
        )
    if _only(scope, b"sec-fetch-site") in ELSEWHERE and (
        scope["path"].startswith("/api/") or _only(scope, b"sec-fetch-mode") != "navigate"
    ):
        raise Refusal(
            403,
            "Another site's page asks for this, and only this server's own pages may. Open the link that `palate "
            "label` printed.",
        )
    if scope["method"] not in ("GET", "HEAD"):
        if _only(scope, b"content-type").partition(";")[0].strip() != "application/json":
            raise Refusal(415, "What is posted must be JSON. Send it with `Content-Type: application/json`.")
        length = _only(scope, b"content-length")
        if length and (not length.isdecimal() or int(length) > LARGEST):
            raise _too_large()


def _only(scope: Scope, name: bytes) -> str:
    """A header's value in lower case, empty where there is none; more than one is nobody's honest request."""
    values = [value for key, value in scope["headers"] if key == name]
    if len(values) > 1:
        raise Refusal(400, f"The request has {len(values)} headers {name.decode()!r}; one is allowed. Send one.")
    return values[0].decode("latin-1").strip().lower() if values else ""


def _without_port(host: str) -> str:
    return re.sub(r":\d*\Z", "", host)


def _too_large() -> Refusal:
    return Refusal(413, f"The request is larger than {LARGEST:,} bytes. Send less at a time.")


def _limited(receive: Receive) -> Receive:
    """Receives no more than a request may hold, in no more time than it may take."""
    deadline, size = time.monotonic() + ARRIVAL_SECONDS, 0

    async def limited() -> Message:
        nonlocal size
        try:
            message = await asyncio.wait_for(receive(), max(deadline - time.monotonic(), 0.01))
        except TimeoutError:
            raise Refusal(408, f"The request did not arrive in {ARRIVAL_SECONDS:.0f} s. Send it again.") from None
        size += len(message.get("body", b""))
        if size > LARGEST:
            raise _too_large()
        return message

    return limited


# ---- connections without a request


async def let_go_of_waiting(connections: Callable[[], Iterable[Any]], every: float = 0.5) -> None:
    """Closes connections that make the server wait: older than PATIENCE_SECONDS, or the oldest beyond PATIENT.

    uvicorn limits the time between two requests alone (its issue 157): a client that sends half a header, or nothing,
    would stay for ever. `connections` gives uvicorn's own; one that is being answered is left alone.
    """
    since: dict[Any, float] = {}
    while True:
        await asyncio.sleep(every)
        now = time.monotonic()
        waiting = [one for one in connections() if one.cycle is None or one.cycle.response_complete]
        since = {one: since.get(one, now) for one in waiting}
        oldest = sorted(since, key=since.__getitem__)
        beyond = oldest[: max(len(oldest) - PATIENT, 0)]
        for one in {*beyond, *(one for one in oldest if now - since[one] > PATIENCE_SECONDS)}:
            one.transport.abort()


# ---- who it is


@dataclass(frozen=True)
class Access:
    """Who may come in, under which name.

    On loopback (`open`) anyone of this machine may take a name; elsewhere a name comes with its token, the owner's with
    the owner's. Tokens and cookies are keyed hashes of names, so that none needs to be stored and none can be made up.
    """

    secret: bytes
    open: bool
    names: tuple[str, ...] = ()
    owner: str = "me"
    given: str = ""

    def token(self, name: str) -> str:
        """The token of a rater, of the owner, or of the feedback log."""
        return self.given if self.given and name == self.owner else self._hash("token", name)

    def admits(self, name: str, token: str) -> bool:
        """Whether someone with this token may be `name`."""
        right = self.open or hmac.compare_digest(self.token(name).encode(), token.encode())
        return right and self._knows(name)

    def admits_log(self, token: str) -> bool:
        """Whether someone with this token may write to the feedback log."""
        return hmac.compare_digest(self._hash("log", "log").encode(), token.encode())

    @property
    def log_token(self) -> str:
        """What a deployed model's server shows."""
        return self._hash("log", "log")

    @property
    def cookie_name(self) -> str:
        """The cookie of this store: cookies know no ports, and several servers may stand on one machine."""
        return f"palate-{self._hash('cookie name', '')[:8]}"

    def cookie(self, name: str) -> str:
        """What a browser shows from then on. A header holds no letters beyond Latin ones; a name may."""
        return f"{quote(name, safe='')}.{self._hash('cookie', name)}"

    def name_of(self, cookie: str) -> str | None:
        """The name in a cookie of ours; None for any other."""
        quoted, _, signature = cookie.rpartition(".")
        name = unquote(quoted)
        right = hmac.compare_digest(self._hash("cookie", name).encode(), signature.encode())
        return name if right and self._knows(name) else None

    def _knows(self, name: str) -> bool:
        return NAME.fullmatch(name) is not None and (name == self.owner or not self.names or name in self.names)

    def _hash(self, purpose: str, name: str) -> str:
        # A cookie that anyone could take on loopback is none elsewhere.
        return hmac.new(self.secret, f"{self.open}:{purpose}:{name}".encode(), hashlib.sha256).hexdigest()[:43]
