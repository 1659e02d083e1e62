"""Who answers the items of a round without a person: the testbed's annotators, or a program of the user's own.

An `Answering` takes items and gives its judgements of them. The ids of what a program says are made of rater and item,
so that asking twice stores once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from palate import testbed
from palate.collect.judgements import MOST, Item, Judgement, Preference
from palate.engine.seeding import derive, uniforms
from palate.errors import DataError, PalateError, RecipeError
from palate.recipe import Recipe
from palate.settings import load_symbol
from palate.stages.context import present
from palate.stages.material import annotator

Answering = Callable[[Sequence[Item]], list[Judgement]]


def answering_of(recipe: Recipe) -> Mapping[str, Answering]:
    """Who answers, by the rater's name."""
    settings = present(recipe.rounds, "rounds")
    if settings.feedback != "gold":
        return {named(settings.feedback): program(settings.feedback)}
    names = [f"annotator {number}" for number in range(1, settings.votes + 1)]
    return {name: gold(annotator(recipe), name, recipe.run.seed) for name in names}


def named(path: str) -> str:
    """A program's name as a rater: that of its file and function, wherever the file stands."""
    return Path(path).name


def gold(who: testbed.Annotator, name: str, seed: int) -> Answering:
    """One of the testbed's annotators, who prefers by Bradley-Terry on gold: the same item, the same answer."""

    def answer(items: Sequence[Item]) -> list[Judgement]:
        found = []
        for item in items:
            u = float(uniforms(derive(seed, "annotator", name, item.id), 0, [0], [0], 1)[0, 0])
            first, second = (candidate.text for candidate in item.candidates)
            found.append(_said(item, name, -1 if who.prefers(item.prompt, first, second, u) else 1))
        return found

    return answer


def program(path: str) -> Answering:
    """A function of the user's own, `def prefer(prompts, completions) -> list[int]`, asked about all items at once.

    `prompts` are texts, `completions` pairs of texts; what comes back is −3 to 3 for each, below 0 where the first is
    better. RecipeError where it is no function, DataError where it answers otherwise.
    """
    function = load_symbol(path, "feedback")
    if not callable(function):
        raise RecipeError(
            f'rounds.feedback = "{path}" was given, which is no function. It takes prompts and pairs of completions, '
            "and returns a preference for each. Name such a function."
        )

    def answer(items: Sequence[Item]) -> list[Judgement]:
        texts = [tuple(candidate.text for candidate in item.candidates) for item in items]
        prompts = [item.prompt.text for item in items]
        try:
            degrees: Any = function(prompts, texts)
        except PalateError:
            raise
        except Exception as error:
            raise DataError(
                f"{path} raised {type(error).__name__}: {error} when it was given {len(items)} "
                f"pair{'s' * (len(items) != 1)}, the first to the prompt {prompts[0]!r:.80}. It must return a "
                "preference for each. What was answered before is stored: mend it, and run the same command again."
            ) from error
        whole = isinstance(degrees, list | tuple) and all(type(one) is int and abs(one) <= MOST for one in degrees)
        if not whole or len(degrees) != len(items):
            raise DataError(
                f"{path} was given {len(items)} pairs and returned {degrees!r:.200}. It must return a list of as many "
                f"whole numbers from -{MOST} (the first is much better) to {MOST} (the second is). Correct it."
            )
        return [_said(item, named(path), degree) for item, degree in zip(items, degrees, strict=True)]

    return answer


def _said(item: Item, rater: str, degree: int) -> Judgement:
    return Judgement(f"{rater}/{item.id}", item.id, rater, Preference(degree))
