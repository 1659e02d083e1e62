"""Random numbers as functions of names: nothing in Palate draws from a hidden global stream.

A stream is fixed by what it is for (seed, iteration, row, sample), so that batch composition, resuming and the
order of work change nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed for one purpose: the first bytes of SHA-256 over the seed and the purpose's names."""
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, *names: str | int) -> torch.Generator:
    """A torch generator on the CPU for one purpose."""
    return torch.Generator().manual_seed(derive(seed, *names))


def uniforms(seed: int, iteration: int, rows: Sequence[int], samples: Sequence[int], length: int) -> Tensor:
    """One uniform number in [0, 1) for every token of every row, [B, length] in float64.

    Row b's numbers depend on (seed, iteration, rows[b], samples[b]) alone: the counter-based generator Philox is
    keyed by a hash of the four.
    """
    numbers = np.empty((len(rows), length))
    for index, (row, sample) in enumerate(zip(rows, samples, strict=True)):
        key = derive(seed, "sampling", iteration, row, sample)
        numbers[index] = np.random.Generator(np.random.Philox(key=key)).random(length)
    return torch.from_numpy(numbers)


def permutation(count: int, seed: int, *names: str | int) -> Tensor:
    """A random order of `count` things for one purpose, int64 [count]."""
    order = np.random.Generator(np.random.Philox(key=derive(seed, *names))).permutation(count)
    return torch.from_numpy(order)
