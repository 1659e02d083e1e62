"""Bradley-Terry and Plackett-Luce against hand numbers and the probabilities that they must be."""

import math
from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from palate.losses import bradley_terry, plackett_luce


def vector(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def ranking_loss(scores: list[float], ranks: list[int], mask: list[bool] | None = None) -> float:
    mask = [True] * len(ranks) if mask is None else mask
    return plackett_luce(
        scores=vector(*scores).unsqueeze(0), ranks=torch.tensor([ranks]), mask=torch.tensor([mask])
    ).item()


def test_bradley_terry_by_hand():
    # P(win) = σ(2 − 1) = e/(e + 1); ∂/∂r_chosen = −(1 − P) = −1/(e + 1).
    chosen, rejected = vector(2, 3).requires_grad_(), vector(1, 3).requires_grad_()
    loss = bradley_terry(chosen=chosen, rejected=rejected)
    assert loss.tolist() == pytest.approx([math.log(1 + math.exp(-1)), math.log(2)], rel=1e-14)
    loss.sum().backward()
    assert chosen.grad is not None
    assert rejected.grad is not None
    assert chosen.grad.tolist() == pytest.approx([-1 / (math.e + 1), -0.5], rel=1e-14)
    assert torch.equal(rejected.grad, -chosen.grad)


def test_a_margin_must_be_won_by():
    loss = bradley_terry(chosen=vector(2), rejected=vector(1), margin=vector(1))
    assert loss.item() == pytest.approx(math.log(2), rel=1e-14)


def test_bradley_terry_survives_extreme_scores():
    chosen = torch.tensor([-1e4, 1e4], requires_grad=True)
    loss = bradley_terry(chosen=chosen, rejected=-chosen.detach())
    loss.sum().backward()
    assert loss.tolist() == [2e4, 0]
    assert chosen.grad is not None
    assert chosen.grad.tolist() == [-1, 0]


def test_bradley_terry_derivative():
    inputs = tuple(vector(*x).requires_grad_() for x in ((1, -2, 0.3), (0.5, 1, 0.3), (0, 0.2, -1)))
    assert gradcheck(lambda c, r, m: bradley_terry(chosen=c, rejected=r, margin=m), inputs)


def test_plackett_luce_by_hand():
    # Weights 3, 2, 1, ranked in that order: 3/6 · 2/3 · 1/1 = 1/3.
    scores = [math.log(3), math.log(2), 0.0]
    assert ranking_loss(scores, [0, 1, 2]) == pytest.approx(math.log(3), rel=1e-14)
    # In the opposite order: 1/6 · 2/5 · 1.
    assert ranking_loss(scores, [2, 1, 0]) == pytest.approx(math.log(15), rel=1e-14)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=4))
def test_the_probabilities_of_all_rankings_sum_to_one(scores):
    total = sum(math.exp(-ranking_loss(scores, list(p))) for p in permutations(range(len(scores))))
    assert total == pytest.approx(1, rel=1e-12)


@given(st.floats(-50, 50), st.floats(-50, 50))
def test_two_completions_give_bradley_terry(chosen, rejected):
    expected = bradley_terry(chosen=vector(chosen), rejected=vector(rejected)).item()
    assert ranking_loss([rejected, chosen], [1, 0]) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(
    scores=st.lists(st.floats(-5, 5), min_size=3, max_size=3),
    ranks=st.lists(st.integers(0, 2), min_size=3, max_size=3),
)
def test_order_in_the_row_offset_and_spacing_of_ranks_do_not_matter(scores, ranks):
    loss = ranking_loss(scores, ranks)
    assert ranking_loss(scores[::-1], ranks[::-1]) == pytest.approx(loss, abs=1e-12)
    assert ranking_loss([s + 7 for s in scores], ranks) == pytest.approx(loss, abs=1e-12)
    assert ranking_loss(scores, [10 * rank + 3 for rank in ranks]) == pytest.approx(loss, abs=1e-12)


def test_equals_stand_in_each_others_sums():
    # Both of two equals lose to neither: −log ½ for each.
    assert ranking_loss([1.5, 1.5], [0, 0]) == pytest.approx(2 * math.log(2), rel=1e-14)


@pytest.mark.parametrize("rank", [-1, 0, 5])
def test_masked_completions_do_not_count_whatever_they_hold(rank):
    expected = ranking_loss([1.0, 0.5], [1, 0])
    assert ranking_loss([math.nan, 1.0, 0.5, math.inf], [rank, 1, 0, rank], [False, True, True, False]) == expected


def test_masked_completions_and_empty_rows_have_no_gradient():
    scores = torch.tensor([[1.0, math.nan, 0.5], [math.nan] * 3], dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True, False, True], [False] * 3])
    with torch.autograd.set_detect_anomaly(True):  # which finds a NaN even where it is masked again later
        loss = plackett_luce(scores=scores, ranks=torch.tensor([[0, 1, 1], [0, 1, 2]]), mask=mask)
        loss.sum().backward()
    assert loss[1].item() == 0
    # ∂/∂s of −log σ(.5).
    slope = 1 / (1 + math.exp(0.5))
    assert scores.grad is not None
    assert scores.grad[0].tolist() == pytest.approx([-slope, 0, slope], rel=1e-14)
    assert scores.grad[1].tolist() == [0, 0, 0]


def test_plackett_luce_survives_extreme_scores():
    assert ranking_loss([1e4, 0.0, -1e4], [2, 1, 0]) == pytest.approx(3e4, rel=1e-12)


def test_plackett_luce_derivative():
    scores = vector(0.3, -1, 2, 0.5).unsqueeze(0).requires_grad_()
    ranks, mask = torch.tensor([[1, 0, 2, 2]]), torch.ones(1, 4, dtype=torch.bool)
    assert gradcheck(lambda s: plackett_luce(scores=s, ranks=ranks, mask=mask), scores)
