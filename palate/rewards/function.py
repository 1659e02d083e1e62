"""Rewards that are Python functions of strings: the user's own (`rewards.py:brevity`), or the testbed's gold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from palate.engine.interfaces import Completions, Judgement
from palate.errors import PalateError, RewardError
from palate.rewards.checking import failure, shown
from palate.rewards.isolated import Unanswered


@dataclass(frozen=True)
class FunctionReward:
    """Wraps `function(prompts, completions, **fields) -> list[float]`.

    `prompts` and `completions` are strings; `fields` hold the prompt rows' other columns, one list each,
    `fields["messages"]` the conversations as role and content, and `options` by name.
    """

    name: str
    function: Callable[..., Sequence[float]]
    options: Mapping[str, Any] = field(default_factory=dict)

    def score(self, completions: Completions) -> Tensor:
        """The function's numbers, [B]; raises RewardError when it returns anything but numbers."""
        returned = _called(self.name, self.function, self.options, completions)
        if isinstance(returned, str) or not isinstance(returned, Iterable):
            raise _no_list(self.name, returned, "number", completions)
        numbers = returned.tolist() if isinstance(returned, Tensor | np.ndarray) else list(returned)
        for row, number in enumerate(numbers[: len(completions.texts)]):
            _must_be_number(self.name, number, completions, row)
        return torch.tensor([float(number) for number in numbers], dtype=torch.float64)


@dataclass(frozen=True)
class StepReward:
    """A dense reward: wraps a function that marks the steps of completions, and returns for each a list of pairs
    (end, number).

    A number belongs to the token with which the first `end` characters of the completion are written; `decode(ids)`
    tells how far that is. The score is the sum of the numbers.
    """

    name: str
    function: Callable[..., Sequence[Sequence[tuple[int, float]]]]
    decode: Callable[[Sequence[int]], str]
    options: Mapping[str, Any] = field(default_factory=dict)

    def score(self, completions: Completions) -> Tensor:
        """The sums of the steps' numbers, [B]."""
        return self.judge(completions).scores

    def judge(self, completions: Completions) -> Judgement:
        """Sums [B], and every step's number at its token, [B, T]; raises RewardError for anything but steps."""
        returned = _called(self.name, self.function, self.options, completions)
        if isinstance(returned, str) or not isinstance(returned, Iterable):
            raise _no_list(self.name, returned, "list of steps", completions)
        rows = list(returned)
        if len(rows) != len(completions.texts):
            raise _no_list(self.name, f"{len(rows)} lists", "list of steps", completions)
        dense = torch.zeros(completions.mask.shape, dtype=torch.float64)
        for row, steps in enumerate(rows):
            ids = completions.ids[row, : int(completions.mask[row].sum())].tolist()
            for end, number in self._steps(steps, completions, row):
                dense[row, self._token(ids, end)] += number
        return Judgement(dense.sum(dim=1), dense=dense)

    def _steps(self, steps: Any, completions: Completions, row: int) -> list[tuple[int, float]]:
        try:
            pairs: list[tuple[Any, Any]] = [(end, number) for end, number in steps]
        except (TypeError, ValueError):
            pairs = [(None, steps)]
        length = len(completions.texts[row])
        for end, number in pairs:
            if isinstance(end, bool) or not isinstance(end, int) or not 0 <= end <= length:
                raise RewardError(
                    f"The reward {self.name!r} returned {steps!r:.80} for {shown(completions, row)}. A dense reward "
                    f"returns for each completion a list of pairs (end, number), end from 0 to its {length} "
                    "characters. Return such pairs, or leave out dense = true."
                )
            _must_be_number(self.name, number, completions, row)
        return [(int(end), float(number)) for end, number in pairs]

    def _token(self, ids: list[int], end: int) -> int:
        """The first token with which `end` characters are written, by bisection; the last where none is."""
        low, high = 0, len(ids) - 1
        while low < high:
            middle = (low + high) // 2
            if len(self.decode(ids[: middle + 1])) >= end:
                high = middle
            else:
                low = middle + 1
        return low


def _called(name: str, function: Callable[..., Any], options: Mapping[str, Any], completions: Completions) -> Any:
    """What the function returns for these completions; RewardError, naming the one to blame, where it fails."""
    try:
        return function(*_arguments(completions), **_fields(completions), **options)
    except PalateError:
        raise
    except Exception as error:
        row = _culprit(function, options, completions)
        raise failure(name, _how(error), completions if row is None else completions.row(row)) from error


def _how(error: Exception) -> str:
    return str(error) if isinstance(error, Unanswered) else f"raised {type(error).__name__}: {error}"


def _culprit(function: Callable[..., Any], options: Mapping[str, Any], completions: Completions) -> int | None:
    """The first completion that fails alone as well, None where none does."""
    for row in range(len(completions.texts)):
        alone = completions.row(row)
        try:
            function(*_arguments(alone), **_fields(alone), **options)
        except Exception:
            return row
    return None


def _arguments(completions: Completions) -> tuple[list[str], list[str]]:
    return [prompt.text for prompt in completions.prompts], list(completions.texts)


def _fields(completions: Completions) -> dict[str, Any]:
    prompts = completions.prompts
    names = sorted({name for prompt in prompts for name in prompt.fields})
    fields: dict[str, Any] = {name: [prompt.fields.get(name) for prompt in prompts] for name in names}
    fields["messages"] = [
        [{"role": message.role, "content": message.content} for message in prompt.messages] for prompt in prompts
    ]
    return fields


def _no_list(name: str, returned: Any, wanted: str, completions: Completions) -> RewardError:
    return RewardError(
        f"The reward {name!r} returned {returned!r} ({type(returned).__name__}) for {len(completions.texts)} "
        f"completions, the first {shown(completions, 0)}. It must return one {wanted} for each, in their order. "
        f"Return a list{' of floats' if wanted == 'number' else ''}."
    )


def _must_be_number(name: str, number: Any, completions: Completions, row: int) -> None:
    if isinstance(number, bool) or not isinstance(number, Real):
        raise RewardError(
            f"The reward {name!r} returned {number!r} ({type(number).__name__}) for {shown(completions, row)}. Every "
            "score must be a number. Return a float for each."
        )
