"""What people hand to Palate, after reading: prompts, demonstrations and judgements as plain frozen records.

A prompt is always a conversation. A plain string is a conversation of one user turn: it goes through the
model's chat template where the model has one, and stands as it is where it has none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from palate.errors import DataError

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
    """Two replies to one prompt, of which `chosen` was preferred; `margin` says by how much, where that is known.

    `weight` is how much is made of it beside the others: 2 is the pair twice, 0 not at all. Raises
    `DataError` for one that is below 0 or not finite.
    """

    prompt: Prompt
    chosen: str
    rejected: str
    margin: float | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.weight < math.inf:
            raise DataError(
                f"A pair has the weight {self.weight}; it says how much the pair counts beside the others, from 0, not "
                "at all. Give a finite number from 0 up, or leave it out for 1."
            )


@dataclass(frozen=True, slots=True)
class Feedback:
    """A reply that one person judged alone, as `desirable` or not (KTO)."""

    prompt: Prompt
    completion: str
    desirable: bool


@dataclass(frozen=True, slots=True)
class Ranking:
    """Several replies to one prompt in order of preference: `ranks[k]` is that of `completions[k]`.

    0 is the best; equal ranks are ties, and none below the worst is left out. Raises `DataError` for fewer
    than two completions, another number of ranks, or ranks with a gap.
    """

    prompt: Prompt
    completions: tuple[str, ...]
    ranks: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.completions) < 2 or len(self.ranks) != len(self.completions):
            raise DataError(
                f"A ranking has {len(self.completions)} completions and {len(self.ranks)} ranks; it needs at least "
                "two completions and a rank for each. Add what is missing, or leave the ranking out."
            )
        if sorted(set(self.ranks)) != list(range(len(set(self.ranks)))):
            raise DataError(
                f"A ranking has the ranks {', '.join(map(str, self.ranks))}; they count from 0, the best, without a "
                "gap, and equal ranks are ties. Number them anew."
            )


@dataclass(frozen=True, slots=True)
class Rating:
    """A reply and what each attribute of it was scored, as in `{"helpfulness": 4.0, "verbosity": 1.0}`.

    Raises `DataError` where there is no score, or one that is not finite.
    """

    prompt: Prompt
    completion: str
    scores: Mapping[str, float] = field(hash=False)

    def __post_init__(self) -> None:
        if not self.scores or not all(map(math.isfinite, self.scores.values())):
            raise DataError(
                f"A rating has the scores {dict(self.scores)}; it needs at least one, and every one finite. "
                "Give a number for each attribute, or leave the rating out."
            )
