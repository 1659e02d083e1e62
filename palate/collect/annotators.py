"""What can be told of each rater from what they said: consistency, gold, habits, time, and who stands out.

An alarm takes two things at once: the share lies beyond a bound that matters, and the binomial test finds that no
accident (p ≤ .05 after Benjamini and Hochberg, 1995, over all tests of all raters: of the alarms, at most one in twenty
is expected to be false).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median

import numpy as np
from scipy.stats import binom, false_discovery_control

from palate.collect.judgements import Item, Judgement, Order, Preference, Rater, RaterKind, Skipped
from palate.collect.votes import Question, answered, said, uncontrolled, values
from palate.ops import wilson_interval

LEVEL = 0.05

# A guess is right half of the time, so who is right on seven in ten clear cases has looked at four.
GOLD = 0.7
# Two different annotators agree on about 73 % (InstructGPT, 2203.02155, §3.4); nobody agrees less with themselves.
CONSISTENT = 0.7
# Places are drawn at random: .6 means that a fifth of the answers went by the place.
PLACE = 0.1
# A taste for length of this much beyond the others' is no accident of the texts, which everyone is drawn from.
LENGTH = 0.15
# Agreement with the others that far below theirs, and ties that far above, are another task than the others do.
APART, TIES = 0.15, 0.2
# A third of the time that others take does not go into reading.
HASTE = 3
# Thirds add up to wholes but for this.
ROUNDING = 1e-9
# The others' figures are known well enough to compare with from so many of their answers.
LEAST = 20
# What a rater is compared with the others in.
_COMPARED = ("longer", "ties", "sided")


@dataclass(frozen=True, slots=True)
class Share:
    """The share of `count` cases, halves counted as such, with Wilson's 95 % interval."""

    estimate: float
    low: float
    high: float
    count: int


@dataclass(frozen=True, slots=True)
class Annotator:
    """One rater: how much they did, how far they can be trusted, and their habits. None where nothing tells.

    `consistency` is how often hidden repetitions got the same answer, `gold` hidden gold the expected one; `others` how
    often another rater of the item said the same. `first_place` is the share of decided pairs in which the reply shown
    first was preferred, `longer` in which the longer one was. `seconds` is the median time of an answer. `alarms` say
    where the rater stands out.
    """

    rater: str
    kind: RaterKind
    judgements: int
    skipped: Share | None
    ties: Share | None
    consistency: Share | None
    gold: Share | None
    others: Share | None
    first_place: Share | None
    longer: Share | None
    seconds: float | None
    alarms: tuple[str, ...] = ()


@dataclass
class _Seen:
    """The cases of one rater, each a number from 0 to 1."""

    skipped: list[float]
    ties: list[float]
    consistency: list[float]
    gold: list[float]
    others: list[float]
    sided: list[float]
    first_place: list[float]
    longer: list[float]
    seconds: list[float]


def annotators(
    items: Sequence[Item], judgements: Sequence[Judgement], raters: Mapping[str, Rater] | None = None
) -> tuple[Annotator, ...]:
    """Every rater, in the order in which they first judged; a rater who is not among `raters` is human."""
    known = raters or {}
    seen = _gathered(items, judgements)
    found = [_annotator(known.get(name, Rater(name)), cases) for name, cases in seen.items()]
    return tuple(_alarmed(found, seen))


def share(cases: Sequence[float]) -> Share | None:
    """The mean of cases with Wilson's interval; None where there is none."""
    if not cases:
        return None
    total = sum(cases)
    return Share(total / len(cases), *wilson_interval(total, len(cases)), len(cases))


# ---- what is counted


def _gathered(items: Sequence[Item], judgements: Sequence[Judgement]) -> dict[str, _Seen]:
    by_id = {item.id: item for item in items}
    seen: dict[str, _Seen] = {}
    for judgement in judgements:
        item = by_id.get(judgement.item)
        if item is None:
            continue
        own = seen.setdefault(judgement.rater, _Seen(*([] for _ in range(9))))
        own.skipped.append(float(isinstance(judgement.answer, Skipped)))
        if not isinstance(judgement.answer, Skipped):
            _count(own, item, judgement)
    latest = answered(items, judgements)
    for item in items:
        for rater, judgement in latest[item.id].items():
            own = seen[judgement.rater]
            if item.expected is not None:
                own.gold += _likeness(said(item.expected), said(judgement.answer))
            original = by_id.get(item.repeats)
            before = latest[original.id].get(rater) if original is not None else None
            if original is not None and before is not None:
                own.consistency += _likeness(said(before.answer), _of(original, item, judgement))
    for item in uncontrolled(items):
        _beside_others(seen, latest[item.id])
    return seen


def _count(own: _Seen, item: Item, judgement: Judgement) -> None:
    if judgement.seconds > 0:
        own.seconds.append(judgement.seconds)
    answer = judgement.answer
    if not isinstance(answer, Preference):
        return
    own.ties.append(float(answer.degree == 0))
    if answer.degree == 0:
        return
    better = int(answer.degree > 0)
    if judgement.shown:
        own.first_place.append(float(judgement.shown[0] == better))
    lengths = [len(candidate.text) for candidate in item.candidates]
    if lengths[0] != lengths[1]:
        own.longer.append(float(lengths[better] > lengths[1 - better]))


def _beside_others(seen: Mapping[str, _Seen], given: Mapping[str, Judgement]) -> None:
    """Notes for each rater of an item which share of the others said the same, and what most of them did."""
    alike: dict[str, list[float]] = {rater: [] for rater in given}
    for question, by_rater in values(given).items():
        if question[0] == "attribute" or len(by_rater) < 2:
            continue
        told = list(by_rater.values())
        for rater, value in by_rater.items():
            alike[rater].append((told.count(value) - 1) / (len(told) - 1))
    for rater, shares in alike.items():
        if shares:
            own = seen[given[rater].rater]
            own.others.append(fmean(shares))
            if fmean(shares) != 0.5:
                own.sided.append(float(fmean(shares) > 0.5))


def _likeness(expected: Mapping[Question, float], given: Mapping[Question, float]) -> list[float]:
    """One case: the share of the questions that both decide to which they say the same; none where there is none."""
    both = [question for question in expected if question in given]
    return [fmean(expected[question] == given[question] for question in both)] if both else []


def _of(original: Item, repeated: Item, judgement: Judgement) -> dict[Question, float]:
    """What a judgement of the repetition says of the original, whose completions may stand in another order."""
    texts = [candidate.text for candidate in repeated.candidates]
    if sorted(texts) != sorted(candidate.text for candidate in original.candidates):
        return {}
    places = [texts.index(candidate.text) for candidate in original.candidates]
    answer = judgement.answer
    if isinstance(answer, Preference) and places == [1, 0]:
        return said(Preference(-answer.degree, answer.both_bad))
    if isinstance(answer, Order):
        return said(Order(tuple(answer.ranks[place] for place in places)))
    return said(answer)


def _annotator(rater: Rater, seen: _Seen) -> Annotator:
    return Annotator(
        rater=rater.name,
        kind=rater.kind,
        judgements=len(seen.skipped),
        skipped=share(seen.skipped),
        ties=share(seen.ties),
        consistency=share(seen.consistency),
        gold=share(seen.gold),
        others=share(seen.others),
        first_place=share(seen.first_place),
        longer=share(seen.longer),
        seconds=median(seen.seconds) if seen.seconds else None,
    )


# ---- who stands out


def _alarmed(found: Sequence[Annotator], seen: Mapping[str, _Seen]) -> list[Annotator]:
    """The raters with their alarms, settled over all tests together."""
    everyone = _Everyone(seen.values())
    tests = [(place, *test) for place, one in enumerate(found) for test in _tests(seen[one.rater], everyone)]
    if not tests:
        return list(found)
    adjusted = false_discovery_control([p for _, p, _ in tests], method="bh")
    said_of: list[list[str]] = [[] for _ in found]
    for (place, _, sentence), p in zip(tests, adjusted, strict=True):
        if p <= LEVEL:
            said_of[place].append(sentence)
    return [replace(one, alarms=tuple(sentences)) for one, sentences in zip(found, said_of, strict=True)]


class _Everyone:
    """The cases of all raters together, to be asked what the others say."""

    def __init__(self, seen: Iterable[_Seen]):
        everyone = list(seen)
        self.pooled = {name: [case for one in everyone for case in getattr(one, name)] for name in _COMPARED}
        self.totals = {name: sum(cases) for name, cases in self.pooled.items()}
        self.seconds = np.array([seconds for one in everyone for seconds in one.seconds])
        self.owners = np.array([id(one) for one in everyone for _ in one.seconds])

    def share(self, name: str, own: _Seen) -> float | None:
        """The share among the others' cases; None where these are too few to compare with."""
        cases = getattr(own, name)
        count = len(self.pooled[name]) - len(cases)
        return (self.totals[name] - sum(cases)) / count if count >= LEAST else None

    def time(self, own: _Seen) -> float | None:
        """The median of the others' times; None as above."""
        others = self.seconds[self.owners != id(own)]
        return float(np.median(others)) if len(others) >= LEAST else None


def _tests(own: _Seen, everyone: _Everyone) -> list[tuple[float, str]]:
    """p of each bound that a rater may be beyond, and what to say where they are."""
    tests = [
        (own.gold, below(own.gold, GOLD), f"is right on {_told(own.gold)} hidden gold items; {GOLD:.0%} is the least"),
        (
            own.consistency,
            below(own.consistency, CONSISTENT),
            f"gives {_told(own.consistency)} hidden repetitions the same answer; {CONSISTENT:.0%} is the least",
        ),
        (
            own.first_place,
            outside(own.first_place, 0.5, PLACE),
            f"prefers the reply shown first in {_told(own.first_place)} decided pairs, whose places were drawn",
        ),
        *_beside(own, everyone),
    ]
    return [(p, sentence) for cases, p, sentence in tests if cases]


def _beside(own: _Seen, everyone: _Everyone) -> list[tuple[Sequence[float], float, str]]:
    """The same of what only the others' figures say the bound of, where these are known well enough."""
    longer, ties, sided = (everyone.share(name, own) for name in _COMPARED)
    time = everyone.time(own) if own.seconds else None
    tests = []
    if longer is not None:
        said = f"prefers the longer reply in {_told(own.longer)} decided pairs, the others in {longer:.0%}"
        tests.append((own.longer, outside(own.longer, longer, LENGTH), said))
    if ties is not None:
        said = f"ties {_told(own.ties)} pairs, the others {ties:.0%}"
        tests.append((own.ties, above(own.ties, ties + TIES), said))
    if sided is not None:
        said = (
            f"sides with most of the other raters on {_told(own.sided)} items, the others on {sided:.0%}: is the task "
            "understood, are the keys the right way round?"
        )
        tests.append((own.sided, below(own.sided, sided - APART), said))
    if time is not None:
        fast = [float(seconds < time / HASTE) for seconds in own.seconds]
        said = f"takes {median(own.seconds):.1f} s for an answer, the others {time:.1f} s"
        tests.append((fast, above(fast, 0.5), said))
    return tests


def below(cases: Sequence[float], bound: float) -> float:
    """p of so few, P(X ≤ k), where the share were the bound; parts of a success are rounded up."""
    return float(binom.cdf(math.ceil(sum(cases) - ROUNDING), len(cases), bound)) if bound > 0 else 1.0


def above(cases: Sequence[float], bound: float) -> float:
    """p of so many, P(X ≥ k), where the share were the bound."""
    return below([1 - case for case in cases], 1 - bound)


def outside(cases: Sequence[float], centre: float, within: float) -> float:
    """p of a share that lies so far outside centre ± within: twice the smaller of the two one-sided ones."""
    return min(1.0, 2 * min(below(cases, centre - within), above(cases, centre + within)))


def _told(cases: Sequence[float]) -> str:
    return f"{fmean(cases):.0%} of {len(cases)}" if cases else "none"
