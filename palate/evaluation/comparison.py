"""Before against after: the outcomes of comparisons, a win rate with its intervals, and the same by group."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

import numpy as np

from palate.evaluation.preference import ROUNDING, effective_size
from palate.evaluation.resampling import bootstrap_interval
from palate.ops import wilson_interval

Outcome = Literal["win", "tie", "loss"]

# What an outcome is worth in a win rate.
POINTS: Mapping[Outcome, float] = {"win": 1.0, "tie": 0.5, "loss": 0.0}


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


def win_rate(outcomes: Iterable[Outcome], prompts: Sequence[Hashable] | None = None) -> WinRate:
    """The share of wins with ties as half of one, and Wilson's (1927) interval of it.

    Where `prompts` names the prompt of each outcome, each prompt weighs as much as another, and the interval is that of
    as many independent outcomes as they are worth (`effective_size`), and of one a prompt at least. Exchanging the two
    sides gives 1 − the estimate: a judge that scores single answers has no first place to prefer. Raises ValueError
    when there is no outcome.
    """
    counted = list(outcomes)
    if not counted:
        raise ValueError("A win rate needs at least one comparison, and none was given.")
    total, wins, ties = len(counted), counted.count("win"), counted.count("tie")
    asked = list(range(total) if prompts is None else prompts)
    of_prompt, times = len(set(asked)), Counter(asked)
    weights = np.array([total / of_prompt / times[prompt] for prompt in asked])
    points, tied = np.array([POINTS[outcome] for outcome in counted]), np.array([one == "tie" for one in counted])
    alike = math.floor(weights @ tied + ROUNDING)
    won = float(np.clip(weights @ points, alike / 2, total - alike / 2))  # which rounding may put it beyond
    effective = max(of_prompt, effective_size(points, asked, weights))  # an average varies no more than one outcome
    low, high = wilson_interval(won, total, ties=alike, effective=effective)
    estimate = fmean(by_prompt(counted, asked))
    return WinRate(estimate, min(low, estimate), max(high, estimate), wins, ties, total - wins - ties)


def win_rate_bootstrap(outcomes: Iterable[Outcome], prompts: Sequence[Hashable] | None = None) -> tuple[float, float]:
    """The 95 % bootstrap interval (low, high) of the same share, over prompts."""
    means = by_prompt(list(outcomes), prompts)
    return bootstrap_interval(means, range(len(means)))


def by_prompt(outcomes: Sequence[Outcome], prompts: Sequence[Hashable] | None = None) -> list[float]:
    """The mean points of each prompt; of each outcome where no prompts are given."""
    gathered: dict[Hashable, list[float]] = {}
    for prompt, outcome in zip(range(len(outcomes)) if prompts is None else prompts, outcomes, strict=True):
        gathered.setdefault(prompt, []).append(POINTS[outcome])
    return [fmean(points) for points in gathered.values()]


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
