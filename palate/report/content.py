"""All that the page says, as one frozen record: `report.json` is this record, and the page is made from it alone.

So every figure on the page has a name in `report.json`, and one who reads the file sees what the page shows.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Field, TypeAdapter
from pydantic.dataclasses import dataclass

from palate.evaluation import RewardReport
from palate.report.findings import Figure, Finding, Shown, cautions, figures, finding, independent_score, samples
from palate.report.lineage import algorithm_of, base_model, lineage
from palate.report.reading import Manifest, Monitor, Results, Run, Series, Watch

# Counted up when a name in report.json changes its meaning or goes.
SCHEMA = 1

# The metrics that are drawn, and how many points of each are kept: more than a chart of this size can show.
CURVES: Mapping[str, tuple[str, ...]] = {
    "sft": ("loss",),
    "reward": ("loss", "accuracy"),
    "align": (
        "score/mean",
        "score/std",
        "score/gold",
        "score/heldout",
        "kl/sequence",
        "length/mean",
        "entropy",
        "loss",
    ),
}
POINTS = 400


@dataclass(frozen=True)
class Report:
    """A run as its report tells it.

    `figures` are those of `summary.json`; `curves` stand under STAGE/METRIC; `independent` is the metric of the score
    that alignment did not optimise, empty where there is none; `compared` counts the comparisons that `samples` are of.
    """

    schema_version: int
    manifest: Manifest
    verdict: Finding
    headline: tuple[Figure, ...]
    cautions: tuple[str, ...]
    figures: dict[str, float]
    results: Results | None
    reward: RewardReport | None
    watch: Watch | None
    monitors: tuple[Monitor, ...] | None
    curves: dict[str, Series]
    independent: str
    kl_target: float | None
    compared: int
    samples: tuple[Shown, ...]
    algorithm: str
    base_model: str
    lineage: tuple[str, ...]
    recipe: str = Field(repr=False)

    def curve(self, stage: str, metric: str) -> Series:
        """One curve; empty where it was not measured."""
        return self.curves.get(f"{stage}/{metric}", Series((), ()))


def report_of(run: Run) -> Report:
    """What is to be said of a run."""
    recipe = _tables(run.recipe)
    return Report(
        schema_version=SCHEMA,
        manifest=run.manifest,
        verdict=finding(run),
        headline=figures(run),
        cautions=cautions(run),
        figures=dict(run.summary),
        results=run.results,
        reward=run.reward,
        watch=run.watch,
        monitors=run.monitors,
        curves=dict(_curves(run)),
        independent=independent_score(run)[0],
        kl_target=run.kl_target,
        compared=len(run.comparisons),
        samples=samples(run),
        algorithm=algorithm_of(recipe),
        base_model=base_model(recipe),
        lineage=lineage(recipe, run.summary),
        recipe=run.recipe,
    )


def to_json(report: Report) -> str:
    """The record as JSON, ASCII alone, so that any text survives; numbers that are none become null."""
    plain = TypeAdapter(Report).dump_python(report, mode="json")
    return json.dumps(plain, indent=1, allow_nan=False) + "\n"


def from_json(text: str | bytes) -> Report:
    """The record that `to_json` wrote."""
    return TypeAdapter(Report).validate_python(json.loads(text))


def _curves(run: Run) -> Iterator[tuple[str, Series]]:
    for stage, metrics in CURVES.items():
        for metric in metrics:
            series = run.series(stage, metric)
            if series.y:
                yield f"{stage}/{metric}", thinned(series)


def thinned(series: Series) -> Series:
    """At most `POINTS` points: means over windows of equal length, each standing at its window's last step."""
    width = -(-len(series.y) // POINTS)
    starts = range(0, len(series.y), width)
    windows = [series.y[start : start + width] for start in starts]
    steps = tuple(series.x[min(start + width, len(series.x)) - 1] for start in starts)
    return Series(steps, tuple(sum(window) / len(window) for window in windows))


def _tables(recipe: str) -> Mapping[str, Any]:
    """The recipe's tables; none where it is not TOML."""
    try:
        return tomllib.loads(recipe)
    except tomllib.TOMLDecodeError:
        return {}
