"""Masked means, variances and mergeable moments by hand; what stands in padding never counts."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palate.ops import Moments, masked_mean, masked_var, moments, zero_masked

NAN = math.nan
X = torch.tensor([[1.0, 2.0, 4.0], [8.0, NAN, NAN], [NAN, NAN, NAN]], dtype=torch.float64)
MASK = torch.tensor([[True, True, True], [True, False, False], [False, False, False]])


def test_mean_over_everything_rows_and_columns():
    assert masked_mean(X, MASK).item() == 15 / 4
    assert masked_mean(X, MASK, dim=1).tolist() == [7 / 3, 8, 0]
    assert masked_mean(X, MASK, dim=0).tolist() == [9 / 2, 2, 4]
    assert masked_mean(X, MASK, dim=(0, 1)).item() == 15 / 4


def test_variance_by_hand():
    # 1, 2, 4: mean 7/3, squared deviations 16/9 + 1/9 + 25/9 = 14/3.
    assert masked_var(X[0], MASK[0]).item() == pytest.approx(7 / 3, rel=1e-15)
    assert masked_var(X[0], MASK[0], unbiased=False).item() == pytest.approx(14 / 9, rel=1e-15)


@pytest.mark.parametrize("row", [1, 2])
@pytest.mark.parametrize("unbiased", [True, False])
def test_one_entry_or_none_has_variance_zero(row, unbiased):
    assert masked_var(X[row], MASK[row], unbiased=unbiased).item() == 0


def test_moments_unpack_as_count_mean_and_squared_deviations():
    n, mean, m2 = moments(X[0], MASK[0])
    assert (n.item(), mean.item()) == (3, 7 / 3)
    assert m2.item() == pytest.approx(14 / 3, rel=1e-15)


def test_a_large_mean_costs_no_digits():
    # Deviations −1, 0, 1 about 10⁴: E[x²] − E[x]² in float32 would be off by whole units.
    x = torch.tensor([9999.0, 10000.0, 10001.0])
    assert masked_var(x, torch.ones(3, dtype=torch.bool)).item() == 1.0


def test_bfloat16_is_summed_in_float32():
    # Summed in bfloat16, 1 + 1 + … stops at 256.
    x = torch.ones(1000, dtype=torch.bfloat16)
    assert masked_mean(x, torch.ones(1000, dtype=torch.bool)).item() == 1.0


@given(seed=st.integers(0, 10**6), cut=st.integers(0, 5))
def test_merged_parts_have_the_moments_of_the_whole(ragged, seed, cut):
    (x,), mask = ragged(seed, 1)
    parts = moments(x[:cut], mask[:cut]), moments(x[cut:], mask[cut:])
    whole = moments(x, mask)
    for merged in (parts[0].merge(parts[1]), parts[1].merge(parts[0])):
        assert isinstance(merged, Moments)
        assert torch.allclose(torch.stack(merged), torch.stack(whole), rtol=1e-12, atol=1e-12)
        assert merged.variance(unbiased=False).item() == pytest.approx(
            masked_var(x, mask, unbiased=False).item(), abs=1e-12
        )


@given(seed=st.integers(0, 10**6), padding=st.integers(1, 4))
def test_padding_appended_changes_no_statistic(ragged, seed, padding):
    for function in (masked_mean, masked_var):
        (x,), mask = ragged(seed, 1)
        (padded,), padded_mask = ragged(seed, 1, padding=padding)
        assert function(padded, padded_mask).item() == pytest.approx(function(x, mask).item(), abs=1e-12)


@pytest.mark.parametrize("function", [masked_mean, masked_var])
def test_nan_in_padding_gives_gradient_zero_there_and_the_right_one_elsewhere(function):
    x = X.clone().requires_grad_()
    function(x, MASK).backward()
    assert x.grad is not None
    assert x.grad[~MASK].tolist() == [0] * 5
    clean = X[MASK].clone().requires_grad_()
    function(clean, torch.ones(4, dtype=torch.bool)).backward()
    assert clean.grad is not None
    assert torch.allclose(x.grad[MASK], clean.grad, atol=1e-15)


def test_zero_masked_stops_nan_in_both_directions():
    x = X.clone().requires_grad_()
    zero_masked(x, MASK).exp().sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.where(MASK, X.exp(), 0))
