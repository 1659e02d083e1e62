"""The page in a real browser: light, dark, on a phone and on paper; it is silent, and asks nobody for anything."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from palate.report import write

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

MakeRun = Callable[..., Path]


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """A local server that nobody should call: its address, and the paths that were asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(404)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Keeps the test's output quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_address[1]}", asked
        http.shutdown()


# The browser is spoken to on the descriptors 3 and 4; they may be taken when the process begins.
ON_3_AND_4 = """
import fcntl, os, sys
aside = [fcntl.fcntl(int(given), fcntl.F_DUPFD, 10) for given in sys.argv[1:3]]
for descriptor, wanted in zip(aside, (3, 4)):
    os.dup2(descriptor, wanted)
os.execvp(sys.argv[3], sys.argv[3:])
"""


@dataclass
class Browser:
    """A Chromium without a window, spoken to over a pair of pipes (the DevTools protocol, messages end in NUL)."""

    commands: int
    answers: int
    session: dict[str, str] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    sent: int = 0
    unread: bytes = b""

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Gives a command and waits for its result; what happens meanwhile is kept in `events`."""
        self.sent += 1
        message = {"id": self.sent, "method": method, "params": params, **self.session}
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while (answer := self.heard()).get("id") != self.sent:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def heard(self) -> dict[str, Any]:
        """The next message."""
        while b"\0" not in self.unread:
            data = os.read(self.answers, 1 << 16)
            assert data, "the browser is gone"
            self.unread += data
        message, _, self.unread = self.unread.partition(b"\0")
        return json.loads(message)

    def visit(self, page: Path, *, width: int = 1200, scheme: str = "light", media: str = "") -> None:
        """Opens a page and waits until it is loaded."""
        self.events.clear()
        size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media=media, features=features)
        self.call("Page.navigate", url=page.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self.heard())

    def value(self, script: str) -> Any:
        """What a script finds on the page."""
        return self.call("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def asked(self) -> list[str]:
        """The addresses that were asked for since the page was opened."""
        sent = [event for event in self.events if event.get("method") == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in sent]

    def spoken(self) -> list[dict[str, Any]]:
        """What was said on the console, and what failed."""
        loud = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [event for event in self.events if event.get("method") in loud]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for all tests here, every page opened anew."""
    assert CHROMIUM is not None
    (theirs, commands), (answers, to_us) = os.pipe(), os.pipe()
    arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    arguments += ["--disable-component-update", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
    arguments += [f"--user-data-dir={tmp_path_factory.mktemp('profile')}", "--remote-debugging-pipe", "about:blank"]
    process = subprocess.Popen(
        [sys.executable, "-c", ON_3_AND_4, str(theirs), str(to_us), CHROMIUM, *arguments],
        pass_fds=(theirs, to_us),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for descriptor in (theirs, to_us):
        os.close(descriptor)
    try:
        found = Browser(commands, answers)
        target = found.call("Target.createTarget", url="about:blank")["targetId"]
        found.session["sessionId"] = found.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            found.call(f"{domain}.enable")
        yield found
    finally:
        process.terminate()
        process.wait(timeout=30)
        for descriptor in (commands, answers):
            os.close(descriptor)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, write_run: Callable[[Path], Path]) -> Path:
    """The report of a whole run."""
    return write(write_run(tmp_path_factory.mktemp("runs") / "demo"))


def attack(address: str) -> str:
    """Text that would load, run and speak if any of it were taken for markup."""
    return (
        f"<img src='{address}/image'><script src='{address}/script'></script>"
        f"<script>document.title = 'owned'; console.error('owned')</script>"
        f"<style>@import '{address}/style';</style><iframe src='{address}/frame'></iframe>"
    )


def test_the_browser_would_see_an_attack(browser: Browser, tmp_path: Path, server: tuple[str, list[str]]) -> None:
    """The control: on an unescaped page the same text loads, runs and speaks."""
    address, asked = server
    page = tmp_path / "control.html"
    page.write_text(f"<!doctype html><title>control</title>{attack(address)}")
    browser.visit(page)
    assert browser.value("document.title") == "owned"
    assert browser.spoken() and "/image" in asked and "/script" in asked
    assert f"{address}/frame" in browser.asked()


def test_the_report_renders_in_silence(browser: Browser, make_run: MakeRun, server: tuple[str, list[str]]) -> None:
    address, asked = server
    directory = make_run()
    path = directory / "evaluate" / "comparisons.jsonl"
    rows = [
        json.loads(line) | {"after": attack(address), "prompt": attack(address)}
        for line in path.read_text().splitlines()
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monitors = json.loads((directory / "align" / "monitors.json").read_text())
    monitors[1] |= {"name": attack(address), "reason": attack(address)}
    monitors[1]["samples"][0] |= {"prompt": attack(address), "completion": attack(address)}
    (directory / "align" / "monitors.json").write_text(json.dumps(monitors))
    page = write(directory)
    browser.visit(page)
    assert browser.value("document.title") == "demo · Palate report"
    assert browser.value("document.querySelectorAll('svg').length") == 13
    assert browser.value("document.querySelectorAll('script, iframe, img, main style').length") == 0
    assert [url for url in browser.asked() if url != "data:,"] == [page.as_uri()]
    assert (browser.spoken(), asked) == ([], [])


SMALLEST = """(() => {
  const linear = value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const parts = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = colour => parts(colour).slice(0, 3).reduce((sum, value, i) =>
    sum + [0.2126, 0.7152, 0.0722][i] * linear(value / 255), 0);
  const behind = element => {
    for (; element; element = element.parentElement) {
      const found = getComputedStyle(element).backgroundColor, alpha = parts(found)[3];
      if (alpha === undefined || alpha > 0.99) return found;
    }
    return "rgb(255, 255, 255)";
  };
  let least = [21, ""];
  for (const element of document.querySelectorAll("main *")) {
    const own = [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
    const style = getComputedStyle(element);
    if (!own || element.tagName === "title" || style.display === "none") continue;
    const colour = element.closest("svg") ? style.fill : style.color;
    const [high, low] = [light(colour), light(behind(element))].sort((a, b) => b - a);
    const ratio = (high + 0.05) / (low + 0.05);
    if (ratio < least[0]) least = [ratio, element.tagName + " " + element.textContent.slice(0, 40) + " " + colour];
  }
  return least;
})()"""

LOOKS = [(1200, "light", ""), (1200, "dark", ""), (390, "light", ""), (390, "dark", ""), (700, "light", "print")]


@pytest.mark.parametrize(("width", "scheme", "media"), LOOKS, ids=[" ".join(map(str, look)) for look in LOOKS])
def test_all_text_can_be_read_and_nothing_sticks_out(
    browser: Browser, page: Path, width: int, scheme: str, media: str
) -> None:
    browser.visit(page, width=width, scheme=scheme, media=media)
    assert browser.value("document.documentElement.scrollWidth") <= width
    ratio, where = browser.value(SMALLEST)
    assert ratio >= 4.5, where  # WCAG 2.2, 1.4.3: contrast of text against what is behind it
    dark = browser.value("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 26)"
    assert dark == (scheme == "dark")


def test_on_a_phone_no_table_needs_to_be_pushed_aside(browser: Browser, page: Path) -> None:
    browser.visit(page, width=390)
    wider = "[...document.querySelectorAll('.scroll')].filter(one => one.scrollWidth > one.clientWidth + 1)"
    assert browser.value(f"{wider}.map(one => one.ariaLabel)") == []
    assert (
        browser.value(
            "Math.min(...[...document.querySelectorAll('main p, main td')].map("
            "one => parseFloat(getComputedStyle(one).fontSize)))"
        )
        >= 12
    )


def test_words_on_top_are_the_verdict(browser: Browser, page: Path) -> None:
    browser.visit(page, width=390)
    seen = "document.querySelector('h1').getBoundingClientRect().bottom < innerHeight"
    assert browser.value(seen)
    assert browser.value("document.querySelector('.cells').getBoundingClientRect().top < innerHeight")


def test_it_prints_on_some_pages_of_paper(browser: Browser, page: Path) -> None:
    browser.visit(page)
    printed = base64.b64decode(browser.call("Page.printToPDF", printBackground=False)["data"])
    assert printed.startswith(b"%PDF-")
    assert 3 <= printed.count(b"/Type /Page\n") <= 16
