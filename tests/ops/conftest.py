"""Random right-padded batches for the tests of tensor mathematics."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

Ragged = Callable[..., tuple[list[Tensor], Tensor]]


@pytest.fixture(scope="session")
def ragged() -> Ragged:
    """`ragged(seed, count)` gives `count` float64 tensors [B, T] and a right-padded mask; rows may be empty.

    `padding` more columns may be asked for; the real entries stay the same, and every masked one is NaN.
    """

    def make(seed: int, count: int, padding: int = 0) -> tuple[list[Tensor], Tensor]:
        generator = torch.Generator().manual_seed(seed)
        batch, time = torch.randint(1, 5, (2,), generator=generator).tolist()
        lengths = torch.randint(0, time + 1, (batch,), generator=generator)
        tensors = torch.randn(count, batch, time, generator=generator, dtype=torch.float64)
        tensors = torch.nn.functional.pad(tensors, (0, padding), value=float("nan"))
        mask = torch.arange(time + padding) < lengths.unsqueeze(1)
        return [x.masked_fill(~mask, float("nan")) for x in tensors], mask

    return make
