"""A reward that is a Python function of strings: the user's own (`rewards.py:brevity`), or the testbed's gold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from palate.engine.interfaces import Completions
from palate.errors import RewardError
from palate.rewards.checking import shown


@dataclass(frozen=True)
class FunctionReward:
    """Wraps `function(prompts, completions, **fields) -> list[float]`.

    `prompts` and `completions` are strings; `fields` hold the prompt rows' other columns, one list each, and
    `fields["messages"]` the conversations as role and content.
    """

    name: str
    function: Callable[..., Sequence[float]]

    def score(self, completions: Completions) -> Tensor:
        """The function's numbers, [B]; raises RewardError when it returns anything but numbers."""
        prompts = completions.prompts
        names = sorted({name for prompt in prompts for name in prompt.fields})
        fields: dict[str, Any] = {name: [prompt.fields.get(name) for prompt in prompts] for name in names}
        fields["messages"] = [
            [{"role": message.role, "content": message.content} for message in prompt.messages] for prompt in prompts
        ]
        returned: Any = self.function([prompt.text for prompt in prompts], list(completions.texts), **fields)
        if isinstance(returned, str) or not isinstance(returned, Iterable):
            raise RewardError(
                f"The reward {self.name!r} returned {returned!r} ({type(returned).__name__}) for {len(prompts)} "
                f"completions, the first {shown(completions, 0)}. It must return one number for each, in their order. "
                "Return a list of floats."
            )
        numbers = returned.tolist() if isinstance(returned, Tensor | np.ndarray) else list(returned)
        for row, number in enumerate(numbers[: len(prompts)]):
            if isinstance(number, bool) or not isinstance(number, Real):
                raise RewardError(
                    f"The reward {self.name!r} returned {number!r} ({type(number).__name__}) for "
                    f"{shown(completions, row)}. Every score must be a number. Return a float for each."
                )
        return torch.tensor([float(number) for number in numbers], dtype=torch.float64)
