"""The formats of files of prompts, demonstrations and preferences: how each is known, how a row is read.

A prompt and a reply are never told apart by guessing. Columns say which is which, or the turns of a
conversation do; a beginning that two texts share is no prompt.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from palate.records import Demonstration, Message, PreferencePair, Prompt, Role

Kind = Literal["demonstrations", "pairs", "prompts"]
Record = Demonstration | PreferencePair | Prompt

_CHAT_ROLES: Mapping[str, Role] = {"system": "system", "user": "user", "assistant": "assistant"}
_SHAREGPT_ROLES: Mapping[str, Role] = {
    **_CHAT_ROLES,
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
}
_TRANSCRIPT_ROLES: Mapping[str, Role] = {"Human": "user", "Assistant": "assistant"}
_TRANSCRIPT_TURN = re.compile(r"(?:\A|\n\n)(Human|Assistant):")
_TYPE_NAMES = {str: "text", list: "a list", dict: "an object", bool: "true or false", type(None): "null"}


class RowError(Exception):
    """A row that cannot be read; the message is the reason, with the rule it breaks."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row with its columns under the names of its format; `fields` holds all the others."""

    values: Mapping[str, Any]
    fields: Mapping[str, Any]
    line: int

    def prompt(self, messages: tuple[Message, ...]) -> Prompt:
        """The conversation as this row's prompt."""
        if not any(message.content.strip() for message in messages):
            raise RowError("there is no prompt: no text stands before the reply.")
        if messages[-1].role == "assistant":
            raise RowError("the prompt ends with the assistant's turn; it must end where the assistant is to speak.")
        return Prompt(messages, dict(self.fields), self.line)


@dataclass(frozen=True, slots=True)
class Format:
    """A known shape of rows.

    `contents` says what its columns hold, for people; `fits` knows a row by names and types of its columns;
    `records` reads one row or raises `RowError`.
    """

    name: str
    kind: Kind
    contents: str
    required: tuple[str, ...]
    optional: tuple[str, ...]
    fits: Callable[[Mapping[str, Any]], bool]
    records: Callable[[Row], Sequence[Record]]


def type_name(value: Any) -> str:
    """What a value of a data file is, in a reader's words."""
    return _TYPE_NAMES.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise RowError(f"'{name}' is {type_name(value)}, and must be text.")
    return value


def _reply(value: Any, name: str) -> str:
    text = _text(value, name)
    if not text.strip():
        raise RowError(f"'{name}' is an empty reply; a reply must have text, or there is nothing to learn from it.")
    return text


def _messages(
    value: Any,
    name: str,
    roles: Mapping[str, Role] = _CHAT_ROLES,
    keys: tuple[str, str] = ("role", "content"),
) -> tuple[Message, ...]:
    if not isinstance(value, list):
        raise RowError(f"'{name}' is {type_name(value)}, and must be a list of turns.")
    return tuple(_message(turn, f"turn {number} of '{name}'", roles, keys) for number, turn in enumerate(value, 1))


def _message(turn: Any, where: str, roles: Mapping[str, Role], keys: tuple[str, str]) -> Message:
    role_key, content_key = keys
    if not isinstance(turn, dict) or role_key not in turn:
        raise RowError(f"{where} has no '{role_key}'; every turn is an object with '{role_key}' and '{content_key}'.")
    role, content = turn[role_key], turn.get(content_key)
    if not isinstance(role, str) or role not in roles:
        raise RowError(f"{where} has the {role_key} {role!r}; known are {', '.join(roles)}.")
    if not isinstance(content, str):
        raise RowError(f"the '{content_key}' of {where} is {type_name(content)}; only conversations of text are read.")
    return Message(roles[role], content)


def _transcript(value: Any, name: str) -> tuple[Message, ...]:
    """The turns of "\\n\\nHuman: …\\n\\nAssistant: …", without the white space around them."""
    before, *turns = _TRANSCRIPT_TURN.split(_text(value, name))
    if before.strip() or not turns:
        raise RowError(f"'{name}' is no transcript: it must begin with '\\n\\nHuman:' or '\\n\\nAssistant:'.")
    speakers, contents = turns[::2], turns[1::2]
    return tuple(
        Message(_TRANSCRIPT_ROLES[speaker], content.strip())
        for speaker, content in zip(speakers, contents, strict=True)
    )


def _text_prompt(row: Row) -> Prompt:
    return row.prompt((Message("user", _text(row.values["prompt"], "prompt")),))


def _margin(row: Row) -> float | None:
    margin = row.values.get("margin")
    if margin is None:
        return None
    if isinstance(margin, bool) or not isinstance(margin, int | float) or not math.isfinite(margin) or margin < 0:
        raise RowError(f"'margin' is {margin!r}; it says by how much the chosen reply is better: a number from 0 up.")
    return float(margin)


def _text_pair(row: Row) -> list[Record]:
    chosen, rejected = (_reply(row.values[side], side) for side in ("chosen", "rejected"))
    return [PreferencePair(_text_prompt(row), chosen, rejected, _margin(row))]


def _chat_pair(row: Row) -> list[Record]:
    opening = _opening(row.values.get("prompt"))
    chosen, rejected = (_after(opening, _messages(row.values[side], side)) for side in ("chosen", "rejected"))
    return [_pair(row, chosen, rejected)]


def _opening(prompt: Any) -> tuple[Message, ...]:
    if prompt is None:
        return ()
    return (Message("user", prompt),) if isinstance(prompt, str) else _messages(prompt, "prompt")


def _after(opening: tuple[Message, ...], side: tuple[Message, ...]) -> tuple[Message, ...]:
    """The whole conversation of one side, which in some files repeats the prompt and in others does not."""
    return side if side[: len(opening)] == opening else opening + side


def _transcript_pair(row: Row) -> list[Record]:
    return [_pair(row, _transcript(row.values["chosen"], "chosen"), _transcript(row.values["rejected"], "rejected"))]


def _pair(row: Row, chosen: tuple[Message, ...], rejected: tuple[Message, ...]) -> PreferencePair:
    """Two conversations that are the same up to their last turn, which is the reply."""
    for name, side in (("chosen", chosen), ("rejected", rejected)):
        if not side or side[-1].role != "assistant":
            raise RowError(f"'{name}' does not end with a reply of the assistant, so there is none to compare.")
    if chosen[:-1] != rejected[:-1]:
        raise RowError("the two sides differ before their last reply; a pair is two replies to one conversation.")
    prompt = row.prompt(chosen[:-1])
    return PreferencePair(
        prompt, _reply(chosen[-1].content, "chosen"), _reply(rejected[-1].content, "rejected"), _margin(row)
    )


def _text_demonstration(row: Row) -> list[Record]:
    return [Demonstration(_text_prompt(row), _reply(row.values["completion"], "completion"))]


def _chat_demonstrations(row: Row) -> list[Record]:
    prompt = _messages(row.values["prompt"], "prompt")
    return _every_reply(row, prompt, _messages(row.values["completion"], "completion"))


def _instruction(row: Row) -> list[Record]:
    instruction, given = _text(row.values["instruction"], "instruction"), row.values.get("input")
    given = "" if given is None else _text(given, "input")
    question = f"{instruction}\n\n{given}" if given.strip() else instruction
    return [Demonstration(row.prompt((Message("user", question),)), _reply(row.values["output"], "output"))]


def _conversation(row: Row) -> list[Record]:
    return _every_reply(row, (), _messages(row.values["messages"], "messages"))


def _sharegpt(row: Row) -> list[Record]:
    turns = _messages(row.values["conversations"], "conversations", _SHAREGPT_ROLES, ("from", "value"))
    return _every_reply(row, (), turns)


def _every_reply(row: Row, opening: tuple[Message, ...], turns: tuple[Message, ...]) -> list[Record]:
    """One demonstration for each turn of the assistant, with all that came before it as the prompt."""
    demonstrations: list[Record] = [
        Demonstration(row.prompt(opening + turns[:number]), _reply(turn.content, "assistant"))
        for number, turn in enumerate(turns)
        if turn.role == "assistant"
    ]
    if not demonstrations:
        raise RowError("the assistant never speaks, so there is no reply to learn from.")
    return demonstrations


def _open_conversation(row: Row) -> list[Record]:
    return [row.prompt(_messages(row.values["messages"], "messages"))]


def _chat_prompt(row: Row) -> list[Record]:
    return [row.prompt(_messages(row.values["prompt"], "prompt"))]


def _plain_prompt(row: Row) -> list[Record]:
    return [_text_prompt(row)]


def _all(row: Mapping[str, Any], kind: type, *columns: str) -> bool:
    return all(isinstance(row.get(column), kind) for column in columns)


def _is_transcript(value: Any) -> bool:
    return isinstance(value, str) and "Assistant" in _TRANSCRIPT_TURN.findall(value)


def _is_judged(row: Mapping[str, Any]) -> bool:
    """A true or false label makes a reply a judgement (KTO), which must not be imitated unseen."""
    return isinstance(row.get("label"), bool)


def _ends_with_assistant(turns: Any) -> bool:
    last = turns[-1] if isinstance(turns, list) and turns else None
    return isinstance(last, dict) and last.get("role") == "assistant"


FORMATS: tuple[Format, ...] = (  # the first that fits is a row's own, so those that ask for more come first
    Format(
        "trl-pairs",
        "pairs",
        "texts",
        ("prompt", "chosen", "rejected"),
        ("margin",),
        lambda row: _all(row, str, "prompt", "chosen", "rejected"),
        _text_pair,
    ),
    Format(
        "trl-chat-pairs",
        "pairs",
        "lists of {role, content} turns",
        ("chosen", "rejected"),
        ("prompt", "margin"),
        lambda row: _all(row, list, "chosen", "rejected"),
        _chat_pair,
    ),
    Format(
        "hh-pairs",
        "pairs",
        "whole transcripts with '\\n\\nHuman:' and '\\n\\nAssistant:' turns",
        ("chosen", "rejected"),
        ("margin",),
        lambda row: _is_transcript(row.get("chosen")) and _is_transcript(row.get("rejected")),
        _transcript_pair,
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
        _instruction,
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
    Format("prompts", "prompts", "text", ("prompt",), (), lambda row: _all(row, str, "prompt"), _plain_prompt),
)
