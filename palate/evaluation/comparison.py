"""Before against after: one outcome a prompt, a win rate with its interval, and the same by group."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from palate.ops import wilson_interval

Outcome = Literal["win", "tie", "loss"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two answers to one prompt and what the judge gave each."""

    prompt: str
    before: str
    after: str
    score_before: float
    score_after: float
    outcome: Outcome
    group: str
    length_before: int
    length_after: int


@dataclass(frozen=True, slots=True)
class WinRate:
    """How often the second of two was preferred, ties counted half, with Wilson's 95 % interval."""

    estimate: float
    low: float
    high: float
    wins: int
    ties: int
    losses: int


def compare(before: float, after: float) -> Outcome:
    """What the second answer did against the first."""
    if after > before:
        return "win"
    return "tie" if after == before else "loss"


def win_rate(outcomes: Iterable[Outcome]) -> WinRate:
    """The share of wins with ties as half of one; Wilson (1927) on that sum, which ties make too wide rather than too
    narrow. Raises ValueError when there is no outcome."""
    counted = list(outcomes)
    if not counted:
        raise ValueError("A win rate needs at least one comparison, and none was given.")
    wins, ties = counted.count("win"), counted.count("tie")
    points = wins + 0.5 * ties
    low, high = wilson_interval(points, len(counted))
    return WinRate(points / len(counted), low, high, wins, ties, len(counted) - wins - ties)


def by_group(comparisons: Sequence[Comparison]) -> list[dict[str, float | int | str]]:
    """Mean scores before and after and the win rate of every group, the groups in alphabetical order."""
    rows: list[dict[str, float | int | str]] = []
    for name in sorted({comparison.group for comparison in comparisons}):
        members = [comparison for comparison in comparisons if comparison.group == name]
        rows.append(
            {
                "name": name,
                "count": len(members),
                "before": sum(member.score_before for member in members) / len(members),
                "after": sum(member.score_after for member in members) / len(members),
                "win_rate": win_rate(member.outcome for member in members).estimate,
            }
        )
    return rows
