"""Runs that are killed, interrupted, continued and done twice at once: nothing of theirs may differ from the uncut run.

The processes are forked from one that has everything imported, so that each costs no more than its work.
"""

import json
import multiprocessing
import os
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
from palate.stages.directory import RunDirectory
from palate.stages.run import execute

PATIENCE_SECONDS = 600

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
    """`start(*arguments, last=n)` starts the command, which goes on past verdicts and dies by SIGKILL before its n-th
    operation on the disk."""
    logs = tmp_path_factory.mktemp("logs")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["palate.stages.run", "palate.stages.closing", "palate.stages.estimate"])
    started = []

    def start(*arguments, last=0):
        log = logs / f"{len(started)}.txt"
        source = CHILD.format(log=str(log), argv=["palate", *map(str, arguments), "--force"], last=last)
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


def run_through(recipe, root, overrides=()):
    """The recipe's run, past every verdict: so small a model learns little. Returns what was said."""
    said = []
    execute(load_recipe(recipe, overrides), watch=lambda _: Quiet(), say=said.append, root=root, force=True)
    return said


def same(one, other):
    """Asserts that two runs are equal to the bit in all that is not time."""
    for stage in ("sft", "reward", "reward/judge", "align"):
        assert timeless(one / stage / "metrics.jsonl") == timeless(other / stage / "metrics.jsonl"), stage
        weights = f"{stage}/model/model.safetensors"
        assert file_sha256(one / weights) == file_sha256(other / weights), stage
    alignment = [
        f"align/{name}" for name in ("samples.jsonl", "points.jsonl", "overoptimisation.json", "monitors.json")
    ]
    for name in (*alignment, "evaluate/comparisons.jsonl", "evaluate/results.json", "recipe.toml"):
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

# How many operations on the disk each life of a run lasts: enough to reach the next checkpoint, and never the same.
LIVES = (23, 71, 58, 83, 64, 97, 60, 88, 76, 92, 67, 85)


def test_killed_again_and_again_while_it_writes(finished, start, tmp_path):
    cut = tmp_path / "tiny"
    torn = 0
    for last in (*LIVES, 0):
        code = start("run", finished.recipe, "--runs", tmp_path, last=last).wait()
        if code == 0:
            break
        assert code == -signal.SIGKILL
        torn += any(path.name.endswith(".partial") for path in cut.rglob(".*"))
    assert code == 0
    assert torn > 0, "no life ended in the middle of a saving"
    same(cut, finished.run)


@pytest.fixture(scope="module")
def longer(finished, tmp_path_factory):
    """The tiny recipe with more steps in every stage, so that a kill can be aimed, and its uncut run."""
    overrides = ["sft.epochs=4", "reward.epochs=3", "align.iterations=12", "evaluate.count=20"]
    root = tmp_path_factory.mktemp("longer")
    run_through(finished.recipe, root, overrides)
    return root / "tiny", [word for override in overrides for word in ("--set", override)]


def test_killed_in_every_stage(finished, longer, start, tmp_path):
    uncut, settings = longer
    cut = tmp_path / "tiny"
    totals = {place: len(rows(uncut / place / "metrics.jsonl")) for place in ("sft", "reward/judge", "reward", "align")}
    moments = [(place, share) for place in totals for share in (0.2, 0.7)]
    for place, share in moments:
        process = start("run", finished.recipe, "--runs", tmp_path, *settings)
        enough = max(1, int(share * totals[place]))
        wait_until(lambda place=place, enough=enough: len(rows(cut / place / "metrics.jsonl")) >= enough, process)
        process.send(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    process = start("run", finished.recipe, "--runs", tmp_path, *settings)
    wait_until(lambda: (cut / "evaluate").exists(), process)
    process.send(signal.SIGKILL)
    process.wait()
    assert start("run", finished.recipe, "--runs", tmp_path, *settings).wait() == 0
    same(cut, uncut)


@pytest.mark.slow
@pytest.mark.parametrize("last", range(3, 285, 9))  # a whole run is some 290 operations
def test_killed_at_any_operation(finished, start, tmp_path, last):
    assert start("run", finished.recipe, "--runs", tmp_path, last=last).wait() == -signal.SIGKILL
    assert start("run", finished.recipe, "--runs", tmp_path).wait() == 0
    same(tmp_path / "tiny", finished.run)


@pytest.mark.parametrize("stage", ["sft", "reward", "align", "evaluate"])
def test_no_stage_is_done_before_its_figures_are_written(finished, tmp_path, monkeypatch, stage):
    summarise = RunDirectory.summarise

    def killed(directory, figures):
        if f"seconds/{stage}" in figures:
            raise KeyboardInterrupt
        summarise(directory, figures)

    monkeypatch.setattr(RunDirectory, "summarise", killed)
    with pytest.raises(KeyboardInterrupt):
        run_through(finished.recipe, tmp_path)
    monkeypatch.undo()
    run_through(finished.recipe, tmp_path)
    same(tmp_path / "tiny", finished.run)


# ---- interrupted


def test_an_interrupt_saves_says_so_and_the_same_command_goes_on(finished, longer, tmp_path):
    uncut, settings = longer
    cut = tmp_path / "tiny"
    command = [sys.executable, "-m", "palate.cli.main", "run", str(finished.recipe), "--runs", str(tmp_path), *settings]
    command.append("--force")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        while process.poll() is None and not rows(cut / "align" / "metrics.jsonl"):
            time.sleep(0.001)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 130, err
    assert "Traceback" not in err and "stopped. The same command goes on from here." in err
    record = json.loads((cut / "run.json").read_text())
    assert record["stages"]["align"]["status"] == "stopped"
    step = len(rows(cut / "align" / "metrics.jsonl"))
    assert f"align: saved at step {step} of 12." in out
    said = run_through(finished.recipe, tmp_path, settings[1::2])
    assert "  align: to go on with, from its last checkpoint." in said
    same(cut, uncut)


def test_a_second_interrupt_stops_at_once(finished, longer, start, tmp_path):
    uncut, settings = longer
    process = start("run", finished.recipe, "--runs", tmp_path, *settings, "--set", "align.iterations=400")
    wait_until(lambda: rows(tmp_path / "tiny" / "align" / "metrics.jsonl"), process)
    process.send(signal.SIGINT)
    time.sleep(0.002)
    process.send(signal.SIGINT)
    assert process.wait() == 130
    assert "stopping at the next step" in process.log.read_text()
    assert "Traceback" not in process.log.read_text()
    assert start("run", finished.recipe, "--runs", tmp_path, *settings).wait() == 0
    same(tmp_path / "tiny", uncut)


# ---- twice at once


def test_a_second_process_is_refused_and_told_of_the_first(finished, start, palate_command, tmp_path):
    first = start("run", finished.recipe, "--runs", tmp_path, "--set", "align.iterations=2000")
    wait_until(lambda: rows(tmp_path / "tiny" / "sft" / "metrics.jsonl"), first)
    for options in ([], ["--fresh"]):
        second = palate_command("run", finished.recipe, "--runs", tmp_path, *options)
        assert second.code == 2
        assert f"is in use by process {first.handle.pid} on " in second.err
    assert first.alive
    first.send(signal.SIGKILL)
    first.wait()
    # The lock went with its holder.
    assert palate_command("sft", finished.recipe, "--runs", tmp_path, "--force").code == 0


# ---- continued


@pytest.mark.parametrize(
    ("stage", "shorter", "longer_by"),
    [
        ("sft", "sft.epochs=1", "sft.epochs=3"),
        ("reward", "reward.epochs=1", "reward.epochs=2"),
        ("align", "align.iterations=3", "align.iterations=7"),
    ],
)
def test_a_longer_run_goes_on_as_if_it_had_been_that_long(finished, tmp_path, stage, shorter, longer_by):
    def run(root, override):
        return run_through(finished.recipe, root, [override])

    run(tmp_path / "grown", shorter)
    said = run(tmp_path / "grown", longer_by)
    assert f"  {stage}: to go on with, for longer than it was." in said
    run(tmp_path / "whole", longer_by)
    same(tmp_path / "grown" / "tiny", tmp_path / "whole" / "tiny")


def test_under_a_schedule_that_ends_a_longer_run_begins_anew(finished, tmp_path):
    def run(root, iterations):
        overrides = ["align.optimiser.schedule=cosine", f"align.iterations={iterations}"]
        return run_through(finished.recipe, root, overrides)

    run(tmp_path / "grown", 3)
    said = run(tmp_path / "grown", 5)
    assert "  align: to do again: its settings, its data or what it rests on changed." in said
    run(tmp_path / "whole", 5)
    same(tmp_path / "grown" / "tiny", tmp_path / "whole" / "tiny")
