"""How our PPO iteration grows with its work: time and peak memory against batch, completion length and model size.

Where a line costs more seconds per 1,000 useful tokens than the one before it, something grows faster than the work.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.table import Table

from bench.shapes import CPU_SHAPES
from bench.sides import alternate
from bench.table import Summary, duration, plain, size, summarise
from bench.workbench import (
    Measurement,
    Say,
    described,
    matrix_rates,
    prepare,
    side,
    useful_operations,
    useful_tokens,
)

STEPS = (16, 32, 64, 128)
MIDDLE = 64


@dataclass(frozen=True)
class Line:
    """One size of work and what it took."""

    against: str
    measurement: Measurement
    summary: Summary

    @property
    def seconds_a_thousand(self) -> float:
        """Seconds per 1,000 useful tokens."""
        return 1000 * self.summary.seconds / self.summary.tokens


def sizes(wanted: Measurement) -> list[tuple[str, Measurement]]:
    """The lines of the table: what each is measured against, and its measurement."""
    base = replace(wanted, task="ppo", batch=MIDDLE, new_tokens=MIDDLE)
    return [
        *(("batch", replace(base, batch=step)) for step in STEPS),
        *(("length", replace(base, new_tokens=step)) for step in STEPS),
        *(("model", replace(base, model=model)) for model in CPU_SHAPES),
    ]


def scale(wanted: Measurement, say: Say) -> tuple[list[Line], dict[str, Any]]:
    """Measures one line after the other; returns them with the document of all samples."""
    lines: list[Line] = []
    rows: list[dict[str, Any]] = []
    for against, measurement in sizes(wanted):
        say(f"{against}: batch {measurement.batch}, {measurement.new_tokens} new tokens, {measurement.model} model")
        rates = matrix_rates(measurement)
        run = side("palate", sys.executable, "bench.ours.ppo", prepare(measurement), say)
        runs = [runs[0] for runs in alternate([run], wanted.rounds)]
        summary = summarise(runs, useful_tokens("ppo"), useful_operations(measurement, ours=True), max(rates.values()))
        lines.append(Line(against, measurement, summary))
        rows.append(
            {
                "against": against,
                **described(measurement, rates),
                "summary": plain(summary),
                "rounds": [{"samples": list(run.samples), **run.about} for run in runs],
            }
        )
    return lines, {"lines": rows}


def table(lines: Sequence[Line]) -> Table:
    """The lines, each with its cost per useful token relative to the first line of its kind."""
    shown = Table(
        title="PPO as the work grows",
        caption="useful: tokens; s / 1k: seconds per 1,000 of them, × first: relative to the first of its kind",
        title_justify="left",
        caption_justify="left",
        box=None,
        padding=(0, 2, 0, 0),
    )
    for name in ("against", "model"):
        shown.add_column(name)
    for name in ("batch", "new", "seconds", "useful", "s / 1k", "× first", "rate", "memory"):
        shown.add_column(name, justify="right")
    first: dict[str, float] = {}
    for line in lines:
        start = first.setdefault(line.against, line.seconds_a_thousand)
        shown.add_row(
            line.against,
            line.measurement.model,
            str(line.measurement.batch),
            str(line.measurement.new_tokens),
            duration(line.summary.seconds),
            f"{line.summary.tokens:,.0f}",
            f"{line.seconds_a_thousand:.3f}",
            f"{line.seconds_a_thousand / start:.2f}",
            f"{line.summary.fraction:.1%}",
            size(line.summary.memory),
        )
    return shown
