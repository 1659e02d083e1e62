"""The page in a real browser: it renders, says nothing on the console, and asks nobody for anything."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

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


def visit(page: Path, profile: Path) -> tuple[str, list[str]]:
    """Opens a page without a window: the document as it then stands, and the lines of the console."""
    assert CHROMIUM is not None
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    command += ["--disable-background-networking", "--disable-component-update"]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", f"--user-data-dir={profile}"]
    command += ["--enable-logging=stderr", "--virtual-time-budget=2000", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def attack(address: str) -> str:
    """Text that would load, run and speak if any of it were taken for markup."""
    return (
        f"<img src='{address}/image'><script src='{address}/script'></script>"
        f"<script>document.title = 'owned'; console.error('owned')</script>"
        f"<style>@import '{address}/style';</style><iframe src='{address}/frame'></iframe>"
    )


def test_the_browser_would_see_an_attack(tmp_path: Path, server: tuple[str, list[str]]) -> None:
    """The control: on an unescaped page the same text loads, runs and speaks."""
    address, asked = server
    page = tmp_path / "control.html"
    page.write_text(f"<!doctype html><title>control</title>{attack(address)}")
    document, console = visit(page, tmp_path / "profile")
    assert "<title>owned</title>" in document
    assert console and "/image" in asked and "/script" in asked


def test_the_report_renders_in_silence(make_run: MakeRun, tmp_path: Path, server: tuple[str, list[str]]) -> None:
    address, asked = server
    directory = make_run()
    path = directory / "evaluate" / "comparisons.jsonl"
    rows = [
        json.loads(line) | {"after": attack(address), "prompt": attack(address)}
        for line in path.read_text().splitlines()
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    document, console = visit(write(directory), tmp_path / "profile")
    assert "<title>demo · Palate report</title>" in document
    assert document.count("<svg") == 11
    assert (console, asked) == ([], [])
