"""The demo killed with SIGKILL at twenty moments, in every stage, and started again each time: nothing may differ.

Some ten minutes on two cores: `python -m pytest -m slow tests/stages/test_kill_demo.py`.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from palate.engine.files import file_sha256

# Stage and how much of its rows are written when the blow falls; the evaluation writes none and is hit by the clock.
MOMENTS = (
    *[("sft", share) for share in (0.0, 0.3, 0.6, 0.9)],
    *[("reward", share) for share in (0.0, 0.1, 0.35, 0.6, 0.8, 0.97)],
    *[("align", share) for share in (0.0, 0.1, 0.25, 0.5, 0.7, 0.9, 0.99)],
    *[("evaluate", seconds) for seconds in (0.5, 2.0, 4.0)],
)
PATIENCE_SECONDS = 600


def start(root: Path, *settings: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "palate.cli.main", "demo", "--force", "--runs", str(root)]
    for setting in settings:
        command += ["--set", setting]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def rows(path: Path) -> list[dict]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def status(run: Path, stage: str) -> str:
    if not (run / "run.json").exists():
        return ""
    return json.loads((run / "run.json").read_text())["stages"].get(stage, {}).get("status", "")


def wait_for(run: Path, stage: str, when: float, total: int, process: subprocess.Popen) -> None:
    began = time.monotonic()
    running_since = None
    while time.monotonic() - began < PATIENCE_SECONDS:
        assert process.poll() is None, f"the demo ended before {stage} {when}"
        if status(run, stage) == "running":
            running_since = running_since or time.monotonic()
            reached = len(rows(run / stage / "metrics.jsonl"))
            if stage != "evaluate" and reached >= max(1, when * total):
                return
            if stage == "evaluate" and time.monotonic() - running_since >= when:
                return
        time.sleep(0.02)
    raise AssertionError(f"{stage} {when} was never reached")


def timeless(path: Path) -> list[dict]:
    timed = ("time/", "memory/")
    return [{name: value for name, value in row.items() if not name.startswith(timed)} for row in rows(path)]


@pytest.mark.slow
def test_twenty_kills(tmp_path):
    settings = os.environ.get("PALATE_KILL_SETTINGS", "").split()
    assert start(tmp_path / "uncut", *settings).wait() == 0
    uncut, cut = tmp_path / "uncut" / "demo", tmp_path / "cut" / "demo"
    for stage, when in MOMENTS:
        process = start(tmp_path / "cut", *settings)
        wait_for(cut, stage, when, len(rows(uncut / stage / "metrics.jsonl")), process)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert start(tmp_path / "cut", *settings).wait() == 0
    for stage in ("sft", "reward", "align"):
        assert timeless(cut / stage / "metrics.jsonl") == timeless(uncut / stage / "metrics.jsonl")
        weights = f"{stage}/model/model.safetensors"
        assert file_sha256(cut / weights) == file_sha256(uncut / weights)
    for file in ("align/samples.jsonl", "align/points.jsonl", "evaluate/comparisons.jsonl", "evaluate/results.json"):
        assert (cut / file).read_bytes() == (uncut / file).read_bytes()
    leftovers = [path for path in cut.rglob("*") if path.name.endswith((".partial", ".replaced"))]
    assert leftovers == []
