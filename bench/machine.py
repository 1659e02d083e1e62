"""The rate of matrix products on this machine, measured as part of a run: what the fractions in the tables are of.

Run as a process, `python -m bench.machine DEVICE THREADS TOKENS HIDDEN`, it prints the rates as one JSON line.
"""

from __future__ import annotations

import json
import sys
import time

import torch

# The best rate is that of a large square product; a smaller one ends sooner and tells less.
SQUARE = {"cpu": 2048, "cuda": 8192}


def matrix_rate(rows: int, inner: int, columns: int, device: str, seconds: float = 0.5) -> float:
    """The best of repeated products [rows, inner] × [inner, columns], in operations a second (2·rows·inner·columns
    each); float32 on the CPU, bfloat16 on a GPU."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    left = torch.randn(rows, inner, device=device, dtype=dtype)
    right = torch.randn(inner, columns, device=device, dtype=dtype)
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        torch.matmul(left, right)
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return 2 * rows * inner * columns / best


def rates(device: str, tokens: int, hidden: int) -> dict[str, float]:
    """The rate at a large square shape, and at that of training: tokens of a step through a layer four times as wide
    as the model."""
    side = SQUARE[device]
    return {
        "square": matrix_rate(side, side, side, device),
        "training": matrix_rate(tokens, hidden, 4 * hidden, device),
    }


if __name__ == "__main__":
    kind, threads, token_count, width = sys.argv[1], *map(int, sys.argv[2:])
    torch.set_num_threads(threads)
    print(json.dumps(rates(kind, token_count, width)))
