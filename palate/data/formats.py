"""The formats of files of prompts, demonstrations and judgements: how each is known, how a row is read.

A prompt and a reply are never told apart by guessing. Columns say which is which, or the turns of a
conversation do; a beginning that two texts share is no prompt.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from palate.data import judged
from palate.data.rows import (
    CHAT_ROLES,
    Kind,
    Record,
    Row,
    RowError,
    conversation,
    instruction,
    is_number,
    is_transcript,
    messages_of,
    question,
    reply,
    text_of,
    transcript,
)
from palate.records import Demonstration, Message, PreferencePair, Prompt, Role

_SHAREGPT_ROLES: Mapping[str, Role] = {
    **CHAT_ROLES,
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
}


# The last line of a solution in GSM8K; its thousands are set apart by commas.
_FINAL_ANSWER = re.compile(r"(?:\A|\n)####[ \t]*(\S[^\n]*?)\s*\Z")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")

Reader = Callable[[Row], Sequence[Record]]


@dataclass(frozen=True, slots=True)
class Reading:
    """How the rows of a format are read as another kind than their own, where the columns `needs` are there.

    `contents` says what is taken, for people.
    """

    contents: str
    needs: tuple[str, ...]
    records: Reader


@dataclass(frozen=True, slots=True)
class Format:
    """A known shape of rows.

    `contents` says what its columns hold, for people; `fits` knows a row by names and types of its columns;
    `records` reads one row or raises `RowError`, and `also` does as kinds that such records cannot become.
    """

    name: str
    kind: Kind
    contents: str
    required: tuple[str, ...]
    optional: tuple[str, ...]
    fits: Callable[[Mapping[str, Any]], bool]
    records: Reader
    also: Mapping[Kind, Reading] = field(default_factory=dict)


def _text_question(row: Row) -> tuple[Message, ...]:
    return question(text_of(row.values["prompt"], "prompt"))


def _text_prompt(row: Row) -> Prompt:
    return row.prompt(_text_question(row))


def _margin(row: Row) -> float | None:
    margin = row.values.get("margin")
    if margin is None:
        return None
    if not is_number(margin) or margin < 0:
        raise RowError(f"'margin' is {margin!r}; it says by how much the chosen reply is better: a number from 0 up.")
    return float(margin)


def _weight(row: Row) -> float:
    weight = row.values.get("weight")
    if weight is None:
        return 1.0
    if not is_number(weight) or weight < 0:
        raise RowError(
            f"'weight' is {weight!r}; it says how much the pair counts beside the others: a number from 0 up."
        )
    return float(weight)


def _text_pair(row: Row) -> list[Record]:
    chosen, rejected = (reply(row.values[side], side) for side in ("chosen", "rejected"))
    return [PreferencePair(_text_prompt(row), chosen, rejected, _margin(row), _weight(row))]


def _chat_pair(row: Row) -> list[Record]:
    prompt = row.values.get("prompt")
    opening = () if prompt is None else conversation(prompt, "prompt")
    chosen, rejected = (_after(opening, messages_of(row.values[side], side)) for side in ("chosen", "rejected"))
    return [_pair(row, chosen, rejected)]


def _after(opening: tuple[Message, ...], side: tuple[Message, ...]) -> tuple[Message, ...]:
    """The whole conversation of one side, which in some files repeats the prompt and in others does not."""
    return side if side[: len(opening)] == opening else opening + side


def _transcript_pair(row: Row) -> list[Record]:
    return [_pair(row, transcript(row.values["chosen"], "chosen"), transcript(row.values["rejected"], "rejected"))]


def _pair(row: Row, chosen: tuple[Message, ...], rejected: tuple[Message, ...]) -> PreferencePair:
    """Two conversations that are the same up to their last turn, which is the reply."""
    for name, side in (("chosen", chosen), ("rejected", rejected)):
        if not side or side[-1].role != "assistant":
            raise RowError(f"'{name}' does not end with a reply of the assistant, so there is none to compare.")
    if chosen[:-1] != rejected[:-1]:
        raise RowError("the two sides differ before their last reply; a pair is two replies to one conversation.")
    prompt = row.prompt(chosen[:-1])
    return PreferencePair(
        prompt,
        reply(chosen[-1].content, "chosen"),
        reply(rejected[-1].content, "rejected"),
        _margin(row),
        _weight(row),
    )


def _text_demonstration(row: Row) -> list[Record]:
    return [Demonstration(_text_prompt(row), reply(row.values["completion"], "completion"))]


def _chat_demonstrations(row: Row) -> list[Record]:
    prompt = messages_of(row.values["prompt"], "prompt")
    return _every_reply(row, prompt, messages_of(row.values["completion"], "completion"))


def _instructed(row: Row) -> list[Record]:
    return [Demonstration(row.prompt(instruction(row)), reply(row.values["output"], "output"))]


def _solution(row: Row) -> list[Record]:
    return [_answered(row, "question")]


def _answer(row: Row) -> list[Record]:
    return [_answered(row, "prompt")]


def _answered(row: Row, column: str) -> Demonstration:
    """A question and its answer as a demonstration, whose prompt carries what a verifier compares with."""
    answer = reply(row.values.get("answer"), "answer")
    prompt = row.prompt(question(text_of(row.values[column], column)), answer=_final_answer(answer))
    return Demonstration(prompt, answer)


def _final_answer(answer: Any) -> Any:
    """What follows "####" in the last line of a solution, without commas between thousands; else the answer."""
    found = _FINAL_ANSWER.search(answer) if isinstance(answer, str) else None
    return _THOUSANDS.sub("", found[1]) if found else answer


def _conversation(row: Row) -> list[Record]:
    return _every_reply(row, (), messages_of(row.values["messages"], "messages"))


def _sharegpt(row: Row) -> list[Record]:
    turns = messages_of(row.values["conversations"], "conversations", _SHAREGPT_ROLES, ("from", "value"))
    return _every_reply(row, (), turns)


def _every_reply(row: Row, opening: tuple[Message, ...], turns: tuple[Message, ...]) -> list[Record]:
    """One demonstration for each turn of the assistant, with all that came before it as the prompt."""
    demonstrations: list[Record] = [
        Demonstration(row.prompt(opening + turns[:number]), reply(turn.content, "assistant"))
        for number, turn in enumerate(turns)
        if turn.role == "assistant"
    ]
    if not demonstrations:
        raise RowError("the assistant never speaks, so there is no reply to learn from.")
    return demonstrations


def _open_conversation(row: Row) -> list[Record]:
    return [row.prompt(messages_of(row.values["messages"], "messages"))]


def _chat_prompt(row: Row) -> list[Record]:
    return [row.prompt(messages_of(row.values["prompt"], "prompt"))]


def _plain_prompt(row: Row) -> list[Record]:
    if "answer" not in row.values:
        return [_text_prompt(row)]
    return [row.prompt(_text_question(row), answer=_final_answer(row.values["answer"]))]


def _all(row: Mapping[str, Any], kind: type, *columns: str) -> bool:
    return all(isinstance(row.get(column), kind) for column in columns)


def _is_judged(row: Mapping[str, Any]) -> bool:
    """A label of true or false, 1 or 0, or one that is lost, makes a reply a judgement (KTO), not to be imitated."""
    return "label" in row and row["label"] in (0, 1, None)


def _has_attributes(row: Mapping[str, Any]) -> bool:
    return any(is_number(row.get(name)) for name in judged.HELPSTEER_ATTRIBUTES)


def _lists_texts(*sides: Any) -> bool:
    """Whether every side is text or a list of texts, and one of them at least is a list."""
    lists = [side for side in sides if isinstance(side, list)]
    texts = [text for side in sides for text in (side if isinstance(side, list) else [side])]
    return bool(lists) and all(lists) and all(isinstance(text, str) for text in texts)


def _has_objects(row: Mapping[str, Any], column: str, *keys: str) -> bool:
    """Whether a column is a list of objects, the first of which has those keys."""
    values = row.get(column)
    return isinstance(values, list) and bool(values) and isinstance(values[0], dict) and values[0].keys() >= set(keys)


def _ends_with_assistant(turns: Any) -> bool:
    last = turns[-1] if isinstance(turns, list) and turns else None
    return isinstance(last, dict) and last.get("role") == "assistant"


FORMATS: tuple[Format, ...] = (  # the first that fits is a row's own, so those that ask for more come first
    Format(
        "trl-pairs",
        "pairs",
        "texts",
        ("prompt", "chosen", "rejected"),
        ("margin", "weight"),
        lambda row: _all(row, str, "prompt", "chosen", "rejected"),
        _text_pair,
    ),
    Format(
        "chosen-rejected-lists",
        "rankings",
        "texts or lists of texts; all chosen ones tie, and all rejected ones",
        ("prompt", "chosen", "rejected"),
        (),
        lambda row: "prompt" in row and _lists_texts(row.get("chosen"), row.get("rejected")),
        judged.listed_ranking,
    ),
    Format(
        "trl-chat-pairs",
        "pairs",
        "lists of {role, content} turns",
        ("chosen", "rejected"),
        ("prompt", "margin", "weight"),
        lambda row: _all(row, list, "chosen", "rejected"),
        _chat_pair,
    ),
    Format(
        "hh-pairs",
        "pairs",
        "whole transcripts with '\\n\\nHuman:' and '\\n\\nAssistant:' turns",
        ("chosen", "rejected"),
        ("margin", "weight"),
        lambda row: is_transcript(row.get("chosen")) and is_transcript(row.get("rejected")),
        _transcript_pair,
    ),
    Format(
        "llmbar",
        "pairs",
        "texts, and the number of the better output, 1 or 2",
        ("input", "output_1", "output_2", "label"),
        (),
        lambda row: _all(row, str, "input", "output_1", "output_2") and _all(row, int, "label"),
        judged.numbered_pair,
    ),
    Format(
        "pandalm",
        "rankings",
        "texts, and each annotator's better response, 1 or 2, or 0 for neither; the majority decides",
        ("instruction", "response1", "response2", "annotator1", "annotator2", "annotator3"),
        ("input",),
        lambda row: _all(row, str, "instruction") and _all(row, int, "annotator1", "annotator2", "annotator3"),
        judged.voted_ranking,
    ),
    Format(
        "ultrafeedback",
        "rankings",
        "a text, and a list of {response, annotations, fine-grained_score, overall_score} objects",
        ("instruction", "completions"),
        (),
        lambda row: _all(row, str, "instruction") and _has_objects(row, "completions", "response"),
        judged.ultrafeedback_ranking,
        {"ratings": Reading("every response", (), judged.ultrafeedback_ratings)},
    ),
    Format(
        "ranked-responses",
        "rankings",
        "a text or list of turns, and a list of {text, rank} objects; 1 or 0 is the best, scores may stand beside",
        ("prompt", "responses"),
        (),
        lambda row: "prompt" in row and _has_objects(row, "responses", "text", "rank"),
        judged.response_ranking,
        {"ratings": Reading("every response by its scores", (), judged.response_ratings)},
    ),
    Format(
        "rankings",
        "rankings",
        "a text or list of turns, a list of texts and a list of their ranks, the best lowest",
        ("prompt", "completions", "ranks"),
        (),
        lambda row: "prompt" in row and _all(row, list, "completions", "ranks"),
        judged.ranking,
    ),
    Format(
        "kto",
        "feedback",
        "texts or lists of {role, content} turns, and true or false (or 1 or 0)",
        ("prompt", "completion", "label"),
        (),
        lambda row: _is_judged(row) and "prompt" in row and isinstance(row.get("completion"), str | list),
        judged.feedback,
    ),
    Format(
        "kto-chat",
        "feedback",
        "{role, content} turns, the last the assistant's, and true or false (or 1 or 0)",
        ("messages", "label"),
        (),
        lambda row: _is_judged(row) and _all(row, list, "messages"),
        judged.chat_feedback,
    ),
    Format(
        "ratings",
        "ratings",
        "a text or list of turns, a text, and an object of numbers by attribute",
        ("prompt", "completion", "scores"),
        (),
        lambda row: "prompt" in row and _all(row, str, "completion") and _all(row, dict, "scores"),
        judged.rating,
    ),
    Format(
        "helpsteer",
        "ratings",
        "texts, with at least one attribute in a column of numbers",
        ("prompt", "response"),
        judged.HELPSTEER_ATTRIBUTES,
        lambda row: _all(row, str, "prompt", "response") and _has_attributes(row),
        judged.helpsteer,
    ),
    Format(
        "trl-completions",
        "demonstrations",
        "texts",
        ("prompt", "completion"),
        (),
        lambda row: _all(row, str, "prompt", "completion") and not _is_judged(row),
        _text_demonstration,
    ),
    Format(
        "trl-chat-completions",
        "demonstrations",
        "lists of {role, content} turns",
        ("prompt", "completion"),
        (),
        lambda row: _all(row, list, "prompt", "completion") and not _is_judged(row),
        _chat_demonstrations,
    ),
    Format(
        "alpaca",
        "demonstrations",
        "texts",
        ("instruction", "output"),
        ("input",),
        lambda row: _all(row, str, "instruction", "output"),
        _instructed,
    ),
    Format(
        "openai-chat",
        "demonstrations",
        "{role, content} turns, the last the assistant's",
        ("messages",),
        (),
        lambda row: _ends_with_assistant(row.get("messages")),
        _conversation,
    ),
    Format(
        "sharegpt",
        "demonstrations",
        "{from, value} turns",
        ("conversations",),
        (),
        lambda row: _all(row, list, "conversations"),
        _sharegpt,
    ),
    Format(
        "question-answer",
        "demonstrations",
        "texts; what follows '####' in the answer's last line is the prompt's field 'answer' (GSM8K)",
        ("question", "answer"),
        (),
        lambda row: _all(row, str, "question", "answer"),
        _solution,
    ),
    Format(
        "openai-prompts",
        "prompts",
        "{role, content} turns, the last the user's",
        ("messages",),
        (),
        lambda row: _all(row, list, "messages"),
        _open_conversation,
    ),
    Format(
        "chat-prompts",
        "prompts",
        "a list of {role, content} turns",
        ("prompt",),
        (),
        lambda row: _all(row, list, "prompt"),
        _chat_prompt,
    ),
    Format(
        "prompts",
        "prompts",
        "text; an answer may stand beside it",
        ("prompt",),
        ("answer",),
        lambda row: _all(row, str, "prompt"),
        _plain_prompt,
        {"demonstrations": Reading("the answers", ("answer",), _answer)},
    ),
)
