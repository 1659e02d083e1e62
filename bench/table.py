"""From samples to numbers to a table: medians, spreads, ratios, rates, fractions."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from bench.sides import Run

Sample = Mapping[str, Any]


@dataclass(frozen=True)
class Summary:
    """One side over all rounds: medians over the timed iterations, memory in bytes the largest of the rounds.

    `other_cores` is how many of the machine's cores other processes kept busy meanwhile, `fraction` a share of the
    matrix rate.
    """

    seconds: float
    fastest: float
    slowest: float
    iterations: int
    tokens: float
    tokens_a_second: float
    fraction: float
    memory: int
    memory_before: int
    own_cores: float
    other_cores: float
    phases: dict[str, float]


def summarise(
    runs: Sequence[Run], tokens: Callable[[Sample], int], operations: Callable[[Sample], float], rate: float
) -> Summary:
    """One side's numbers; `tokens` and `operations` tell the useful ones of an iteration, `rate` is the machine's."""
    samples = [sample for run in runs for sample in run.timed]
    seconds = [sample["seconds"] for sample in samples]
    names = dict.fromkeys(name for sample in samples for name in sample["phases"])
    return Summary(
        seconds=statistics.median(seconds),
        fastest=min(seconds),
        slowest=max(seconds),
        iterations=len(samples),
        tokens=statistics.median(map(tokens, samples)),
        tokens_a_second=statistics.median(tokens(sample) / sample["seconds"] for sample in samples),
        fraction=statistics.median(operations(sample) / sample["seconds"] / rate for sample in samples),
        memory=max(run.about["memory"] for run in runs),
        memory_before=max(run.about["memory_before"] for run in runs),
        own_cores=statistics.median(sample["own_cores"] for sample in samples),
        other_cores=statistics.median(sample["other_cores"] for sample in samples),
        phases={
            name: statistics.median(sample["phases"][name] for sample in samples if name in sample["phases"])
            for name in names
        },
    )


@dataclass(frozen=True)
class Ratios:
    """How many times faster we are: the peer's over ours in seconds, ours over the peer's in useful tokens a second."""

    seconds: float
    seconds_by_round: tuple[float, ...]
    tokens_a_second: float
    memory: float


def ratios(ours: Summary, peer: Summary, rounds: Sequence[tuple[Run, Run]]) -> Ratios:
    """The ratios of the medians, and those of each round's own medians; above 1 is in our favour."""
    return Ratios(
        seconds=peer.seconds / ours.seconds,
        seconds_by_round=tuple(median_seconds(theirs) / median_seconds(mine) for mine, theirs in rounds),
        tokens_a_second=ours.tokens_a_second / peer.tokens_a_second,
        memory=peer.memory / ours.memory,
    )


def median_seconds(run: Run) -> float:
    """Of one process's timed iterations."""
    return statistics.median(sample["seconds"] for sample in run.timed)


@dataclass(frozen=True)
class Greedy:
    """Greedy completions of both sides held against each other, row by row.

    A row differs where the first token that is not the same was no near tie; rows that part at a near tie are
    counted apart, and what follows there is another text.
    """

    rows: int
    tokens: int
    differing: int
    parted_at_a_tie: int


def compare_greedy(
    ours: Sequence[Sequence[int]],
    peer: Sequence[Sequence[int]],
    gaps: Sequence[Sequence[float]],
    tolerance: float = 1e-4,
) -> Greedy:
    """`gaps[row][t]` is what lies between the peer's two best logits for token t; `tokens` counts the equal ones."""
    tokens = differing = tied = 0
    for mine, theirs, between in zip(ours, peer, gaps, strict=True):
        longest = max(len(mine), len(theirs))
        first = next((t for t in range(longest) if list(mine[t : t + 1]) != list(theirs[t : t + 1])), None)
        tokens += longest if first is None else first
        if first is not None and (first >= len(between) or between[first] > tolerance):
            differing += 1
        elif first is not None:
            tied += 1
    return Greedy(len(ours), tokens, differing, tied)


def comparison(title: str, ours: Summary, peer: Summary | None, peer_name: str, ratio: Ratios | None) -> Table:
    """Ours, peer and ratio, a line a number; the ratio is above 1 where we are better."""
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column("")
    for name in ("Palate", peer_name, "ratio"):
        table.add_column(name, justify="right")
    for name, show, quotient in _lines(ours, peer):
        if not peer:
            table.add_row(name, show(ours), "", "")
            continue
        table.add_row(name, show(ours), show(peer), "" if quotient is None else f"{quotient:.2f}")
    if ratio is not None:
        table.add_row("ratio of each round", "", "", " ".join(f"{value:.2f}" for value in ratio.seconds_by_round))
    return table


def _lines(ours: Summary, peer: Summary | None) -> list[tuple[str, Callable[[Summary], str], float | None]]:
    def faster(pick: Callable[[Summary], float | None]) -> float | None:
        mine, theirs = pick(ours), pick(peer) if peer else None
        return theirs / mine if mine and theirs else None

    phases = list(dict.fromkeys([*ours.phases, *(peer.phases if peer else ())]))
    return [
        ("seconds, median", lambda side: duration(side.seconds), faster(lambda side: side.seconds)),
        ("  fastest to slowest", lambda side: f"{duration(side.fastest)} to {duration(side.slowest)}", None),
        *(
            (f"  {name}", _phase(name), faster(lambda side, name=name: side.phases.get(name)))
            for name in phases
            if name != "other"
        ),
        ("useful tokens", lambda side: f"{side.tokens:,.0f}", None),
        (
            "useful tokens a second",
            lambda side: f"{side.tokens_a_second:,.0f}",
            faster(lambda side: 1 / side.tokens_a_second),
        ),
        ("of the matrix rate", lambda side: f"{side.fraction:.1%}", None),
        ("peak memory", lambda side: size(side.memory), faster(lambda side: side.memory)),
        ("  before the models", lambda side: size(side.memory_before), None),
        ("cores used", lambda side: f"{side.own_cores:.1f}", None),
        ("cores others used", lambda side: f"{side.other_cores:.1f}", None),
    ]


def _phase(name: str) -> Callable[[Summary], str]:
    return lambda side: duration(side.phases[name]) if name in side.phases else "–"


def duration(seconds: float) -> str:
    """Seconds with three digits."""
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def size(count: float) -> str:
    """Bytes as a person reads them."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def plain(value: Any) -> Any:
    """A record of this module for JSON."""
    return None if value is None else asdict(value)
