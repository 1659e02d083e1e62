"""The report: one self-contained HTML page, a pure function of a run directory.

`reading` turns the directory into frozen records, `findings` decides what may honestly be said of them, `content`
gathers all of it in one record, which is `report.json`; `page` sets that record as HTML and `card` as a model card.
"""

from __future__ import annotations

from pathlib import Path

from palate.engine.files import write_atomic
from palate.report.card import card
from palate.report.comparison import write as write_comparison
from palate.report.content import report_of, to_json
from palate.report.findings import chosen
from palate.report.page import render
from palate.report.reading import Comparison, read
from palate.report.rounds import ROUNDS
from palate.report.rounds import write as write_rounds

__all__ = ["build", "chosen_samples", "write", "write_comparison"]


def build(run_directory: str | Path) -> str:
    """The report of a run as one HTML page: no script, no network, the same bytes for the same directory.

    Stages that are missing are said to be missing. Raises `RunDirectoryError` where there is no `run.json`.
    """
    return render(report_of(read(Path(run_directory))))


def chosen_samples(run_directory: str | Path) -> tuple[Comparison, ...]:
    """Five of the comparisons that the report shows: the clearest win, two at random, the two clearest losses.

    Empty where nothing was compared. Raises `RunDirectoryError` where there is no `run.json`.
    """
    return tuple(one for _, one in chosen(read(Path(run_directory)).comparisons))


def write(run_directory: str | Path) -> Path:
    """Writes `report.html`, `report.json` and the aligned model's card, each all or nothing; returns the page.

    Raises `RunDirectoryError` where there is no `run.json`.
    """
    directory = Path(run_directory)
    if (directory / ROUNDS).is_file():
        return write_rounds(directory)
    report = report_of(read(directory))
    aligned, model = report.manifest.stages.get("align"), directory / "align" / "model"
    if aligned is not None and aligned.status == "done" and model.is_dir():
        write_atomic(model / "README.md", card(report).encode())
    write_atomic(directory / "report.json", to_json(report))
    path = directory / "report.html"
    write_atomic(path, render(report).encode())
    return path
