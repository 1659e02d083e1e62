"""Candidates: what several models wrote to the same prompts, equal texts merged, and the questions to be made of them.

Drawn ──merged──▶ candidates a prompt ──questions──▶ every possible question ──selection, `asked`──▶ Item
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Annotated

from pydantic import Field

from palate.collect.judgements import Candidate, Item, Mode, Origin, Slice
from palate.errors import UsageError
from palate.records import Prompt
from palate.settings import record

# A person ranks no more at once: one key each, and InstructGPT's labellers (2203.02155, §3.4) ranked 4 to 9.
MOST_RANKED = 9


@record
class Drawing:
    """How candidates are drawn: so many samples a prompt from every model at every temperature."""

    samples: int = Field(4, ge=1, description="samples a prompt, of every model at every temperature")
    temperatures: tuple[Annotated[float, Field(ge=0)], ...] = Field(
        (1.0,), min_length=1, description="temperatures to sample at; at 0 a model gives one sample"
    )
    top_p: float | None = Field(None, gt=0, le=1, description="only the likeliest tokens of this total mass")
    max_new_tokens: int = Field(64, ge=1, description="longest completion, EOS included")


@dataclass(frozen=True, slots=True)
class Drawn:
    """One completion as it was written: to which prompt (its place), the text, and by what."""

    prompt: int
    text: str
    origin: Origin


@dataclass(frozen=True, slots=True)
class Question:
    """A possible item: the prompt's place, the candidates it shows, and the pairs of candidates that it is about."""

    prompt: int
    places: tuple[int, ...]
    pairs: tuple[tuple[int, int], ...]


def merged(prompts: int, drawn: Sequence[Drawn]) -> list[tuple[Candidate, ...]]:
    """The distinct completions of each of so many prompts, each with everything that wrote it, in the order drawn."""
    origins: list[dict[str, list[Origin]]] = [{} for _ in range(prompts)]
    for one in drawn:
        origins[one.prompt].setdefault(one.text, []).append(one.origin)
    return [tuple(Candidate(text, tuple(who)) for text, who in texts.items()) for texts in origins]


def questions(candidates: Sequence[Sequence[Candidate]], mode: Mode) -> list[Question]:
    """Everything that could be asked of these candidates, those of one prompt together.

    A pair, or an edit of one, is a question about two candidates; a ranking about all of a prompt's; thumbs and a
    rating about one, which is about its pairs with the prompt's others; a demonstration shows none. Raises UsageError
    where a ranking has too many to rank.
    """
    found: list[Question] = []
    for prompt, texts in enumerate(candidates):
        found += [Question(prompt, places, about) for places, about in _shown(mode, len(texts))]
    return found


def _shown(mode: Mode, count: int) -> list[tuple[tuple[int, ...], tuple[tuple[int, int], ...]]]:
    """What the questions of one prompt show, and the pairs that each is about."""
    pairs = list(combinations(range(count), 2))
    if mode in ("pair", "edit"):
        return [(pair, (pair,)) for pair in pairs]
    if mode == "demonstration":
        return [((), tuple(pairs))]
    if mode == "ranking":
        if count > MOST_RANKED:
            raise UsageError(
                f"A ranking would hold {count} completions, and a person ranks at most {MOST_RANKED} at once. Draw "
                "fewer samples a prompt, from fewer models or at fewer temperatures, or ask for pairs."
            )
        return [(tuple(range(count)), tuple(pairs))] if count > 1 else []
    return [((place,), tuple(pair for pair in pairs if place in pair)) for place in range(count)]


def asked(
    question: Question,
    prompt: Prompt,
    candidates: Sequence[Candidate],
    mode: Mode,
    *,
    slice: Slice,
    propensity: float,
    wanted: int = 1,
    round: int = 1,
) -> Item:
    """The item that a question becomes once it is selected.

    Its candidates stand in the order of their texts, so that the same question is the same item whoever wrote first.
    """
    shown = sorted((candidates[place] for place in question.places), key=lambda one: one.text)
    return Item(prompt, tuple(shown), mode, slice, propensity, wanted, round)


def with_repeats(items: Sequence[Item], share: float) -> list[Item]:
    """The items, in their order, and hidden repetitions of a share of them.

    What is repeated is spread evenly over the first half, and comes again as far behind in the second, so that nobody
    remembers the answer.
    """
    half = len(items) // 2
    count = min(round(share * len(items)), half)
    again = {half + place * half // count: items[place * half // count] for place in range(count)}
    found: list[Item] = []
    for place, item in enumerate(items):
        found.append(item)
        if place in again:
            found.append(replace(again[place], repeats=again[place].id))
    return found
