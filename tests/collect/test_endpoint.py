"""The client of an endpoint: what is sent and kept, what is tried again, what is given up, and what never leaks."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.collect import endpoint as module
from palate.collect.cache import Cache
from palate.collect.endpoint import Client, Endpoint, Refused, Unanswered, concurrently, pause
from palate.errors import EndpointError, StoreError, UsageError

KEY = "sk-very-secret-123"
HELLO = [{"role": "user", "content": "hello"}]


def in_turn(*answers):
    """Answers one after another, the last for ever."""
    left = list(answers)
    return lambda body: left.pop(0) if len(left) > 1 else left[0]


# ---- what is sent, and what comes back


def test_a_request_holds_what_the_interface_asks_for(serve, monkeypatch):
    monkeypatch.setenv("MY_KEY", KEY)
    standin = serve(lambda body: "hi")
    with Client(Endpoint(standin.url, "m", key_variable="MY_KEY")) as client:
        reply = client.chat(HELLO, schema={"type": "object"}, max_tokens=7)
    assert (reply.text, reply.cut, reply.tokens_in, reply.tokens_out, reply.cached) == ("hi", False, 100, 10, False)
    assert standin.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert standin.bodies[0] == {
        "model": "m",
        "messages": HELLO,
        "temperature": 0.0,
        "max_tokens": 7,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "strict": True, "schema": {"type": "object"}},
        },
    }


def test_without_a_key_none_is_sent(serve):
    standin = serve(lambda body: "hi")
    with Client(Endpoint(standin.url, "m")) as client:
        client.chat(HELLO)
    assert "Authorization" not in standin.headers[0]


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://localhost:8000", "http://localhost:8000/v1/chat/completions"),
        ("http://localhost:8000/", "http://localhost:8000/v1/chat/completions"),
        ("https://a.example/v1/", "https://a.example/v1/chat/completions"),
        ("https://a.example/openai/v1", "https://a.example/openai/v1/chat/completions"),
        ("https://a.example/v1/chat/completions", "https://a.example/v1/chat/completions"),
    ],
)
def test_the_address_is_found_from_the_base(url, address):
    assert Endpoint(url, "m").address == address


@pytest.mark.parametrize(
    "url", ["ftp://a.example", "file:///etc/passwd", "a.example/v1", "http://", "", "http://[::1", "http://a:99999/v1"]
)
def test_what_is_no_address_over_http_is_refused(url):
    with pytest.raises(UsageError, match="http"):
        Endpoint(url, "m")


@pytest.mark.parametrize("url", [f"https://me:{KEY}@a.example/v1", f"https://a.example/v1?key={KEY}"])
def test_a_secret_in_the_address_is_refused_and_not_repeated(url):
    with pytest.raises(UsageError, match="--key-variable") as caught:
        Endpoint(url, "m")
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "private"),
    [
        ("http://127.0.0.1:1/v1", True),
        ("http://localhost/v1", True),
        ("http://[::1]:80/v1", True),
        ("https://a.example/v1", True),
        ("http://a.example/v1", False),
        ("http://10.0.0.1/v1", False),
    ],
)
def test_a_key_goes_nowhere_in_clear(monkeypatch, url, private):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    if private:
        Client(Endpoint(url, "m")).close()
    else:
        with pytest.raises(UsageError, match="could read") as caught:
            Client(Endpoint(url, "m"))
        assert KEY not in str(caught.value)
        Client(Endpoint(url, "m", key_variable="")).close()


def test_cost_is_by_million_tokens(serve):
    standin = serve(lambda body: "hi")
    with Client(Endpoint(standin.url, "m", price_in=2.0, price_out=8.0)) as client:
        client.chat(HELLO)
        client.chat([{"role": "user", "content": "again"}])
        # 2 × (100 · 2 + 10 · 8) / 10⁶
        assert client.spent.cost == pytest.approx(560e-6)
        assert (client.spent.tokens_in, client.spent.tokens_out, client.spent.answers) == (200, 20, 2)


def test_cost_is_unknown_where_prices_or_tokens_are(serve, whole):
    standin = serve(lambda body: whole("hi", tokens=None))
    with Client(Endpoint(standin.url, "m", price_in=2.0, price_out=8.0)) as client:
        assert client.chat(HELLO).tokens_in is None
        assert (client.spent.cost, client.spent.uncounted) == (None, 1)
    with Client(Endpoint(serve(lambda body: "hi").url, "m", price_in=2.0)) as client:
        client.chat(HELLO)
        assert client.spent.cost is None


def test_a_refusal_to_speak_is_an_empty_text(serve, whole):
    with Client(Endpoint(serve(lambda body: whole(None)).url, "m")) as client:
        assert client.chat(HELLO).text == ""


def test_half_a_surrogate_becomes_text(serve, raw):
    body = b'{"choices": [{"message": {"content": "a\\ud800b"}, "finish_reason": "length"}]}'
    with Client(Endpoint(serve(lambda _: raw(body)).url, "m")) as client:
        reply = client.chat(HELLO)
    assert reply.text == "a?b" and reply.cut


# ---- what is kept


def test_a_known_answer_costs_nothing(serve, tmp_path):
    standin = serve(lambda body: "hi")
    for _ in range(2):
        with Client(Endpoint(standin.url, "m"), tmp_path / "answers") as client:
            first, second = client.chat(HELLO), client.chat(HELLO)
            assert first.text == second.text == "hi" and second.cached
    assert standin.asked == 1
    assert (client.spent.answers, client.spent.cached, client.spent.tokens_in) == (0, 2, 0)


@pytest.mark.parametrize("other", [{"temperature": 1.0}, {"max_tokens": 3}, {"schema": {"type": "object"}}])
def test_another_request_is_another_answer(serve, other):
    standin = serve(lambda body: "hi")
    with Client(Endpoint(standin.url, "m")) as client:
        client.chat(HELLO)
        assert not client.chat(HELLO, **other).cached
    assert standin.asked == 2


def test_the_first_answer_stands_for_everyone(tmp_path):
    one, other = Cache(tmp_path / "answers"), Cache(tmp_path / "answers")
    assert one.put("a", {"text": "one"}) == {"text": "one"}
    assert other.put("a", {"text": "other"}) == {"text": "one"}
    assert other.get("b") is None
    for cache in (one, other):
        cache.close()


def test_what_is_kept_is_never_changed(tmp_path):
    cache = Cache(tmp_path / "answers")
    cache.put("a", {"text": "one"})
    cache.close()
    connection = sqlite3.connect(tmp_path / "answers")
    for statement in ("UPDATE answers SET body = '{}'", "DELETE FROM answers"):
        with pytest.raises(sqlite3.IntegrityError, match="never"):
            connection.execute(statement)
    connection.close()


WRITER = """
import json, sys
from palate.collect.cache import Cache
cache = Cache(sys.argv[1])
print(json.dumps([cache.put(str(n), {"by": sys.argv[2]})["by"] for n in range(50)]))
"""


def test_two_processes_share_a_cache(tmp_path):
    arguments = [sys.executable, "-c", WRITER, str(tmp_path / "answers")]
    running = [subprocess.Popen([*arguments, name], stdout=subprocess.PIPE, text=True) for name in ("one", "two")]
    first, second = (json.loads(process.communicate(timeout=120)[0]) for process in running)
    assert [process.returncode for process in running] == [0, 0]
    cache = Cache(tmp_path / "answers")
    assert first == second == [cache.get(str(n))["by"] for n in range(50)]
    cache.close()


def test_a_file_of_another_kind_is_left_alone(tmp_path):
    text, database = tmp_path / "text", tmp_path / "database"
    text.write_text("not a database, and long enough to be looked at\n" * 10)
    connection = sqlite3.connect(database)
    connection.execute("CREATE TABLE others (a)")
    connection.close()
    for path in (text, database, tmp_path / "nowhere" / "answers"):
        before = path.read_bytes() if path.exists() else None
        with pytest.raises(StoreError, match="cache of answers"):
            Cache(path)
        assert before is None or path.read_bytes() == before


# ---- what is tried again, and what is given up


FAILURES = {
    "busy": lambda raw: raw(b"", 429),
    "broken": lambda raw: raw(b"{}", 500),
    "away": lambda raw: raw(b"", 503, {"Retry-After": "0"}),
    "no JSON": lambda raw: raw(b"<html>"),
    "no choices": lambda raw: raw(b'{"choices": []}'),
    "content is a number": lambda raw: raw(b'{"choices": [{"message": {"content": 3}}]}'),
    "JSON too deep": lambda raw: raw(b"[" * 100_000),
    "truncated": lambda raw: raw(b'{"choices": [{"mess', claimed=500),
    "silent": lambda raw: raw(b"{}", delay=0.6),
    "dripping": lambda raw: raw(b'{"choices": [{"message": {"content": "late"}}]}', delay=0.1, parts=12),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_passing_failure_is_tried_again_and_counted(serve, raw, whole, failure):
    bad = FAILURES[failure](raw)
    standin = serve(in_turn(bad, bad, whole("hi")))
    with Client(Endpoint(standin.url, "m", timeout=0.3)) as client:
        assert client.chat(HELLO).text == "hi"
        assert (client.spent.answers, client.spent.again, client.spent.unanswered) == (1, 2, 0)
    assert standin.asked == 3


def test_no_server_is_a_passing_failure_too():
    with Client(Endpoint("http://127.0.0.1:9/v1", "m", attempts=2)) as client:
        with pytest.raises(Unanswered, match="ConnectError"):
            client.chat(HELLO)
        assert (client.spent.again, client.spent.unanswered) == (1, 1)


def test_an_answer_without_end_is_given_up(serve, raw, monkeypatch):
    monkeypatch.setattr(module, "LARGEST", 1000)
    standin = serve(lambda body: raw(b" " * 5000))
    with Client(Endpoint(standin.url, "m", attempts=1)) as client, pytest.raises(Unanswered, match="more than 1000"):
        client.chat(HELLO)


def test_what_failed_is_not_kept(serve, raw, whole, tmp_path):
    standin = serve(in_turn(raw(b"", 500), raw(b"", 500), whole("hi")))
    with Client(Endpoint(standin.url, "m", attempts=2), tmp_path / "answers") as client:
        with pytest.raises(Unanswered):
            client.chat(HELLO)
        assert client.chat(HELLO).text == "hi"


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_the_server_says_when_to_come_back(serve, raw, whole, form):
    then = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
    asked = {"seconds": "0.4", "date": then}[form]
    standin = serve(in_turn(raw(b"", 429, {"Retry-After": asked}), whole("hi")))
    began = time.monotonic()
    with Client(Endpoint(standin.url, "m")) as client:
        client.chat(HELLO)
    assert time.monotonic() - began > {"seconds": 0.4, "date": 0.9}[form]  # a date has whole seconds


@pytest.mark.parametrize("unreadable", ["soon", "nan", "-5", ""])
def test_an_unreadable_time_is_none(serve, raw, whole, unreadable):
    standin = serve(in_turn(raw(b"", 429, {"Retry-After": unreadable}), whole("hi")))
    with Client(Endpoint(standin.url, "m")) as client:
        assert client.chat(HELLO).text == "hi"


def test_a_very_long_wait_is_the_users(serve, raw):
    standin = serve(lambda body: raw(b"", 429, {"Retry-After": "86400"}))
    with Client(Endpoint(standin.url, "m")) as client, pytest.raises(EndpointError, match="86400 seconds"):
        client.chat(HELLO)


def test_an_endpoint_that_is_not_there_ends_the_run(serve, raw):
    standin = serve(lambda body: raw(b"", 500))
    with Client(Endpoint(standin.url, "m", attempts=2)) as client:
        for _ in range(module.GIVE_UP - 1):
            with pytest.raises(Unanswered):
                client.chat(HELLO)
        with pytest.raises(EndpointError, match="in a row") as caught:
            client.chat(HELLO)
        assert not isinstance(caught.value, Unanswered)
    assert standin.asked == 2 * module.GIVE_UP


@pytest.mark.parametrize("status", [401, 403, 404, 302])
def test_what_every_request_would_meet_ends_the_run_at_once(serve, raw, monkeypatch, tmp_path, status):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    elsewhere = {"Location": "http://127.0.0.1:9/steal"} if status == 302 else {}
    standin = serve(lambda body: raw(f"Incorrect API key provided: {KEY}\x1b[2J".encode(), status, elsewhere))
    with Client(Endpoint(standin.url, "m"), tmp_path / "answers") as client:
        with pytest.raises(EndpointError, match=str(status)) as caught:
            client.chat(HELLO)
        assert KEY not in f"{caught.value}{client.told}{client.spent}{client.endpoint}"
        assert "\x1b" not in str(caught.value)
        error = caught.value
        while error is not None:
            assert KEY not in repr(error)
            error = error.__cause__ or error.__context__
    assert standin.asked == 1
    assert KEY.encode() not in (tmp_path / "answers").read_bytes()


def test_waits_double_and_are_spread_by_the_seed(monkeypatch):
    monkeypatch.setattr(module, "FIRST_WAIT", 0.5)

    @given(st.integers(0, 2**32), st.text(max_size=20), st.integers(0, 30))
    def holds(seed, name, attempt):
        full = min(0.5 * 2**attempt, 60)
        assert full / 2 <= pause(seed, name, attempt) < full
        assert pause(seed, name, attempt) == pause(seed, name, attempt)

    holds()
    assert len({pause(0, name, 3) for name in "abcdefgh"}) == 8


def test_closing_ends_a_wait(serve, raw):
    standin = serve(lambda body: raw(b"", 429, {"Retry-After": "500"}))
    client = Client(Endpoint(standin.url, "m"))
    threading.Timer(0.2, client.close).start()
    began = time.monotonic()
    with pytest.raises(Unanswered, match="closed"):
        client.chat(HELLO)
    assert time.monotonic() - began < 5


# ---- what an endpoint does not know


def refusing(name, whole, raw):
    """An endpoint that answers 400 and names a field, or turns of a role, as long as the request has it."""

    def answer(body):
        there = name in body or any(turn["role"] == name for turn in body["messages"])
        return raw(f'{{"error": "Unsupported: {name}"}}'.encode(), 400) if there else whole("hi")

    return answer


TURNS = [{"role": "system", "content": "rules"}, {"role": "user", "content": "hello"}]


@pytest.mark.parametrize("name", ["response_format", "max_tokens", "temperature", "system"])
def test_what_is_refused_is_done_without_and_said_once(serve, whole, raw, name):
    standin = serve(refusing(name, whole, raw))
    with Client(Endpoint(standin.url, "m")) as client:
        for text in ("hello", "again"):
            turns = [TURNS[0], {"role": "user", "content": text}]
            assert client.chat(turns, schema={"type": "object"}, max_tokens=9).text == "hi"
        assert len(client.told) == 1 and name in client.told[0]
    assert standin.asked == 3  # the second request knows
    last = standin.bodies[-1]
    assert name not in last and (name == "response_format" or "response_format" in last)
    if name == "max_tokens":
        assert last["max_completion_tokens"] == 9
    if name == "system":
        assert last["messages"] == [{"role": "user", "content": "rules\n\nagain"}]


def test_an_endpoint_that_says_nothing_is_asked_without_a_schema(serve, whole, raw):
    standin = serve(lambda body: raw(b"?", 422) if "response_format" in body else whole("hi"))
    with Client(Endpoint(standin.url, "m")) as client:
        assert client.chat(HELLO, schema={"type": "object"}).text == "hi"


def test_one_request_that_is_refused_changes_nothing_for_others(serve, whole, raw):
    long = [{"role": "user", "content": "long" * 100}]

    def answer(body):
        if len(str(body["messages"])) > 300:
            return raw(b"the context is 300 tokens; lower max_tokens or temperature", 400)
        return whole("hi")

    standin = serve(answer)
    with Client(Endpoint(standin.url, "m")) as client:
        with pytest.raises(Refused, match="context is 300"):
            client.chat(long, schema={"type": "object"})
        client.chat(HELLO, schema={"type": "object"})
        assert client.told == []
    assert {"max_tokens", "temperature", "response_format"} <= standin.bodies[-1].keys()


def test_what_ends_the_run_ends_it_for_all_threads(serve, raw):
    """One is refused for good while others would wait for long."""

    def answer(body):
        good = body["messages"][0]["content"] == "3"
        return raw(b"no", 401, delay=0.2) if good else raw(b"", 503, {"Retry-After": "300"})

    def ask(number):
        with contextlib.suppress(Unanswered):
            client.chat([{"role": "user", "content": str(number)}])

    began = time.monotonic()
    with Client(Endpoint(serve(answer).url, "m")) as client, pytest.raises(EndpointError, match="401"):
        list(concurrently(ask, [3, 4, 5, 6], 4))
    assert time.monotonic() - began < 60


# ---- several at a time


def test_no_more_work_at_a_time_than_is_allowed():
    lock, running, most = threading.Lock(), [0], [0]

    def work(number):
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.01)
        with lock:
            running[0] -= 1
        return number * number

    assert sorted(concurrently(work, range(20), 4)) == [number * number for number in range(20)]
    assert most[0] == 4


def test_what_work_raises_is_raised():
    def work(number):
        if number == 3:
            raise EndpointError("three")
        return number

    with pytest.raises(EndpointError, match="three"):
        list(concurrently(work, range(10), 2))


def test_after_stopping_nothing_is_begun_and_what_runs_is_finished():
    begun, found = [], []
    found.extend(concurrently(lambda n: begun.append(n) or n, range(100), 3, lambda: len(begun) >= 5))
    assert sorted(found) == sorted(begun) and 5 <= len(found) <= 8
    assert list(concurrently(lambda n: n, range(5), 2, lambda: True)) == []


def test_many_threads_share_a_client(serve, tmp_path):
    standin = serve(lambda body: body["messages"][0]["content"].upper())
    with Client(Endpoint(standin.url, "m"), tmp_path / "answers") as client:
        replies = list(
            concurrently(lambda n: client.chat([{"role": "user", "content": f"a{n % 40}"}]).text, range(80), 8)
        )
        assert sorted(set(replies)) == sorted(f"A{n}" for n in range(40))
        assert client.spent.answers + client.spent.cached == 80
