"""The page of an experiment, a pure function of its `experiment.json`: what was seen, pictures, numbers, commands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from statistics import fmean
from typing import Literal

from pydantic import BaseModel, ConfigDict, FiniteFloat

from palate.engine.files import write_atomic
from palate.errors import RunDirectoryError
from palate.report.charts import panels
from palate.report.elements import document, section, table
from palate.report.findings import smoothed
from palate.report.reading import Series
from palate.report.words import escaped, number, percent

RESULTS = "experiment.json"

Points = tuple[tuple[FiniteFloat, FiniteFloat], ...]


class Column(BaseModel):
    """A column of the table: the figure that it shows, and how."""

    model_config = ConfigDict(frozen=True)

    figure: str
    title: str
    unit: Literal["number", "percent", "count"] = "number"


class Picture(BaseModel):
    """A panel for each arm that has the curve; `points` names the curve of what was measured where that is a fit."""

    model_config = ConfigDict(frozen=True)

    curve: str
    title: str
    measure: str
    along: str
    caption: str = ""
    points: str | None = None
    smooth: bool = False


class Reading(BaseModel):
    """What one arm's finished runs say with one seed; a figure that does not apply is absent."""

    model_config = ConfigDict(frozen=True)

    arm: str
    seed: int
    figures: dict[str, FiniteFloat]
    curves: dict[str, Points] = {}


class Experiment(BaseModel):
    """What `experiment.json` holds. `arms` are the settings of each arm over the lab's own recipe, as --set takes
    them."""

    model_config = ConfigDict(frozen=True)

    name: str
    question: str
    seen: str
    quick: bool
    seeds: tuple[int, ...]
    command: str
    columns: tuple[Column, ...]
    pictures: tuple[Picture, ...]
    readings: tuple[Reading, ...]
    arms: dict[str, tuple[str, ...]]


def write(directory: str | Path) -> Path:
    """Writes `experiment.html` beside `experiment.json`; RunDirectoryError where that is not there."""
    source = Path(directory) / RESULTS
    if not source.exists():
        raise RunDirectoryError(f"{source} is not there. `palate lab NAME` makes it. Name an experiment's directory.")
    place = source.with_suffix(".html")
    write_atomic(place, render(Experiment.model_validate_json(source.read_bytes())).encode())
    return place


def render(held: Experiment) -> str:
    """The whole page."""
    return document(f"{escaped(held.name)} · Palate lab", "\n".join(_parts(held)))


def arms_of(readings: Sequence[Reading]) -> list[str]:
    """The arms in their order."""
    return list(dict.fromkeys(reading.arm for reading in readings))


def values(readings: Sequence[Reading], arm: str, name: str) -> list[float]:
    """A figure of an arm, one value a seed that has it."""
    return [one.figures[name] for one in readings if one.arm == arm and name in one.figures]


def among(readings: Sequence[Reading], arm: str, name: str) -> str:
    """In how many of an arm's seeds a figure is there: 2 of 3 seeds; nothing where it is there in all."""
    having, seeds = len(values(readings, arm, name)), sum(one.arm == arm for one in readings)
    return f"{having} of {seeds} seeds" if having < seeds else ""


def _parts(held: Experiment) -> Iterator[str]:
    of = f"seed {held.seeds[0]}" if len(held.seeds) == 1 else f"means of seeds {', '.join(map(str, held.seeds))}"
    tone = "" if held.quick else " good"
    yield (
        f'<header>\n<p class="eyebrow">Palate lab · {escaped(held.name)} · {of}</p>\n'
        f'<div class="verdict{tone}">\n<h1>{escaped(held.question)}</h1>\n{_quick(held)}'
        f'<p class="grounds">{escaped(held.seen)}</p>\n</div>\n</header>'
    )
    for index, picture in enumerate(held.pictures):
        chart = _drawn(held, index, picture)
        if chart:
            caption = f'<p class="note">{escaped(picture.caption)}</p>' if picture.caption else ""
            yield section(escaped(picture.title), caption + chart)
    shown = [column for column in held.columns if any(column.figure in one.figures for one in held.readings)]
    measured = dict.fromkeys(one.arm for one in held.readings if one.figures)
    rows = [[escaped(arm), *(_cell(held, arm, column) for column in shown)] for arm in measured]
    header = ["Arm", *(escaped(column.title) for column in shown)]
    yield section("Numbers", table("arms", header, rows, len(shown)) + _note(held))
    yield section("To do it again", _commands(held))


def _quick(held: Experiment) -> str:
    if not held.quick:
        return ""
    return '<p class="grounds"><b>Made with --quick: the numbers mean nothing, and show only that all works.</b></p>\n'


def _drawn(held: Experiment, index: int, picture: Picture) -> str:
    """A picture's chart; nothing where no arm has its curve."""
    curves = {arm: _mean_curve(held.readings, arm, picture) for arm in arms_of(held.readings)}
    curves = {arm: curve for arm, curve in curves.items() if curve.x}
    if not curves:
        return ""
    points = None
    if picture.points is not None:
        points = {arm: _all_points(held.readings, arm, picture.points) for arm in curves}
    description = f"{picture.measure} over {picture.along} for each arm"
    return panels(f"picture-{index}", description, curves, picture.measure, along=picture.along, points=points)


def _mean_curve(readings: Sequence[Reading], arm: str, picture: Picture) -> Series:
    """The mean over seeds, point by point, smoothed over a tenth of it where the picture says so."""
    curves = [one.curves[picture.curve] for one in readings if one.arm == arm and picture.curve in one.curves]
    steps = [[point for point in step if point is not None] for step in zip_longest(*curves)]
    xs, ys = (tuple(fmean(point[axis] for point in step) for step in steps) for axis in (0, 1))
    if not picture.smooth:
        return Series(xs, ys)
    order = tuple(map(float, range(len(steps))))
    return Series(smoothed(Series(order, xs)).y, smoothed(Series(order, ys)).y)


def _all_points(readings: Sequence[Reading], arm: str, curve: str) -> Series:
    """What was measured with any seed."""
    found = [point for one in readings if one.arm == arm for point in one.curves.get(curve, ())]
    return Series(tuple(x for x, _ in found), tuple(y for _, y in found))


def _cell(held: Experiment, arm: str, column: Column) -> str:
    """The mean over seeds, and where there are several the least and the greatest."""
    found = values(held.readings, arm, column.figure)
    if not found:
        return ""
    ends = " to ".join(_written(value, column.unit) for value in (min(found), max(found))) if len(found) > 1 else ""
    below = "; ".join(filter(None, (ends, among(held.readings, arm, column.figure))))
    return _written(fmean(found), column.unit) + (f'<br><span class="interval">{below}</span>' if below else "")


def _written(value: float, unit: str) -> str:
    if unit == "percent":
        return percent(value)
    return f"{value:,.0f}" if unit == "count" else number(value)


def _note(held: Experiment) -> str:
    several = len(held.seeds) > 1
    return '<p class="note">Means over seeds; below them the least and the greatest.</p>' if several else ""


def _commands(held: Experiment) -> str:
    rows = [[escaped(arm), " ".join(f"<code>{escaped(one)}</code>" for one in said)] for arm, said in held.arms.items()]
    return (
        f"<pre>{escaped(held.command)}</pre>\n"
        "<p>Each arm is an ordinary run directory ARM-SEED beside this page. Its <code>recipe.toml</code> is the whole "
        "recipe, which <code>palate run</code> takes; its <code>report.html</code> is its report.</p>\n"
        + table("settings", ["Arm", "Settings over the lab’s recipe"], rows, 0)
    )
