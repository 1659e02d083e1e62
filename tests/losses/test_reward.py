"""Comparisons, ties, rankings and ratings against hand numbers and the probabilities that they must be."""

import math
from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from palate.losses import (
    all_pairs,
    attribute_regression,
    bradley_terry,
    comparisons,
    davidson,
    plackett_luce,
    soft_bradley_terry,
)


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


# ---- ties


def davidson_loss(first: float, second: float, preference: float, tie_weight: float = 1.0) -> float:
    return davidson(
        first=vector(first), second=vector(second), preference=vector(preference), tie_weight=tie_weight
    ).item()


def test_a_soft_label_by_hand():
    # d = log 3: P = ¾. Half the loss of a win, half that of a defeat.
    found = soft_bradley_terry(first=vector(math.log(3), 1, 1), second=vector(0, 1, 0), preference=vector(0.5, 0.5, 1))
    expected = [(math.log(4 / 3) + math.log(4)) / 2, math.log(2), math.log(1 + math.exp(-1))]
    assert found.tolist() == pytest.approx(expected, rel=1e-14)


@given(st.floats(-30, 30), st.floats(0, 1))
def test_a_soft_label_from_the_other_side_is_its_complement(difference, preference):
    one = soft_bradley_terry(first=vector(difference), second=vector(0), preference=vector(preference)).item()
    other = soft_bradley_terry(first=vector(0), second=vector(difference), preference=vector(1 - preference)).item()
    assert one == pytest.approx(other, rel=1e-12, abs=1e-12)


def test_davidson_by_hand():
    # Equals with ν = 1: win, tie and defeat at ⅓ each; with ν = 2 a tie has 2/4.
    assert [davidson_loss(1, 1, p) for p in (1, 0.5, 0)] == pytest.approx([math.log(3)] * 3, rel=1e-14)
    assert davidson_loss(1, 1, 0.5, 2.0) == pytest.approx(math.log(2), rel=1e-14)
    # d = 2·log 2, ν = ½: weights 2, ½ and ½ of win, defeat and tie: 2/3 and 1/6.
    losses = [davidson_loss(2 * math.log(2), 0, p, 0.5) for p in (1, 0.5, 0)]
    assert losses == pytest.approx([math.log(1.5), math.log(6), math.log(6)], rel=1e-14)


@given(difference=st.floats(-20, 20), tie_weight=st.floats(0.01, 10))
def test_davidsons_three_outcomes_sum_to_one_and_do_not_depend_on_the_offset(difference, tie_weight):
    losses = [davidson_loss(difference, 0, p, tie_weight) for p in (1, 0.5, 0)]
    assert sum(math.exp(-loss) for loss in losses) == pytest.approx(1, rel=1e-12)
    assert [davidson_loss(difference + 3, 3, p, tie_weight) for p in (1, 0.5, 0)] == pytest.approx(losses, abs=1e-12)
    assert davidson_loss(0, difference, 0, tie_weight) == pytest.approx(losses[0], abs=1e-12)


def test_without_ties_davidson_is_bradley_terry():
    # P(first wins)/P(second wins) = e^d whatever ν; with ν → 0 nothing else is left.
    expected = bradley_terry(chosen=vector(1.3), rejected=vector(0.4)).item()
    assert davidson_loss(1.3, 0.4, 1, 1e-12) == pytest.approx(expected, abs=1e-11)


def test_davidson_derivative_and_refusal():
    inputs = tuple(vector(*x).requires_grad_() for x in ((1, -2, 0.3), (0.5, 1, 0.3)))
    assert gradcheck(lambda a, b: davidson(first=a, second=b, preference=vector(1, 0.5, 0), tie_weight=0.7), inputs)
    with pytest.raises(ValueError, match="tie_weight is 0"):
        davidson_loss(0, 0, 0.5, 0)


# ---- all pairs of a ranking


def pairs_loss(scores: list[float], ranks: list[int], mask: list[bool] | None = None, **settings) -> float:
    mask = [True] * len(ranks) if mask is None else mask
    return all_pairs(
        scores=vector(*scores).unsqueeze(0), ranks=torch.tensor([ranks]), mask=torch.tensor([mask]), **settings
    ).item()


def log_loss(difference: float) -> float:
    return math.log(1 + math.exp(-difference))


def test_all_pairs_by_hand():
    # Scores 3, 1, 0 ranked in that order: the mean of −log σ over the differences 2, 3 and 1.
    assert pairs_loss([3, 1, 0], [0, 1, 2]) == pytest.approx((log_loss(2) + log_loss(3) + log_loss(1)) / 3, rel=1e-14)
    # The middle one last: differences 3 (first against third), 2 (first against second), −1 (third against second).
    assert pairs_loss([3, 1, 0], [0, 2, 1]) == pytest.approx((log_loss(2) + log_loss(3) + log_loss(-1)) / 3, rel=1e-14)


@given(
    scores=st.lists(st.floats(-5, 5), min_size=2, max_size=5),
    ranks=st.lists(st.integers(0, 3), min_size=5, max_size=5),
)
@pytest.mark.parametrize("ties", ["skip", "half", "davidson"])
def test_all_pairs_are_the_mean_of_single_comparisons(ties, scores, ranks):
    ranks = ranks[: len(scores)]
    losses = []
    for i in range(len(scores)):
        for j in range(len(scores)):
            tied = ranks[i] == ranks[j] and i < j and ties != "skip"
            if ranks[i] < ranks[j] or tied:
                preference = 0.5 if tied else 1.0
                if ties == "davidson":
                    losses.append(davidson_loss(scores[i], scores[j], preference, 0.3))
                else:
                    pair = {"first": vector(scores[i]), "second": vector(scores[j])}
                    losses.append(soft_bradley_terry(**pair, preference=vector(preference)).item())
    expected = sum(losses) / max(len(losses), 1)
    settings = {"ties": ties, "tie_weight": 0.3}
    assert pairs_loss(scores, ranks, **settings) == pytest.approx(expected, rel=1e-12, abs=1e-12)
    # Nor do the order in the row, an offset of the scores, or masked company matter.
    assert pairs_loss(scores[::-1], ranks[::-1], **settings) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert pairs_loss([s + 7 for s in scores], ranks, **settings) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    mask = [True] * len(scores) + [False]
    assert pairs_loss([*scores, math.nan], [*ranks, 0], mask, **settings) == pytest.approx(expected, rel=1e-12)


def test_each_prompt_counts_once_however_many_it_ranks():
    # Two equal scores cost ln 2 a comparison: six comparisons of four, one of two.
    scores, mask = torch.zeros(2, 4), torch.tensor([[True] * 4, [True, True, False, False]])
    found = all_pairs(scores=scores, ranks=torch.tensor([[0, 1, 2, 3], [0, 1, 0, 0]]), mask=mask)
    assert found.tolist() == pytest.approx([math.log(2)] * 2, rel=1e-6)


def test_a_pair_is_bradley_terry_and_a_flat_row_is_nothing():
    assert pairs_loss([0.3, 1.7], [1, 0]) == pytest.approx(
        bradley_terry(chosen=vector(1.7), rejected=vector(0.3)).item(), rel=1e-14
    )
    assert pairs_loss([0.3, 1.7], [0, 0]) == 0
    assert pairs_loss([0.3, 1.7], [0, 0], ties="half") > 0


def test_masked_completions_get_no_gradient_from_pairs():
    scores = torch.tensor([[1.0, math.nan, 0.5], [math.nan] * 3], dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True, False, True], [False] * 3])
    with torch.autograd.set_detect_anomaly(True):
        loss = all_pairs(scores=scores, ranks=torch.tensor([[0, 1, 1], [0, 1, 2]]), mask=mask)
        loss.sum().backward()
    slope = 1 / (1 + math.exp(0.5))  # ∂/∂s of −log σ(.5)
    assert scores.grad is not None
    assert scores.grad[0].tolist() == pytest.approx([-slope, 0, slope], rel=1e-14)
    assert scores.grad[1].tolist() == [0, 0, 0]


@pytest.mark.parametrize("ties", ["skip", "half", "davidson"])
def test_all_pairs_derivative(ties):
    scores = vector(0.3, -1, 2, 0.5).unsqueeze(0).requires_grad_()
    ranks, mask = torch.tensor([[1, 0, 2, 2]]), torch.ones(1, 4, dtype=torch.bool)
    assert gradcheck(lambda s: all_pairs(scores=s, ranks=ranks, mask=mask, ties=ties), scores)


def test_an_unknown_way_with_ties_is_refused():
    with pytest.raises(ValueError, match="ties is 'drop'"):
        pairs_loss([0, 1], [0, 1], ties="drop")


def test_each_comparison_is_made_once_the_better_first():
    ranks, mask = torch.tensor([[1, 0, 1]]), torch.ones(1, 3, dtype=torch.bool)
    ordered = [[False, False, False], [True, False, True], [False, False, False]]
    assert comparisons(ranks=ranks, mask=mask, ties=False)[0].tolist() == ordered
    assert comparisons(ranks=ranks, mask=mask, ties=True)[0].nonzero().tolist() == [[0, 2], [1, 0], [1, 2]]


# ---- ratings


def test_regression_counts_only_what_was_scored():
    predictions = torch.tensor([[1.0, 2.0], [0.0, 3.0]], requires_grad=True)
    targets = torch.tensor([[3.0, math.nan], [0.5, 3.0]])
    with torch.autograd.set_detect_anomaly(True):
        loss = attribute_regression(predictions=predictions, targets=targets, mask=~targets.isnan())
        loss.sum().backward()
    assert loss.tolist() == [[4, 0], [0.25, 0]]
    assert predictions.grad is not None
    assert predictions.grad.tolist() == [[-4, 0], [-1, 0]]  # 2·(r − s)
