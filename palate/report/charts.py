"""The charts of the report as inline SVG: real text, the page's colours, the same bytes each time."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from palate.evaluation import Peak
from palate.evaluation.calibration import Bin
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


@dataclass(frozen=True, slots=True)
class Track:
    """What one judge gave over the KL: points, their standard errors where known, and the curve fitted to them."""

    label: str
    points: Series
    error: tuple[float, ...] = ()
    fit: Series | None = None


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
def over_kl(
    name: str,
    description: str,
    tracks: Sequence[Track],
    *,
    peak: Peak | None = None,
    kept: float | None = None,
) -> str:
    """Scores over the KL, one panel a judge on a common axis that is linear in √KL, as Gao et al. draw it (2210.10760).

    Each look is a dot with ± one standard error, the fit a line; `peak` is in √KL, `kept` the KL of the model kept.
    """
    height = 1.75 * len(tracks) + 0.5
    figure = Figure(figsize=(4.8, height))
    grid = figure.subplots(len(tracks), 1, squeeze=False, sharex=True).ravel()
    figure.subplots_adjust(0.1, 0.45 / height, 0.97, 1 - 0.28 / height, 0, 0.3)
    # A policy that did not move has an axis too.
    furthest = max(0.01, *(x for track in tracks for x in track.points.x))
    for axes, track in zip(grid, tracks, strict=True):
        _plain(axes)
        axes.set_xscale("function", functions=(_root, np.square))
        if peak is not None:
            _mark_peak(axes, peak, furthest)
        if kept is not None:
            axes.axvline(kept, color=ACCENT, linewidth=1, dashes=(4, 3))
        x, y = track.points.x, track.points.y
        if track.error:
            low, high = (np.add(y, sign * np.array(track.error)) for sign in (-1, 1))
            axes.fill_between(x, low, high, color=ACCENT, alpha=0.14, linewidth=0)
        axes.plot(x, y, "o", color=INK if track.fit is not None else ACCENT, markersize=3.2)
        if track.fit is not None:
            axes.plot(track.fit.x, track.fit.y, color=ACCENT, linewidth=1.8)
        axes.set_title(track.label, loc="left", fontsize=9, color=INK, pad=5)
        axes.set_xlim(0, furthest * 1.03)
        axes.xaxis.set_major_locator(MaxNLocator(5))
    if peak is not None and peak.distance**2 <= furthest:
        at = peak.distance**2
        _note(grid[-1], f"peak {number(at)}", (at, 0), ("data", "axes fraction"), (3, 15), "left", MUTED)
    if kept is not None:
        _note(grid[-1], "kept", (kept, 0), ("data", "axes fraction"), (3, 4), "left", ACCENT)
    grid[-1].set_xlabel("KL from the reference, nats (axis in √KL)")
    return _svg(figure, name, description)


@_house_style
def reliability(name: str, description: str, before: Sequence[Bin], after: Sequence[Bin]) -> str:
    """How often the preferred side won where so much was promised; a judge to be trusted lies on the diagonal."""
    figure = Figure(figsize=(4.2, 3.1))
    axes = figure.add_axes((0.12, 0.15, 0.84, 0.8))
    _plain(axes)
    least = min([0.5, *(value for one in (*before, *after) for value in (one.predicted, one.low))])
    axes.plot([least, 1], [least, 1], color=MUTED, linewidth=1, dashes=(4, 3))
    axes.plot(
        [one.predicted for one in before],
        [one.observed for one in before],
        "o-",
        color=MUTED,
        linewidth=1,
        markersize=4,
        markerfacecolor=PAPER,
        label="before",
    )
    x, y = [one.predicted for one in after], [one.observed for one in after]
    error = [[one.observed - one.low for one in after], [one.high - one.observed for one in after]]
    axes.errorbar(x, y, yerr=error, fmt="o-", color=ACCENT, linewidth=1.6, markersize=4, elinewidth=1.2, label="after")
    axes.set_xlabel("promised probability")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5))
        axis.set_major_formatter(lambda share, _: f"{100 * share:.0f}%")
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
def panels(
    name: str,
    description: str,
    curves: Mapping[str, Series],
    measure: str,
    *,
    along: str = "KL from the SFT model, nats",
    points: Mapping[str, Series] | None = None,
) -> str:
    """A panel for each curve of a measure, in front of all the others, on one scale; with `points`, what was measured
    of a fitted curve."""
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
        if points is None:
            axes.plot(own.x[-1:], own.y[-1:], "o", color=ACCENT, markersize=4)
        else:
            axes.plot(points[title].x, points[title].y, "o", color=INK, markersize=2.6)
        axes.set_title(title, loc="left", fontsize=9, color=INK, pad=4)
        _plain(axes)
        axes.xaxis.set_major_locator(MaxNLocator(4))
    figure.text(0.06, 0.04 / figure.get_figheight(), f"{measure} over {along}", color=MUTED)
    return _svg(figure, name, description)


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0.1, 0.19, 0.79, 0.76))
    _plain(axes)
    axes.margins(x=0.01)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    return figure, axes


def _plain(axes: Axes) -> None:
    """Horizontal lines and numbers, no box."""
    axes.grid(axis="y", color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="both", length=0, pad=4)
    axes.yaxis.set_major_locator(MaxNLocator(4))


def _root(kl: np.ndarray) -> np.ndarray:
    """√KL, where rounding and margins may have put the KL a little below 0."""
    return np.sqrt(np.maximum(kl, 0.0))


def _mark_peak(axes: Axes, peak: Peak, furthest: float) -> None:
    """The peak as a line with its interval as a band, as far as the axis goes."""
    end = furthest if peak.high is None else min(peak.high**2, furthest)
    if peak.low**2 < end:
        axes.axvspan(peak.low**2, end, color=SOFT, alpha=0.35, linewidth=0)
    if peak.distance**2 <= furthest:
        axes.axvline(peak.distance**2, color=MUTED, linewidth=1)


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
