"""The charts of the report as inline SVG: real text, the page's colours, the same bytes each time."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from palate.report.findings import smoothed
from palate.report.reading import Series, WinRate
from palate.report.words import escaped, number, percent, percent_range

# Drawn in the colours of light mode; in the SVG each becomes a custom property, so dark mode follows.
INK, MUTED, RULE, ACCENT, SOFT, PAPER = "#20242a", "#626b73", "#dcd8ce", "#0b5fa5", "#c3c8cc", "#fdfcf9"
_PROPERTIES = {INK: "ink", MUTED: "muted", RULE: "rule", ACCENT: "accent", SOFT: "soft", PAPER: "paper"}

_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "palate",
    "text.parse_math": False,
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.unicode_minus": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "lines.solid_capstyle": "round",
}
_house_style = matplotlib.style.context(_STYLE, after_reset=True)  # whatever the user's matplotlibrc says
_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}


@dataclass(frozen=True, slots=True)
class Interval:
    """One row of an interval chart: an estimate, and its interval where there is one."""

    label: str
    estimate: float
    low: float | None = None
    high: float | None = None


@_house_style
def curve(
    name: str,
    description: str,
    series: Series,
    *,
    spread: Series | None = None,
    target: float | None = None,
    from_zero: bool = False,
) -> str:
    """A measure over the iterations, with a band of ± `spread` and a dashed line at `target` where given."""
    figure, axes = _axes(4.4, 2.1)
    axes.plot(series.x, series.y, color=ACCENT, linewidth=1.6)
    if spread is not None and spread.x == series.x:
        low = [y - s for y, s in zip(series.y, spread.y, strict=True)]
        high = [y + s for y, s in zip(series.y, spread.y, strict=True)]
        axes.fill_between(series.x, low, high, color=ACCENT, alpha=0.14, linewidth=0)
    if target is not None:
        axes.axhline(target, color=MUTED, linewidth=1, dashes=(4, 3))
        _note(axes, f"target {number(target)}", (0, target), ("axes fraction", "data"), (2, 3), "left", MUTED)
    if from_zero:
        axes.set_ylim(bottom=min(0.0, *series.y))
    _last_value(axes, series)
    axes.set_xlabel("iteration")
    return _svg(figure, name, description)


@_house_style
def training_curve(name: str, description: str, series: Series) -> str:
    """A noisy measure over the optimiser's steps: every step faint, the moving mean in front."""
    figure, axes = _axes(4.4, 2.1)
    axes.plot(series.x, series.y, color=SOFT, linewidth=0.8)
    mean = smoothed(series)
    axes.plot(mean.x, mean.y, color=ACCENT, linewidth=1.6)
    _last_value(axes, mean)
    axes.set_xlabel("step")
    return _svg(figure, name, description)


@_house_style
def score_over_kl(name: str, description: str, kl: Series, score: Series) -> str:
    """Each iteration as a dot at its KL and its score, the later the stronger, so that a turn shows."""
    figure, axes = _axes(4.4, 2.1)
    shades = [to_rgba(ACCENT, 0.2 + 0.8 * i / len(kl.y)) for i in range(len(kl.y))]
    axes.scatter(kl.y, score.y, s=9, c=shades, linewidths=0)
    axes.set_xlabel("KL from the SFT model, nats")
    return _svg(figure, name, description)


@_house_style
def intervals(name: str, description: str, rows: Sequence[Interval]) -> str:
    """Estimates as dots on an axis of shares, intervals as lines, chance at a half; ours is the first."""
    figure = Figure(figsize=(4.2, 0.55 + 0.42 * len(rows)))
    axes = figure.add_axes((0.3, 0.42 / figure.get_figheight(), 0.66, 1 - 0.46 / figure.get_figheight()))
    axes.axvline(0.5, color=MUTED, linewidth=1, dashes=(4, 3))
    for height, row in zip(range(len(rows) - 1, -1, -1), rows, strict=True):
        colour = ACCENT if row is rows[0] else MUTED
        value = percent(row.estimate)
        if row.low is not None and row.high is not None:
            axes.plot([row.low, row.high], [height, height], color=colour, linewidth=2)
            value = f"{value}  ({percent_range(row.low, row.high)})"
        axes.plot([row.estimate], [height], "o", color=colour, markersize=5.5)
        _note(axes, value, (row.estimate, height), "data", (0, 6), "center", INK if row is rows[0] else MUTED)
    values = [value for row in rows for value in (row.estimate, row.low, row.high) if value is not None]
    axes.set_xlim(min([0.45, *values]) - 0.06, max([0.75, *values]) + 0.06)
    axes.set_ylim(-0.5, len(rows) - 0.3)
    axes.set_yticks(range(len(rows) - 1, -1, -1), [row.label for row in rows])
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f}%")
    return _svg(figure, name, description)


@_house_style
def outcomes(name: str, description: str, rate: WinRate) -> str:
    """Wins, ties and losses as one bar; the middle of the ties is the win rate, read against the half."""
    total = max(1, rate.wins + rate.ties + rate.losses)
    figure = Figure(figsize=(4.2, 0.95))
    axes = figure.add_axes((0.005, 0.02, 0.99, 0.96))
    start = 0.0
    for count, colour in ((rate.wins, ACCENT), (rate.ties, SOFT), (rate.losses, MUTED)):
        axes.barh(0, count / total, left=start, height=0.5, color=colour, edgecolor=PAPER, linewidth=1.2)
        start += count / total
    middle = min(0.86, max(0.14, (rate.wins + rate.ties / 2) / total))
    labels = (
        (0, 0.62, "left", "wins", rate.wins, ACCENT),
        (1, 0.62, "right", "losses", rate.losses, INK),
        (middle, -0.62, "center", "ties", rate.ties, MUTED),
    )
    for x, y, side, word, count, colour in labels:
        axes.text(x, y, f"{count:,} {word} · {percent(count / total)}", ha=side, va="center", color=colour)
    axes.plot([0.5, 0.5], [-0.36, 0.36], color=INK, linewidth=1, dashes=(2, 2))
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.95, 0.95)
    axes.set_axis_off()
    return _svg(figure, name, description)


@_house_style
def panels(name: str, description: str, curves: Mapping[str, Series], judge: str) -> str:
    """A panel for each curve of `judge` over the KL, in front of all the others, on one scale."""
    columns = 4
    rows = -(-len(curves) // columns)
    figure = Figure(figsize=(9.2, 0.35 + 1.75 * rows))
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    figure.subplots_adjust(0.06, 0.42 / figure.get_figheight(), 0.99, 1 - 0.3 / figure.get_figheight(), 0.1, 0.32)
    for axes in grid[len(curves) :]:
        axes.set_axis_off()
    for axes, (title, own) in zip(grid, curves.items(), strict=False):
        for other in curves.values():
            axes.plot(other.x, other.y, color=SOFT, linewidth=0.7)
        axes.plot(own.x, own.y, color=ACCENT, linewidth=1.8)
        axes.plot(own.x[-1:], own.y[-1:], "o", color=ACCENT, markersize=4)
        axes.set_title(title, loc="left", fontsize=9, color=INK, pad=4)
        axes.grid(axis="y", color=RULE, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="both", length=0, pad=3)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_locator(MaxNLocator(4))
    figure.text(0.06, 0.04 / figure.get_figheight(), f"{judge} over KL from the SFT model, nats", color=MUTED)
    return _svg(figure, name, description)


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0.1, 0.19, 0.79, 0.76))
    axes.grid(axis="y", color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="both", length=0, pad=4)
    axes.margins(x=0.01)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    return figure, axes


def _last_value(axes: Axes, series: Series) -> None:
    _note(axes, number(series.y[-1]), (series.x[-1], series.y[-1]), "data", (5, -3), "left", ACCENT)


def _note(axes: Axes, text: str, at, coordinates, offset, side: str, colour: str) -> None:
    axes.annotate(
        text,
        at,
        xycoords=coordinates,
        xytext=offset,
        textcoords="offset points",
        ha=side,
        color=colour,
        annotation_clip=False,
    )


def _svg(figure: Figure, name: str, description: str) -> str:
    """The figure as an element of the page: scalable, named for screen readers, its ids its own."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata=_NO_METADATA, transparent=True)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"font-family: [^;\"]*; ?", "", svg)
    for colour, variable in _PROPERTIES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    width, height = (72 * inches for inches in figure.get_size_inches())
    start = (
        f'<svg class="chart" role="img" aria-labelledby="{name}-title" viewBox="0 0 {width:g} {height:g}">'
        f'<title id="{name}-title">{escaped(description)}</title>'
    )
    return start + svg[svg.index(">") + 1 :].strip()
