"""Resumable sampling: every row once an epoch, the same from any place, within the tokens allowed."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.data.sampling import Cursor, batch, token_batches
from palate.errors import UsageError

SEEDS = st.integers(-(2**63), 2**64 - 1)
LENGTHS = st.lists(st.integers(1, 300), max_size=200)


def drawn(n_rows: int, sizes: list[int], seed: int) -> list[int]:
    rows: list[int] = []
    cursor = Cursor()
    for size in sizes:
        taken, cursor = batch(n_rows, size, cursor, seed)
        assert len(taken) == size
        rows.extend(taken)
    return rows


@given(st.integers(1, 40), st.lists(st.integers(1, 50), min_size=1, max_size=8), SEEDS)
def test_each_epoch_is_a_permutation_whatever_the_batch_sizes(n_rows: int, sizes: list[int], seed: int) -> None:
    rows = drawn(n_rows, sizes, seed)
    for start in range(0, len(rows), n_rows):
        epoch = rows[start : start + n_rows]
        assert len(set(epoch)) == len(epoch)
        assert set(epoch) <= set(range(n_rows))


@given(st.integers(1, 40), st.lists(st.integers(1, 50), min_size=1, max_size=8), SEEDS)
def test_batch_size_does_not_change_the_order(n_rows: int, sizes: list[int], seed: int) -> None:
    assert drawn(n_rows, sizes, seed) == drawn(n_rows, [sum(sizes)], seed)


def test_the_cursor_counts_rows_and_epochs() -> None:
    # 7 rows, batches of 5: 5 of epoch 0; then its last 2 and 3 of epoch 1; then its last 4 and 1 of epoch 2.
    _, first = batch(7, 5, Cursor(), seed=3)
    _, second = batch(7, 5, first, seed=3)
    _, third = batch(7, 5, second, seed=3)
    assert (first, second, third) == (Cursor(0, 5), Cursor(1, 3), Cursor(2, 1))


def test_the_same_place_gives_the_same_rows_and_others_do_not() -> None:
    here = batch(1000, 50, Cursor(4, 100), seed=1)
    assert here == batch(1000, 50, Cursor(4, 100), seed=1)
    assert here[0] != batch(1000, 50, Cursor(4, 100), seed=2)[0]
    assert here[0] != batch(1000, 50, Cursor(5, 100), seed=1)[0]


def test_permutations_are_uniform() -> None:
    # Of 6,000 seeds each of the 3! = 6 orders of three rows comes about 1,000 times; the standard deviation
    # of each count is √(6000 · 1/6 · 5/6) = 29, and five of them are 145.
    counts: dict[tuple[int, ...], int] = {}
    for seed in range(6000):
        order, _ = batch(3, 3, Cursor(), seed)
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 6
    assert all(abs(count - 1000) < 145 for count in counts.values())


@pytest.mark.parametrize(("n_rows", "size", "cursor"), [(0, 1, Cursor()), (3, 0, Cursor()), (3, 1, Cursor(0, 4))])
def test_what_cannot_be_drawn_is_refused(n_rows: int, size: int, cursor: Cursor) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        batch(n_rows, size, cursor, seed=0)


@given(LENGTHS, st.integers(1, 1000), SEEDS, st.integers(0, 5))
def test_token_batches_hold_every_row_once_within_the_tokens_allowed(
    lengths: list[int], batch_tokens: int, seed: int, epoch: int
) -> None:
    batches = token_batches(lengths, batch_tokens, seed, epoch)
    assert sorted(row for rows in batches for row in rows) == list(range(len(lengths)))
    assert all(rows for rows in batches)
    assert all(len(rows) == 1 or sum(lengths[row] for row in rows) <= batch_tokens for rows in batches)
    assert batches == token_batches(lengths, batch_tokens, seed, epoch)


def test_token_batches_change_with_epoch_and_seed() -> None:
    lengths = [1 + row % 50 for row in range(400)]
    first = token_batches(lengths, 200, seed=0, epoch=0)
    assert first != token_batches(lengths, 200, seed=0, epoch=1)
    assert first != token_batches(lengths, 200, seed=1, epoch=0)


def test_neighbours_have_similar_lengths_and_batches_come_in_random_order() -> None:
    lengths = [1 + 37 * row % 100 for row in range(2000)]
    batches = token_batches(lengths, 500, seed=0, epoch=0)
    useful = sum(lengths)
    padded = sum(len(rows) * max(lengths[row] for row in rows) for rows in batches)
    # Without sorting it is near one half, the mean of 1 to 100 against their maximum.
    assert useful / padded > 0.9
    # Two numbers drawn from 1 to 100 are 33 apart on average; sorted neighbours about 100·10/320.
    longest = [max(lengths[row] for row in rows) for rows in batches]
    apart = [abs(a - b) for a, b in itertools.pairwise(longest)]
    assert sum(apart) / len(apart) > 20


def test_batches_are_filled_to_the_tokens_allowed_and_no_further() -> None:
    # Rows of 2 tokens: two of them fit into 5 tokens, and three into 6.
    for batch_tokens, rows in ((5, 2), (6, 3)):
        assert {len(held) for held in token_batches([2] * 12, batch_tokens, seed=0, epoch=0)} == {rows}


def test_a_row_longer_than_a_batch_stands_alone() -> None:
    batches = token_batches([3, 50, 3, 3], 10, seed=0, epoch=0)
    assert (1,) in batches
    assert len(batches) == 2


def test_batches_are_nearly_full() -> None:
    # Rows of at most 20 tokens leave less than 20 of 500 empty in every batch but the last one filled.
    lengths = [1 + 37 * row % 20 for row in range(2000)]
    totals = sorted(sum(lengths[row] for row in rows) for rows in token_batches(lengths, 500, seed=0, epoch=0))
    assert totals[1] > 480


def test_seeds_that_differ_in_their_lowest_bit_alone_differ() -> None:
    assert batch(100, 100, Cursor(), 2**63 + 1)[0] != batch(100, 100, Cursor(), 2**63)[0]


def philox_block(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x64-10 of Salmon et al. (2011), section 4.3, in plain integers: four words of one counter."""
    word = 2**64
    for _ in range(10):
        first, second = 0xD2E7470EE14C6C93 * counter[0], 0xCA5A826395121157 * counter[2]
        counter = [
            (second // word) ^ counter[1] ^ key[0],
            second % word,
            (first // word) ^ counter[3] ^ key[1],
            first % word,
        ]
        key = [(key[0] + 0x9E3779B97F4A7C15) % word, (key[1] + 0xBB67AE8584CAA73B) % word]
    return counter


def test_the_order_is_that_of_the_published_generator() -> None:
    # A resumed run depends on the order, so it must not change with NumPy, whose first counter is 1.
    words = [word for number in (1, 2, 3) for word in philox_block([number, 0, 0, 0], [5, 7])]
    assert batch(12, 12, Cursor(7, 0), seed=5)[0] == tuple(sorted(range(12), key=words.__getitem__))
