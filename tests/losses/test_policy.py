"""The clipped surrogate, case by case, with the gradient that says which cases are alive."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from palate.losses import clipped_surrogate, policy_gradient

# ratio, advantage, loss, gradient in log π (−ρ·A where alive, 0 where clipped); ε = .2
CASES = [
    (1.3, -3.0, 3.9, 3.9),  # a bad action became likelier: min(−3.9, −3.6), pulled back
    (1.3, 3.0, -3.6, 0.0),  # a good one already gained enough: min(3.9, 3.6)
    (0.7, 3.0, -2.1, -2.1),  # a good one became rarer: min(2.1, 2.4), pulled back
    (0.7, -3.0, 2.4, 0.0),  # a bad one already lost enough: min(−2.1, −2.4)
    (1.1, 3.0, -3.3, -3.3),
    (0.9, -3.0, 2.7, 2.7),
    (1.0, 2.0, -2.0, -2.0),  # on policy: the gradient of plain REINFORCE, −A·∇log π
    (1.3, 0.0, 0.0, 0.0),
]


def loss_and_gradient(ratio: float, advantage: float, clip) -> tuple[float, float]:
    logprob = torch.tensor(ratio, dtype=torch.float64).log().sub(2).requires_grad_()
    loss = clipped_surrogate(
        logprobs=logprob,
        old_logprobs=torch.tensor(-2.0, dtype=torch.float64),
        advantages=torch.tensor(advantage, dtype=torch.float64),
        clip=clip,
    )
    return loss.item(), torch.autograd.grad(loss, logprob)[0].item()


@pytest.mark.parametrize(("ratio", "advantage", "loss", "gradient"), CASES)
@pytest.mark.parametrize("clip", [0.2, (0.2, 0.2)])
def test_by_hand(ratio, advantage, loss, gradient, clip):
    assert loss_and_gradient(ratio, advantage, clip) == pytest.approx((loss, gradient), abs=1e-14)


def test_two_sides_may_differ():
    # (low, high) = (.1, .28): 1.25 is inside above, .85 is outside below.
    assert loss_and_gradient(1.25, 2.0, (0.1, 0.28)) == pytest.approx((-2.5, -2.5))
    assert loss_and_gradient(0.85, -2.0, (0.1, 0.28)) == pytest.approx((1.8, 0.0))


@given(ratio=st.floats(0.1, 10), advantage=st.floats(-5, 5), clip=st.floats(0, 1))
def test_the_bound_is_pessimistic_and_tight_inside(ratio, advantage, clip):
    loss, _ = loss_and_gradient(ratio, advantage, clip)
    assert loss >= -ratio * advantage - 1e-12
    if abs(ratio - 1) < clip:
        assert loss == pytest.approx(-ratio * advantage, abs=1e-12)


def test_derivative():
    ratios, advantages, _, _ = zip(*CASES, strict=True)
    logprobs = torch.tensor(ratios, dtype=torch.float64).log().requires_grad_()
    assert gradcheck(
        lambda x: clipped_surrogate(
            logprobs=x,
            old_logprobs=torch.zeros(len(CASES), dtype=torch.float64),
            advantages=torch.tensor(advantages, dtype=torch.float64),
            clip=0.2,
        ),
        logprobs,
    )


def test_a_bad_clip_is_refused():
    with pytest.raises(ValueError, match="clip is"):
        loss_and_gradient(1.0, 1.0, (2, 0.2))


def test_policy_gradient_by_hand():
    # −A·log π, whose derivative in log π is −A.
    logprobs = torch.tensor([-1.5, -0.2], dtype=torch.float64).requires_grad_()
    losses = policy_gradient(logprobs=logprobs, advantages=torch.tensor([2.0, -3.0], dtype=torch.float64))
    assert losses.tolist() == pytest.approx([3.0, -0.6], rel=1e-14)
    assert torch.autograd.grad(losses.sum(), logprobs)[0].tolist() == [-2, 3]


def test_on_the_policy_itself_both_losses_have_one_gradient():
    logprobs, advantages = torch.randn(2, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logprobs.requires_grad_()
    plain = policy_gradient(logprobs=logprobs, advantages=advantages)
    clipped = clipped_surrogate(logprobs=logprobs, old_logprobs=logprobs.detach(), advantages=advantages, clip=0.2)
    first, second = (torch.autograd.grad(loss.sum(), logprobs)[0] for loss in (plain, clipped))
    assert torch.equal(first, second)
