"""The run directory: one process at a time, a record that survives, and nothing that is not ours touched."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from palate.engine import files
from palate.errors import RecipeError, RunDirectoryError, TrainingError
from palate.stages import directory
from palate.stages.directory import RunDirectory, environment, set_aside

# Opens a run, says so, and holds it until its input ends.
HOLDER = """
import sys
from palate.stages import directory
directory.environment = lambda: {"palate": "1", "versions": {}, "hardware": {}, "git_commit": None}
with directory.RunDirectory.open(sys.argv[1], name="mine", seed=0, threads=1, command=[]):
    print("open", flush=True)
    sys.stdin.read()
"""


def begin(root: Path, name: str = "mine", **changes: Any) -> RunDirectory:
    settings = {"seed": 3, "threads": 2, "command": ["palate", "demo"]} | changes
    return RunDirectory.open(root, name=name, **settings)


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A machine that does not change from one test run to the next."""
    fixed = {
        "palate": "0.1",
        "versions": {"torch": "2.9"},
        "hardware": {"cpu": "abacus", "cores": 2},
        "git_commit": None,
    }
    monkeypatch.setattr(directory, "environment", lambda: fixed)
    return fixed


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the run open."""
    root = Path(files.__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(root)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        yield process
        process.kill()


# What is on record


def test_a_new_run_is_recorded_whole(tmp_path: Path):
    with begin(tmp_path) as run:
        record = json.loads((tmp_path / "mine" / "run.json").read_text())
        assert record == run.record
        assert run.changed == ()
    created = record.pop("created")
    assert created.endswith("+00:00")
    assert record == {
        "name": "mine",
        "palate": "0.1",
        "versions": {"torch": "2.9"},
        "hardware": {"cpu": "abacus", "cores": 2},
        "threads": 2,
        "seed": 3,
        "git_commit": None,
        "command": ["palate", "demo"],
        "data": {},
        "parents": [],
        "stages": {},
    }


def test_updates_are_merged_and_survive_reopening(tmp_path: Path):
    with begin(tmp_path) as run:
        created = run.record["created"]
        run.update(data={"a.jsonl": "12"}, parents=["other"])
        run.update(data={"b.jsonl": "34"})
        run.update_stage("sft", status="running", digest="ab")
        run.update_stage("reward", status="running")
        run.update_stage("sft", status="done", seconds=1.5)
        run.summarise({"sft/loss": 0.5})
        run.summarise({"sft/loss": 0.25, "seconds/sft": 1.5})
    with begin(tmp_path) as run:
        assert run.record["created"] == created
        assert run.record["data"] == {"a.jsonl": "12", "b.jsonl": "34"}
        assert run.record["parents"] == ["other"]
        assert run.record["stages"] == {
            "sft": {"status": "done", "digest": "ab", "seconds": 1.5},
            "reward": {"status": "running"},
        }
        assert run.summary == {"sft/loss": 0.25, "seconds/sft": 1.5}


def test_reopening_elsewhere_says_what_changed(tmp_path: Path, surroundings: dict[str, Any]):
    begin(tmp_path).close()
    surroundings["versions"] = {"torch": "2.10"}
    with begin(tmp_path, threads=4) as run:
        assert set(run.changed) == {"torch was 2.9 and is 2.10", "threads was 2 and is 4"}
        assert run.record["versions"] == {"torch": "2.10"}
    with begin(tmp_path, threads=4) as run:
        assert run.changed == ()


def test_figures_that_are_not_finite_are_refused(tmp_path: Path):
    with begin(tmp_path) as run:
        with pytest.raises(TrainingError, match="align/kl = nan"):
            run.summarise({"align/kl": float("nan")})
        assert run.summary == {}


def test_what_a_killed_process_left_is_cleared_on_opening(tmp_path: Path):
    begin(tmp_path).close()
    stage = tmp_path / "mine" / "sft"
    (stage / ".model.0123abcd.partial").mkdir(parents=True)
    (tmp_path / "mine" / ".run.json.0123abcd.partial").write_text("{")
    with begin(tmp_path) as run:
        assert sorted(entry.name for entry in run.path.rglob("*")) == [".lock", "run.json", "sft"]


def test_a_process_killed_while_it_began_a_run_does_not_block_it(tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / ".lock").touch()
    (tmp_path / "mine" / ".run.json.0123abcd.partial").write_text("{")
    with begin(tmp_path) as run:
        assert run.record["name"] == "mine"


# Stages


def test_a_stage_is_moved_aside_with_its_record_and_figures(tmp_path: Path):
    with begin(tmp_path) as run:
        assert run.stage("sft") == run.stage("sft") == tmp_path / "mine" / "sft"
        (run.stage("sft") / "model").write_text("first")
        run.update_stage("sft", status="done")
        run.update_stage("sft2", status="done")
        run.summarise({"sft/loss": 1.0, "seconds/sft": 2.0, "sft2/loss": 3.0})
        assert run.reset_stage("sft") == tmp_path / "mine" / "sft.1"
        assert not (tmp_path / "mine" / "sft").exists()
        assert run.record["stages"] == {"sft2": {"status": "done"}}
        assert run.summary == {"sft2/loss": 3.0}
        run.stage("sft")
        assert run.reset_stage("sft") == tmp_path / "mine" / "sft.2"
        assert (tmp_path / "mine" / "sft.1" / "model").read_text() == "first"
        assert run.reset_stage("sft") is None


# One process at a time


def test_a_second_process_is_refused_and_told_of_the_first(tmp_path: Path, holder: subprocess.Popen[str]):
    with pytest.raises(RunDirectoryError, match=f"in use by process {holder.pid} on .+ since 20"):
        begin(tmp_path)
    with pytest.raises(RunDirectoryError, match=f"in use by process {holder.pid} on"):
        set_aside(tmp_path / "mine")
    holder.communicate("")
    begin(tmp_path).close()


def test_the_lock_of_a_killed_process_does_not_block(tmp_path: Path, holder: subprocess.Popen[str]):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert str(holder.pid) in (tmp_path / "mine" / ".lock").read_text()
    with begin(tmp_path):
        assert f"process {os.getpid()} on" in (tmp_path / "mine" / ".lock").read_text()
        assert str(holder.pid) not in (tmp_path / "mine" / ".lock").read_text().split()


def test_the_same_process_may_not_open_a_run_twice(tmp_path: Path):
    with begin(tmp_path), pytest.raises(RunDirectoryError, match=f"process {os.getpid()} on"):
        begin(tmp_path)
    begin(tmp_path).close()


def test_a_failed_opening_gives_the_lock_back(tmp_path: Path):
    begin(tmp_path).close()
    whole = (tmp_path / "mine" / "run.json").read_text()
    (tmp_path / "mine" / "run.json").write_text("{")
    with pytest.raises(RunDirectoryError, match="is not JSON"):
        begin(tmp_path)
    (tmp_path / "mine" / "run.json").write_text(whole)
    begin(tmp_path).close()


def test_a_lock_on_a_directory_that_was_moved_away_meanwhile_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    begin(tmp_path).close()
    flock = directory.fcntl.flock

    def late(*arguments: Any) -> None:
        (tmp_path / "mine").rename(tmp_path / "mine.1")
        flock(*arguments)

    monkeypatch.setattr(directory.fcntl, "flock", late)
    with pytest.raises(RunDirectoryError, match="moved aside"):
        begin(tmp_path)


# Whole runs


def test_a_run_is_set_aside_under_the_first_free_number(tmp_path: Path):
    assert set_aside(tmp_path / "mine") is None
    for number in (1, 2):
        begin(tmp_path, command=[str(number)]).close()
        assert set_aside(tmp_path / "mine") == tmp_path / f"mine.{number}"
        assert json.loads((tmp_path / f"mine.{number}" / "run.json").read_text())["command"] == [str(number)]
    begin(tmp_path).close()


def test_what_is_no_run_is_not_touched(tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / ".git").mkdir()
    (tmp_path / "file").touch()
    for open_or_move in (begin, lambda root: set_aside(root / "mine")):
        with pytest.raises(RunDirectoryError, match="it is no run"):
            open_or_move(tmp_path)
    assert [entry.name for entry in (tmp_path / "mine").iterdir()] == [".git"]
    with pytest.raises(RunDirectoryError, match="is a file"):
        begin(tmp_path, name="file")


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "/etc"])
def test_a_run_is_named_by_one_plain_name(tmp_path: Path, name: str):
    with pytest.raises(RecipeError, match=r"run\.name = "):
        begin(tmp_path, name=name)
    assert list(tmp_path.iterdir()) == []


# Surroundings


def test_the_surroundings_are_those_of_this_process():
    now = environment()
    assert now["versions"]["python"] == ".".join(str(part) for part in sys.version_info[:3])
    assert now["versions"]["torch"].startswith("2.")
    assert now["hardware"]["cores"] >= 1
    assert now["hardware"]["cpu"]
    assert 0.1 < now["hardware"]["memory_gb"] < 100_000
    assert json.loads(files.encode_json(now)) == now


def test_the_commit_is_marked_where_files_were_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    assert environment()["git_commit"] is None
    (tmp_path / "f").write_text("one")
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "f"], [*identity, "commit", "-q", "-m", "one"]):
        subprocess.run(["git", *command], check=True)
    commit = environment()["git_commit"]
    assert len(commit) == 40
    (tmp_path / "f").write_text("two")
    assert environment()["git_commit"] == f"{commit}+"


def test_importing_brings_no_torch():
    root = Path(files.__file__).parents[2]
    code = "import palate.stages.directory, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0
