"""Which rows come next, as a pure function of the seed and the place reached.

Orders come from the raw words of the Philox generator (Salmon et al., 2011), whose stream NumPy promises to
keep; the shuffles of `numpy.random.Generator` may change between its versions, and a resumed run must not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from palate.errors import UsageError

_ROWS, _BATCHES = 0, 1  # what an order is for; the two never share random words
_WINDOW = 32  # batches among which rows of similar length may find each other


@dataclass(frozen=True, slots=True)
class Cursor:
    """The place in an endless reading of the data: `position` rows of epoch `epoch` have been handed out."""

    epoch: int = 0
    position: int = 0


def batch(n_rows: int, size: int, cursor: Cursor, seed: int) -> tuple[tuple[int, ...], Cursor]:
    """The next `size` row indices and the place after them; each epoch is a fresh permutation of all rows.

    A batch that reaches the end of an epoch is filled from the next, so none is short and no row is left out.
    Raises `UsageError` where there are no rows, or the cursor belongs to a longer data set.
    """
    if n_rows < 1 or size < 1 or cursor.position > n_rows:
        raise UsageError(
            f"A batch of {size} was asked for from {n_rows} rows at {cursor}; rows and size must be at least "
            "1 and the position at most the number of rows. If the data changed, start the run afresh."
        )
    rows: list[int] = []
    epoch, position = cursor.epoch, cursor.position
    while len(rows) < size:
        if position == n_rows:
            epoch, position = epoch + 1, 0
        taken = _order(n_rows, seed, epoch, _ROWS)[position : position + size - len(rows)]
        rows.extend(taken.tolist())
        position += len(taken)
    return tuple(rows), Cursor(epoch, position)


def token_batches(lengths: Sequence[int], batch_tokens: int, seed: int, epoch: int) -> list[tuple[int, ...]]:
    """An epoch's rows in batches of at most `batch_tokens` tokens, each row once, the batches shuffled.

    Rows are shuffled, sorted by length inside windows of about 32 batches, and filled in that order, so that
    rows of one batch have similar lengths and little is padded. A row longer than `batch_tokens` is a batch
    of its own.
    """
    if not lengths:
        return []
    shuffled = _order(len(lengths), seed, epoch, _ROWS)
    sizes = np.asarray(lengths, dtype=np.int64)[shuffled]
    windows = (np.cumsum(sizes) - sizes) // (_WINDOW * batch_tokens)
    rising = np.where(windows % 2 == 0, sizes, -sizes)  # then falling: no jump between windows
    filled = _filled(shuffled[np.lexsort((rising, windows))].tolist(), lengths, batch_tokens)
    return [filled[index] for index in _order(len(filled), seed, epoch, _BATCHES)]


def _filled(rows: Sequence[int], lengths: Sequence[int], batch_tokens: int) -> list[tuple[int, ...]]:
    batches: list[tuple[int, ...]] = []
    held: list[int] = []
    tokens = 0
    for row in rows:
        if held and tokens + lengths[row] > batch_tokens:
            batches.append(tuple(held))
            held, tokens = [], 0
        held.append(row)
        tokens += lengths[row]
    batches.append(tuple(held))
    return batches


@lru_cache(maxsize=4)
def _order(n: int, seed: int, epoch: int, purpose: int) -> np.ndarray:
    """A random permutation of n things, [n]: the order of random words, whose rare ties keep their place."""
    key = np.array([seed % 2**64, epoch], dtype=np.uint64)  # a plain list may turn to floats and lose bits
    words = np.random.Philox(counter=np.array([0, 0, 0, purpose], dtype=np.uint64), key=key).random_raw(n)
    order = np.argsort(words, kind="stable")
    order.flags.writeable = False
    return order
