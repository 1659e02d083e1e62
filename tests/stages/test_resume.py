"""Runs that are killed, interrupted, continued and done twice at once: nothing of theirs may differ from the uncut run.

The processes are forked from one that has everything imported, so that each costs no more than its work.
"""

import json
import multiprocessing
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from palate.engine.files import file_sha256
from palate.recipe import load_recipe
from palate.stages.calls import Quiet
from palate.stages.run import execute

PATIENCE_SECONDS = 120

CHILD = """
import os, signal, sys
log = open({log!r}, "w", buffering=1)
os.dup2(log.fileno(), 1)
os.dup2(log.fileno(), 2)
sys.stdout = sys.stderr = log
sys.argv = {argv!r}
from palate.engine import files

done = 0

def perform(operation, *arguments):
    global done
    done += 1
    if done == {last}:
        os.kill(os.getpid(), signal.SIGKILL)
    return operation(*arguments)

files.perform = perform
from palate.cli.main import main

try:
    main()
finally:
    print("operations", done)
"""


@dataclass(frozen=True)
class Process:
    """A command in a process of its own, and the file that takes what it writes."""

    handle: multiprocessing.Process
    log: Path

    @property
    def alive(self) -> bool:
        return self.handle.is_alive()

    def send(self, number: int) -> None:
        os.kill(self.handle.pid, number)

    def wait(self) -> int:
        self.handle.join(PATIENCE_SECONDS)
        assert self.handle.exitcode is not None, f"still going after {PATIENCE_SECONDS} s: {self.log.read_text()}"
        return self.handle.exitcode


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """`start(*arguments, last=n)` starts the command; it dies by SIGKILL before its n-th operation on the disk."""
    logs = tmp_path_factory.mktemp("logs")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["palate.stages.run", "palate.stages.closing", "palate.stages.estimate"])
    started = []

    def start(*arguments, last=0):
        log = logs / f"{len(started)}.txt"
        source = CHILD.format(log=str(log), argv=["palate", *map(str, arguments)], last=last)
        process = Process(context.Process(target=exec, args=(source, {})), log)
        process.handle.start()
        started.append(process)
        return process

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield start
    for process in started:
        process.handle.kill()
        process.handle.join()
        process.handle.close()


def rows(path):
    """Whole lines of a file that another process may be writing."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def timeless(path):
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in rows(path)]


def same(one, other):
    """Asserts that two runs are equal to the bit in all that is not time."""
    for stage in ("sft", "reward", "reward/judge", "align"):
        assert timeless(one / stage / "metrics.jsonl") == timeless(other / stage / "metrics.jsonl"), stage
        weights = f"{stage}/model/model.safetensors"
        assert file_sha256(one / weights) == file_sha256(other / weights), stage
    for name in ("align/samples.jsonl", "evaluate/comparisons.jsonl", "evaluate/results.json", "recipe.toml"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    figures = [json.loads((run / "summary.json").read_text()) for run in (one, other)]
    for found in figures:
        for name in [name for name in found if name.startswith("seconds/")]:
            del found[name]
    assert figures[0] == figures[1]
    leftovers = [path.name for path in one.rglob(".*") if path.name != ".lock"]
    assert leftovers == []


def wait_until(condition, process):
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < PATIENCE_SECONDS, process.log.read_text()
        assert process.alive, f"it ended first: {process.log.read_text()}"
        time.sleep(0.001)


# ---- killed


def test_killed_around_operations_on_the_disk(finished, start, tmp_path):
    uncut = start("run", finished.recipe, "--runs", tmp_path / "count")
    assert uncut.wait() == 0
    total = int(uncut.log.read_text().split()[-1])
    print("TOTAL", total)
