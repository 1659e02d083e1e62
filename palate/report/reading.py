"""What stands in a run directory, as frozen records; the unreadable is noted, the absent None or empty."""

from __future__ import annotations

import json
import math
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, FiniteFloat, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from palate.errors import RunDirectoryError
from palate.evaluation import Check, Fit, Level, RewardReport

STAGES = ("sft", "reward", "align", "evaluate")

Rows = tuple[Mapping[str, Any], ...]
Record = TypeVar("Record")


@plain_dataclass(frozen=True, slots=True)
class Series:
    """A curve: where, and how much."""

    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class Verdict:
    """What a stage's gate decided, and why."""

    level: Level
    reasons: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()


@dataclass(frozen=True)
class Stage:
    """One stage of `run.json`; `reason` says why it ended early, where it did."""

    status: Literal["running", "done", "failed", "stopped"]
    digest: str = ""
    seconds: FiniteFloat | None = None
    steps: int | None = None
    verdict: Verdict | None = None
    reason: str = ""
    forced: bool = False


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
    rewards: dict[str, Any] = Field(default_factory=dict)
    parents: list[Any] = Field(default_factory=list)
    stages: dict[str, Stage] = Field(default_factory=dict)

    @property
    def start(self) -> str:
        """What the model before alignment is called: a run may begin with a model that it did not fine-tune."""
        return "the SFT model" if "sft" in self.stages else "the model before"

    @property
    def start_label(self) -> str:
        """The same at the head of a column."""
        return "SFT" if "sft" in self.stages else "Before"


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
class Estimate:
    """A 95 % interval, and the estimate where it has one of its own."""

    low: FiniteFloat
    high: FiniteFloat
    estimate: FiniteFloat | None = None


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
    length_controlled: Estimate | None = None
    bootstrap: Estimate | None = None
    perplexity: Change | None = None
    capability: Change | None = None
    unusual: Change | None = None


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


@dataclass(frozen=True)
class Named:
    """A completion that a monitor names, and what the SFT model answered."""

    prompt: str
    completion: str
    before: str | None = None


@dataclass(frozen=True)
class Monitor:
    """One way of gaming a reward, as `align/monitors.json` has it: its value for the SFT model and now."""

    name: str
    baseline: FiniteFloat
    value: FiniteFloat
    threshold: FiniteFloat
    measures: str = ""
    reason: str = ""
    alarm: bool = False
    samples: tuple[Named, ...] = ()


@dataclass(frozen=True)
class Point:
    """One look during alignment, as a row of `align/points.jsonl`: KL in nats, scores with standard errors."""

    step: int
    kl: FiniteFloat
    proxy: FiniteFloat
    heldout: FiniteFloat | None = None
    proxy_se: FiniteFloat | None = None
    heldout_se: FiniteFloat | None = None
    gold: FiniteFloat | None = None
    judge: str = ""


@dataclass(frozen=True)
class Decision:
    """Whose model alignment left: that after iteration `taken`, and why."""

    taken: int
    rolled_back: bool = False
    stopped: bool = False
    reason: str = ""


@dataclass(frozen=True)
class Conclusion:
    """`align/overoptimisation.json`: curves of the gain over the start against √KL, by judge, and what was decided."""

    judge: str | None = None
    fits: dict[str, Fit | None] = Field(default_factory=dict)
    decision: Decision | None = None


@dataclass(frozen=True)
class Watch:
    """Over-optimisation: the looks of `align/points.jsonl`, and what was concluded from them."""

    points: tuple[Point, ...]
    conclusion: Conclusion | None = None

    @property
    def judge(self) -> str:
        """The judge that was not optimised; empty where none looked on."""
        named = self.conclusion.judge if self.conclusion is not None else None
        return named or next((point.judge for point in self.points if point.judge), "")

    @property
    def kept(self) -> float | None:
        """The KL of the model that was kept, where alignment went back to an earlier one."""
        decision = self.conclusion.decision if self.conclusion is not None else None
        if decision is None or not decision.rolled_back:
            return None
        return next((point.kl for point in self.points if point.step == decision.taken), None)

    @property
    def told(self) -> str:
        """In a sentence what was decided."""
        decision = self.conclusion.decision if self.conclusion is not None else None
        return "" if decision is None else decision.reason

    def fit(self, judged: str) -> Fit | None:
        """The curve fitted to one judge's gain, `proxy` or `heldout`."""
        return None if self.conclusion is None else self.conclusion.fits.get(judged)


@plain_dataclass(frozen=True, slots=True)
class Run:
    """All that the report is made from; `notes` are sentences on what could not be read."""

    manifest: Manifest
    recipe: str
    summary: Mapping[str, float]
    metrics: Mapping[str, Rows]
    results: Results | None
    comparisons: tuple[Comparison, ...]
    monitors: tuple[Monitor, ...] | None
    watch: Watch | None
    reward: RewardReport | None
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
    except OSError as error:
        raise RunDirectoryError(
            f"{directory} is no run: it has no run.json that could be read ({error.strerror or error}). A run "
            "directory is what `palate run` or `palate demo` writes; give the path of one."
        ) from error
    except ValidationError as error:
        raise RunDirectoryError(
            f"{directory} cannot be read: its run.json is damaged ({_first_line(error)}). Palate writes that file "
            "whole or not at all, so something else has changed it. Restore it from a copy, or do the run again with "
            "--fresh."
        ) from error
    notes = list(_missing(directory, manifest))
    results = _record(directory / "evaluate" / "results.json", Results, notes)
    summary = _record(directory / "summary.json", dict[str, Any], notes) or {}
    comparisons = _records(directory / "evaluate" / "comparisons.jsonl", Comparison, "comparisons", notes)
    metrics = {stage: _rows(directory / stage / "metrics.jsonl", notes) for stage in STAGES}
    recipe = directory / "recipe.toml"
    return Run(
        manifest=manifest,
        recipe=recipe.read_text(encoding="utf-8", errors="replace") if recipe.is_file() else "",
        summary={name: float(value) for name, value in summary.items() if _is_number(value)},
        metrics=metrics,
        results=results,
        comparisons=comparisons,
        monitors=_record(directory / "align" / "monitors.json", tuple[Monitor, ...], notes),
        watch=_watch(directory / "align", notes),
        reward=_record(directory / "reward" / "report.json", RewardReport, notes),
        notes=tuple(notes),
    )


# What a stage leaves that is done, whatever its method.
_LEFT: Mapping[str, tuple[str, ...]] = {
    "reward": ("reward/report.json",),
    "evaluate": ("evaluate/results.json", "evaluate/comparisons.jsonl"),
}


def _missing(directory: Path, manifest: Manifest) -> Iterator[str]:
    """A note on each file that a finished stage must have left and that is not there."""
    done = [name for name, stage in manifest.stages.items() if stage.status == "done"]
    for file in (*(["summary.json"] if done else []), *(file for stage in done for file in _LEFT.get(stage, ()))):
        if not (directory / file).is_file():
            yield f"{file} is missing: what it told is left out."


def _record(path: Path, kind: type[Record], notes: list[str]) -> Record | None:
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_bytes(), parse_constant=_finite, parse_float=_finite)
        return TypeAdapter(kind).validate_python(value)
    except (ValueError, RecursionError) as error:  # ValidationError is a ValueError
        notes.append(f"{path.parent.name}/{path.name} could not be read: {_first_line(error)}")
        return None


def _watch(align: Path, notes: list[str]) -> Watch | None:
    points = _records(align / "points.jsonl", Point, "looks", notes)
    return Watch(points, _record(align / "overoptimisation.json", Conclusion, notes)) if points else None


def _records(path: Path, kind: type[Record], plural: str, notes: list[str]) -> tuple[Record, ...]:
    """The rows of a file as records; those that are none are counted and left out."""
    adapter = TypeAdapter(kind)
    records = []
    unreadable = 0
    for row in _rows(path, notes):
        try:
            records.append(adapter.validate_python(row))
        except ValidationError:
            unreadable += 1
    if unreadable:
        notes.append(f"{unreadable} rows of {path.parent.name}/{path.name} are not {plural} and were left out.")
    return tuple(records)


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
        except (ValueError, RecursionError):
            unreadable += number < len(lines)
            continue
        if isinstance(row, dict):
            rows.append(row)
    if unreadable:
        notes.append(f"{unreadable} lines of {path.parent.name}/{path.name} are not JSON and were left out.")
    return tuple(rows)


def _finite(written: str) -> float:
    """A number of a JSON file; those that are none make the file unreadable."""
    value = float(written)
    if not math.isfinite(value):
        raise ValueError(f"{written} is no finite number")
    return value


def _is_number(value: object) -> bool:
    """Whether a value is a number that a float can hold, which not every integer of a JSON file is."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) <= sys.float_info.max


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        return f"{where}: {first['msg']}" if where else first["msg"]
    return str(error)
