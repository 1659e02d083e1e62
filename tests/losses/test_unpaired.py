"""KTO against hand numbers: both kinds of judgement, the zero that moves, what gets a gradient."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from palate.losses import kto


def vector(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def of(ratio: float, desirable: bool, kl: float, beta: float = 1.0, weights=(1, 1)) -> float:
    return kto(
        logprobs=vector(ratio - 7),
        ref_logprobs=vector(-7),
        desirable=torch.tensor([desirable]),
        kl=vector(kl).squeeze(),
        beta=beta,
        weights=weights,
    ).item()


@pytest.mark.parametrize("desirable", [True, False])
def test_the_reference_itself_starts_at_one_half(desirable):
    assert of(0, desirable, 0) == pytest.approx(0.5, rel=1e-14)


def test_by_hand():
    # r = log 3, z₀ = 0: σ(log 3) = ¾, so ¼ of a desirable completion's value is missing and ¾ of an undesirable one's.
    assert of(math.log(3), True, 0) == pytest.approx(0.25, rel=1e-14)
    assert of(math.log(3), False, 0) == pytest.approx(0.75, rel=1e-14)
    # z₀ = log 3 takes the same ratio back to even; β = 2 squares the odds: σ(2·log 3) = 9/10.
    assert of(math.log(3), True, math.log(3)) == pytest.approx(0.5, rel=1e-14)
    assert of(math.log(3), True, 0, beta=2) == pytest.approx(0.1, rel=1e-13)
    assert of(math.log(3), True, 0, weights=(4, 1)) == pytest.approx(1.0, rel=1e-14)
    assert of(math.log(3), False, 0, weights=(4, 2)) == pytest.approx(1.5, rel=1e-14)


def test_a_negative_estimate_counts_as_no_kl():
    assert of(0.3, True, -5) == of(0.3, True, 0)


@given(ratio=st.floats(-20, 20), kl=st.floats(-3, 3))
def test_good_and_bad_are_two_sides_of_one_value(ratio, kl):
    assert of(ratio, True, kl) + of(ratio, False, kl) == pytest.approx(1, rel=1e-12)


def test_gradients():
    logprobs, kl = vector(-3, -1, -9).requires_grad_(), vector(0.4).squeeze().requires_grad_()

    def loss(x):
        return kto(
            logprobs=x,
            ref_logprobs=vector(-4, -1, -5),
            desirable=torch.tensor([True, False, False]),
            kl=kl,
            beta=0.3,
            weights=(1.5, 0.5),
        )

    assert gradcheck(loss, logprobs)
    loss(logprobs).sum().backward()
    assert kl.grad is None
    # d/dr of λ·σ(∓β·(r − z₀)): ∓λ·β·σ·(1 − σ), so a good one rises, a bad one falls, each times its weight.
    assert logprobs.grad is not None
    s = [1 / (1 + math.exp(-0.3 * (ratio - 0.4))) for ratio in (1, 0, -4)]
    expected = [sign * 0.3 * p * (1 - p) for sign, p in zip((-1.5, 0.5, 0.5), s, strict=True)]
    assert logprobs.grad.tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("settings", "complaint"), [({"beta": 0}, "beta is 0"), ({"weights": (1, -1)}, "weights are")])
def test_what_makes_no_sense_is_refused(settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        of(0, True, 0, **settings)
