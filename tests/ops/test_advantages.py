"""Advantages by hand and against their defining sums; padding and constant groups do no harm."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palate.ops import gae, group_normalised, group_rows, leave_one_out, masked_mean, masked_var, moments, whiten

seeds = st.integers(0, 10**6)


def rows(*values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_gae_on_three_tokens_by_hand():
    # γ = .9, λ = .5, γλ = .45. δ₃ = 2 − 1.5 = .5; δ₂ = .9·1.5 − 1 = .35; δ₁ = 1 + .9·1 − .5 = 1.4.
    # A₃ = .5; A₂ = .35 + .45·.5 = .575; A₁ = 1.4 + .45·.575 = 1.65875. Returns are A + V.
    advantages, returns = gae(
        rewards=rows([1, 0, 2]),
        values=rows([0.5, 1, 1.5]),
        mask=torch.ones(1, 3, dtype=torch.bool),
        gamma=0.9,
        lam=0.5,
    )
    assert advantages[0].tolist() == pytest.approx([1.65875, 0.575, 0.5], rel=1e-14)
    assert returns[0].tolist() == pytest.approx([2.15875, 1.575, 2.0], rel=1e-14)


@given(seed=seeds, gamma=st.sampled_from([0.0, 0.9, 1]), lam=st.sampled_from([0, 0.5, 1.0]))
def test_gae_is_its_defining_sum_over_the_real_tokens(ragged, seed, gamma, lam):
    (rewards, values), mask = ragged(seed, 2)
    advantages, returns = gae(rewards=rewards, values=values, mask=mask, gamma=gamma, lam=lam)
    for row, length in enumerate(mask.sum(1).tolist()):
        r, v = rewards[row, :length].tolist(), [*values[row, :length].tolist(), 0.0]
        delta = [r[t] + gamma * v[t + 1] - v[t] for t in range(length)]
        expected = [sum((gamma * lam) ** (k - t) * delta[k] for k in range(t, length)) for t in range(length)]
        assert advantages[row, :length].tolist() == pytest.approx(expected, abs=1e-12)
        assert returns[row, :length].tolist() == pytest.approx(
            [a + b for a, b in zip(expected, v, strict=False)], abs=1e-12
        )


@given(seed=seeds)
def test_lambda_one_gives_rewards_to_go_as_returns(ragged, seed):
    # Σ_k δ_{t+k} telescopes to the sum of later rewards less V_t, so the critic drops out of the returns.
    (rewards, values), mask = ragged(seed, 2)
    _, returns = gae(rewards=rewards, values=values, mask=mask, gamma=1.0, lam=1.0)
    to_go = torch.where(mask, rewards, 0).flip(1).cumsum(1).flip(1)
    assert torch.allclose(returns, to_go, atol=1e-12)


@given(seed=seeds, padding=st.integers(1, 3))
def test_gae_does_not_see_padding(ragged, seed, padding):
    (rewards, values), mask = ragged(seed, 2)
    expected = gae(rewards=rewards, values=values, mask=mask, gamma=0.9, lam=0.8)
    (rewards, values), mask = ragged(seed, 2, padding=padding)
    found = gae(rewards=rewards, values=values, mask=mask, gamma=0.9, lam=0.8)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one[:, :-padding], other)
        assert one[~mask].eq(0).all()


def test_gae_gradient_is_finite_beside_nan_in_padding():
    values = rows([0.5, 1, math.nan], [math.nan] * 3).requires_grad_()
    mask = torch.tensor([[True, True, False], [False, False, False]])
    advantages, _ = gae(rewards=torch.zeros_like(values).detach(), values=values, mask=mask, gamma=1, lam=0)
    advantages.sum().backward()
    # A₁ + A₂ = (V₂ − V₁) − V₂.
    assert values.grad is not None
    assert values.grad.tolist() == [[-1, 0, 0], [0, 0, 0]]


def test_leave_one_out_by_hand():
    # 1 − (2 + 6)/2, 2 − (1 + 6)/2, 6 − (1 + 2)/2.
    assert leave_one_out(scores=rows([1, 2, 6]))[0].tolist() == pytest.approx([-3, -1.5, 4.5], rel=1e-14)


def test_group_rows_by_hand():
    assert group_rows(group_ids=torch.tensor([7, 1, 7, 1])).tolist() == [[1, 3], [0, 2]]
    with pytest.raises(ValueError, match="groups of 1 to 2 rows"):
        group_rows(group_ids=torch.tensor([7, 1, 7]))


@given(seed=seeds, size=st.integers(1, 4), count=st.integers(1, 5))
def test_group_rows_finds_every_row_once_whatever_the_order(seed, size, count):
    order = torch.randperm(size * count, generator=torch.Generator().manual_seed(seed))
    group_ids = torch.arange(count).repeat_interleave(size)[order] * 3
    rows = group_rows(group_ids=group_ids)
    assert sorted(rows.flatten().tolist()) == list(range(size * count))
    assert group_ids[rows].tolist() == [[3 * group] * size for group in range(count)]


def test_group_normalised_by_hand():
    # Mean 3, deviations −2, −1, 3, unbiased variance 14/2 = 7.
    scores = rows([1, 2, 6], [10, 10, 10])
    expected = [x / (math.sqrt(7) + 1e-4) for x in (-2, -1, 3)]
    normalised = group_normalised(scores=scores)
    assert normalised[0].tolist() == pytest.approx(expected, rel=1e-14)
    assert normalised[1].tolist() == [0, 0, 0]
    assert group_normalised(scores=scores, std=False)[0].tolist() == pytest.approx([-2, -1, 3], rel=1e-14)


@pytest.mark.parametrize("size", [2, 3, 7, 14])
@pytest.mark.parametrize("score", [0.9, 0.1, -3.3, 1e6 + 0.1])
def test_equal_scores_give_exactly_zero_in_float32(size, score):
    # The mean of fourteen float32 0.9 is not 0.9; what is left over, divided by 10⁻⁴, is no advantage.
    scores = torch.full((1, size), score)
    for advantages in (group_normalised(scores=scores), leave_one_out(scores=scores)):
        assert advantages.eq(0).all()


@given(seed=seeds, size=st.integers(2, 6))
def test_groups_are_independent_and_do_not_mind_an_offset(seed, size):
    scores = torch.randn(3, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for function in (group_normalised, leave_one_out):
        together = function(scores=scores)
        assert torch.allclose(together[1:2], function(scores=scores[1:2]), atol=1e-12)
        assert torch.allclose(together, function(scores=scores + 5), atol=1e-10)
        assert torch.allclose(together.sum(1), torch.zeros(3, dtype=torch.float64), atol=1e-10)


def test_a_group_of_one_is_refused():
    for function in (group_normalised, leave_one_out):
        with pytest.raises(ValueError, match="at least 2 completions a prompt"):
            function(scores=rows([1], [2]))


def test_whiten_by_hand():
    # Mean 3, squared deviations 4 + 1 + 1 + 4, unbiased variance 10/3.
    x, mask = rows([1, 2, 4, 5, math.nan]), torch.tensor([[True] * 4 + [False]])
    scale = 1 / math.sqrt(10 / 3 + 1e-8)
    expected = [scale * d for d in (-2, -1, 1, 2)] + [0]
    assert whiten(x, mask)[0].tolist() == pytest.approx(expected, rel=1e-14)
    with_mean = [scale * d + 3 for d in (-2, -1, 1, 2)] + [0]
    assert whiten(x, mask, shift_mean=False)[0].tolist() == pytest.approx(with_mean, rel=1e-14)


@given(seed=seeds)
def test_whitened_entries_have_mean_zero_and_variance_one(ragged, seed):
    (x,), mask = ragged(seed, 1)
    whitened = whiten(x, mask)
    assert masked_mean(whitened, mask).item() == pytest.approx(0, abs=1e-12)
    variance = masked_var(x, mask).item()
    assert masked_var(whitened, mask).item() == pytest.approx(variance / (variance + 1e-8), abs=1e-12)
    assert whitened[~mask].eq(0).all()


def test_a_single_entry_does_not_give_nan():
    x, mask = rows([7, math.nan]), torch.tensor([[True, False]])
    assert whiten(x, mask).tolist() == [[0, 0]]
    assert whiten(x, mask, shift_mean=False).tolist() == [[7, 0]]
    assert whiten(x, torch.zeros_like(mask)).tolist() == [[0, 0]]


@given(seed=seeds, cut=st.integers(0, 5), shift_mean=st.booleans())
def test_micro_batches_whitened_by_merged_moments_equal_the_whole(ragged, seed, cut, shift_mean):
    (x,), mask = ragged(seed, 1)
    merged = moments(x[:cut], mask[:cut]).merge(moments(x[cut:], mask[cut:]))
    parts = [whiten(x[part], mask[part], shift_mean, moments=merged) for part in (slice(cut), slice(cut, None))]
    assert torch.allclose(torch.cat(parts), whiten(x, mask, shift_mean), atol=1e-9)


def test_whiten_gradient_is_finite_beside_nan_in_padding():
    x = rows([1, 2, math.nan, 5]).requires_grad_()
    mask = torch.tensor([[True, True, False, True]])
    whiten(x, mask).square().sum().backward()
    assert x.grad is not None
    # Σ of squares is (n − 1)·var/(var + 10⁻⁸): all but constant.
    assert x.grad[0].tolist() == pytest.approx([0, 0, 0, 0], abs=1e-7)
