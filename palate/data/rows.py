"""One row of a data file while it is read: its columns under known names, and what reads a value or says why not.

Every reader of a format is made of these; each raises `RowError` with the reason, and nothing is guessed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard

from palate.records import Demonstration, Feedback, Message, PreferencePair, Prompt, Ranking, Rating, Role

Kind = Literal["demonstrations", "feedback", "pairs", "prompts", "rankings", "ratings"]
Record = Demonstration | Feedback | PreferencePair | Prompt | Ranking | Rating

CHAT_ROLES: Mapping[str, Role] = {"system": "system", "user": "user", "assistant": "assistant"}
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

    def prompt(self, messages: tuple[Message, ...], **fields: Any) -> Prompt:
        """The conversation as this row's prompt, with `fields` beside the other columns."""
        if not any(message.content.strip() for message in messages):
            raise RowError("there is no prompt: no text stands before the reply.")
        if messages[-1].role == "assistant":
            raise RowError("the prompt ends with the assistant's turn; it must end where the assistant is to speak.")
        return Prompt(messages, {**self.fields, **fields}, self.line)


def type_name(value: Any) -> str:
    """What a value of a data file is, in a reader's words."""
    return _TYPE_NAMES.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether a value is a number that a float can hold; true, false, NaN and infinities are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def is_transcript(value: Any) -> bool:
    """Whether a value is text with a turn of the assistant in it."""
    return isinstance(value, str) and "Assistant" in _TRANSCRIPT_TURN.findall(value)


def text_of(value: Any, name: str) -> str:
    """A column that must be text."""
    if not isinstance(value, str):
        raise RowError(f"'{name}' is {type_name(value)}, and must be text.")
    return value


def reply(value: Any, name: str) -> str:
    """A reply, which must hold some text."""
    text = text_of(value, name)
    if not text.strip():
        raise RowError(f"'{name}' is an empty reply; a reply must have text, or there is nothing to learn from it.")
    return text


def messages_of(
    value: Any,
    name: str,
    roles: Mapping[str, Role] = CHAT_ROLES,
    keys: tuple[str, str] = ("role", "content"),
) -> tuple[Message, ...]:
    """The turns of a list of objects that name the speaker and the text under `keys`."""
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


def transcript(value: Any, name: str) -> tuple[Message, ...]:
    """The turns of "\\n\\nHuman: …\\n\\nAssistant: …", without the white space around them."""
    before, *turns = _TRANSCRIPT_TURN.split(text_of(value, name))
    if before.strip() or not turns:
        raise RowError(f"'{name}' is no transcript: it must begin with '\\n\\nHuman:' or '\\n\\nAssistant:'.")
    speakers, contents = turns[::2], turns[1::2]
    return tuple(
        Message(_TRANSCRIPT_ROLES[speaker], content.strip())
        for speaker, content in zip(speakers, contents, strict=True)
    )


def question(text: str) -> tuple[Message, ...]:
    """A conversation of one user turn."""
    return (Message("user", text),)


def conversation(value: Any, name: str) -> tuple[Message, ...]:
    """A prompt given as text, which is one user turn, or as a list of turns."""
    return question(value) if isinstance(value, str) else messages_of(value, name)


def instruction(row: Row) -> tuple[Message, ...]:
    """The columns `instruction` and `input` as one question; the input follows after a blank line."""
    text, given = text_of(row.values["instruction"], "instruction"), row.values.get("input")
    given = "" if given is None else text_of(given, "input")
    return question(f"{text}\n\n{given}" if given.strip() else text)
