"""A client for any OpenAI-compatible endpoint: patient with failures, thrifty by a cache, silent about the key.

    request ──▶ cache ── known ──▶ Reply (costs nothing)
                  │
                  └─ new ──▶ POST …/chat/completions ── 429, 5xx, time-out, no whole answer ──▶ wait, ask again
                                       │
                                       └─ whole answer ──▶ cache, durably ──▶ Reply

An answer is kept by the hash of its request, so a command that is repeated goes on where it was. The API key comes from
an environment variable and goes into the request's header, nowhere else.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import math
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from palate.collect.cache import Cache
from palate.engine.seeding import derive
from palate.errors import EndpointError, UsageError

try:
    import httpx2
except ImportError as missing:
    raise UsageError(
        "A model behind an endpoint is asked with the package httpx2, which is not installed. Install it with "
        'pip install "palate[judge]".'
    ) from missing

Message = Mapping[str, str]
Thing = TypeVar("Thing")
Result = TypeVar("Result")

# What another try may cure: the server is busy, restarts, or something on the way gave up.
PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529})
# What no other request of this run would fare better with: who we are, what we pay, and which model we want.
FATAL = frozenset({301, 302, 303, 307, 308, 401, 402, 403, 404, 405})

# What is said to a request that holds something unknown, or too much.
OBJECTIONS = frozenset({400, 422})

# Waiting between tries, in seconds: doubled each time, between half of it and all of it by a seeded number.
FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0
# A server that wants to be left alone for longer than this is left alone by the user, not by a process that sleeps.
PATIENCE = 600.0

# So many requests in a row without any usable answer, each tried anew, say that the endpoint is not there.
GIVE_UP = 5

# An answer of a few thousand tokens is a few tens of kilobytes; what is far longer is no answer.
LARGEST = 8 * 2**20


class Unanswered(EndpointError):
    """One request got no usable answer, however often it was sent; others may, and so may this one later."""


class Refused(EndpointError):
    """One request was refused for what it holds, such as its length; others may be answered, and this one will not."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a model answers, and on what terms.

    `url` is the base of an OpenAI-compatible interface, as in "http://localhost:8000/v1"; `key_variable` names the
    environment variable that holds the key, if any. A request is tried `attempts` times, each for `timeout` seconds in
    all. Prices are per million tokens, in any currency; None where they are not known. Raises UsageError for an address
    that is not http(s), or that holds a password.
    """

    url: str
    model: str
    key_variable: str = "OPENAI_API_KEY"
    timeout: float = 120.0
    attempts: int = 6
    price_in: float | None = None
    price_out: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
            if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
                # What was given may be a secret, so it is not repeated.
                raise UsageError(
                    "An endpoint's address holds a name, a password, a query or a fragment; it is a plain base such as "
                    "https://HOST/v1, for it is shown and kept. Put the key into an environment variable, and name it "
                    "with --key-variable."
                )
        except ValueError:
            sound = False
        if not sound:
            raise UsageError(
                f"An endpoint was given as {self.url!r}; it is the base of an OpenAI-compatible interface over http or "
                "https, such as http://localhost:8000/v1. Correct the address."
            )
        if not self.model:
            raise UsageError("An endpoint needs a model's name, and none was given. Take one that its /models lists.")

    @property
    def address(self) -> str:
        """Where chat completions are asked for: the base's own, /v1 where the base names no path."""
        base = self.url.rstrip("/").removesuffix("/chat/completions")
        return f"{base}{'' if urlsplit(base).path else '/v1'}/chat/completions"

    @property
    def private(self) -> bool:
        """Whether nobody on the way can read what is sent."""
        parts = urlsplit(self.url)
        return parts.scheme == "https" or _loopback(parts.hostname or "")


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model said; `cut` where the limit on its length stopped it. Tokens are None where nobody counted."""

    text: str
    cut: bool = False
    tokens_in: int | None = None
    tokens_out: int | None = None
    cached: bool = False


@dataclass(frozen=True, slots=True)
class Spent:
    """What asking took: answers paid for and answers known, requests sent again, requests given up, tokens, and the
    seconds that requests took one by one. `cost` is None where prices or tokens are not known."""

    answers: int = 0
    cached: int = 0
    again: int = 0
    unanswered: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    uncounted: int = 0
    seconds: float = 0.0
    cost: float | None = None


class Client:
    """Asks one endpoint, by several threads at a time if need be; close it, or use it in `with`.

    `told` holds, once each, sentences on what had to be done differently for this endpoint. Raises UsageError where
    a key would travel over plain http to another machine.
    """

    def __init__(self, endpoint: Endpoint, cache: str | Path | None = None):
        self.endpoint = endpoint
        self.told: list[str] = []
        self._key = os.environ.get(endpoint.key_variable, "").strip() if endpoint.key_variable else ""
        if self._key and not endpoint.private:
            raise UsageError(
                f"{endpoint.url} is another machine over plain http, and the environment variable "
                f"{endpoint.key_variable} holds a key, which anyone on the way could read. Use https, or name with "
                "--key-variable one that is not set."
            )
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        self._http = httpx2.Client(headers=headers, timeout=endpoint.timeout, follow_redirects=False)
        self._cache = Cache(cache)
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._counts: dict[str, float] = dict.fromkeys(
            ("answers", "cached", "again", "unanswered", "tokens_in", "tokens_out", "uncounted", "seconds"), 0
        )
        self._in_a_row = 0
        self._without: tuple[str, ...] = ()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets connections and cache go; a request that waits for its next try is given up."""
        self._over.set()
        self._http.close()
        self._cache.close()

    @property
    def spent(self) -> Spent:
        """What was asked so far, and what it cost."""
        with self._lock:
            counts = dict(self._counts)
        price_in, price_out, cost = self.endpoint.price_in, self.endpoint.price_out, None
        if price_in is not None and price_out is not None and not counts["uncounted"]:
            cost = (counts["tokens_in"] * price_in + counts["tokens_out"] * price_out) / 1e6
        seconds = counts.pop("seconds")
        return Spent(**{name: int(value) for name, value in counts.items()}, seconds=seconds, cost=cost)

    def chat(
        self,
        messages: Sequence[Message],
        *,
        schema: Mapping[str, Any] | None = None,
        temperature: float = 0.0,
        max_tokens: int = 1024,
    ) -> Reply:
        """The model's reply, from the cache where this very request was answered before.

        `schema` asks for JSON of that shape, which not every endpoint heeds. Raises Unanswered where no try yields a
        usable answer, Refused where the endpoint takes exception to this request, and EndpointError where it would to
        any.
        """
        body: dict[str, Any] = {
            "model": self.endpoint.model,
            "messages": [dict(message) for message in messages],
            "temperature": temperature,
            "max_tokens": max_tokens,
        }
        if schema is not None:
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "answer", "strict": True, "schema": dict(schema)},
            }
        name = hashlib.sha256(json.dumps([self.endpoint.address, body], sort_keys=True).encode()).hexdigest()
        known = self._cache.get(name)
        if known is not None:
            self._count(cached=1)
            return Reply(**known, cached=True)
        began = time.monotonic()
        try:
            answer = self._persistently(name, body)
        finally:
            self._count(seconds=time.monotonic() - began)
        return Reply(**self._cache.put(name, answer))

    # ---- one request, as often as it takes

    def _persistently(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request that is sent until it is answered, is refused, or has used up its tries."""
        reason = ""
        for attempt in range(self.endpoint.attempts):
            if attempt:
                self._count(again=1)
            try:
                answer = self._fitted(body)
            except _Passing as failure:
                reason = str(failure)
                self._wait(name, attempt, failure.wait)
                continue
            with self._lock:
                self._in_a_row = 0
            self._count(answers=1, **_tokens(answer))
            return answer
        self._count(unanswered=1)
        with self._lock:
            self._in_a_row += 1
            lost = self._in_a_row >= GIVE_UP
        if lost:
            raise self._lost(
                f"{self.endpoint.url} gave no usable answer to {GIVE_UP} requests in a row, each sent "
                f"{self.endpoint.attempts} times; the last time: {reason}. Look whether it is up and the address "
                "right; what was answered is kept, and the same command goes on from it."
            )
        raise Unanswered(
            f"{self.endpoint.url} gave no usable answer in {self.endpoint.attempts} tries; the last time: {reason}. "
            "Ask again later: the same command goes on from what was answered."
        )

    def _wait(self, name: str, attempt: int, told: float) -> None:
        """As long as the server says, and longer from try to try; not after the last."""
        if told > PATIENCE:
            raise self._lost(
                f"{self.endpoint.url} wants no request for {told:.0f} seconds; more than {PATIENCE:.0f} are not waited "
                "for. Come back then: what was answered is kept, and the same command goes on from it."
            )
        if attempt + 1 == self.endpoint.attempts:
            return
        if self._over.wait(max(told, pause(self.endpoint.seed, name, attempt))):
            raise Unanswered("The client was closed, or given up, while a request waited for its next try.")

    def _fitted(self, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request without what this endpoint refuses; what that is is found once and remembered."""
        dropped = self._without
        while True:
            response = self._sent(_adapted(body, dropped))
            if response.status not in OBJECTIONS:
                answer = self._understood(response)
                self._remember(dropped)
                return answer
            more = _refused(_adapted(body, dropped), dropped, response.text)
            if more is None:
                raise self._refusal(response)
            dropped = (*dropped, more)

    def _remember(self, dropped: tuple[str, ...]) -> None:
        with self._lock:
            new = [one for one in dropped if one not in self._without]
            self._without = (*self._without, *new)
            self.told += [f"The endpoint refuses {_REFUSALS[one]}" for one in new]

    def _understood(self, response: _Response) -> dict[str, Any]:
        """The answer that a response holds."""
        if response.status in PASSING:
            raise _Passing(f"status {response.status}", response.wait)
        if response.status in FATAL:
            raise self._lost(
                f"{self.endpoint.url} answers with status {response.status}: {self._quoted(response.text)}. Every "
                "request would meet the same. Check address, model and account, and that the environment variable "
                f"{self.endpoint.key_variable or '(none)'} holds the key, where one is needed."
            )
        if response.status != httpx2.codes.OK:
            raise self._refusal(response)
        answer = _answer(response.text)
        if answer is None:
            raise _Passing("an answer that is no whole chat completion")
        return answer

    def _lost(self, message: str) -> EndpointError:
        """The end of the run: requests of other threads that wait for their next try are given up."""
        self._over.set()
        return EndpointError(message)

    def _refusal(self, response: _Response) -> Refused:
        return Refused(
            f"{self.endpoint.url} refuses a request with status {response.status}: {self._quoted(response.text)}. It "
            "must fit the model's context and the provider's rules. Shorten it, or take another model."
        )

    def _sent(self, body: Mapping[str, Any]) -> _Response:
        """The server's response, read whole; the time limit is for all of it, however slowly it drips."""
        deadline = time.monotonic() + self.endpoint.timeout
        try:
            with self._http.stream("POST", self.endpoint.address, json=body) as response:
                content = b""
                for part in response.iter_bytes():
                    content += part
                    if len(content) > LARGEST:
                        raise _Passing(f"an answer of more than {LARGEST} bytes")
                    if time.monotonic() > deadline:
                        raise _Passing("it took too long")
                wait = _retry_after(response.headers.get("Retry-After"))
                return _Response(response.status_code, content.decode("utf-8", "replace"), wait)
        except (httpx2.RequestError, RuntimeError) as error:
            # Its text may quote a header; its name says enough. RuntimeError is a client that was closed meanwhile.
            raise _Passing(type(error).__name__) from None

    def _quoted(self, text: str) -> str:
        """The beginning of what a server says, on one line, without the key."""
        plain = " ".join(text.split()) or "nothing"
        shown = plain.replace(self._key, "…") if self._key else plain
        return "".join(character for character in shown if character.isprintable())[:300]

    def _count(self, **more: float) -> None:
        with self._lock:
            for name, value in more.items():
                self._counts[name] += value


def pause(seed: int, name: str, attempt: int) -> float:
    """Seconds to wait after a request's failed try: twice as many from try to try, half of them or more by a seeded
    number, so that requests that failed together do not come back together."""
    share = 0.5 + derive(seed, "wait", name, attempt) / 2**64
    return share * min(FIRST_WAIT * 2**attempt, LONGEST_WAIT)


def concurrently(
    work: Callable[[Thing], Result],
    things: Iterable[Thing],
    workers: int,
    stopping: Callable[[], bool] = lambda: False,
) -> Iterator[Result]:
    """The results of `work` on each thing, by so many threads at a time, each as soon as it is there.

    Once `stopping()`, or once a work has raised, nothing more is begun and what is under way is finished; what was
    raised first is then raised here.
    """
    rest, done = iter(things), queue.SimpleQueue[tuple[Any, BaseException | None]]()

    def begin(count: int) -> int:
        begun = [threading.Thread(target=perform, args=(thing,), daemon=True) for thing in islice(rest, count)]
        for thread in begun:
            thread.start()
        return len(begun)

    def perform(thing: Thing) -> None:
        try:
            done.put((work(thing), None))
        except BaseException as error:
            done.put((None, error))

    running, failure = 0 if stopping() else begin(workers), None
    while running:
        result, error = done.get()
        failure = failure or error
        running += -1 if failure or stopping() else begin(1) - 1
        if failure is None:
            yield result
    if failure is not None:
        raise failure


# ---- what is sent


# What an endpoint may refuse of a request, each with what is done in its place.
_REFUSALS = {
    "max_tokens": "max_tokens: the limit is sent as max_completion_tokens.",
    "temperature": "the temperature asked for: it samples by its own.",
    "system": "turns of the role system: instructions stand at the beginning of the user's.",
    "response_format": "response_format: replies are read as they come, whatever their form.",
}


def _adapted(body: Mapping[str, Any], dropped: Sequence[str]) -> dict[str, Any]:
    """The request without what is refused."""
    kept = {name: value for name, value in body.items() if name not in dropped}
    if "max_tokens" in dropped:
        kept["max_completion_tokens"] = body["max_tokens"]
    first, *rest = body["messages"]
    if "system" in dropped and first["role"] == "system" and rest:
        kept["messages"] = [{**rest[0], "content": f"{first['content']}\n\n{rest[0]['content']}"}, *rest[1:]]
    return kept


def _refused(body: Mapping[str, Any], dropped: Sequence[str], said: str) -> str | None:
    """What the endpoint refuses, by its own words; the schema where they name nothing, as that is what many lack."""
    there = {*body, *(turn["role"] for turn in body["messages"])} & {*_REFUSALS} - {*dropped}
    named = [name for name in _REFUSALS if name in there and name in said]
    return named[0] if named else "response_format" if "response_format" in there else None


# ---- what comes back


@dataclass(frozen=True, slots=True)
class _Response:
    status: int
    text: str
    wait: float


class _Passing(Exception):
    """A failure that another try may cure, after `wait` seconds at least."""

    def __init__(self, reason: str, wait: float = 0.0):
        super().__init__(reason)
        self.wait = wait


def _answer(text: str) -> dict[str, Any] | None:
    """What a chat completion says, as plain JSON; None where it is no whole one."""
    try:
        whole = json.loads(text)
        choice = whole["choices"][0]
        content = choice["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    if content is not None and not isinstance(content, str):
        return None
    usage = whole.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    return {
        # Half a surrogate pair is no text in any encoding.
        "text": (content or "").encode("utf-8", "replace").decode(),
        "cut": choice.get("finish_reason") == "length",
        "tokens_in": _counted(counts.get("prompt_tokens")),
        "tokens_out": _counted(counts.get("completion_tokens")),
    }


def _counted(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _tokens(answer: Mapping[str, Any]) -> dict[str, int]:
    counts = {name: answer[name] for name in ("tokens_in", "tokens_out")}
    return {**{name: value or 0 for name, value in counts.items()}, "uncounted": int(None in counts.values())}


def _retry_after(value: str | None) -> float:
    """The seconds of a Retry-After header, which is a number or a date; 0 where there is none that can be read."""
    if value is None:
        return 0.0
    try:
        seconds = float(value)
    except ValueError:
        try:
            then = parsedate_to_datetime(value)
        except ValueError:
            return 0.0
        seconds = (then.replace(tzinfo=then.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return max(seconds, 0.0) if math.isfinite(seconds) else 0.0


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
