"""Readers of rows that hold judgements: feedback on one reply, ratings, rankings, votes.

A file's ranks and scores are kept as an order alone: ranks of a record count from 0, the best, without a gap.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from palate.data.rows import (
    Record,
    Row,
    RowError,
    conversation,
    instruction,
    is_number,
    messages_of,
    question,
    reply,
    text_of,
    type_name,
)
from palate.records import Feedback, Message, PreferencePair, Prompt, Ranking, Rating

HELPSTEER_ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")


# ---- one reply


def feedback(row: Row) -> list[Record]:
    """A reply and whether it is desirable; of a conversation, its last turn is judged."""
    opening, completion = conversation(row.values["prompt"], "prompt"), row.values["completion"]
    if isinstance(completion, str):
        return [Feedback(row.prompt(opening), reply(completion, "completion"), _is_desirable(row))]
    return [_last_judged(row, opening + messages_of(completion, "completion"), "completion")]


def chat_feedback(row: Row) -> list[Record]:
    """A conversation whose last reply is desirable or not."""
    return [_last_judged(row, messages_of(row.values["messages"], "messages"), "messages")]


def _last_judged(row: Row, turns: tuple[Message, ...], name: str) -> Feedback:
    if not turns or turns[-1].role != "assistant":
        raise RowError(f"'{name}' does not end with a reply of the assistant, so there is none to judge.")
    return Feedback(row.prompt(turns[:-1]), reply(turns[-1].content, name), _is_desirable(row))


def _is_desirable(row: Row) -> bool:
    label = row.values["label"]
    if label not in (0, 1):
        raise RowError(f"'label' is {label!r}; it says whether the reply is desirable: true or false (or 1 or 0).")
    return bool(label)


def rating(row: Row) -> list[Record]:
    """A reply and its scores by attribute; a lone number is the attribute "score"."""
    given = row.values["scores"]
    scores = given if isinstance(given, dict) else {"score": given}
    return [_rating(_prompt(row), row.values["completion"], "completion", scores)]


def helpsteer(row: Row) -> list[Record]:
    """A reply with a column for each attribute."""
    scores = {name: row.values.get(name) for name in HELPSTEER_ATTRIBUTES}
    prompt = row.prompt(question(text_of(row.values["prompt"], "prompt")))
    return [_rating(prompt, row.values["response"], "response", scores)]


def _rating(prompt: Prompt, completion: Any, name: str, scores: Mapping[str, Any]) -> Rating:
    """A rating by the attributes that were scored: null means that nobody did."""
    present = {attribute: score for attribute, score in scores.items() if score is not None}
    for attribute, score in present.items():
        if not is_number(score):
            raise RowError(f"the score '{attribute}' is {score!r}, and must be a finite number, or null.")
    return Rating(prompt, reply(completion, name), {attribute: float(score) for attribute, score in present.items()})


# ---- several replies


def ranking(row: Row) -> list[Record]:
    """Texts and their ranks, the best lowest."""
    completions, ranks = row.values["completions"], row.values["ranks"]
    for name, value in (("completions", completions), ("ranks", ranks)):
        if not isinstance(value, list):
            raise RowError(f"'{name}' is {type_name(value)}, and must be a list.")
    return [_ranking(_prompt(row), _replies(completions, "completions"), ranks)]


def listed_ranking(row: Row) -> list[Record]:
    """All texts under `chosen` before all under `rejected`."""
    chosen, rejected = (_texts(row.values[side], side) for side in ("chosen", "rejected"))
    return [_ranking(_prompt(row), chosen + rejected, [0] * len(chosen) + [1] * len(rejected))]


def response_ranking(row: Row) -> list[Record]:
    """Objects with a text and its rank."""
    responses = _objects(row.values["responses"], "responses")
    ranks = [response.get("rank") for response in responses]
    prompt = row.prompt(conversation(row.values["prompt"], "prompt"), **_models(responses))
    return [_ranking(prompt, _field(responses, "responses", "text"), ranks)]


def response_ratings(row: Row) -> list[Record]:
    """The same objects by every number beside text and rank."""
    responses = _objects(row.values["responses"], "responses")
    texts = _field(responses, "responses", "text")
    scores = [
        {name: value for name, value in response.items() if name != "rank" and is_number(value)}
        for response in responses
    ]
    return _rated(row, conversation(row.values["prompt"], "prompt"), responses, texts, scores)


def ultrafeedback_ranking(row: Row) -> list[Record]:
    """Responses by their fine-grained score, or the mean of their ratings, or else the overall score.

    The overall score comes last because a part of the published ones is wrong: tens that were ones.
    """
    completions = _objects(row.values["completions"], "completions")
    scores = [_ultrafeedback_score(completion, number) for number, completion in enumerate(completions, 1)]
    prompt = row.prompt(question(text_of(row.values["instruction"], "instruction")), **_models(completions))
    responses = _field(completions, "completions", "response")
    return [_ranking(prompt, responses, [-score for score in scores])]


def ultrafeedback_ratings(row: Row) -> list[Record]:
    """Each response with its aspects' ratings, the fine-grained score and the overall one."""
    completions = _objects(row.values["completions"], "completions")
    messages = question(text_of(row.values["instruction"], "instruction"))
    scores = [
        {**_aspects(one), "fine-grained": one.get("fine-grained_score"), "overall": one.get("overall_score")}
        for one in completions
    ]
    return _rated(row, messages, completions, _field(completions, "completions", "response"), scores)


def _ultrafeedback_score(completion: Mapping[str, Any], number: int) -> float:
    aspects = _aspects(completion).values()
    mean = sum(aspects) / len(aspects) if aspects else None
    for score in (completion.get("fine-grained_score"), mean, completion.get("overall_score")):
        if is_number(score):
            return float(score)
    raise RowError(
        f"entry {number} of 'completions' has no score: neither 'fine-grained_score', nor ratings in 'annotations', "
        "nor 'overall_score'."
    )


def _aspects(completion: Mapping[str, Any]) -> dict[str, float]:
    """The ratings under `annotations`, which are digits in text; "N/A" is none."""
    annotations = completion.get("annotations")
    given = annotations if isinstance(annotations, dict) else {}
    ratings = {aspect: str(one.get("Rating")) for aspect, one in given.items() if isinstance(one, dict)}
    return {aspect: float(rating) for aspect, rating in ratings.items() if rating.isdecimal()}


# ---- two replies


def numbered_pair(row: Row) -> list[Record]:
    """Two texts and the number of the better one."""
    label = row.values["label"]
    if label not in (1, 2) or isinstance(label, bool):
        raise RowError(f"'label' is {label!r}; it is the number of the better output, 1 or 2.")
    first, second = (reply(row.values[name], name) for name in ("output_1", "output_2"))
    chosen, rejected = (first, second) if label == 1 else (second, first)
    return [PreferencePair(row.prompt(question(text_of(row.values["input"], "input"))), chosen, rejected)]


def voted_ranking(row: Row) -> list[Record]:
    """Two texts in the order that most annotators gave them; a tie where most saw one, or none agree."""
    votes = {name: row.values[name] for name in ("annotator1", "annotator2", "annotator3")}
    for name, vote in votes.items():
        if vote not in (0, 1, 2) or isinstance(vote, bool):
            raise RowError(f"'{name}' is {vote!r}; it is the number of the better response, 1 or 2, or 0 for neither.")
    winner, count = Counter(votes.values()).most_common(1)[0]
    ranks = {1: (0, 1), 2: (1, 0)}.get(winner if count > 1 else 0, (0, 0))
    responses = tuple(reply(row.values[name], name) for name in ("response1", "response2"))
    return [Ranking(row.prompt(instruction(row), **votes), responses, ranks)]


# ---- what they share


def _prompt(row: Row) -> Prompt:
    return row.prompt(conversation(row.values["prompt"], "prompt"))


def _ranking(prompt: Prompt, completions: tuple[str, ...], order: Sequence[Any]) -> Ranking:
    """The replies by any numbers that grow from the best to the worst."""
    for number, rank in enumerate(order, 1):
        if not is_number(rank):
            raise RowError(f"the rank of reply {number} is {rank!r}, and must be a number.")
    places = {value: place for place, value in enumerate(sorted(set(order)))}
    return Ranking(prompt, completions, tuple(places[value] for value in order))


def _rated(
    row: Row,
    messages: tuple[Message, ...],
    objects: Sequence[Mapping[str, Any]],
    texts: Sequence[str],
    scores: Sequence[Mapping[str, Any]],
) -> list[Record]:
    """The replies that anybody scored, each with its model in the prompt's field `model`, where that is named."""
    found: list[Record] = []
    for one, text, given in zip(objects, texts, scores, strict=True):
        model = {"model": one["model"]} if isinstance(one.get("model"), str) else {}
        if any(score is not None for score in given.values()):
            found.append(_rating(row.prompt(messages, **model), text, "text", given))
    if not found:
        raise RowError("no reply has a score.")
    return found


def _models(objects: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The models of several replies as the prompt's field `models`, where any is named; "" for one that is not."""
    names = [one["model"] if isinstance(one.get("model"), str) else "" for one in objects]
    return {"models": names} if any(names) else {}


def _replies(values: Iterable[Any], name: str) -> tuple[str, ...]:
    return tuple(reply(value, f"{name}[{number}]") for number, value in enumerate(values, 1))


def _texts(value: Any, name: str) -> tuple[str, ...]:
    return _replies(value, name) if isinstance(value, list) else (reply(value, name),)


def _objects(value: Any, name: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise RowError(f"'{name}' is {type_name(value)}, and must be a list of objects.")
    return value


def _field(objects: Sequence[Mapping[str, Any]], name: str, key: str) -> tuple[str, ...]:
    return tuple(reply(entry.get(key), f"{name}[{number}].{key}") for number, entry in enumerate(objects, 1))
