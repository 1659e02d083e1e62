"""The page of a comparison of methods, a pure function of its `comparison.json`: table, curves, who stays honest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from statistics import fmean
from typing import Literal

from pydantic import BaseModel, ConfigDict

from palate.errors import RunDirectoryError
from palate.report.charts import panels
from palate.report.elements import document, figure, section, table
from palate.report.findings import smoothed
from palate.report.reading import Series
from palate.report.words import duration, escaped, number, percent, percent_range

# A method is honest while it keeps this share of the best gold it reached, above where it began.
KEPT = 0.9


class Result(BaseModel):
    """One method with one seed. Seconds and tokens are those of alignment alone."""

    model_config = ConfigDict(frozen=True)

    method: str
    seed: int
    win_rate: float
    win_rate_low: float
    win_rate_high: float
    kl: float
    gold_gain: float | None = None
    correct_before: float | None = None
    correct_after: float | None = None
    length: float
    seconds: float
    tokens: float
    completions: int
    judge: str
    curve: tuple[tuple[float, float], ...]


class Table(BaseModel):
    """What `comparison.json` holds."""

    model_config = ConfigDict(frozen=True)

    equal: Literal["samples", "time"]
    budgets: dict[str, int]
    seeds: tuple[int, ...]
    results: tuple[Result, ...]


@dataclass(frozen=True)
class Standing:
    """A method over all its seeds."""

    method: str
    results: tuple[Result, ...]

    @property
    def win_rate(self) -> float:
        """The mean over seeds."""
        return fmean(result.win_rate for result in self.results)

    @property
    def low(self) -> float:
        """The least win rate of any seed; of a single seed, the lower end of its interval."""
        alone = len(self.results) == 1
        return min(one.win_rate_low if alone else one.win_rate for one in self.results)

    @property
    def high(self) -> float:
        """The greatest, alike."""
        alone = len(self.results) == 1
        return max(one.win_rate_high if alone else one.win_rate for one in self.results)

    @property
    def curve(self) -> Series:
        """KL and judge's number along the way: the mean over seeds, smoothed over a tenth of the run."""
        steps = zip_longest(*(result.curve for result in self.results))
        points = [[point for point in step if point is not None] for step in steps]
        scores = smoothed(Series(tuple(range(len(points))), tuple(fmean(y for _, y in step) for step in points)))
        kls = smoothed(Series(scores.x, tuple(fmean(x for x, _ in step) for step in points)))
        return Series(kls.y, scores.y)

    @property
    def kept(self) -> float:
        """The share of the best rise of the judge's number along the way that is there at the end."""
        along = self.curve.y
        best = max(along) - along[0]
        return 1.0 if best <= 0 else (along[-1] - along[0]) / best

    @property
    def honest(self) -> bool:
        """Whether gold rose and stayed, and answers are as often right as before."""
        gained = all((result.gold_gain or 0) > 0 for result in self.results)
        right = fmean((result.correct_after or 0) - (result.correct_before or 0) for result in self.results) >= 0
        return gained and right and self.kept >= KEPT


def write(directory: str | Path) -> Path:
    """Writes `comparison.html` beside `comparison.json`; RunDirectoryError where that is not there."""
    source = Path(directory) / "comparison.json"
    if not source.exists():
        raise RunDirectoryError(f"{source} is not there. `palate compare` makes it. Name a comparison's directory.")
    place = source.with_suffix(".html")
    place.write_text(render(Path(directory).name, Table.model_validate_json(source.read_bytes())), encoding="utf-8")
    return place


def standings(results: Sequence[Result]) -> list[Standing]:
    """The methods, best mean win rate first."""
    names = dict.fromkeys(result.method for result in results)
    all_of = [Standing(name, tuple(result for result in results if result.method == name)) for name in names]
    return sorted(all_of, key=lambda standing: (-standing.win_rate, standing.method))


def render(name: str, held: Table) -> str:
    """The whole page."""
    ranked = standings(held.results)
    golden = all(
        result.judge == "gold" and None not in (result.gold_gain, result.correct_before, result.correct_after)
        for result in held.results
    )
    return document(f"{escaped(name)} · Palate comparison", "\n".join(_parts(name, held, ranked, golden)))


def _parts(name: str, held: Table, ranked: Sequence[Standing], golden: bool) -> Iterator[str]:
    best, seeds = ranked[0], len(held.seeds)
    of = "seed" if seeds == 1 else f"{seeds} seeds"
    equal = "the same number of completions" if held.equal == "samples" else "the same time"
    yield (
        f'<header>\n<p class="eyebrow">Palate comparison · {escaped(name)}</p>\n<div class="verdict good">\n'
        f"<h1>{escaped(best.method)} leads: {percent(best.win_rate)} of its answers beat the SFT model's.</h1>\n"
        f'<p class="grounds">{len(ranked)} methods from the same SFT model on the same data, each with {equal}; '
        f"means over {of}. {escaped(_close(ranked))}</p>\n</div>\n</header>"
    )
    header = [
        "Method",
        "Win rate",
        "Range" if seeds > 1 else "95% interval",
        "KL",
        *(["Gold gained", "Right"] if golden else []),
        "Length",
    ]
    header += ["Completions", "Tokens", "Time"]
    yield section("Results", table("methods", header, [_row(each, golden) for each in ranked], len(header) - 1))
    judge = "gold" if all(result.judge == "gold" for result in held.results) else "the training reward"
    curves = {standing.method: standing.curve for standing in ranked if len(standing.curve.x) > 1}
    if curves:
        chart = panels("curves", f"{judge} over KL for each method", curves, judge)
        caption = f"Each method in front of all others, mean of {of}; the dot is where it ended."
        yield section("Along the way", figure("What a nat buys", caption, chart))
    if golden:
        yield section("Who stays honest", _honesty(ranked))


def _close(ranked: Sequence[Standing]) -> str:
    """Which methods cannot be told from the first."""
    first, *others = ranked
    close = [other.method for other in others if other.high >= first.low]
    if not close:
        return "No other method's range reaches its own."
    return f"Its range and that of {', '.join(close)} overlap, so these cannot be told apart here."


def _row(standing: Standing, golden: bool) -> list[str]:
    results = standing.results
    spread = percent_range(standing.low, standing.high)
    cells = [escaped(standing.method), percent(standing.win_rate), spread, number(fmean(one.kl for one in results))]
    if golden:
        cells.append(number(fmean(one.gold_gain or 0 for one in results)))
        cells.append(percent(fmean(one.correct_after or 0 for one in results)))
    cells.append(number(fmean(one.length for one in results)))
    cells.append(f"{fmean(one.completions for one in results):,.0f}")
    cells.append(f"{fmean(one.tokens for one in results):,.0f}")
    cells.append(duration(fmean(one.seconds for one in results)))
    return cells


def _honesty(ranked: Sequence[Standing]) -> str:
    honest = [standing.method for standing in ranked if standing.honest]
    others = [standing for standing in ranked if not standing.honest]
    told = (
        f"<p>With every seed gold rose, at least {KEPT:.0%} of its best was kept to the end, and answers are right at "
        f"least as often as before: {escaped(', '.join(honest) or 'no method')}.</p>"
    )
    items = "".join(f"<li>{escaped(_reason(standing))}</li>" for standing in others)
    return told + (f'<ul class="cautions">{items}</ul>' if items else "")


def _reason(standing: Standing) -> str:
    gains = [result.gold_gain or 0 for result in standing.results]
    before = fmean(result.correct_before or 0 for result in standing.results)
    after = fmean(result.correct_after or 0 for result in standing.results)
    reasons = []
    if min(gains) <= 0:
        reasons.append(f"gold changed by {number(min(gains))} with one seed")
    if standing.kept < KEPT:
        reasons.append(f"{percent(1 - standing.kept)} of the best gain was lost again")
    if after < before:
        reasons.append(f"right answers fell from {percent(before)} to {percent(after)}")
    return f"{standing.method}: {'; '.join(reasons)}."
