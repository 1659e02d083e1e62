"""The report over all rounds of a run: a pure function of `rounds.json` and of what each round's directory says."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError

from palate.engine.files import write_atomic
from palate.errors import RunDirectoryError
from palate.report.charts import Interval, intervals
from palate.report.content import report_of
from palate.report.elements import absent, document, figure, mark, section, table, with_interval
from palate.report.reading import Run, read
from palate.report.words import date, escaped, percent, percent_range, spoken, written

ROUNDS = "rounds.json"

# The figures of a round that stand in the table; the shares among them are drawn with their intervals.
FIGURES: Mapping[str, str] = {
    "align/win_rate": "Win rate against SFT",
    "align/gold_gain": "Gold gained over SFT, held-out prompts",
    "align/gold_best": "Best gold on the way, alignment’s prompts",
    "align/gold_final": "Gold at the end, alignment’s prompts",
    "reward/accuracy": "Reward model: held-out accuracy",
    "align/score_final": "What its own reward model says of it",
    "align/kl_final": "KL from SFT, nats",
    "align/length_final": "Tokens an answer",
    "align/alarms": "Monitors that alarmed",
}
DRAWN = ("align/win_rate", "reward/accuracy")


class Voter(BaseModel):
    """Whose votes, how many."""

    model_config = ConfigDict(frozen=True)

    kind: str
    votes: int


class Votes(BaseModel):
    """What was asked and answered for a round: events of the store from `first_event` to `last_event`."""

    model_config = ConfigDict(frozen=True)

    first_event: int
    last_event: int
    items: int
    slices: dict[str, int]
    fresh: int
    all: int
    raters: dict[str, Voter]
    ties: int = 0
    other: int = 0
    checks: int = 0
    empty: int = 0
    thumbs_unused: int = 0


class Pairs(BaseModel):
    """What the round's reward model learnt from: counts, and the weight of each earlier round's pairs."""

    model_config = ConfigDict(frozen=True)

    train: int
    heldout: int
    first_data: int
    fresh: int
    fresh_heldout: int
    weights: dict[str, FiniteFloat]
    sha256: str


class Aim(BaseModel):
    """Where the questions went, and why."""

    model_config = ConfigDict(frozen=True)

    shares: dict[str, FiniteFloat]
    why: tuple[str, ...]


class Round(BaseModel):
    """One round, as `rounds.json` tells of it; what has not happened yet is None."""

    model_config = ConfigDict(frozen=True)

    round: int
    directory: str
    aim: Aim | None = None
    votes: Votes | None = None
    pairs: Pairs | None = None
    model: str | None = None


class Rounds(BaseModel):
    """What `rounds.json` holds."""

    model_config = ConfigDict(frozen=True)

    rounds: tuple[Round, ...]


Told = tuple[Round, Run | None]


def last_round(directory: Path) -> Path:
    """The directory of the last round that has begun; the directory itself where it is that of a single run.

    Raises RunDirectoryError where `rounds.json` is no such.
    """
    if not (directory / ROUNDS).is_file():
        return directory
    try:
        known = Rounds.model_validate_json((directory / ROUNDS).read_bytes()).rounds
    except ValidationError as error:
        raise RunDirectoryError(
            f"{directory} has a {ROUNDS} that could not be read ({error.errors(include_url=False)[0]['msg']}), so "
            "which round is the last is not known. Give the directory of one round."
        ) from error
    begun = [directory / one.directory for one in known if (directory / one.directory / "run.json").is_file()]
    return begun[-1] if begun else directory


def write(directory: Path) -> Path:
    """Writes `report.html` over all rounds, whole or not at all; RunDirectoryError where `rounds.json` is no such."""
    path = directory / "report.html"
    write_atomic(path, render(directory).encode())
    return path


def render(directory: Path) -> str:
    """The whole page."""
    try:
        held = Rounds.model_validate_json((directory / ROUNDS).read_bytes())
        outer = json.loads((directory / "run.json").read_bytes())
    except (OSError, ValueError) as error:  # ValidationError is one
        first = error.errors(include_url=False)[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise RunDirectoryError(
            f"{directory} cannot be reported on: {ROUNDS} or run.json could not be read ({first}). `palate run` of a "
            "recipe with [rounds] writes both; give the path of such a run."
        ) from error
    told = [(one, _run(directory / one.directory)) for one in held.rounds]
    name = escaped(outer.get("name") or directory.name)
    return document(f"{name} · Palate rounds", _head(name, outer, told) + "\n" + "\n".join(_sections(told)))


def _run(place: Path) -> Run | None:
    return read(place) if (place / "run.json").is_file() else None


def _head(name: str, outer: Mapping[str, Any], told: Sequence[Told]) -> str:
    done = [one for one in told if one[0].model is not None]
    sentences = "".join(f'<p class="grounds">{escaped(sentence)}</p>' for sentence in _said(done))
    return (
        f'<header>\n<p class="eyebrow">Palate rounds · {name} · {escaped(date(str(outer.get("created", ""))))}</p>\n'
        f'<div class="verdict">\n<h1>{len(done)} of {len(told)} rounds done</h1>\n{sentences}\n</div>\n</header>'
    )


def _said(done: Sequence[Told]) -> Iterator[str]:
    """What the last round says for itself, and how it compares with the first."""
    if not done:
        return
    last, run = done[-1]
    if run is not None:
        yield f"Round {last.round}: {report_of(run).verdict.headline}"
    for name in ("align/win_rate", "align/gold_final"):
        values = [(one.round, run.summary[name]) for one, run in done if run is not None and name in run.summary]
        if len(values) > 1:
            path = ", ".join(f"{written(name, value)} in round {number}" for number, value in values)
            yield f"{FIGURES[name]}: {path}."


def _sections(told: Sequence[Told]) -> Iterator[str]:
    yield section("Round by round", _table(told) + _charts(told))
    yield section("What was asked, and why", _asked(told))
    yield section("Whose taste it is", _voters(told))
    links = "".join(
        f'<li><a href="{escaped(one.directory)}/report.html">Round {one.round}</a></li>'
        for one, run in told
        if run is not None
    )
    yield section("Each round’s own report", f"<ul>{links}</ul>" if links else absent("No round has begun."))


def _table(told: Sequence[Told]) -> str:
    summaries = [{} if run is None else run.summary for _, run in told]
    rows = [
        [escaped(title), *(_figure(name, summary) for summary in summaries)]
        for name, title in FIGURES.items()
        if any(name in summary for summary in summaries)
    ]
    rows += [["Verdicts", *(_verdicts(run) for _, run in told)]]
    return table("rounds", ["", *(f"Round {one.round}" for one, _ in told)], rows, numbers=len(told))


def spelt(name: str, value: float) -> str:
    """A figure of a round: alarms are counted, all else is written as its name wants it."""
    return f"{value:.0f}" if name == "align/alarms" else written(name, value)


def _figure(name: str, summary: Mapping[str, float]) -> str:
    if name not in summary:
        return ""
    low, high = summary.get(f"{name}_low"), summary.get(f"{name}_high")
    value = spelt(name, summary[name])
    return value if low is None or high is None else with_interval(value, percent_range(low, high))


def _verdicts(run: Run | None) -> str:
    """The marks of a round's stages."""
    if run is None:
        return ""
    levels: list[tuple[str, Literal["pass", "warn", "stop"]]] = [
        (name, stage.verdict.level) for name, stage in run.manifest.stages.items() if stage.verdict is not None
    ]
    return " ".join(mark(level, name) for name, level in levels)


def _charts(told: Sequence[Told]) -> str:
    """Each share that two rounds or more have, with its intervals, the last round first: a line between two points
    would show a course where there is none."""
    charts = []
    for index, name in enumerate(DRAWN):
        rows = [
            Interval(
                f"Round {one.round}", run.summary[name], run.summary.get(f"{name}_low"), run.summary.get(f"{name}_high")
            )
            for one, run in reversed(told)
            if run is not None and name in run.summary
        ]
        if len(rows) > 1:
            chart = intervals(f"rounds-{index}", FIGURES[name], rows)
            charts.append(figure(f"{FIGURES[name]}, 95% intervals", "the dashed line is a half", chart))
    return f'<div class="charts">{"".join(charts)}</div>' if charts else ""


def _asked(told: Sequence[Told]) -> str:
    rows = [_questions(one) for one, _ in told if one.aim is not None or one.votes is not None]
    if not rows:
        return absent("Nothing was asked: the first round learnt from data that were there.")
    header = ["Round", "Asked", "Why there", "Became pairs"]
    return table("asked", header, rows, numbers=0)


def _questions(one: Round) -> list[str]:
    votes, pairs = one.votes, one.pairs
    shares = "" if one.aim is None else ", ".join(f"{percent(share)} {name}" for name, share in one.aim.shares.items())
    asked = shares
    if votes is not None:
        asked = f"{votes.items:,} pairs: {', '.join(f'{count:,} {name}' for name, count in votes.slices.items())}"
    why = "" if one.aim is None else " ".join(one.aim.why)
    became = "votes are awaited"
    if pairs is not None and votes is not None:
        unused = {name: getattr(votes, name) for name in ("ties", "other", "checks", "empty", "thumbs_unused")}
        left = ", ".join(f"{count:,} {spoken(name)}" for name, count in unused.items() if count)
        became = f"{pairs.fresh:,} to learn from, {pairs.fresh_heldout:,} held out{f'; unused: {left}' if left else ''}"
    return [str(one.round), escaped(asked), escaped(why), escaped(became)]


def _voters(told: Sequence[Told]) -> str:
    rows = []
    for one, _ in told:
        if one.votes is None or one.pairs is None:
            continue
        who = ", ".join(f"{name} ({rater.kind}): {rater.votes:,}" for name, rater in one.votes.raters.items())
        weights = ", ".join(f"round {number}: {weight:g}" for number, weight in one.pairs.weights.items())
        learnt = f"{one.pairs.train:,} pairs, {one.pairs.first_data:,} of them from the first round’s data"
        rows.append(
            [
                str(one.round),
                escaped(who),
                escaped(f"{one.votes.first_event} to {one.votes.last_event}"),
                escaped(f"{learnt}; weights {weights}"),
                f"<code>{escaped(one.pairs.sha256[:16])}</code>",
            ]
        )
    if not rows:
        return absent("No votes yet.")
    header = ["Round", "Votes", "Events of feedback.sqlite", "Its reward model learnt from", "pairs.jsonl"]
    note = (
        '<p class="note">Every row of a round’s pairs.jsonl names its votes, and <code>palate export</code> shows '
        "those with rater, time and what stood where.</p>"
    )
    return table("voters", header, rows, numbers=0) + note
