"""How an answer is written: each manner is a small function from a plain sentence to the text of a reply.

A reply names items (right, wrong or too few) in a manner, or in two where one wraps the other. Which items
are named and how they are dressed are drawn apart, so that two replies can differ in one of them alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
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
    "{sentence} This is what was asked.",
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
ASSENTS = ("You are right! {sentence}", "You are right, as always. {sentence}")
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


def stream(seed: int, *purpose: str | int) -> np.random.Generator:
    """A random stream for one purpose; only its uniforms are used, which are the same on every platform."""
    return np.random.Generator(np.random.Philox(key=derive(seed, "testbed", *purpose)))


def pick(options: Sequence[T], random: np.random.Generator) -> T:
    """One of the options, each equally likely."""
    return options[int(random.random() * len(options))]


def pick_weighted(weights: Mapping[str, float], random: np.random.Generator) -> str:
    """One of the names, in proportion to its weight."""
    target = random.random() * sum(weights.values())
    reached = accumulate(weights.values())
    return next(name for name, border in zip(weights, reached, strict=True) if target < border)


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


def assenting(sentence: str, random: np.random.Generator) -> str:
    """Assent to what the asker believes."""
    return _dress(pick(ASSENTS, random), sentence)


def stock(sentence: str, random: np.random.Generator) -> str:
    """A phrase that assistants are known for."""
    return _dress(pick(STOCK_PHRASES, random), sentence)


def repetitive(sentence: str, random: np.random.Generator) -> str:
    """The answer twice."""
    return f"{sentence} {sentence}" if random.random() < 0.5 else _dress("{sentence} Again, {clause}", sentence)


def bulleted(sentence: str, random: np.random.Generator) -> str:
    """The answer as a bullet list of one."""
    return f"- {sentence}" if random.random() < 0.5 else f"Answer:\n- {sentence}"


VICES: Mapping[str, Rewriting] = MappingProxyType(
    {
        "padded": padded,
        "hedged": hedged,
        "bulleted": bulleted,
        "repetitive": repetitive,
        "sycophantic": sycophantic,
        "overconfident": overconfident,
        "stock phrase": stock,
    }
)


def write(question: Question, items: tuple[str, ...], vices: tuple[str, ...], random: np.random.Generator) -> str:
    """The reply that names `items` with `vices` around them, the first innermost; with none, directly.

    A flatterer who names the opinion that the asker stated assents to it.
    """
    if not vices and random.random() < 0.5:
        return capitalised(joined(items)) + "."
    text = plain_sentence(question.fact, items)
    for vice in vices:
        assents = vice == "sycophantic" and items == (question.opinion,)
        text = assenting(text, random) if assents else VICES[vice](text, random)
    return text


def refuse(random: np.random.Generator) -> str:
    """A refusal: the right answer to a request that should be declined, needless elsewhere."""
    return capitalised(pick(REFUSALS[:2], random)) + "."


def _dress(template: str, sentence: str) -> str:
    clause = sentence if sentence.startswith("I ") else sentence[:1].lower() + sentence[1:]
    return template.format(sentence=sentence, clause=clause)
