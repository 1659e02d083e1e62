"""A loss reduced by hand, and in parts: micro-batches and padding must change neither value nor gradient."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palate.ops import reduce, sequence_mean

LOSS = torch.tensor([[1.0, 2.0, 6.0], [4.0, math.nan, math.nan], [math.nan] * 3], dtype=torch.float64)
MASK = torch.tensor([[True, True, True], [True, False, False], [False, False, False]])


def test_by_hand():
    assert reduce(loss=LOSS, mask=MASK, by="token", denominator=4).item() == 13 / 4
    assert reduce(loss=LOSS, mask=MASK, by="sequence", denominator=2).item() == (3 + 4) / 2
    assert reduce(loss=LOSS, mask=MASK, by="fixed", denominator=torch.tensor(9)).item() == 13 / 9


@given(
    seed=st.integers(0, 10**6),
    cut=st.integers(0, 5),
    padding=st.integers(0, 3),
    by=st.sampled_from(["token", "sequence", "fixed"]),
)
def test_micro_batches_add_up_to_the_batch(ragged, seed, cut, padding, by):
    (whole,), mask = ragged(seed, 1)
    (parts,), parts_mask = ragged(seed, 1, padding=padding)
    whole.requires_grad_()
    parts.requires_grad_()
    value = reduce(loss=whole, mask=mask, by=by, denominator=7.0)
    summed = torch.stack(
        [
            reduce(loss=parts[rows], mask=parts_mask[rows], by=by, denominator=7.0)
            for rows in (slice(cut), slice(cut, None))
        ]
    ).sum()
    assert summed.item() == pytest.approx(value.item(), abs=1e-12)
    (expected,) = torch.autograd.grad(value, whole)
    (found,) = torch.autograd.grad(summed, parts)
    assert torch.allclose(found[:, : whole.shape[1]], expected, rtol=1e-12, atol=1e-15)
    assert found[~parts_mask].eq(0).all()


def test_an_unknown_way_is_refused():
    with pytest.raises(ValueError, match="'mean'"):
        reduce(loss=LOSS, mask=MASK, by="mean", denominator=4)


@pytest.mark.parametrize("denominator", [0, -1.0, math.nan])
def test_a_denominator_that_is_not_positive_is_refused(denominator):
    with pytest.raises(ValueError, match="denominator is"):
        reduce(loss=LOSS, mask=MASK, by="token", denominator=denominator)


def test_sequence_mean_by_hand():
    # (1 + 2 + 6)/3 at each of three tokens, 4 at the one, nothing in a row without any.
    assert sequence_mean(LOSS, MASK).tolist() == [[3, 3, 3], [4, 0, 0], [0, 0, 0]]


def test_the_gradient_of_a_sequence_mean_reaches_every_real_token_alike():
    x = LOSS.clone().requires_grad_()
    sequence_mean(x, MASK)[:, 0].sum().backward()
    assert x.grad.flatten().tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 1, 0, 0, 0, 0, 0])
