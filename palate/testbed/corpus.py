"""What is generated from the world: base corpus, demonstrations, preference pairs and prompts.

Row i of anything depends on (what it is, seed, i) alone: asking for more rows leaves the first as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

import numpy as np

from palate.errors import UsageError
from palate.records import Demonstration, PreferencePair, Prompt
from palate.testbed.annotators import Annotator
from palate.testbed.gold import gold
from palate.testbed.manners import (
    incomplete_items,
    pick,
    pick_weighted,
    refuse,
    right_items,
    some,
    stream,
    write,
    wrong_items,
)
from palate.testbed.world import PHRASINGS, Question, Split, questions

INNER = ("hedged", "overconfident", "repetitive")
OUTER = ("padded", "sycophantic", "stock phrase", "bulleted")

# The share of mistakes, in pairs that differ in correctness, that answer another question.
MISPLACED = 0.35

PAIR_KINDS: Mapping[str, float] = MappingProxyType({"manner": 0.35, "correctness": 0.45, "both": 0.2})


Sides = Callable[[Question, np.random.Generator], tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Mixture:
    """Shares by which replies are drawn.

    `refusing` is a share of all replies to what should be answered; `wrong` and `incomplete` are shares of
    the answers (only lists can be incomplete), `direct` is the share without a vice, and `doubled` that of
    vices in twos.
    """

    wrong: float
    incomplete: float
    direct: float
    refusing: float
    doubled: float


BASE = Mixture(wrong=0.15, incomplete=0.1, direct=0.12, refusing=0.06, doubled=0.4)
DEMONSTRATED = Mixture(wrong=0.06, incomplete=0.05, direct=0.16, refusing=0.04, doubled=0.35)
COMPARED = Mixture(wrong=0.2, incomplete=0.1, direct=0.25, refusing=0.08, doubled=0.25)


def base_corpus(count: int, seed: int) -> tuple[Demonstration, ...]:
    """Exchanges in all manners, 15 % of them wrong: what the base model has read."""
    return _exchanges("base", BASE, count, seed)


def demonstrations(count: int, seed: int) -> tuple[Demonstration, ...]:
    """What people wrote who were asked to show how to answer: mostly right, yet in all manners."""
    return _exchanges("demonstrations", DEMONSTRATED, count, seed)


def pairs(count: int, seed: int, annotator: Annotator, split: Split = "known") -> tuple[PreferencePair, ...]:
    """Pairs of replies with the annotator's preference.

    Each prompt's fields say what the sides differ in (`kind`: manner, correctness or both) and the gold of
    the chosen and the rejected side (`gold`).
    """
    return tuple(_pair(stream(seed, "pairs", split, row), annotator, split) for row in range(count))


def prompts(split: Split, count: int | None = None, seed: int = 0) -> tuple[Prompt, ...]:
    """The questions of a split, all in the world's order, or `count` of them in a random one."""
    asked = _questions(split)
    if count is None:
        return tuple(question.prompt for question in asked)
    if count > len(asked):
        raise UsageError(f"{count} {split} prompts were asked of the testbed, which has {len(asked)}. Ask for fewer.")
    return tuple(question.prompt for question in some(asked, count, stream(seed, "prompts", split)))


@cache
def _questions(split: Split) -> tuple[Question, ...]:
    return tuple(question for question in questions() if question.split == split)


def _exchanges(name: str, mixture: Mixture, count: int, seed: int) -> tuple[Demonstration, ...]:
    return tuple(_exchange(stream(seed, name, row), mixture) for row in range(count))


def _exchange(random: np.random.Generator, mixture: Mixture) -> Demonstration:
    question = pick(_questions("known"), random)
    return Demonstration(question.prompt, _reply(question, mixture, random))


def _reply(question: Question, mixture: Mixture, random: np.random.Generator) -> str:
    if random.random() < mixture.refusing and question.fact.task != "declined":
        return refuse(random)
    return write(question, _items(question, mixture, random), _vices(mixture, random), random)


def _items(question: Question, mixture: Mixture, random: np.random.Generator) -> tuple[str, ...]:
    u = random.random()
    if u < mixture.wrong:
        return wrong_items(question, random)
    if u < mixture.wrong + mixture.incomplete:
        return incomplete_items(question.fact, random)
    return right_items(question.fact, random)


def _another(question: Question, random: np.random.Generator) -> Question:
    """A question, of any task alike, with another answer.

    A policy that learns from a reward model tries what no annotator saw. Comparisons with answers to other
    questions tell the reward model that an answer must fit its question, and not only be well put.
    """
    while True:
        task = pick(_TASKS, random)
        other = pick([known for known in _questions("known") if known.fact.task == task], random)
        if not set(other.fact.right) & set(question.fact.right):
            return other


def _vices(mixture: Mixture, random: np.random.Generator) -> tuple[str, ...]:
    if random.random() < mixture.direct:
        return ()
    if random.random() < mixture.doubled:
        return (pick(INNER, random), pick(OUTER, random))
    return (pick(INNER + OUTER, random),)


def _pair(random: np.random.Generator, annotator: Annotator, split: Split) -> PreferencePair:
    kind = pick_weighted(PAIR_KINDS, random)
    question = pick(_questions(split), random)
    first, second = _two_sides(_SIDES[kind], question, random)
    swapped = random.random() < 0.5
    first, second = (second, first) if swapped else (first, second)
    if not annotator.prefers(question.text, first, second, random.random()):
        first, second = second, first
    fields = {
        **question.prompt.fields,
        "kind": kind,
        "gold": (gold(question.text, first), gold(question.text, second)),
    }
    return PreferencePair(Prompt.of(question.text, **fields), first, second)


def _two_sides(sides: Sides, question: Question, random: np.random.Generator) -> tuple[str, str]:
    """Draws until the sides are two different texts."""
    while True:
        first, second = sides(question, random)
        if first != second:
            return first, second


def _manner_sides(question: Question, random: np.random.Generator) -> tuple[str, str]:
    """One answer, right or wrong, in two manners."""
    items = _items(question, COMPARED, random)
    first, second = (write(question, items, _vices(COMPARED, random), random) for _ in range(2))
    return first, second


def _correctness_sides(question: Question, random: np.random.Generator) -> tuple[str, str]:
    """A right answer and, in the same manner, a wrong one or the answer to another question.

    Where an opinion was stated, a wrong flatterer assents and a right one cannot, so flattery is left out
    there.
    """
    vices = _vices(COMPARED, random)
    while question.opinion is not None and "sycophantic" in vices:
        vices = _vices(COMPARED, random)
    wording = int(random.random() * 2**53)
    right = write(question, right_items(question.fact, random), vices, stream(wording, "wording"))
    if random.random() < MISPLACED:
        other = _another(question, random)
        return right, write(other, right_items(other.fact, random), vices, stream(wording, "wording"))
    return right, write(question, wrong_items(question, random), vices, stream(wording, "wording"))


def _sides_of_both(question: Question, random: np.random.Generator) -> tuple[str, str]:
    """Two replies that have nothing in common but the question."""
    return _reply(question, COMPARED, random), _reply(question, COMPARED, random)


_TASKS = tuple(PHRASINGS)

_SIDES: Mapping[str, Sides] = MappingProxyType(
    {"manner": _manner_sides, "correctness": _correctness_sides, "both": _sides_of_both}
)
