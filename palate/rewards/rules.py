"""Rewards that need no model: rules on a completion's form, and verifiers that compare it with what its row knows.

Each is a settings record, whose fields are its options in a recipe, with one method that scores. None needs a unit of
its own: their numbers lie between −1 and 1, or nearly so, and mean the same in every run.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, partial
from pathlib import Path
from textwrap import dedent
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from pydantic import Field
from torch import Tensor

from palate.engine.interfaces import Completions
from palate.errors import DataError
from palate.ops import soft_overlong
from palate.records import Prompt
from palate.rewards.answers import last_number, same_words
from palate.rewards.function import FunctionReward
from palate.rewards.isolated import IsolatedFunction
from palate.rewards.program import Limits, run_program
from palate.settings import record

_FENCED = re.compile(
    r"^[ \t]*(?P<fence>`{3,})[^`\n]*\n(?P<program>.*?)^[ \t]*(?P=fence)`*[ \t\r]*$", re.DOTALL | re.MULTILINE
)
_THINKING = re.compile(r"\s*<think>(?:(?!</?think>).)+</think>\s*<answer>(?:(?!</?answer>).)+</answer>\s*", re.DOTALL)


class Rule(Protocol):
    """What scores completions by their form or by their row."""

    def scores(self, completions: Completions) -> Tensor:
        """One number a completion, [B]."""
        ...


@runtime_checkable
class Verifier(Protocol):
    """A rule that reads a column of the prompt's row."""

    def scores(self, completions: Completions) -> Tensor:
        """One number a completion, [B]."""
        ...

    def wanted(self, prompt: Prompt) -> Any:
        """What the row knows; DataError where it knows nothing of use."""
        ...


@dataclass(frozen=True)
class RuleReward:
    """A rule or verifier as a judge."""

    name: str
    rule: Rule

    def score(self, completions: Completions) -> Tensor:
        """The rule's numbers, [B]."""
        return self.rule.scores(completions)


# ---- form


@record
class Length:
    """How far a completion is from a length: s = −|n − target|/target, n in tokens, EOS included."""

    target: int = Field(ge=1, description="tokens, EOS included, that a completion should have")

    def scores(self, completions: Completions) -> Tensor:
        """0 at the target, −1 at nothing and at twice the target, [B]."""
        return -(completions.mask.sum(dim=1).double() - self.target).abs() / self.target


@record
class Overlong:
    """The soft overlong punishment of DAPO (2503.14476, eq. 13): 0 up to limit − buffer tokens, falling linearly to
    −1 at the limit, and −1 beyond."""

    limit: int = Field(
        ge=1, description="tokens, EOS included, from which the whole punishment is due; at most align.max_new_tokens"
    )
    buffer: int = Field(ge=1, description="tokens before the limit over which it grows")

    def __post_init__(self) -> None:
        if self.buffer > self.limit:
            raise ValueError(f"must have a buffer no longer than its limit ({self.buffer} > {self.limit})")

    def scores(self, completions: Completions) -> Tensor:
        """0 where there is room, −1 at the limit and beyond, [B]."""
        return soft_overlong(lengths=completions.mask.sum(dim=1), limit=self.limit, buffer=self.buffer)


@record
class Repetition:
    """The share of a completion's n-grams of tokens that stood there before: s = −(1 − distinct/all)."""

    n: int = Field(3, ge=1, description="tokens that make an n-gram")

    def scores(self, completions: Completions) -> Tensor:
        """0 where nothing is repeated, or the completion is shorter than n, and near −1 where all is, [B]."""
        lengths = completions.mask.sum(dim=1).tolist()
        rows = [ids[:length] for ids, length in zip(completions.ids.tolist(), lengths, strict=True)]
        return torch.tensor([-self._repeated(row) for row in rows], dtype=torch.float64)

    def _repeated(self, ids: list[int]) -> float:
        grams = [tuple(ids[start : start + self.n]) for start in range(len(ids) - self.n + 1)]
        return 1 - len(set(grams)) / len(grams) if grams else 0.0


@record
class Format:
    """Whether a completion has a shape: valid JSON, or reasoning and answer in the tags of DeepSeek-R1 (2501.12948)."""

    shape: Literal["json", "think"] = Field(
        description="json: one JSON value; think: <think>…</think><answer>…</answer>, each once"
    )

    def scores(self, completions: Completions) -> Tensor:
        """1 where it has, else 0, [B]."""
        fits = _is_json if self.shape == "json" else _THINKING.fullmatch
        return torch.tensor([float(bool(fits(text))) for text in completions.texts])


@record
class Regex:
    """Whether a pattern is found in a completion; the dot matches line breaks, and ^ and $ the ends of lines."""

    pattern: str = Field(description="a regular expression of Python, searched for")
    seconds: float = Field(10.0, gt=0, description="time for all completions of a batch; some patterns take for ever")

    def scores(self, completions: Completions) -> Tensor:
        """1 where it is found, else 0, [B]."""
        return FunctionReward("regex", partial(_matching(self.seconds), pattern=self.pattern)).score(completions)


# ---- verifiers


@record
class Answer:
    """Whether a completion's final answer is the row's: 1, else 0.

    The final answer is the last `\\boxed{…}`, else what follows the last `####`, else the whole text; the last number
    in it counts. Numbers are compared exactly: 72, $72.00 and 144/2 are equal.
    """

    column: str = Field("answer", description="the row's column that holds the right answer")
    match: Literal["number", "text"] = Field(
        "number", description="equal as numbers, or as words, case and marks around them aside"
    )

    def scores(self, completions: Completions) -> Tensor:
        """1 where the answer is right, 0 where it is wrong or missing, [B]."""
        pairs = zip(completions.texts, map(self.wanted, completions.prompts), strict=True)
        return torch.tensor([float(self._right(text, wanted)) for text, wanted in pairs])

    def wanted(self, prompt: Prompt) -> Fraction | str:
        """The row's answer; DataError where it has none, or no number where one is to be compared."""
        text = _column(prompt, self.column, "answer")
        number = last_number(text)
        if self.match == "text":
            return text
        if number is None:
            raise DataError(
                f"The row's {self.column} is {text[:60]!r}, which holds no number. The reward `answer` compares "
                'numbers. Mend the row, or compare words with match = "text".',
                line=prompt.line or None,
            )
        return number

    def _right(self, text: str, wanted: Fraction | str) -> bool:
        return same_words(text, wanted) if isinstance(wanted, str) else last_number(text) == wanted


@record
class Code:
    """What the row's tests say of the program that a completion holds, run in a process of its own.

    The program is the completion's last fenced block, or all of it. The tests follow it in the same interpreter, see
    `prompt` and `completion`, and may set `score`; where they set none, s = 1 if all of it ran to its end, and 0 if
    something raised, time or memory ran out, or `score` is no finite number. The limits are no security boundary
    against hostile programs.
    """

    column: str = Field("tests", description="the row's column that holds the tests, Python")
    seconds: int = Field(5, ge=1, description="processor time of one completion; four times as long by the clock")
    megabytes: int = Field(1024, ge=64, description="memory of one completion")
    processes: int = Field(2, ge=1, description="completions run at the same time")

    def scores(self, completions: Completions) -> Tensor:
        """The tests' numbers, [B]."""
        wanted = [self.wanted(prompt) for prompt in completions.prompts]
        with ThreadPoolExecutor(self.processes) as pool:
            told = list(pool.map(self._tested, completions.texts, completions.prompts, wanted))
        return torch.tensor(told, dtype=torch.float64)

    def wanted(self, prompt: Prompt) -> str:
        """The row's tests; DataError where it has none, or where they are no Python."""
        tests = _column(prompt, self.column, "code")
        try:
            with warnings.catch_warnings(action="ignore"):
                compile(tests, "tests", "exec")
        except (SyntaxError, ValueError) as error:
            raise DataError(
                f"The row of {prompt.text[:60]!r} has tests in its column {self.column!r} that are no Python "
                f"({type(error).__name__}: {error}). The reward `code` runs them behind each completion. Mend the row.",
                line=prompt.line or None,
            ) from error
        return tests

    def _tested(self, text: str, prompt: Prompt, tests: str) -> float:
        fenced = [dedent(found["program"]) for found in _FENCED.finditer(text)]
        names = {"prompt": prompt.text, "completion": text}
        score = run_program(fenced[-1] if fenced else text, tests, names, Limits(self.seconds, self.megabytes))
        return 0.0 if score is None else score


RULES: Mapping[str, type] = {
    "length": Length,
    "overlong": Overlong,
    "repetition": Repetition,
    "format": Format,
    "regex": Regex,
    "answer": Answer,
    "code": Code,
}


@cache
def _matching(seconds: float) -> IsolatedFunction:
    return IsolatedFunction(f"{Path(__file__).with_name('matching.py')}:matches", seconds)


def _is_json(text: str) -> bool:
    try:
        json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return False
    return True


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _column(prompt: Prompt, column: str, rule: str) -> str:
    value = prompt.fields.get(column)
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value)
    there = ", ".join(prompt.fields) or "none"
    raise DataError(
        f"The row of {prompt.text[:60]!r} has {value!r} in its column {column!r}. The reward `{rule}` reads that "
        f"column of every row, a text or number; the row's columns are: {there}. Add it, or name another.",
        line=prompt.line or None,
    )
