"""What strangers try on the label server: scripts in texts, foreign pages and hosts, paths, floods, idle sockets."""

from __future__ import annotations

import asyncio
import hmac
import inspect
import json
import re
import socket
import subprocess
import sys
import threading
import time
from html.parser import HTMLParser
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.routing import Route
from starlette.testclient import TestClient

from palate.collect import Candidate, Item, Store
from palate.collect.web import security, server
from palate.collect.web.queue import Desk
from palate.collect.web.rendering import LONGEST, rendered
from palate.collect.web.security import LOOPBACK, Access, guarded
from palate.errors import UsageError
from palate.records import Prompt
from palate.stages.people import labelling

SECRET = b"secret" * 8
OPEN = Access(SECRET, open=True)
CLOSED = Access(SECRET, open=False, names=("ann", "bob"))

SCRIPTS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "![x](javascript:alert(1))",
    "![x](https://evil.example/pixel.png)",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](&#106;avascript:alert(1))",
    "[x](data:text/html,<script>alert(1)</script>)",
    "[x](vbscript:x) [y](file:///etc/passwd) [z](//evil.example) [w](/?as=bob)",
    "<javascript:alert(1)>",
    "[x]: javascript:alert(1)\n\n[x]",
    '[x](https://a.example/" onmouseover="alert(1))',
    '[x](https://a.example "t\\" onmouseover=\\"alert(1)")',
    '```js" onload="alert(1)\n</code></pre><script>alert(1)</script>\n```',
    "`</code><script>alert(1)</script>`",
    "| a |\n|:-:|\n| <svg onload=alert(1)> |",
    "<style>*{display:none}</style><base href=//evil.example><form action=//evil.example>",
    "<!-- --><iframe srcdoc='<script>alert(1)</script>'>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "\u202e<script>\x00alert(1)</script>\u2028",
]

TAGS = {
    *("p", "br", "hr", "em", "strong", "s", "code", "pre", "blockquote", "ul", "ol", "li", "a"),
    *("h1", "h2", "h3", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td"),
}
ATTRIBUTES = {"a": {"href", "rel", "target"}, "code": {"class"}, "th": {"class"}, "td": {"class"}, "ol": {"start"}}


class Harmless(HTMLParser):
    """Fails at a tag, attribute or address that the page has no need of."""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        assert tag in TAGS, tag
        for name, value in attrs:
            assert name in ATTRIBUTES.get(tag, ()), (tag, name)
            if name == "href":
                assert re.match(r"(https?://|mailto:)", value, re.IGNORECASE), value
        if tag == "a":
            assert "noopener" in dict(attrs)["rel"]

    def unknown_decl(self, data: str) -> None:
        raise AssertionError(data)

    handle_comment = handle_pi = unknown_decl

    def handle_decl(self, decl: str) -> None:
        raise AssertionError(decl)


def harmless(html: str) -> None:
    parser = Harmless()
    parser.feed(html)
    parser.close()


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "feedback.sqlite") as opened:
        opened.add_items(
            [Item(Prompt.of(f"question {n}"), (Candidate("one"), Candidate("two")), wanted=2) for n in range(5)]
        )
        yield opened


def application(store: Store, access: Access = OPEN, **showing):
    return server.application(Desk(store, repeat_share=0), access, server.Showing(**showing), LOOPBACK)


def browser(app) -> TestClient:
    return TestClient(app, base_url="http://127.0.0.1:8765")


def routes(app) -> list[Route]:
    """Every route of the application, from inside its guard."""
    return inspect.getclosurevars(app).nonlocals["app"].routes


def requests(app) -> list[tuple[str, str]]:
    """A method and address for every route, every static file, and what is nowhere."""
    found = [
        (method, route.path.replace("{name}", "index.html"))
        for route in routes(app)
        for method in sorted(route.methods or ())
    ]
    statics = [("GET", f"/static/{path.name}") for path in server.STATIC.iterdir()]
    return [
        *found,
        *statics,
        ("GET", "/nowhere"),
        ("GET", "/static/nothing.js"),
        ("DELETE", "/"),
        ("OPTIONS", "/api/votes"),
    ]


# ---- strangers' text


@pytest.mark.parametrize("text", SCRIPTS)
def test_no_text_becomes_more_than_text(text):
    harmless(rendered(text))


@given(
    st.lists(st.sampled_from([*SCRIPTS, *"<>&\"'`[]()!\\\n|*_ :#", "javascript:", "https://a.example", "a"])).map(
        "".join
    )
)
def test_no_mixture_of_such_texts_does(text):
    harmless(rendered(text))


def test_what_is_written_is_shown():
    html = rendered(
        "**bold** <b>raw</b>\n\n| a |\n|--:|\n| 1 |\n\n[there](https://a.example/x?y=1&z=2)\n\n```python\nx < 1\n```"
    )
    assert "<strong>bold</strong> &lt;b&gt;raw&lt;/b&gt;" in html
    assert '<td class="align-right">1</td>' in html and "style" not in html
    assert (
        '<a href="https://a.example/x?y=1&amp;z=2" rel="noopener noreferrer nofollow" target="_blank">there</a>' in html
    )
    assert '<pre><code class="language-python">x &lt; 1\n</code></pre>' in html


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (r"*so* $\int_0^1 x\,dx$", r"<em>so</em> <code>$\int_0^1 x\,dx$</code>"),
        (r"\(a_1*b_1*c\)", r"<code>\(a_1*b_1*c\)</code>"),
        ("\\[\na \\\\ b\n\\]", "<code>\\[\na \\\\ b\n\\]</code>"),
        ("$$x < y$$", "<code>$$x &lt; y$$</code>"),
        ("from $5 to $10, or $5-$10", "from $5 to $10, or $5-$10"),
        (r"\$5 and \$6, \(open, *em*", "$5 and $6, (open, <em>em</em>"),
        ("`$a$` costs $3", "<code>$a$</code> costs $3"),
    ],
)
def test_mathematics_is_shown_as_it_was_written(text, shown):
    """Markdown would take backslashes away and read emphasis into indices: another text than was written."""
    assert rendered(text) == f"<p>{shown}</p>\n"


@pytest.mark.parametrize(
    "text",
    [
        "$" * 20_000,
        "\\(" * 20_000,
        "[\\[" * 20_000,
        "$a\\" * 20_000,
        "[" * 20_000,
        "*a_ " * 10_000,
        "> " * 10_000,
        "`" * 20_000 + "a",
        "<" * (LONGEST + 1),
    ],
)
def test_no_text_takes_long(text):
    before = time.process_time()
    harmless(rendered(text))
    assert time.process_time() - before < 5


def test_a_very_long_text_stands_as_it_is():
    assert rendered("*<" + "x" * LONGEST) == "<pre>*&lt;" + "x" * LONGEST + "</pre>"


@pytest.mark.parametrize("text", SCRIPTS)
def test_scripts_in_prompt_completion_guidelines_and_note(store, text):
    item = Item(Prompt.of(text), (Candidate(f"{text} one"), Candidate(f"{text} two")))
    with Store(store.path.with_name("other.sqlite")) as other:
        other.add_items([item])
        page = browser(application(other, guideline=text))
        (asked,) = page.get("/api/next").json()["items"]
        for part in (*asked["messages"], *asked["places"]):
            harmless(part["html"])
            assert text in part["text"]
        harmless(page.get("/api/session").json()["guideline"]["html"])
        vote = {
            "id": "vote-one",
            "item": item.id,
            "answer": {"kind": "skipped", "reason": text},
            "note": text,
            "tags": [text],
        }
        assert page.post("/api/votes", json={"votes": [vote]}).json()["stored"]
        assert text not in page.get("/api/history").text
        assert other.judgements()[0].note == text


def test_every_answer_forbids_what_the_page_does_not_need(store):
    app = application(store)
    for method, address in requests(app):
        headers = browser(app).request(method, address, headers={"content-type": "application/json"}).headers
        policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
        assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert "unsafe" not in headers["content-security-policy"] and "http" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store" and headers["x-frame-options"] == "DENY"
        assert "server" not in headers and "access-control-allow-origin" not in headers


# ---- foreign pages and hosts


@pytest.mark.parametrize(
    "host",
    [
        *(
            "evil.example",
            "evil.example:8765",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "evil.example@localhost",
        ),
        *(
            "localhost@evil.example",
            "localhost:1@evil.example:80",
            "0.0.0.0",
            "[::]",
            "127.0.0.2",
            "",
            "localhost:80:80",
        ),
        *("localhost\t.evil.example", "[::1].evil.example", "::1", "localhost/", "localhost#", "*"),
    ],
)
def test_a_foreign_host_is_refused_on_every_route(store, host):
    app = application(store)
    for method, address in requests(app):
        answer = browser(app).request(method, address, headers={"host": host, "content-type": "application/json"})
        assert answer.status_code == 403, (method, address)
        assert answer.headers["content-security-policy"]
        assert method == "HEAD" or list(answer.json()) == ["error"]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:9000", "[::1]:8765", "[::1]"])
def test_a_tunnel_may_use_any_port(store, host):
    assert browser(application(store)).get("/api/session", headers={"host": host}).status_code == 200


def test_two_hosts_are_none(store):
    headers = [("host", "localhost"), ("host", "evil.example")]
    assert browser(application(store)).get("/", headers=headers).status_code == 400


@pytest.mark.parametrize(
    "origin",
    [
        *("http://evil.example", "null", "http://localhost:8765", "http://127.0.0.1:9999", "https://127.0.0.1"),
        *("http://127.0.0.1:8765.evil.example", "http://evil.example@127.0.0.1", "file://", "127.0.0.1:8765"),
        *("http://[::1", "http://127.0.0.1:8765/", "http://127.0.0.1:8765@evil.example", "http:127.0.0.1:8765"),
    ],
)
def test_a_foreign_origin_is_refused_on_every_route(store, origin):
    app = application(store)
    for method, address in requests(app):
        answer = browser(app).request(method, address, headers={"origin": origin, "content-type": "application/json"})
        assert answer.status_code == 403, (method, address)
    assert store.judgements() == []


def test_our_own_origin_is_served(store):
    page = browser(application(store))
    for origin in ("http://127.0.0.1:8765", "https://127.0.0.1:8765"):
        assert page.post("/api/votes", json={"votes": []}, headers={"origin": origin}).status_code == 200


@pytest.mark.parametrize(
    "kind",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", "text/json", "application/jsonx"],
)
def test_only_json_is_taken(store, kind):
    app = application(store, log=True)
    body = json.dumps({"votes": [{"id": "vote-one", "item": store.items()[0].id, "answer": {"kind": "skipped"}}]})
    for method, address in requests(app):
        if method not in ("GET", "HEAD"):
            answer = browser(app).request(method, address, content=body, headers={"content-type": kind})
            assert answer.status_code == 415, address
    assert store.judgements() == []


def test_another_site_sends_nobody_here_under_a_name(store):
    page = browser(application(store))
    # A page of another port of this machine is of the same site.
    for site in ("cross-site", "same-site"):
        headers = {"sec-fetch-site": site, "sec-fetch-mode": "navigate"}
        assert page.get("/?as=bob", headers=headers).status_code == 403
    assert page.get("/?as=bob", headers={"sec-fetch-site": "none", "sec-fetch-mode": "navigate"}).status_code == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_another_sites_page_moves_nothing(store, site):
    """An image or a window of another site that asks for /api/next would lease items, and sends no Origin."""
    app = application(store)
    for method, address in requests(app):
        for mode in ("no-cors", "navigate") if address.startswith("/api/") else ("no-cors",):
            headers = {"sec-fetch-site": site, "sec-fetch-mode": mode, "content-type": "application/json"}
            assert browser(app).request(method, address, headers=headers).status_code == 403, (method, address, mode)
    assert store.leases() == []
    # A link to the page itself may stand anywhere.
    headers = {"sec-fetch-site": site, "sec-fetch-mode": "navigate"}
    assert browser(app).get("/", headers=headers).status_code == 200
    own = {"sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"}
    assert browser(app).get("/api/next", headers=own).status_code == 200


# ---- paths


@pytest.mark.parametrize(
    "path",
    [
        *(
            "../server.py",
            "..%2fserver.py",
            "%2e%2e/server.py",
            "....//server.py",
            "..\\server.py",
            "%252e%252e%252fserver.py",
        ),
        *(
            "/etc/passwd",
            "%2fetc%2fpasswd",
            "index.html%00.js",
            "static/../../server.py",
            ".",
            "..",
            "",
            "index.html/",
            "C:\\x",
        ),
    ],
)
def test_no_path_leads_outside(store, path):
    app = application(store)
    for address in (f"/static/{path}", f"/{path}", f"/api/{path}"):
        parts = {"type": "http", "method": "GET", "path": address, "raw_path": address.encode(), "query_string": b""}
        sent = ask(app, parts)
        assert sent["status"] in (404, 307) or (sent["status"] == 200 and b"<!doctype html>" in sent["body"].lower())
        assert b"import" not in sent["body"] and b"root:" not in sent["body"]


def ask(app, parts) -> dict:
    """Puts a request to the application as it stands, with no client that tidies its address."""
    answer = {"body": b""}
    scope = {
        "headers": [(b"host", b"localhost")],
        "http_version": "1.1",
        "scheme": "http",
        "server": ("localhost", 80),
        **parts,
    }

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        answer["status"] = message.get("status", answer.get("status"))
        answer["body"] += message.get("body", b"")

    asyncio.run(app(scope, receive, send))
    return answer


def test_the_static_files_are_the_folders(store):
    app = application(store)
    for path in server.STATIC.iterdir():
        answer = browser(app).get(f"/static/{path.name}")
        assert answer.content == path.read_bytes()
        assert answer.headers["content-type"].partition(";")[0] != "application/octet-stream"


# ---- names and tokens


def test_without_a_token_nobody_comes_in_from_elsewhere(store):
    app = application(store, CLOSED)
    for address in ("/api/session", "/api/next", "/api/history", "/api/result"):
        assert browser(app).get(address).status_code == 401
    for address in ("/api/votes", "/api/undo"):
        assert browser(app).post(address, json={}).status_code == 401
    for query in ("as=ann", "as=ann&token=", "as=ann&token=no", f"as=ann&token={CLOSED.token('bob')}", "as=me"):
        assert browser(app).get(f"/?{query}").status_code == 403


def test_a_link_gives_a_cookie_and_leaves_the_address(store):
    page = browser(application(store, CLOSED))
    answer = page.get(f"/?as=ann&token={CLOSED.token('ann')}", follow_redirects=False)
    assert answer.status_code == 303 and answer.headers["location"] == "/"
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and CLOSED.token("ann") not in cookie
    assert page.get("/api/session").json()["rater"] == "ann"


@pytest.mark.parametrize("name", ["Анна", "André", "ann+1", "ann@lab.example", "a.b", "\u738b"])
def test_every_pseudonym_that_is_allowed_can_come_in(store, name):
    serving = labelling.Serving(host="192.0.2.1", allowed=("127.0.0.1",), annotators=(name,))
    access = labelling._access(store, serving)
    link = labelling._links(access, serving, 8765)[name]
    page = browser(application(store, access))
    assert page.get(link).status_code == 200
    assert page.get("/api/session").json()["rater"] == name


def test_a_given_token_of_any_characters_stands_in_the_link(store, monkeypatch):
    monkeypatch.setenv(labelling.TOKEN, "a+b&c=d#e %20 and so on")
    serving = labelling.Serving(host="192.0.2.1", allowed=("127.0.0.1",))
    access = labelling._access(store, serving)
    page = browser(application(store, access))
    assert page.get(labelling._links(access, serving, 8765)["me"]).status_code == 200
    assert page.get("/api/session").json()["owner"]


def test_a_name_is_not_taken_by_changing_the_cookie(store):
    app = application(store, CLOSED)
    mine = CLOSED.cookie("ann")
    forged = [mine.replace("ann", "bob"), "bob.", "bob", ".", "", f"bob.{CLOSED.token('bob')}", mine[:-1], f"x.{mine}"]
    stranger = Access(SECRET, open=False, names=("ann", "bob", "eve")).cookie("eve")
    loopback = OPEN.cookie("bob")
    for cookie in (*forged, stranger, loopback):
        headers = {"cookie": f"{CLOSED.cookie_name}={cookie}"}
        assert browser(app).get("/api/session", headers=headers).status_code == 401, cookie
    for name in ("", "a b", "../x", "<b>", "x" * 65, "user:log", "ann\n"):
        assert browser(application(store)).get("/", params={"as": name}).status_code == 403, name


def test_only_the_owner_sees_the_result(store):
    app = application(store, CLOSED, experiment="compare")
    ann = browser(app)
    ann.get(f"/?as=ann&token={CLOSED.token('ann')}")
    assert ann.get("/api/result").status_code == 403 and not ann.get("/api/session").json()["owner"]


def test_secrets_are_compared_in_constant_time():
    with mock.patch.object(hmac, "compare_digest", return_value=True) as compared:
        assert CLOSED.admits("ann", "wrong") and CLOSED.name_of("ann.wrong") == "ann" and CLOSED.admits_log("wrong")
    assert compared.call_count == 3
    for secret in (CLOSED.token("ann"), CLOSED.cookie("ann").rpartition(".")[2], CLOSED.log_token):
        assert len(secret) >= 32


def test_the_token_of_the_environment_is_the_owners(store, monkeypatch):
    monkeypatch.setenv(labelling.TOKEN, "a token of one's own")
    serving = labelling.Serving(host="192.0.2.1", annotators=("ann",))
    access = labelling._access(store, serving)
    assert access.admits("me", "a token of one's own") and not access.admits("ann", "a token of one's own")
    monkeypatch.setenv(labelling.TOKEN, "another, quite as long")
    assert labelling._access(store, serving).token("ann") != access.token("ann")
    monkeypatch.setenv(labelling.TOKEN, "short")
    with pytest.raises(UsageError, match="PALATE_TOKEN"):
        labelling._check(serving)


def test_the_secret_is_the_owners_alone_and_stays(tmp_path):
    one = labelling._secret(tmp_path / "feedback.sqlite")
    assert one == labelling._secret(tmp_path / "feedback.sqlite") != labelling._secret(tmp_path / "other.sqlite")
    assert len(one) == 32 and (tmp_path / "feedback.sqlite.secret").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("host", "allowed", "link"),
    [
        ("127.0.0.1", (), "http://127.0.0.1:80/?as=ann"),
        ("localhost", (), "http://127.0.0.1:80/?as=ann"),
        ("::1", (), "http://[::1]:80/?as=ann"),
        ("127.0.0.2", (), "http://127.0.0.2:80/?as=ann"),
        ("192.0.2.1", (), "http://192.0.2.1:80/?as=ann&token="),
        ("0.0.0.0", ("label.example",), "http://label.example:80/?as=ann&token="),
    ],
)
def test_links_hold_a_token_where_one_is_needed(store, host, allowed, link):
    serving = labelling.Serving(host=host, allowed=allowed, annotators=("ann",))
    access = labelling._access(store, serving)
    links = labelling._links(access, serving, 80)
    assert links["ann"].startswith(link) and (access.open or links["ann"].endswith(access.token("ann")))


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_every_interface_needs_a_name(host):
    with pytest.raises(UsageError, match="allow-host"):
        labelling._check(labelling.Serving(host=host))


# ---- faults of our own


def test_no_fault_shows_its_trace(store, capsys):
    app = application(store)
    with mock.patch.object(Desk, "next", side_effect=RuntimeError("private detail")):
        answer = TestClient(app, base_url="http://localhost", raise_server_exceptions=False).get("/api/next")
    assert answer.status_code == 500 and list(answer.json()) == ["error"]
    assert "private" not in answer.text and "Traceback" not in answer.text
    assert answer.headers["content-security-policy"]


# ---- a real socket


@pytest.fixture
def port(store):
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    ready, serving = threading.Event(), server.server(application(store, log=True))
    thread = threading.Thread(target=server.serve, args=(serving, listener, ready.set))
    thread.start()
    assert ready.wait(10)
    yield listener.getsockname()[1]
    serving.should_exit = True
    thread.join(10)
    assert not thread.is_alive()


def served(port: int, path: str = "/api/session") -> float:
    """The seconds that another client waits for its answer."""
    began = time.monotonic()
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path)
    assert connection.getresponse().status == 200
    connection.close()
    return time.monotonic() - began


def post(port: int, head: str, body: list[bytes]) -> bytes:
    """What the server answers to a raw post, also where it stops listening before the body's end."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(
            f"POST /api/votes HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{head}\r\n\r\n".encode()
        )
        try:
            for part in body:
                connection.sendall(part)
        except OSError:
            pass
        return connection.recv(20_000)


PART = b"x" * 100_000


def test_fifty_megabytes_are_refused(port):
    assert b" 413 " in post(port, f"Content-Length: {500 * len(PART)}", [PART] * 500)
    assert b" 413 " in post(port, f"Content-Length: {500 * len(PART)}", [])
    assert b" 413 " in post(port, "Content-Length: 99999999999999999999", [])
    assert served(port) < 1


def test_fifty_megabytes_without_a_length_are_refused(port):
    chunk = f"{len(PART):x}\r\n".encode() + PART + b"\r\n"
    assert b" 413 " in post(port, "Transfer-Encoding: chunked", [chunk] * 500)
    assert served(port) < 1


def test_no_more_than_the_limit_is_held(store):
    """Of a body without end, reading stops right after the limit."""
    received = 0

    async def receive():
        nonlocal received
        received += len(PART)
        return {"type": "http.request", "body": PART, "more_body": True}

    sent = []

    async def send(message):
        sent.append(message)

    async def post():
        headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": "/api/votes", "headers": headers, "query_string": b""}
        await application(store)(scope, receive, send)

    asyncio.run(post())
    assert sent[0]["status"] == 413 and received <= security.LARGEST + len(PART)


def test_a_body_that_does_not_come_ends(store, port, monkeypatch):
    monkeypatch.setattr(security, "ARRIVAL_SECONDS", 0.2)
    assert b" 408 " in post(port, "Content-Length: 100", [b"{"])


HALF = b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: "


def test_two_hundred_idle_sockets_stop_nobody(port):
    idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(200)]
    for number, one in enumerate(idle):
        if number % 2:
            one.sendall(HALF)
    try:
        assert max(served(port) for _ in range(5)) < 1
        time.sleep(1.2)
        assert max(served(port) for _ in range(5)) < 1
        alive = sum(not closed(one) for one in idle)
        assert 0 < alive <= security.PATIENT
    finally:
        for one in idle:
            one.close()


def closed(connection: socket.socket) -> bool:
    """Whether the server let go of a connection."""
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


@pytest.mark.parametrize(
    "begun",
    [b"", HALF, b"GET /static/style.css HTTP/1.1\r\nHost: localhost\r\n\r\n" + HALF],
    ids=["no", "half", "second"],
)
def test_half_a_request_does_not_stay(port, monkeypatch, begun):
    monkeypatch.setattr(security, "PATIENCE_SECONDS", 0.5)
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(begun)
        began = time.monotonic()
        try:
            while connection.recv(100_000):
                connection.sendall(b"x") if begun else None
        except OSError:
            pass
        assert time.monotonic() - began < 4
    assert served(port) < 1


@pytest.mark.parametrize(
    "nonsense",
    [
        b"\x16\x03\x01\x02\x00\x01",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"A" * 200_000,
        b"PRI * HTTP/2.0\r\n\r\n",
    ],
)
def test_nonsense_is_refused(port, nonsense):
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        try:
            connection.sendall(nonsense)
            answer = connection.recv(20_000)
        except ConnectionResetError:
            answer = b""
    assert answer == b"" or b" 400 " in answer or b" 403 " in answer
    assert served(port) < 1


def test_no_token_and_no_name_reaches_a_log(tmp_path):
    """The command on another interface, with a right link, a wrong one and nonsense: none of it is written anywhere."""
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps({"prompt": "q", "chosen": "a", "rejected": "b"}) + "\n")
    words = ["label", file, "--host", "0.0.0.0", "--allow-host", "localhost", "--port", "auto", "--annotators", "ann"]
    process = subprocess.Popen(
        [sys.executable, "-m", "palate.cli.main", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(4)]
    link = next(line.split()[-1] for line in lines if " ann: " in line)
    token = link.partition("token=")[2]
    address = int(re.findall(r":(\d+)/", link)[0])
    for path in (link[link.index("/?") :], "/?as=ann&token=WRONG-TOKEN", "/%00?token=WRONG-TOKEN"):
        connection = HTTPConnection("127.0.0.1", address, timeout=10)
        connection.request("GET", path, headers={"Host": "localhost"})
        connection.getresponse().read()
        connection.close()
    with socket.create_connection(("127.0.0.1", address)) as raw:
        raw.sendall(b"GET /?token=WRONG-TOKEN nonsense\r\n\r\n")
        raw.recv(1000)
    process.terminate()
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0 and "Stored: 0" in out
    assert len(token) >= 32 and token not in out + err and "WRONG-TOKEN" not in out + err
    for path in tmp_path.iterdir():
        assert token.encode() not in path.read_bytes()
    assert Path(f"{file}.feedback.sqlite").exists()


def test_a_websocket_is_not_served(store):
    called = []

    async def inner(scope, receive, send):
        called.append(scope)

    async def connect():
        await guarded(inner, LOOPBACK)({"type": "websocket"}, None, None)  # pyright: ignore[reportArgumentType]

    asyncio.run(connect())
    assert called == []
