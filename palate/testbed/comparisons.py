"""Preference pairs: two replies to a question, and which of them an annotator preferred.

A pair differs in manner alone, in correctness alone, or in both. Row i depends on (split, seed, i) alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType

import numpy as np

from palate.records import PreferencePair, Prompt
from palate.testbed.annotators import Annotator
from palate.testbed.corpus import Mixture, asked_in, items, reply, vices
from palate.testbed.gold import gold
from palate.testbed.manners import pick, pick_weighted, right_items, stream, write, wrong_items
from palate.testbed.world import PHRASINGS, Question, Split

Sides = Callable[[Question, np.random.Generator], tuple[str, str]]

PAIR_KINDS: Mapping[str, float] = MappingProxyType({"manner": 0.32, "correctness": 0.48, "both": 0.2})

# The share of mistakes, in pairs that differ in correctness, that answer another question.
MISPLACED = 0.35

COMPARED = Mixture(wrong=0.2, incomplete=0.1, direct=0.25, refusing=0.08, doubled=0.25)


def pairs(count: int, seed: int, annotator: Annotator, split: Split = "known") -> tuple[PreferencePair, ...]:
    """Pairs of replies with the annotator's preference.

    Each prompt's fields say what the sides differ in (`kind`: manner, correctness or both) and the gold of
    the chosen and the rejected side (`gold`).
    """
    return tuple(_pair(stream(seed, "pairs", split, row), annotator, split) for row in range(count))


def _another(question: Question, random: np.random.Generator) -> Question:
    """A question with another answer: as often of the same domain as of any task alike.

    A policy that learns from a reward model tries what no annotator saw. Comparisons with answers to other
    questions tell the reward model that an answer must fit its question, and not only be well put.
    """
    near = random.random() < 0.5
    while True:
        task = pick(_TASKS, random)
        other = pick(_asked_by_task(task), random)
        apart = not set(other.fact.right) & set(question.fact.right)
        if apart and (other.fact.domain == question.fact.domain or not near or question.fact.domain in _ONE_ANSWER):
            return other


@cache
def _asked_by_task(task: str) -> tuple[Question, ...]:
    return tuple(asked for asked in asked_in("known") if asked.fact.task == task)


def _pair(random: np.random.Generator, annotator: Annotator, split: Split) -> PreferencePair:
    kind = pick_weighted(PAIR_KINDS, random)
    question = pick(asked_in(split), random)
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
    named = items(question, COMPARED, random)
    first, second = (write(question, named, vices(COMPARED, random), random) for _ in range(2))
    return first, second


def _correctness_sides(question: Question, random: np.random.Generator) -> tuple[str, str]:
    """A right answer and, in the same manner, a wrong one or the answer to another question.

    Where an opinion was stated, a wrong flatterer assents and a right one cannot, so flattery is left out
    there.
    """
    manner = vices(COMPARED, random)
    while question.opinion is not None and "sycophantic" in manner:
        manner = vices(COMPARED, random)
    wording = int(random.random() * 2**53)
    right = write(question, right_items(question.fact, random), manner, stream(wording, "wording"))
    if random.random() < MISPLACED:
        other = _another(question, random)
        return right, write(other, right_items(other.fact, random), manner, stream(wording, "wording"))
    return right, write(question, wrong_items(question, random), manner, stream(wording, "wording"))


def _sides_of_both(question: Question, random: np.random.Generator) -> tuple[str, str]:
    """Two replies that have nothing in common but the question."""
    return reply(question, COMPARED, random), reply(question, COMPARED, random)


# All questions of these domains have the same answers, so another answer comes from another domain.
_ONE_ANSWER = frozenset({"unanswerable", "declined"})

# A refusal is a manner, so it does not stand for an answer to another question.
_TASKS = tuple(task for task in PHRASINGS if task != "declined")

_SIDES: Mapping[str, Sides] = MappingProxyType(
    {"manner": _manner_sides, "correctness": _correctness_sides, "both": _sides_of_both}
)
