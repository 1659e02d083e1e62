"""What people hand to Palate, after reading: prompts, demonstrations and preferences as plain frozen records.

A prompt is always a conversation. A plain string is a conversation of one user turn: it goes through the
model's chat template where the model has one, and stands as it is where it has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """The conversation up to the reply that is wanted; its last turn is not the assistant's.

    `fields` carries the row's other columns (an answer to verify, a task name) to reward functions;
    `line` is the 1-based line of the file it came from, 0 when it came from none.
    """

    messages: tuple[Message, ...]
    fields: Mapping[str, Any] = field(default_factory=dict, hash=False)
    line: int = 0

    @classmethod
    def of(cls, text: str, **fields: Any) -> Prompt:
        """A prompt of one user turn."""
        return cls((Message("user", text),), fields)

    @property
    def text(self) -> str:
        """The conversation as a reader would want it: a lone user turn bare, several with their roles named."""
        if len(self.messages) == 1:
            return self.messages[0].content
        return "\n\n".join(f"{message.role}: {message.content}" for message in self.messages)


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A prompt and the reply that a person would like to see."""

    prompt: Prompt
    completion: str


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """Two replies to one prompt, of which `chosen` was preferred; `margin` says by how much, where that is known."""

    prompt: Prompt
    chosen: str
    rejected: str
    margin: float | None = None
