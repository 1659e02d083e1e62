"""What judgements say, as values of questions that raters can agree about.

A question is a key: two completions of an item, a thumb, or an attribute. Its value is −1, 0 or 1 for the first
completion, neither or the second; 1 or 0 for up or down; or the number given. Every figure of quality is read off
these.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

from palate.collect.judgements import NOBODY, Answer, Item, Judgement, Order, Preference, Scores, Skipped, Thumb
from palate.evaluation.ceiling import Votes

# ("comparison", i, j), ("thumb",) or ("attribute", name)
Question = tuple[str | int, ...]

# The newest judgement of each rater for each item that was not skipped, by item and by rater; those of nobody in
# particular by their own ids.
Answered = Mapping[str, Mapping[str, Judgement]]


def said(answer: Answer) -> dict[Question, float]:
    """The value that an answer gives each question it decides; none for a text, or where it was skipped."""
    match answer:
        case Preference():
            return {("comparison", 0, 1): sign(answer.degree)}
        case Order():
            places = combinations(range(len(answer.ranks)), 2)
            return {("comparison", i, j): sign(answer.ranks[i] - answer.ranks[j]) for i, j in places}
        case Thumb():
            return {("thumb",): int(answer.up)}
        case Scores():
            return {("attribute", name): value for name, value in answer.scores.items()}
        case _:
            return {}


def degree(answer: Answer, question: Question) -> float:
    """How far the second completion is the better one, where that was asked; else the value itself."""
    return answer.degree if isinstance(answer, Preference) else said(answer)[question]


def sign(number: float) -> int:
    """−1, 0 or 1."""
    return (number > 0) - (number < 0)


def answered(items: Iterable[Item], judgements: Iterable[Judgement]) -> Answered:
    """What holds of each of the items: a later judgement of the same rater stands for an earlier one.

    Those who are not named are not one rater: each of their judgements holds.
    """
    found: dict[str, dict[str, Judgement]] = {item.id: {} for item in items}
    for judgement in judgements:
        if judgement.item in found and not isinstance(judgement.answer, Skipped):
            found[judgement.item][judgement.id if judgement.rater == NOBODY else judgement.rater] = judgement
    return found


def uncontrolled(items: Iterable[Item]) -> list[Item]:
    """The items that are there for their answers: hidden gold and repetitions tell of raters, not of the data."""
    return [item for item in items if not item.repeats and item.expected is None]


def values(given: Mapping[str, Judgement]) -> dict[Question, dict[str, float]]:
    """What each rater of an item says to each question."""
    found: dict[Question, dict[str, float]] = {}
    for rater, judgement in given.items():
        for question, value in said(judgement.answer).items():
            found.setdefault(question, {})[rater] = value
    return found


def votes_of_judgements(items: Sequence[Item], judgements: Iterable[Judgement]) -> list[Votes]:
    """The votes on every two completions of an item, as the noise ceiling takes them.

    Items that were selected because they are hard are left out, for they say nothing of what the next prompt's labels
    are like; so are hidden gold and repetitions.
    """
    chosen = [item for item in uncontrolled(items) if item.slice in ("random", "given")]
    found = []
    for given in answered(chosen, judgements).values():
        for question, values_given in values(given).items():
            if question[0] == "comparison":
                signs = list(values_given.values())
                found.append(Votes(signs.count(-1), signs.count(1), signs.count(0)))
    return found
