"""How far feedback can be trusted, from items and judgements alone: agreement, raters, the ceiling, what to discuss,
and the result of a blind comparison."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import NormalDist, fmean

import numpy as np

from palate.collect.agreement import Agreement, agreement, cohen_kappa, table
from palate.collect.annotators import Annotator, Share, annotators, share
from palate.collect.judgements import Answer, Item, Judgement, Preference, Rater, Skipped
from palate.collect.votes import Answered, Question, answered, degree, uncontrolled, values, votes_of_judgements
from palate.errors import UsageError
from palate.evaluation.ceiling import Ceiling, noise_ceiling
from palate.evaluation.comparison import Outcome, by_prompt, win_rate

# Two raters are compared with one another from so many shared questions: κ is then known to ± .4.
LEAST_SHARED = 20

DEGREES = tuple(range(-3, 4))
SIDES = (-1, 0, 1)


# ---- the report


@dataclass(frozen=True, slots=True)
class Between:
    """Two raters on the comparisons that both judged: how often they say the same, and Cohen's κ, None where it cannot
    be told from chance."""

    first: str
    second: str
    alike: Share
    kappa: float | None


@dataclass(frozen=True, slots=True)
class Said:
    """What one rater answered, and what they noted beside it."""

    rater: str
    answer: Answer
    tags: tuple[str, ...]
    note: str


@dataclass(frozen=True, slots=True)
class Disagreement:
    """An item on which raters differ. `entropy` is that of their values in bits, `spread` the mean difference of two
    raters' degrees."""

    item: str
    prompt: str
    completions: tuple[str, ...]
    entropy: float
    spread: float
    said: tuple[Said, ...]


@dataclass(frozen=True, slots=True)
class Quality:
    """All that is told of some feedback.

    `agreements` are by question: "comparisons" (first, neither, second; `ordinal` by degree), "comparisons without
    ties", "thumbs" and "rating of NAME"; `between` two raters. `ceiling` is the highest accuracy that one rater's
    labels allow, None where fewer than 20 items tell. Agreement, ceiling and disagreements are of people, unless only
    judges or programs answered.
    """

    items: int
    judgements: int
    skipped: int
    agreements: Mapping[str, Agreement]
    between: tuple[Between, ...]
    annotators: tuple[Annotator, ...]
    ceiling: Ceiling | None
    disagreements: tuple[Disagreement, ...]


def quality(
    items: Sequence[Item], judgements: Sequence[Judgement], raters: Mapping[str, Rater] | None = None
) -> Quality:
    """The report on feedback; a rater who is not among `raters` is taken for a person."""
    people = of_people(judgements, raters or {})
    plain = uncontrolled(items)
    latest = answered(plain, people)
    return Quality(
        items=len(items),
        judgements=len(judgements),
        skipped=sum(isinstance(judgement.answer, Skipped) for judgement in judgements),
        agreements=agreements(latest),
        between=between(answered(plain, judgements)),
        annotators=annotators(items, judgements, raters),
        ceiling=noise_ceiling(votes_of_judgements(items, people)),
        disagreements=disagreements(plain, latest),
    )


def of_people(judgements: Sequence[Judgement], raters: Mapping[str, Rater]) -> Sequence[Judgement]:
    """What people said; what judges and programs did, where no person said anything."""
    machines = {name for name, rater in raters.items() if rater.kind != "human"}
    return [judgement for judgement in judgements if judgement.rater not in machines] or judgements


def agreements(latest: Answered) -> dict[str, Agreement]:
    """Agreement on each kind of question that several raters answered."""
    rows: dict[str, list[tuple[str, list[float], list[float]]]] = {}
    for item, given in latest.items():
        for question, by_rater in values(given).items():
            degrees = [degree(given[rater].answer, question) for rater in by_rater]
            rows.setdefault(_kind(question), []).append((item, list(by_rater.values()), degrees))
    found = {}
    for kind, told in rows.items():
        items, signs, degrees = zip(*told, strict=True)
        found[kind] = _agreement(kind, items, signs, degrees)
        if kind == "comparisons":
            found["comparisons without ties"] = _if_any(table(signs, (-1, 1)), items)
    return {kind: one for kind, one in found.items() if one is not None}


def _agreement(
    kind: str, items: Sequence[str], signs: Sequence[list[float]], degrees: Sequence[list[float]]
) -> Agreement | None:
    if kind == "comparisons":
        return _if_any(table(signs, SIDES), items, table(degrees, DEGREES))
    known = sorted({value for given in signs for value in given})
    counts = table(signs, known)
    return _if_any(counts, items, None if kind == "thumbs" else counts)


def _if_any(counts: np.ndarray, items: Sequence[str], ordered: np.ndarray | None = None) -> Agreement | None:
    return agreement(counts, items, ordered=ordered) if (counts.sum(axis=1) > 1).any() else None


def _kind(question: Question) -> str:
    return {"comparison": "comparisons", "thumb": "thumbs"}.get(str(question[0]), f"rating of {question[-1]}")


def between(latest: Answered) -> tuple[Between, ...]:
    """Every two raters with enough comparisons in common, those with most first."""
    shared: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for given in latest.values():
        for question, by_rater in values(given).items():
            if question[0] == "comparison":
                for one, other in combinations(sorted(by_rater), 2):
                    shared.setdefault((one, other), []).append((by_rater[one], by_rater[other]))
    found = []
    for (one, other), sides in sorted(shared.items(), key=lambda known: (-len(known[1]), known[0])):
        alike = share([float(first == second) for first, second in sides])
        if alike is not None and alike.count >= LEAST_SHARED:
            kappa = cohen_kappa(*zip(*sides, strict=True))
            found.append(Between(one, other, alike, None if math.isnan(kappa) else kappa))
    return tuple(found)


def disagreements(items: Iterable[Item], latest: Answered) -> tuple[Disagreement, ...]:
    """The items on which raters differ: the most evenly divided first, then the widest apart, then the most votes."""
    found = []
    for item in items:
        given = latest[item.id]
        divided = [list(by_rater.values()) for by_rater in values(given).values() if len(set(by_rater.values())) > 1]
        if not divided:
            continue
        apart = [
            abs(degree(given[one].answer, question) - degree(given[other].answer, question))
            for question, by_rater in values(given).items()
            for one, other in combinations(by_rater, 2)
        ]
        told = tuple(Said(one.rater, one.answer, one.tags, one.note) for one in given.values())
        texts = tuple(candidate.text for candidate in item.candidates)
        entropy = fmean(map(_entropy, divided))
        found.append(Disagreement(item.id, item.prompt.text, texts, entropy, fmean(apart), told))
    return tuple(sorted(found, key=lambda one: (-one.entropy, -one.spread, -len(one.said))))


def _entropy(told: Sequence[float]) -> float:
    shares = [count / len(told) for count in Counter(told).values()]
    return -sum(part * math.log2(part) for part in shares)


# ---- blind comparison of two models

LEVEL = 0.05
# The chance that a comparison which goes on as the figures now stand is decided by the votes said to be needed.
POWER = 0.8
# The interval is narrowest about here; at a quarter or at four times as many it is less than a tenth wider.
TYPICAL_PROMPTS = 200
# A comparison that would take more prompts than this is as good as even.
MOST_PROMPTS = 1_000_000


@dataclass(frozen=True, slots=True)
class Contest:
    """The result so far of A against B; rates are those of B, the second, with ties as half a win.

    `low` and `high` hold at every look at once: one may watch votes come in and stop when `decided`, which is when they
    leave out one half. `planned_low` and `planned_high` (Wilson) are narrower, and hold for one look at an end fixed
    beforehand. `more_votes_needed` is 0 where decided, None where no number of votes that anyone would collect does.
    """

    a: str
    b: str
    wins_a: int
    wins_b: int
    ties: int
    skipped: int
    prompts: int
    win_rate: float
    low: float
    high: float
    planned_low: float
    planned_high: float
    decided: bool
    more_votes_needed: int | None


def comparison(items: Sequence[Item], judgements: Sequence[Judgement]) -> Contest:
    """How a blind comparison of two models stands, whose items show one answer of each.

    Several votes on one prompt are averaged first, and prompts are counted: the interval is over prompts. UsageError
    where the completions come from anything but two models.
    """
    asked = [item for item in uncontrolled(items) if item.mode == "pair"]
    a, b = _contestants(asked)
    second = {item.id: int(_origin(item, 1) == b) for item in asked}
    prompts = {item.id: item.prompt.messages for item in asked}
    outcomes: list[Outcome] = []
    of_prompt = []
    for item, given in answered(asked, judgements).items():
        for judgement in given.values():
            if isinstance(judgement.answer, Preference):
                towards = judgement.answer.degree * (1 if second[item] else -1)
                outcomes.append("win" if towards > 0 else "loss" if towards < 0 else "tie")
                of_prompt.append(prompts[item])
    skipped = sum(isinstance(one.answer, Skipped) and one.item in second for one in judgements)
    if not outcomes:
        return Contest(a, b, 0, 0, 0, skipped, 0, 0.5, 0.0, 1.0, 0.0, 1.0, False, None)
    rate = win_rate(outcomes, of_prompt)
    points = by_prompt(outcomes, of_prompt)
    reach = always_valid(len(points))
    low, high = max(0.0, rate.estimate - reach), min(1.0, rate.estimate + reach)
    return Contest(
        a=a,
        b=b,
        wins_a=rate.losses,
        wins_b=rate.wins,
        ties=rate.ties,
        skipped=skipped,
        prompts=len(points),
        win_rate=rate.estimate,
        low=low,
        high=high,
        planned_low=rate.low,
        planned_high=rate.high,
        decided=not low <= 0.5 <= high,
        more_votes_needed=_votes_needed(points, len(outcomes)),
    )


def always_valid(prompts: int, level: float = LEVEL) -> float:
    """How far the truth may be from the mean of so many prompts' points, at every number of prompts at once.

    |mean − truth| ≤ √((V + ρ)·log((V + ρ)/(ρ·α²))) / n,  V = n/4: Howard, Ramdas, McAuliffe and Sekhon, 1810.08240,
    eq. 14, the normal mixture, for points in [0, 1] are sub-Gaussian with variance ¼; with probability 1 − α over the
    whole run of independent prompts. ρ = V*/(2·log(1/α) + log(1 + 2·log(1/α))) makes it narrowest near V*.
    """
    variance, logarithm = prompts / 4, 2 * math.log(1 / level)
    rho = TYPICAL_PROMPTS / 4 / (logarithm + math.log(1 + logarithm))
    return math.sqrt((variance + rho) * math.log((variance + rho) / (rho * level**2))) / prompts


def _votes_needed(points: Sequence[float], votes: int) -> int | None:
    """Votes until the interval leaves out one half with probability .8, if the truth is the present estimate.

    The least n with |p̂ − ½| ≥ reach(n) + z(.8)·s/√n, s² the variance of a prompt's points (with one more prompt of
    variance ¼, so that few alike ones do not look certain); times the votes on a prompt so far, less those there are.
    """
    apart = abs(fmean(points) - 0.5)
    if apart > always_valid(len(points)):
        return 0
    spread = math.sqrt((float(np.var(points)) * len(points) + 0.25) / (len(points) + 1))
    quantile = NormalDist().inv_cdf(POWER)

    def enough(prompts: int) -> bool:
        return apart >= always_valid(prompts) + quantile * spread / math.sqrt(prompts)

    if not enough(MOST_PROMPTS):
        return None
    few, many = len(points), MOST_PROMPTS
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if enough(middle) else (middle, many)
    return max(1, math.ceil(many * votes / len(points)) - votes)


def _contestants(items: Sequence[Item]) -> tuple[str, str]:
    """The two models' names, the first item's first completion's first."""
    names = list(dict.fromkeys(_origin(item, place) for item in items for place in (0, 1)))
    if len(names) != 2 or any(_origin(item, 0) == _origin(item, 1) for item in items):
        raise UsageError(
            f"A comparison of two models was asked for, and the completions come from {_listed(names)}. Every item "
            "must show one completion of each of two. Give the store of a comparison (`palate label --compare`)."
        )
    return names[0], names[1]


def _origin(item: Item, place: int) -> str:
    return ", ".join(origin.name for origin in item.candidates[place].origins)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(name or "nowhere" for name in names[:5]) or "nowhere, for there is no pair"
