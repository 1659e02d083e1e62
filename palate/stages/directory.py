"""A run directory: locked for one process; `run.json` and `summary.json` say what was done and how.

Stages communicate through this directory alone. Everything here reaches the disk atomically.
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import itertools
import json
import os
import platform
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from palate.engine import files
from palate.errors import RecipeError, RunDirectoryError, UsageError

if TYPE_CHECKING:
    from palate.recipe import Run

LOCK, RUN, SUMMARY = ".lock", "run.json", "summary.json"

# Whatever was trained, or asked of people, is work that nobody takes away.
_WORK = ("checkpoints", "rounds.json")

_PACKAGES = ("torch", "transformers", "safetensors", "numpy", "pydantic")


@dataclass(frozen=True)
class RunDirectory:
    """An open run directory, locked against other processes until it is closed.

    `changed` says how machine and software differ from those the run was last opened with; where it is not
    empty, resuming is not exact to the bit.
    """

    path: Path
    changed: tuple[str, ...]
    _lock: TextIO = field(repr=False)

    @classmethod
    def open(cls, root: str | Path, *, name: str, seed: int, threads: int, command: Sequence[str]) -> RunDirectory:
        """Opens the run `root/name`, or begins it, and clears what a killed process left half done.

        RecipeError where the name names no directory; RunDirectoryError where another process holds the run,
        or where the directory holds something else.
        """
        if not name or name.startswith(".") or "/" in name:
            raise RecipeError(f"run.name = {name!r}: it names a directory; give a name without / or leading dot.")
        path = Path(root) / name
        _must_be_a_run(path)
        files.make_directory(path)
        lock = _acquire(path)
        try:
            files.recover(path)
            before = _read(path / RUN)
            now = {**environment(), "threads": threads, "seed": seed, "command": list(command)}
            begun = {"name": name, "created": _now(), "data": {}, "parents": [], "stages": {}}
            _write(path / RUN, {**begun, **before, **now})
        except BaseException:
            lock.close()
            raise
        return cls(path, _changes(before, now) if before else (), lock)

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Lets other processes have the run."""
        self._lock.close()

    # What is on record

    @property
    def record(self) -> dict[str, Any]:
        """What run.json holds."""
        return _read(self.path / RUN)

    @property
    def summary(self) -> dict[str, Any]:
        """What summary.json holds: flat names and figures."""
        return _read(self.path / SUMMARY)

    def update(self, **changes: Any) -> None:
        """Writes top-level entries of run.json; a table is merged into the one that is there."""
        record = self.record
        for key, value in changes.items():
            record[key] = {**record.get(key, {}), **value} if isinstance(value, Mapping) else value
        _write(self.path / RUN, record)

    def update_stage(self, stage: str, **changes: Any) -> None:
        """Writes entries of one stage's record in run.json."""
        self.update(stages={stage: {**self.record["stages"].get(stage, {}), **changes}})

    def summarise(self, figures: Mapping[str, Any]) -> None:
        """Merges figures into summary.json."""
        _write(self.path / SUMMARY, {**self.summary, **figures})

    # Stages

    def stage(self, stage: str) -> Path:
        """The directory of a stage, made where it is missing."""
        files.make_directory(self.path / stage)
        return self.path / stage

    def reset_stage(self, stage: str) -> Path | None:
        """Forgets a stage's record and figures and moves its directory to STAGE.1, .2, …; returns where."""
        record, summary = self.record, self.summary
        figures = record["stages"].pop(stage, {}).get("verdict", {}).get("figures", {})
        gone = {key for key in summary if key.startswith(f"{stage}/")} | {f"seconds/{stage}", *figures}
        # The record last: while it stands, a process that was killed here begins anew here.
        _write(self.path / SUMMARY, {key: figure for key, figure in summary.items() if key not in gone})
        _write(self.path / RUN, record)
        directory = self.path / stage
        return _number(directory) if directory.exists() else None


@contextmanager
def begun(
    root: str | Path, run: Run, *, threads: int, command: Sequence[str], fresh: bool, say: Callable[[str], None]
) -> Iterator[RunDirectory]:
    """The run that a recipe names, open to work in; where it is to be `fresh`, the one that was there is moved aside.

    A mistake of the user's (UsageError) that shows before anything was done leaves all as it was: a new directory goes
    again, and one that was moved aside comes back.
    """
    path = Path(root) / run.name
    moved = set_aside(path) if fresh else None
    if moved is not None:
        say(f"The run that was there is now {moved}.")
    new = not path.exists()
    try:
        with RunDirectory.open(root, name=run.name, seed=run.seed, threads=threads, command=command) as directory:
            yield directory
    except UsageError:
        if new and not any(found for kind in _WORK for found in path.rglob(kind)):
            shutil.rmtree(path, ignore_errors=True)
            if moved is not None:
                moved.rename(path)
        raise


def set_aside(path: str | Path) -> Path | None:
    """Moves a run to the first free of NAME.1, NAME.2, … and returns that, None where there is no run.

    RunDirectoryError where a process holds it, or where it is something else.
    """
    path = Path(path)
    _must_be_a_run(path)
    if not path.exists():
        return None
    with _acquire(path):
        return _number(path)


def environment() -> dict[str, Any]:
    """Versions, hardware and git commit of this process's surroundings, as run.json records them."""
    return {
        "palate": _version("palate"),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES},
        "hardware": {
            "cpu": _processor(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
            "accelerator": _accelerator(),
        },
        "git_commit": _git_commit(),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _accelerator() -> str | None:
    import torch  # here, so that reading a run directory does not wait for it

    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} × {torch.cuda.get_device_name()}"
    return "Apple MPS" if torch.backends.mps.is_available() else None


def _git_commit() -> str | None:
    """The commit of the repository that the command was given in, with a "+" where files had been changed."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    commit = git("rev-parse", "HEAD")
    return commit and commit + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, ...]:
    """What of the things that the last bits of a run depend on is another than before."""
    then, today = (
        {**one["versions"], **one["hardware"], "palate": one["palate"], "threads": one["threads"]}
        for one in (before, now)
    )
    return tuple(f"{name} was {then.get(name)} and is {today[name]}" for name in today if then.get(name) != today[name])


# The lock, and the directory as a whole


def _acquire(path: Path) -> TextIO:
    """Takes the run's lock, which the system lets go when the process ends, however it ends."""
    lock = (path / LOCK).open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.seek(0)
        holder = lock.read() or "another process"
        lock.close()
        raise RunDirectoryError(
            f"{path} is in use by {holder}, and only one process at a time may write a run. Wait for it, stop"
            " it, or give this run another name."
        ) from error
    if not _is_same_file(lock, path / LOCK):
        lock.close()
        raise RunDirectoryError(f"{path} was moved aside by another process this very moment. Start again.")
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {socket.gethostname()} since {_now()}")
    lock.flush()
    return lock


def _is_same_file(file: TextIO, path: Path) -> bool:
    return path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())


def _must_be_a_run(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise RunDirectoryError(f"{path} is a file, and a run needs a directory. Give the run another name.")
    if not path.exists() or (path / RUN).exists():
        return
    # A process killed while it began a run leaves no more than these.
    if any(entry.name != LOCK and not entry.name.endswith(".partial") for entry in path.iterdir()):
        raise RunDirectoryError(
            f"{path} holds files but no {RUN}, so it is no run, and nothing in it is touched. Give the run"
            " another name, or move those files away."
        )


def _number(path: Path) -> Path:
    """Renames `path` to the first free of NAME.1, NAME.2, … beside it."""
    free = next(aside for n in itertools.count(1) if not (aside := path.with_name(f"{path.name}.{n}")).exists())
    files.perform(os.rename, path, free)
    files.sync(path.parent)
    return free


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise RunDirectoryError(
            f"{path} is not JSON ({error}), as it always is. Restore it, or use --fresh."
        ) from error


def _write(path: Path, value: Mapping[str, Any]) -> None:
    files.write_atomic(path, files.encode_json(value, indent=2) + "\n")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
