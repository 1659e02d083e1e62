"""What is generated from the world for a model to read: base corpus, demonstrations and prompts.

Row i of anything depends on (what it is, seed, i) alone: asking for more rows leaves the first as they were.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from palate.errors import UsageError
from palate.records import Demonstration, Prompt
from palate.testbed.manners import incomplete_items, pick, refuse, right_items, some, stream, write, wrong_items
from palate.testbed.world import Question, Split, questions

INNER = ("hedged", "overconfident", "repetitive")
OUTER = ("padded", "sycophantic", "stock phrase", "bulleted")


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


def base_corpus(count: int, seed: int) -> tuple[Demonstration, ...]:
    """Exchanges in all manners, 15 % of them wrong: what the base model has read."""
    return _exchanges("base", BASE, count, seed)


def demonstrations(count: int, seed: int) -> tuple[Demonstration, ...]:
    """What people wrote who were asked to show how to answer: mostly right, yet in all manners."""
    return _exchanges("demonstrations", DEMONSTRATED, count, seed)


def prompts(split: Split, count: int | None = None, seed: int = 0) -> tuple[Prompt, ...]:
    """The questions of a split, all in the world's order, or `count` of them in a random one."""
    asked = asked_in(split)
    if count is None:
        return tuple(question.prompt for question in asked)
    if count > len(asked):
        raise UsageError(f"{count} {split} prompts were asked of the testbed, which has {len(asked)}. Ask for fewer.")
    return tuple(question.prompt for question in some(asked, count, stream(seed, "prompts", split)))


@cache
def asked_in(split: Split) -> tuple[Question, ...]:
    """The questions of a split, in the world's order."""
    return tuple(question for question in questions() if question.split == split)


def _exchanges(name: str, mixture: Mixture, count: int, seed: int) -> tuple[Demonstration, ...]:
    return tuple(_exchange(stream(seed, name, row), mixture) for row in range(count))


def _exchange(random: np.random.Generator, mixture: Mixture) -> Demonstration:
    question = pick(asked_in("known"), random)
    return Demonstration(question.prompt, reply(question, mixture, random))


def reply(question: Question, mixture: Mixture, random: np.random.Generator) -> str:
    """A reply to the question, drawn by the mixture's shares."""
    if random.random() < mixture.refusing and question.fact.task != "declined":
        return refuse(random)
    return write(question, items(question, mixture, random), vices(mixture, random), random)


def items(question: Question, mixture: Mixture, random: np.random.Generator) -> tuple[str, ...]:
    """What the answer names: wrong, too few, or right."""
    u = random.random()
    if u < mixture.wrong:
        return wrong_items(question, random)
    if u < mixture.wrong + mixture.incomplete:
        return incomplete_items(question.fact, random)
    return right_items(question.fact, random)


def vices(mixture: Mixture, random: np.random.Generator) -> tuple[str, ...]:
    """The vices of an answer: none, one, or one in another."""
    if random.random() < mixture.direct:
        return ()
    if random.random() < mixture.doubled:
        return (pick(INNER, random), pick(OUTER, random))
    return (pick(INNER + OUTER, random),)
