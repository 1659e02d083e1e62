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
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, cast, get_args

from palate.errors import DataError, UsageError
from palate.records import Message, Prompt, Role

Mode = Literal["pair", "ranking", "rating", "thumbs", "demonstration", "edit"]
Slice = Literal["random", "uncertain", "adversarial", "given"]
RaterKind = Literal["human", "judge", "program"]

MODES: tuple[Mode, ...] = get_args(Mode)
# The strongest preference.
MOST = 3
# Why a person skips an item: the label page offers these by number, and guidelines call them so.
REASONS = ("cannot check", "makes no sense", "broken or cut off", "private", "safety", "upsetting")

LONGEST_NAME = 200

# Who gave a thumb that names nobody: not one person, so that each of these counts for itself.
NOBODY = "user:log"


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
        if not (0 < self.propensity <= 1 and _counts(self.wanted) and _counts(self.round)):
            raise DataError(
                f"An item has propensity {self.propensity!r}, wants {self.wanted!r:.50} raters and is of round "
                f"{self.round!r:.50}; the first is a probability above 0, the others are whole numbers from 1. Correct "
                "them."
            )
        if self.slice not in get_args(Slice):
            raise DataError(f"An item is of the slice {self.slice!r}; it is one of {', '.join(get_args(Slice))}.")
        if self.expected is not None and not _answers(self, self.expected):
            raise DataError(
                f"An item of mode {self.mode!r} with {len(self.candidates)} completions expects "
                f"{answer_to_json(self.expected)}, which does not answer it. Correct the expected answer."
            )

    @property
    def id(self) -> str:
        """The item's name: a hash of what is asked, so that the same question stored twice is one item.

        Hidden gold is another item than the same question to which no answer is known.
        """
        asked = [
            self.mode,
            self.round,
            self.repeats,
            [asdict(message) for message in self.prompt.messages],
            [candidate.text for candidate in self.candidates],
            *([] if self.expected is None else [answer_to_json(self.expected)]),
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
            prompt=Prompt(tuple(map(_turn, given["messages"])), dict(given["fields"])),
            candidates=tuple(
                Candidate(_text(one["text"]), tuple(Origin(**origin) for origin in one["origins"]))
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

    def __post_init__(self) -> None:
        named(self.name, "rater")
        if self.kind not in get_args(RaterKind):
            raise DataError(
                f"The rater {self.name!r} is of the kind {self.kind!r}; known are {', '.join(get_args(RaterKind))}."
            )


# ---- what is said


@dataclass(frozen=True, slots=True)
class Preference:
    """The second completion against the first, −3 to 3: below 0 the first is better (the sign of HelpSteer3,
    2505.11475), 0 is a tie; with `both_bad`, a tie of which neither is acceptable."""

    degree: int
    both_bad: bool = False

    def __post_init__(self) -> None:
        whole = type(self.degree) is int
        if not whole or not -MOST <= self.degree <= MOST or (self.both_bad and self.degree):
            raise DataError(
                f"A preference has degree {self.degree}{' and both bad' if self.both_bad else ''}; it is a whole "
                "number from -3 (the first is much better) to 3 (the second is), and 0 where both are bad. Correct it."
            )


@dataclass(frozen=True, slots=True)
class Order:
    """A rank for each completion, 0 the best; equal ranks are ties."""

    ranks: tuple[int, ...]

    def __post_init__(self) -> None:
        steps = sorted(set(self.ranks))
        if not self.ranks or steps != list(range(len(steps))):
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
_TYPES: Mapping[str, type] = {"degree": int, "both_bad": bool, "up": bool, "of": int, "text": str, "reason": str}
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

    def __post_init__(self) -> None:
        named(self.id, "judgement")
        named(self.rater, "rater")
        if not all(isinstance(text, str) for text in (self.item, self.note, self.guideline, *self.tags)):
            raise DataError(
                f"The judgement {self.id!r} has an item, a note, a version of the guidelines or a tag that is no text. "
                "Correct it."
            )
        if not (0 <= self.seconds <= sys.float_info.max and 0 <= self.at <= sys.float_info.max):
            raise DataError(
                f"A judgement took {self.seconds!r:.50} seconds and was made at {self.at!r:.50}; both are "
                "finite, from 0 up, the latter in Unix time. Correct the clock that measured them."
            )

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
    values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(answer).items()}
    return {"kind": _NAMES[type(answer)], **values}


def answer_from_json(given: Mapping[str, Any]) -> Answer:
    """The answer that `answer_to_json` wrote; DataError where the kind, a field or its type is another."""
    try:
        values = {name: _typed(name, value) for name, value in given.items() if name != "kind"}
        return _ANSWERS[given["kind"]](**values)
    except (AttributeError, KeyError, OverflowError, TypeError) as error:
        raise DataError(
            f"An answer was given as {given!r:.300} ({error!r}); its kind is one of {', '.join(_ANSWERS)}, each with "
            "its own fields. Correct it."
        ) from error


def _typed(name: str, value: Any) -> Any:
    """A field of an answer from outside; TypeError where it is of another type (JSON's true is no 1)."""
    if name == "ranks" and isinstance(value, list | tuple) and all(type(rank) is int for rank in value):
        return tuple(value)
    if name == "scores" and isinstance(value, Mapping) and all(type(score) in (int, float) for score in value.values()):
        return dict(value)
    if type(value) is _TYPES.get(name):
        return value
    raise TypeError(f"{name} = {value!r:.100}")


def _turn(given: Mapping[str, Any]) -> Message:
    """A turn from outside; ValueError where its role is none."""
    if given["role"] not in get_args(Role):
        raise ValueError(f"role = {given['role']!r:.100}")
    return Message(given["role"], _text(given["content"]))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.100} is no text")
    return value


def _counts(value: Any) -> bool:
    """Whether a value is a whole number from 1 that a database can hold."""
    return type(value) is int and 0 < value < 2**63


def mode_of(name: str) -> Mode:
    """The mode of this name; UsageError where there is none."""
    if name not in MODES:
        raise UsageError(f"The mode {name!r} was given. Items are of mode {', '.join(MODES)}. Take one of them.")
    return cast(Mode, name)


def named(name: str, what: str) -> str:
    """The name; DataError where it is not 1 to 200 printable characters."""
    if not (isinstance(name, str) and 0 < len(name) <= LONGEST_NAME and name.isprintable()):
        raise DataError(
            f"The name of a {what} is {name!r:.250}; it has 1 to {LONGEST_NAME} printable characters, without line "
            "breaks. Take another."
        )
    return name


def fits(item: Item, judgement: Judgement) -> None:
    """DataError where the answer is not one to this item; to skip is one to any."""
    answer, count = judgement.answer, len(item.candidates)
    shown = not judgement.shown or sorted(judgement.shown) == list(range(count))
    if not shown or not (isinstance(answer, Skipped) or _answers(item, answer)):
        raise DataError(
            f"A judgement answers {answer_to_json(answer)!s:.300} and was shown {list(judgement.shown)}; its item is "
            f"of mode {item.mode!r} with {count} completions. Answer with a {_NAMES[_FITTING[item.mode]]} for just "
            "those."
        )


def _answers(item: Item, answer: Answer) -> bool:
    match answer:
        case Order(ranks):
            return item.mode == "ranking" and len(ranks) == len(item.candidates)
        case Edited(of, _):
            return item.mode == "edit" and 0 <= of < len(item.candidates)
    return isinstance(answer, _FITTING[item.mode])


def _compact(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
