"""What stands in a run directory, as frozen records; the unreadable is noted, the absent None or empty."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from pydantic import Field, FiniteFloat, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from palate.errors import RunDirectoryError

STAGES = ("sft", "reward", "align", "evaluate")

Rows = tuple[Mapping[str, Any], ...]
Record = TypeVar("Record")


class Series(NamedTuple):
    """A curve: where, and how much."""

    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class Verdict:
    """What a stage's gate decided, and why."""

    level: Literal["pass", "warn", "stop"]
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stage:
    """One stage of `run.json`; `reason` says why it ended early, where it did."""

    status: Literal["running", "done", "failed", "stopped"]
    digest: str = ""
    seconds: FiniteFloat | None = None
    steps: int | None = None
    verdict: Verdict | None = None
    reason: str = ""


@dataclass(frozen=True)
class Manifest:
    """The part of `run.json` that a reader needs."""

    name: str = ""
    created: str = ""
    palate: str | None = None
    versions: dict[str, Any] = Field(default_factory=dict)
    hardware: dict[str, Any] = Field(default_factory=dict)
    threads: int | None = None
    seed: int | None = None
    git_commit: str | None = None
    command: list[str] = Field(default_factory=list)
    data: dict[str, Any] = Field(default_factory=dict)
    parents: list[Any] = Field(default_factory=list)
    stages: dict[str, Stage] = Field(default_factory=dict)


@dataclass(frozen=True)
class WinRate:
    """Wins of the aligned model over the SFT model, a tie as half a win, with a 95 % Wilson interval."""

    estimate: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat
    wins: int
    ties: int
    losses: int


@dataclass(frozen=True)
class Attainable:
    """The win rate that an always perfect answerer would reach."""

    win_rate: FiniteFloat


@dataclass(frozen=True)
class Change:
    """One mean before (SFT) and after (aligned)."""

    before: FiniteFloat
    after: FiniteFloat


@dataclass(frozen=True)
class BestOfN:
    """How far the aligned model came on the way from SFT to the best of n SFT samples by the judge."""

    n: int
    score: FiniteFloat
    share_of_way: FiniteFloat | None = None


@dataclass(frozen=True)
class Group:
    """The prompts of one kind: mean score before and after, and the win rate."""

    name: str
    count: int
    before: FiniteFloat
    after: FiniteFloat
    win_rate: FiniteFloat


@dataclass(frozen=True)
class Results:
    """`evaluate/results.json`."""

    judge: str
    prompts: int
    win_rate: WinRate
    score: Change
    length: Change
    temperature: FiniteFloat | None = None
    kl: FiniteFloat | None = None
    attainable: Attainable | None = None
    correct: Change | None = None
    best_of_n: BestOfN | None = None
    groups: tuple[Group, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """One row of `evaluate/comparisons.jsonl`: a prompt answered by both models and judged."""

    prompt: str
    before: str
    after: str
    score_before: FiniteFloat
    score_after: FiniteFloat
    outcome: Literal["win", "tie", "loss"]
    group: str | None = None
    length_before: FiniteFloat | None = None
    length_after: FiniteFloat | None = None


@plain_dataclass(frozen=True, slots=True)
class Run:
    """All that the report is made from; `notes` are sentences on what could not be read."""

    manifest: Manifest
    recipe: str
    summary: Mapping[str, float]
    metrics: Mapping[str, Rows]
    results: Results | None
    comparisons: tuple[Comparison, ...]
    notes: tuple[str, ...]

    def series(self, stage: str, name: str) -> Series:
        """The finite values of one metric over the steps of a stage; rows without it are left out."""
        points = [
            (row["step"], row[name])
            for row in self.metrics.get(stage, ())
            if _is_number(row.get("step")) and _is_number(row.get(name))
        ]
        return Series(tuple(float(x) for x, _ in points), tuple(float(y) for _, y in points))

    @property
    def kl_target(self) -> float | None:
        """The KL that the recipe's algorithm steers to, nats a completion; None where it steers to none."""
        try:
            align = tomllib.loads(self.recipe)["align"]
            leash = align.get(align["algorithm"], align.get("settings"))["kl"]
            return None if leash["kind"] == "fixed" else float(leash["target"])
        except (tomllib.TOMLDecodeError, LookupError, TypeError, AttributeError, ValueError):
            return None  # no alignment, or an algorithm whose leash is of its own kind


def read(directory: Path) -> Run:
    """Reads a run directory, whatever stages it holds; without a readable `run.json` it is none of ours."""
    try:
        manifest = TypeAdapter(Manifest).validate_json((directory / "run.json").read_bytes())
    except (OSError, ValidationError) as error:
        reason = f"{type(error).__name__}: {_first_line(error)}"
        raise RunDirectoryError(
            f"{directory} cannot be reported on: its run.json could not be read ({reason}). "
            "A run directory is what `palate run` or `palate demo` writes; give the path of one."
        ) from error
    notes: list[str] = []
    results = _record(directory / "evaluate" / "results.json", Results, notes)
    summary = _record(directory / "summary.json", dict[str, Any], notes) or {}
    comparisons = _comparisons(directory / "evaluate" / "comparisons.jsonl", notes)
    metrics = {stage: _rows(directory / stage / "metrics.jsonl", notes) for stage in STAGES}
    recipe = directory / "recipe.toml"
    return Run(
        manifest=manifest,
        recipe=recipe.read_text(encoding="utf-8", errors="replace") if recipe.is_file() else "",
        summary={name: float(value) for name, value in summary.items() if _is_number(value)},
        metrics=metrics,
        results=results,
        comparisons=comparisons,
        notes=tuple(notes),
    )


def _record(path: Path, kind: type[Record], notes: list[str]) -> Record | None:
    if not path.is_file():
        return None
    try:
        return TypeAdapter(kind).validate_json(path.read_bytes())
    except ValidationError as error:
        notes.append(f"{path.parent.name}/{path.name} could not be read: {_first_line(error)}")
        return None


def _comparisons(path: Path, notes: list[str]) -> tuple[Comparison, ...]:
    adapter = TypeAdapter(Comparison)
    comparisons = []
    unreadable = 0
    for row in _rows(path, notes):
        try:
            comparisons.append(adapter.validate_python(row))
        except ValidationError:
            unreadable += 1
    if unreadable:
        notes.append(f"{unreadable} rows of evaluate/{path.name} are not comparisons and were left out.")
    return tuple(comparisons)


def _rows(path: Path, notes: list[str]) -> Rows:
    """The JSON objects of a file, one a line; only the last may be torn, as a killed run leaves it."""
    if not path.is_file():
        return ()
    rows = []
    unreadable = 0
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            unreadable += number < len(lines)
            continue
        if isinstance(row, dict):
            rows.append(row)
    if unreadable:
        notes.append(f"{unreadable} lines of {path.parent.name}/{path.name} are not JSON and were left out.")
    return tuple(rows)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        return f"{where}: {first['msg']}" if where else first["msg"]
    return str(error)
