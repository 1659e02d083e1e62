"""Completions as a judge is given them."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from palate.engine.interfaces import Completions
from palate.records import Prompt


def written(*texts: str, lengths: Sequence[int] | None = None, **fields: Sequence[Any]) -> Completions:
    """Completions of as many tokens as characters, or as `lengths` say; ids count up from 0 and repeat nothing."""
    lengths = [len(text) for text in texts] if lengths is None else lengths
    mask = torch.arange(max(lengths))[None, :] < torch.tensor(lengths)[:, None]
    prompts = tuple(
        Prompt.of(f"question {row}", **{name: column[row] for name, column in fields.items()})
        for row in range(len(texts))
    )
    return Completions(prompts, tuple((1,) for _ in texts), torch.arange(max(lengths)) * mask, mask, texts)


@pytest.fixture(scope="session")
def completions() -> Callable[..., Completions]:
    """`completions("a", "b", lengths=[3, 1], answer=[4, 5])`: texts, their tokens, and columns of their rows."""
    return written
