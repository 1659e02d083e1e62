"""DPO, IPO, hinge, SimPO and ORPO against hand numbers, their invariances and their minima."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from palate.losses import dpo, hinge, ipo, log_odds, orpo, simpo

NAMES = ("chosen", "rejected", "ref_chosen", "ref_rejected")
WITH_REFERENCE = {
    "dpo": lambda **sides: dpo(**sides, beta=0.5),
    "cdpo": lambda **sides: dpo(**sides, beta=0.5, label_smoothing=0.1),
    "ipo": lambda **sides: ipo(**sides, tau=0.25),
    "hinge": lambda **sides: hinge(**sides, beta=0.5),
}
LOGPROB = st.floats(-50, -0.01)


def vector(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def of(loss, *values: float) -> float:
    """The loss of one pair: log-probabilities of chosen, rejected, and both under the reference."""
    return WITH_REFERENCE[loss](**dict(zip(NAMES, map(vector, values), strict=True))).item()


# Chosen −3, rejected −5, reference −4 and −4.5: h = (−3 + 4) − (−5 + 4.5) = 1.5, β·h = .75.
PAIR = (-3.0, -5.0, -4.0, -4.5)
BY_HAND = {
    "dpo": math.log(1 + math.exp(-0.75)),
    "cdpo": 0.9 * math.log(1 + math.exp(-0.75)) + 0.1 * math.log(1 + math.exp(0.75)),
    "ipo": 0.25,  # (1.5 − 1/(2 · ¼))² = (−½)²
    "hinge": 0.25,  # 1 − .75
}
# d loss / d chosen, with dh/d chosen = 1: −β·σ(−β·h); smoothed, β·(σ(β·h) − .9); 2·(h − 2); −β
SLOPES = {
    "dpo": -0.5 / (1 + math.exp(0.75)),
    "cdpo": 0.5 * (1 / (1 + math.exp(-0.75)) - 0.9),
    "ipo": -1.0,
    "hinge": -0.5,
}


@pytest.mark.parametrize("loss", WITH_REFERENCE)
def test_value_and_gradient_by_hand(loss):
    sides = {name: vector(value).requires_grad_() for name, value in zip(NAMES, PAIR, strict=True)}
    found = WITH_REFERENCE[loss](**sides)
    assert found.item() == pytest.approx(BY_HAND[loss], rel=1e-14)
    slopes = [slope.item() for slope in torch.autograd.grad(found.sum(), list(sides.values()))]
    slope = SLOPES[loss]  # h falls with what it rises with, negated: rejected and the reference's chosen side
    assert slopes == pytest.approx([slope, -slope, -slope, slope], rel=1e-14)


@pytest.mark.parametrize(("loss", "start"), [("dpo", math.log(2)), ("cdpo", math.log(2)), ("ipo", 4.0), ("hinge", 1.0)])
def test_the_reference_itself_starts_at_a_known_loss(loss, start):
    # h = 0: −log ½ whatever ε; (0 − 2)²; 1.
    assert of(loss, -3.0, -70.0, -3.0, -70.0) == pytest.approx(start, rel=1e-14)


@pytest.mark.parametrize("loss", WITH_REFERENCE)
@given(sides=st.tuples(LOGPROB, LOGPROB, LOGPROB, LOGPROB), shift=st.floats(-20, 20))
def test_only_the_gap_of_log_ratios_counts(loss, sides, shift):
    chosen, rejected, ref_chosen, ref_rejected = sides
    expected = of(loss, *sides)
    # A completion that both models find likelier by as much, or one likelier to the policy on both sides.
    assert of(loss, chosen + shift, rejected, ref_chosen + shift, ref_rejected) == pytest.approx(expected, abs=1e-9)
    assert of(loss, chosen + shift, rejected + shift, ref_chosen, ref_rejected) == pytest.approx(expected, abs=1e-9)


@given(sides=st.tuples(LOGPROB, LOGPROB, LOGPROB, LOGPROB))
def test_dpo_gives_the_two_outcomes_probabilities_that_sum_to_one(sides):
    chosen, rejected, ref_chosen, ref_rejected = sides
    swapped = (rejected, chosen, ref_rejected, ref_chosen)
    assert math.exp(-of("dpo", *sides)) + math.exp(-of("dpo", *swapped)) == pytest.approx(1, abs=1e-12)
    # Smoothing is that mixture of both outcomes' losses.
    mixed = 0.9 * of("dpo", *sides) + 0.1 * of("dpo", *swapped)
    assert of("cdpo", *sides) == pytest.approx(mixed, rel=1e-12)


def test_a_smoothed_loss_is_least_where_the_odds_are_those_of_the_labels():
    # σ(β·h) = .9 at β·h = log 9; with β = ½, h = 2·log 9.
    best = 2 * math.log(9)
    at = {h: of("cdpo", h, 0.0, 0.0, 0.0) for h in (best - 0.01, best, best + 0.01)}
    assert at[best] < at[best - 0.01]
    assert at[best] < at[best + 0.01]


def test_hinge_is_silent_past_its_margin():
    chosen = vector(3.0).requires_grad_()  # h = 3 > 1/β = 2
    loss = hinge(chosen=chosen, rejected=vector(0), ref_chosen=vector(0), ref_rejected=vector(0), beta=0.5)
    assert loss.item() == 0
    assert torch.autograd.grad(loss.sum(), chosen)[0].item() == 0


@pytest.mark.parametrize("loss", WITH_REFERENCE)
def test_derivatives(loss):
    inputs = tuple(vector(*x).requires_grad_() for x in ((-3, -9.5), (-5, -1), (-4, -2), (-4.5, -3.2)))
    assert gradcheck(lambda *x: WITH_REFERENCE[loss](**dict(zip(NAMES, x, strict=True))), inputs)


def test_simpo_by_hand():
    # 2·(−.5 + 1.5) − 1 = 1.
    found = simpo(chosen_mean=vector(-0.5), rejected_mean=vector(-1.5), beta=2, gamma=1)
    assert found.item() == pytest.approx(math.log(1 + math.exp(-1)), rel=1e-14)
    # Equal sides still lack the margin.
    found = simpo(chosen_mean=vector(-0.5), rejected_mean=vector(-0.5), beta=2, gamma=1)
    assert found.item() == pytest.approx(math.log(1 + math.e), rel=1e-14)


def test_orpo_by_hand():
    # p = ½ has odds 1, p = ¼ odds ⅓: σ(log 3) = ¾.
    found = orpo(chosen_mean=vector(math.log(0.5)), rejected_mean=vector(math.log(0.25)), weight=0.4)
    assert found.item() == pytest.approx(math.log(2) + 0.4 * math.log(4 / 3), rel=1e-14)


def test_the_odds_ratio_of_equals_is_one():
    found = orpo(chosen_mean=vector(-0.7), rejected_mean=vector(-0.7), weight=2)
    assert found.item() == pytest.approx(0.7 + 2 * math.log(2), rel=1e-14)


@pytest.mark.parametrize("loss", ["simpo", "orpo"])
def test_derivatives_without_reference(loss):
    def of_means(chosen, rejected):
        if loss == "simpo":
            return simpo(chosen_mean=chosen, rejected_mean=rejected, beta=2, gamma=0.5)
        return orpo(chosen_mean=chosen, rejected_mean=rejected, weight=0.7)

    # On both sides of −½, where the odds change their formula.
    assert gradcheck(of_means, tuple(vector(*x).requires_grad_() for x in ((-0.2, -3), (-0.8, -0.01))))


@given(st.floats(1e-12, 1 - 1e-12))
def test_log_odds(p):
    assert log_odds(vector(math.log(p))).item() == pytest.approx(math.log(p) - math.log1p(-p), rel=1e-3, abs=1e-12)


def test_log_odds_keep_their_digits_at_both_ends():
    # 1 − e^−δ = δ·(1 − δ/2 + …), so the odds of e^−δ are 1/δ to first order; those of e^−40 are e^−40.
    assert log_odds(vector(-1e-9, -40)).tolist() == pytest.approx([math.log(1e9), -40], rel=1e-9)


def test_two_certain_completions_are_no_infinity():
    sides = torch.zeros(2, requires_grad=True)
    with torch.autograd.set_detect_anomaly(True):
        loss = orpo(chosen_mean=sides[:1], rejected_mean=sides[1:], weight=1.0)
        loss.sum().backward()
    assert loss.item() == pytest.approx(math.log(2), rel=1e-6)
    assert sides.grad is not None
    assert sides.grad.tolist() == [-1, 0]  # the likelihood's own


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda: dpo(**dict.fromkeys(NAMES, vector(0)), beta=0), "beta is 0"),
        (lambda: dpo(**dict.fromkeys(NAMES, vector(0)), beta=1, label_smoothing=0.5), "label_smoothing is 0.5"),
        (lambda: ipo(**dict.fromkeys(NAMES, vector(0)), tau=-1), "tau is -1"),
        (lambda: hinge(**dict.fromkeys(NAMES, vector(0)), beta=0), "beta is 0"),
        (lambda: simpo(chosen_mean=vector(0), rejected_mean=vector(0), beta=0, gamma=0), "beta is 0"),
        (lambda: simpo(chosen_mean=vector(0), rejected_mean=vector(0), beta=1, gamma=-1), "gamma is -1"),
        (lambda: orpo(chosen_mean=vector(-1), rejected_mean=vector(-1), weight=-1), "weight is -1"),
    ],
)
def test_what_makes_no_sense_is_refused(call, complaint):
    with pytest.raises(ValueError, match=complaint):
        call()
