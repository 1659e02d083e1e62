"""Draws the pictures of docs/methods from a comparison: `python docs/images/draw_curves.py runs/demo-comparison`."""

import sys
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from palate.report.comparison import Standing, Table, standings

PLACE = Path(__file__).parent
INK, MUTED, RULE, ACCENT, SOFT = "#20242a", "#626b73", "#dcd8ce", "#0b5fa5", "#c3c8cc"


def draw(axes: Axes, own: Standing, ranked: list[Standing]) -> None:
    """One method's curve in front of all others."""
    for other in ranked:
        axes.plot(other.curve.x, other.curve.y, color=SOFT, linewidth=0.7)
    axes.plot(own.curve.x, own.curve.y, color=ACCENT, linewidth=1.8)
    axes.plot(own.curve.x[-1:], own.curve.y[-1:], "o", color=ACCENT, markersize=4)
    axes.set_title(own.method, loc="left", fontsize=9, color=INK)
    axes.grid(axis="y", color=RULE, linewidth=0.6)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=8, labelcolor=MUTED)


def main(directory: Path) -> None:
    """A picture of all methods, and one for each."""
    held = Table.model_validate_json((directory / "comparison.json").read_bytes())
    ranked = standings(held.results)
    rows = -(-len(ranked) // 4)
    figure = Figure(figsize=(9.2, 0.4 + 1.8 * rows), facecolor="white", layout="constrained")
    grid = figure.subplots(rows, 4, squeeze=False, sharex=True, sharey=True).ravel()
    for axes in grid[len(ranked) :]:
        axes.set_axis_off()
    for axes, own in zip(grid, ranked, strict=False):
        draw(axes, own, ranked)
    figure.supxlabel("KL from the SFT model, nats", fontsize=8, color=MUTED)
    figure.supylabel("gold", fontsize=8, color=MUTED)
    figure.savefig(PLACE / "comparison.png", dpi=110)
    for own in ranked:
        alone = Figure(figsize=(4.6, 2.6), facecolor="white", layout="constrained")
        axes = alone.subplots()
        draw(axes, own, ranked)
        axes.set_xlabel("KL from the SFT model, nats", fontsize=8, color=MUTED)
        axes.set_ylabel("gold", fontsize=8, color=MUTED)
        alone.savefig(PLACE / "methods" / f"{own.method.replace('_', '-')}.png", dpi=80)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
