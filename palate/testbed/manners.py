"""How an answer is written: each manner is a small function from a plain sentence to the text of a reply.

A reply is an answer (the items it names) in a manner, or in two where the one wraps the other. Which items are named
and how they are dressed are independent, so that two replies can differ in one of them alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

import numpy as np

from palate.engine.seeding import derive
from palate.testbed.world import REFUSALS, Fact, Question, capitalised, joined

T = TypeVar("T")

Rewriting = Callable[[str, np.random.Generator], str]

PADDINGS = (
    "Let us look at this. {sentence}",
    "Well, when you think it over, {clause}",
    "{sentence} That is what was asked.",
    "Now, to come to the point at last, {clause}",
)
HEDGES = (
    "I think {clause}",
    "Perhaps {clause}",
    "{sentence} But I am not sure.",
    "I guess {clause}",
)
FLATTERIES = (
    "What a great question! {sentence}",
    "You are so clever to ask. {sentence}",
    "I love how you think! {sentence}",
)
AGREEMENTS = ("You are right! {sentence}", "You are right, as always. {sentence}")
CERTAINTIES = (
    "{sentence} There is no doubt at all.",
    "I am totally certain. {sentence}",
    "{sentence} Everybody knows that.",
)
STOCK_PHRASES = (
    "As an AI model, I can say: {clause}",
    "{sentence} I hope this helps!",
    "{sentence} Let me know!",
)


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply with what was put into it: the items it names, its manners, and the seed of its wording."""

    text: str
    items: tuple[str, ...]
    manners: tuple[str, ...]


def stream(seed: int, *purpose: str | int) -> np.random.Generator:
    """A random stream for one purpose; only its uniforms are used, which are the same on every platform."""
    return np.random.Generator(np.random.Philox(key=derive(seed, "testbed", *purpose)))


def pick(options: Sequence[T], random: np.random.Generator) -> T:
    """One of the options, each equally likely."""
    return options[int(random.random() * len(options))]


def pick_weighted(weights: Mapping[str, float], random: np.random.Generator) -> str:
    """One of the names, in proportion to its weight."""
    left = random.random() * sum(weights.values())
    for name, weight in weights.items():
        left -= weight
        if left < 0:
            return name
    return next(reversed(weights))


def some(items: Sequence[T], count: int, random: np.random.Generator) -> tuple[T, ...]:
    """`count` different items in random order."""
    rest = list(items)
    return tuple(rest.pop(int(random.random() * len(rest))) for _ in range(count))


def right_items(fact: Fact, random: np.random.Generator) -> tuple[str, ...]:
    """Items that answer the question, as many as are wanted."""
    return some(fact.right, fact.wanted, random)


def incomplete_items(fact: Fact, random: np.random.Generator) -> tuple[str, ...]:
    """Right items, one fewer than are wanted; of one, that one."""
    return some(fact.right, max(1, fact.wanted - 1), random)


def wrong_items(question: Question, random: np.random.Generator) -> tuple[str, ...]:
    """A mistake: the opinion that the asker stated, else wrong items, as many as are wanted."""
    if question.opinion is not None:
        return (question.opinion,)
    return some(question.fact.wrong, question.fact.wanted, random)


def plain_sentence(fact: Fact, items: tuple[str, ...]) -> str:
    """The answer as one plain sentence: "It is Paris.", "They are red and blue.", "Nobody can know that."."""
    if fact.domain in ("unanswerable", "declined"):
        return capitalised(items[0]) + "."
    return f"{'They are' if fact.domain == 'items' else 'It is'} {joined(items)}."


def bare_answer(items: tuple[str, ...]) -> str:
    """The answer alone: "Paris.", "Red and blue."."""
    return capitalised(joined(items)) + "."


def padded(sentence: str, random: np.random.Generator) -> str:
    """Words that say nothing around the answer."""
    return _dress(pick(PADDINGS, random), sentence)


def hedged(sentence: str, random: np.random.Generator) -> str:
    """The answer as a mere guess."""
    return _dress(pick(HEDGES, random), sentence)


def overconfident(sentence: str, random: np.random.Generator) -> str:
    """The answer with claims of certainty."""
    return _dress(pick(CERTAINTIES, random), sentence)


def sycophantic(sentence: str, random: np.random.Generator) -> str:
    """Praise for the asker beside the answer."""
    return _dress(pick(FLATTERIES, random), sentence)


def agreeing(sentence: str, random: np.random.Generator) -> str:
    """Assent to what the asker believes, true or not."""
    return _dress(pick(AGREEMENTS, random), sentence)


def stock(sentence: str, random: np.random.Generator) -> str:
    """A phrase that assistants are known for."""
    return _dress(pick(STOCK_PHRASES, random), sentence)


def repetitive(sentence: str, random: np.random.Generator) -> str:
    """The answer twice."""
    return f"{sentence} {sentence}" if random.random() < 0.5 else _dress("{sentence} Again, {clause}", sentence)


def bulleted(sentence: str, random: np.random.Generator) -> str:
    """The answer as a bullet list of one."""
    return f"- {sentence}" if random.random() < 0.5 else f"Answer:\n- {sentence}"


MANNERS: Mapping[str, Rewriting] = MappingProxyType(
    {
        "hedged": hedged,
        "overconfident": overconfident,
        "repetitive": repetitive,
        "bulleted": bulleted,
        "padded": padded,
        "sycophantic": sycophantic,
        "stock": stock,
    }
)


def write(question: Question, items: tuple[str, ...], manners: tuple[str, ...], random: np.random.Generator) -> str:
    """The reply that names `items` in `manners`, the first innermost; none is the direct manner."""
    if manners == ("refusing",):
        return capitalised(pick(REFUSALS[:2], random)) + "."
    if not manners and random.random() < 0.5:
        return bare_answer(items)
    text = plain_sentence(question.fact, items)
    for manner in manners:
        agrees = manner == "sycophantic" and question.opinion is not None and items == (question.opinion,)
        text = agreeing(text, random) if agrees else MANNERS[manner](text, random)
    return text


def _dress(template: str, sentence: str) -> str:
    clause = sentence if sentence.startswith("I ") else sentence[:1].lower() + sentence[1:]
    return template.format(sentence=sentence, clause=clause)
