"""A reward that is a Python function of strings: the user's own (`rewards.py:brevity`), or the testbed's gold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from palate.engine.interfaces import Completions
from palate.errors import RewardError


@dataclass(frozen=True)
class FunctionReward:
    """Wraps `function(prompts, completions, **fields) -> list[float]`.

    `prompts` and `completions` are strings; `fields` hold the prompt rows' other columns, one list each, and
    `fields["messages"]` the conversations as role and content.
    """

    name: str
    function: Callable[..., Sequence[float]]

    def score(self, completions: Completions) -> Tensor:
        """The function's numbers, [B]; raises RewardError when one is not a number."""
        prompts = completions.prompts
        names = sorted({name for prompt in prompts for name in prompt.fields})
        fields: dict[str, Any] = {name: [prompt.fields.get(name) for prompt in prompts] for name in names}
        fields["messages"] = [
            [{"role": message.role, "content": message.content} for message in prompt.messages] for prompt in prompts
        ]
        numbers = list(self.function([prompt.text for prompt in prompts], list(completions.texts), **fields))
        for row, number in enumerate(numbers[: len(prompts)]):
            if isinstance(number, bool) or not isinstance(number, int | float):
                raise RewardError(
                    f"The reward {self.name!r} returned {number!r} ({type(number).__name__}) for "
                    f"{completions.texts[row][:80]!r} "
                    f"(to the prompt {prompts[row].text[:80]!r}). Every score must be a number. Return a float for "
                    "each."
                )
        return torch.tensor(numbers, dtype=torch.float64)
