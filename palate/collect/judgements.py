"""The one record of all feedback: what was asked, who answered, and what they said. Exports are readings of it.

An `Item` is one thing to judge: a prompt, the completions for it, where each came from, and how the item came to be
asked. A `Judgement` is one rater's answer to one item. Both are frozen, and both stand in plain JSON.

    Item ◀── item ── Judgement ── rater ──▶ Rater
                         │
                      Answer = Preference | Order | Scores | Thumb | Written | Edited | Skipped

Indices into completions are those of the item, whatever order was shown; `Judgement.shown` says what stood where.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from palate.errors import DataError
from palate.records import Message, Prompt

Mode = Literal["pair", "ranking", "rating", "thumbs", "demonstration", "edit"]
Slice = Literal["random", "uncertain", "adversarial", "given"]
RaterKind = Literal["human", "judge", "program"]

MODES: tuple[Mode, ...] = get_args(Mode)
# The strongest preference.
MOST = 3


# ---- what is asked


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a completion came from: a model by the hash of what it holds, with its sampling; or a file, or a person."""

    kind: Literal["model", "file", "person", "program"]
    name: str
    hash: str = ""
    sampling: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A completion with everything that wrote it: equal texts are one candidate with several origins."""

    text: str
    origins: tuple[Origin, ...] = ()


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to judge.

    `propensity` is the probability with which selection took it (1 where everything was asked); `slice` says which
    part of the selection that was. `wanted` raters are to judge it. A hidden gold item carries the `expected` answer;
    a hidden repetition names the item that it `repeats`. `fields` keeps the row's other columns (a kind, a reference).
    """

    prompt: Prompt
    candidates: tuple[Candidate, ...]
    mode: Mode = "pair"
    slice: Slice = "given"
    propensity: float = 1.0
    wanted: int = 1
    round: int = 1
    expected: Answer | None = None
    repeats: str = ""

    def __post_init__(self) -> None:
        fewest = {"pair": 2, "ranking": 2, "edit": 1, "rating": 1, "thumbs": 1, "demonstration": 0}.get(self.mode)
        if fewest is None:
            raise DataError(f"An item has the mode {self.mode!r}; it must be one of {', '.join(MODES)}. Correct it.")
        most = {"pair": 2, "rating": 1, "thumbs": 1, "demonstration": 0}.get(self.mode, math.inf)
        if not fewest <= len(self.candidates) <= most:
            raise DataError(
                f"An item of mode {self.mode!r} has {len(self.candidates)} completions; it needs "
                f"{fewest if fewest == most else f'at least {fewest}'}. Give so many, or another mode."
            )
        if len({candidate.text for candidate in self.candidates}) < len(self.candidates):
            raise DataError("An item holds one completion twice; nothing can be preferred to itself. Merge the two.")
        if not 0 < self.propensity <= 1 or self.wanted < 1:
            raise DataError(
                f"An item has propensity {self.propensity} and wants {self.wanted} raters; the one is a probability "
                "above 0, the other at least 1. Correct them."
            )

    @property
    def id(self) -> str:
        """The item's name: a hash of what is asked, so that the same question stored twice is one item."""
        asked = [
            self.mode,
            self.round,
            self.repeats,
            [asdict(message) for message in self.prompt.messages],
            [candidate.text for candidate in self.candidates],
        ]
        return hashlib.sha256(_compact(asked).encode()).hexdigest()[:24]

    def to_json(self) -> dict[str, Any]:
        """The item as plain JSON."""
        return {
            "messages": [asdict(message) for message in self.prompt.messages],
            "fields": dict(self.prompt.fields),
            "candidates": [
                {"text": one.text, "origins": [asdict(origin) for origin in one.origins]} for one in self.candidates
            ],
            "mode": self.mode,
            "slice": self.slice,
            "propensity": self.propensity,
            "wanted": self.wanted,
            "round": self.round,
            "expected": None if self.expected is None else answer_to_json(self.expected),
            "repeats": self.repeats,
        }

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Item:
        """The item that `to_json` wrote."""
        return cls(
            prompt=Prompt(tuple(Message(**message) for message in given["messages"]), given["fields"]),
            candidates=tuple(
                Candidate(one["text"], tuple(Origin(**origin) for origin in one["origins"]))
                for one in given["candidates"]
            ),
            mode=given["mode"],
            slice=given["slice"],
            propensity=given["propensity"],
            wanted=given["wanted"],
            round=given["round"],
            expected=None if given["expected"] is None else answer_from_json(given["expected"]),
            repeats=given["repeats"],
        )


# ---- who answers


@dataclass(frozen=True, slots=True)
class Rater:
    """Who judges: a person under a pseudonym, an AI judge by its model, or a program (gold counts as one)."""

    name: str
    kind: RaterKind = "human"


# ---- what is said


@dataclass(frozen=True, slots=True)
class Preference:
    """The second completion against the first, −3 to 3: below 0 the first is better (the sign of HelpSteer3,
    2505.11475), 0 is a tie; with `both_bad`, a tie of which neither is acceptable."""

    degree: int
    both_bad: bool = False

    def __post_init__(self) -> None:
        if not -MOST <= self.degree <= MOST or (self.both_bad and self.degree):
            raise DataError(
                f"A preference has degree {self.degree}{' and both bad' if self.both_bad else ''}; it is a whole "
                "number from -3 (the first is much better) to 3 (the second is), and 0 where both are bad. Correct it."
            )


@dataclass(frozen=True, slots=True)
class Order:
    """A rank for each completion, 0 the best; equal ranks are ties."""

    ranks: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.ranks or set(self.ranks) != set(range(max(self.ranks) + 1)):
            raise DataError(
                f"An order has the ranks {list(self.ranks)}; they count from 0, the best, without a gap, and equal "
                "ranks are ties. Number them anew."
            )


@dataclass(frozen=True, slots=True)
class Scores:
    """Numbers by attribute, as in {"helpfulness": 4.0}."""

    scores: Mapping[str, float] = field(hash=False)

    def __post_init__(self) -> None:
        if not self.scores or not all(map(math.isfinite, self.scores.values())):
            raise DataError(f"A rating has the scores {dict(self.scores)}; it needs one or more, all finite.")


@dataclass(frozen=True, slots=True)
class Thumb:
    """Up or down."""

    up: bool


@dataclass(frozen=True, slots=True)
class Written:
    """A reply that the rater wrote: a demonstration."""

    text: str


@dataclass(frozen=True, slots=True)
class Edited:
    """A better version of completion `of`."""

    of: int
    text: str


@dataclass(frozen=True, slots=True)
class Skipped:
    """No answer, and why."""

    reason: str = ""


Answer = Preference | Order | Scores | Thumb | Written | Edited | Skipped

_ANSWERS: Mapping[str, type[Answer]] = {
    "preference": Preference,
    "order": Order,
    "scores": Scores,
    "thumb": Thumb,
    "written": Written,
    "edited": Edited,
    "skipped": Skipped,
}
_NAMES = {kind: name for name, kind in _ANSWERS.items()}
_FITTING: Mapping[Mode, type[Answer]] = {
    "pair": Preference,
    "ranking": Order,
    "rating": Scores,
    "thumbs": Thumb,
    "demonstration": Written,
    "edit": Edited,
}


@dataclass(frozen=True, slots=True)
class Judgement:
    """One rater's answer to one item.

    `id` is made by whoever judges, so that one sent twice is stored once. `shown[k]` is the completion that stood at
    place k; `seconds` the time spent; `guideline` the version of the guidelines that the rater saw; `at` Unix time.
    """

    id: str
    item: str
    rater: str
    answer: Answer
    shown: tuple[int, ...] = ()
    tags: tuple[str, ...] = ()
    note: str = ""
    seconds: float = 0.0
    guideline: str = ""
    at: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """The judgement as plain JSON."""
        return {
            "id": self.id,
            "item": self.item,
            "rater": self.rater,
            "answer": answer_to_json(self.answer),
            "shown": list(self.shown),
            "tags": list(self.tags),
            "note": self.note,
            "seconds": self.seconds,
            "guideline": self.guideline,
            "at": self.at,
        }

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Judgement:
        """The judgement that `to_json` wrote."""
        return cls(
            **{
                **given,
                "answer": answer_from_json(given["answer"]),
                "shown": tuple(given["shown"]),
                "tags": tuple(given["tags"]),
            }
        )


def answer_to_json(answer: Answer) -> dict[str, Any]:
    """An answer with its kind."""
    return {"kind": _NAMES[type(answer)], **asdict(answer)}


def answer_from_json(given: Mapping[str, Any]) -> Answer:
    """The answer that `answer_to_json` wrote; DataError where the kind or a field is unknown."""
    values: dict[str, Any] = {
        name: tuple(value) if name == "ranks" else value for name, value in given.items() if name != "kind"
    }
    kind = _ANSWERS.get(given.get("kind", ""))
    try:
        if kind is None:
            raise TypeError(f"unknown kind {given.get('kind')!r}")
        return kind(**values)
    except TypeError as error:
        raise DataError(
            f"An answer was given as {dict(given)} ({error}); its kind is one of {', '.join(_ANSWERS)}, each with its "
            "own fields. Correct it."
        ) from error


def fits(item: Item, judgement: Judgement) -> None:
    """DataError where the answer is not one to this item."""
    answer, count = judgement.answer, len(item.candidates)
    if isinstance(answer, Skipped):
        return
    wrong = not isinstance(answer, _FITTING[item.mode])
    wrong |= isinstance(answer, Order) and len(answer.ranks) != count
    wrong |= isinstance(answer, Edited) and not 0 <= answer.of < count
    wrong |= bool(judgement.shown) and sorted(judgement.shown) != list(range(count))
    if wrong:
        raise DataError(
            f"A judgement answers {answer_to_json(answer)} and was shown {list(judgement.shown)}; its item is of mode "
            f"{item.mode!r} with {count} completions. Answer with a {_NAMES[_FITTING[item.mode]]} for just those."
        )


def _compact(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
