"""The report: one self-contained HTML page, a pure function of a run directory.

`reading` turns the directory into frozen records, `findings` decides what may honestly be said of them,
`charts` draws, `page` sets the page.
"""

from __future__ import annotations

from pathlib import Path

from palate.engine.files import write_atomic
from palate.report.comparison import write as write_comparison
from palate.report.findings import samples
from palate.report.page import render
from palate.report.reading import Comparison, read

__all__ = ["build", "chosen_samples", "write", "write_comparison"]


def build(run_directory: str | Path) -> str:
    """The report of a run as one HTML page: no script, no network, the same bytes for the same directory.

    Stages that are missing are said to be missing. Raises `RunDirectoryError` where there is no `run.json`.
    """
    return render(read(Path(run_directory)))


def chosen_samples(run_directory: str | Path) -> tuple[Comparison, ...]:
    """The five comparisons that the report shows: from win to loss, never without a loss that exists.

    Empty where nothing was compared. Raises `RunDirectoryError` where there is no `run.json`.
    """
    return samples(read(Path(run_directory)).comparisons)


def write(run_directory: str | Path) -> Path:
    """Writes `report.html` into the run directory, all or nothing, and says where it is."""
    path = Path(run_directory) / "report.html"
    write_atomic(path, build(run_directory).encode())
    return path
