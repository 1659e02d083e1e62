"""The stepper: schedules, clipping, decay of matrices alone, non-finite gradients refused, exact restore."""

import copy

import pytest
import torch
from torch import nn

from palate.engine.optimiser import Optimiser, Stepper
from palate.errors import TrainingError


def stepper_of(module: nn.Module, rate: float = 0.1, total: int = 10, **settings) -> Stepper:
    return Stepper(module, Optimiser(**settings), learning_rate=rate, total=total)


def test_schedules_by_hand():
    constant, linear, cosine = (Optimiser(schedule=kind, warmup=2) for kind in ("constant", "linear", "cosine"))
    assert [constant.factor(step, 6) for step in range(6)] == [0.5, 1, 1, 1, 1, 1]
    # After two steps of warm-up four remain: 1, ¾, ½, ¼.
    assert [linear.factor(step, 6) for step in range(6)] == [0.5, 1, 1, 0.75, 0.5, 0.25]
    assert cosine.factor(4, 6) == pytest.approx(0.5)
    assert cosine.factor(3, 6) == pytest.approx(0.5 * (1 + 2**-0.5))


def test_the_gradient_norm_is_reported_before_clipping_and_bounded_after():
    module = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(module.weight)
    stepper = stepper_of(module, gradient_clip=1.0)
    (module.weight * torch.tensor([[3.0, 4.0]])).sum().backward()
    norm, rate = stepper.step("a test")
    assert (norm, rate) == (pytest.approx(5.0), 0.1)
    moment = stepper.optimiser.state[module.weight]["exp_avg"]
    assert float(moment.norm()) == pytest.approx(0.1, rel=1e-4)  # (1 − β₁)·clipped gradient of norm 1


def test_only_matrices_decay():
    module = nn.Linear(2, 2)
    before = copy.deepcopy(module.state_dict())
    stepper = stepper_of(module, weight_decay=0.5)
    (0 * module(torch.zeros(1, 2)).sum()).backward()
    stepper.step("a test")
    torch.testing.assert_close(module.weight.detach(), before["weight"] * (1 - 0.1 * 0.5))
    torch.testing.assert_close(module.bias.detach(), before["bias"])


def test_a_gradient_that_is_not_finite_moves_nothing():
    module = nn.Linear(1, 1)
    before = copy.deepcopy(module.state_dict())
    stepper = stepper_of(module)
    (module(torch.ones(1, 1)) * torch.inf).sum().backward()
    with pytest.raises(TrainingError, match="step 7"):
        stepper.step("step 7")
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_a_restored_stepper_goes_on_to_the_bit():
    torch.manual_seed(0)
    module = nn.Linear(3, 2)
    inputs = torch.randn(6, 4, 3)

    def train(stepper: Stepper, steps: range) -> None:
        for step in steps:
            stepper.module(inputs[step]).square().sum().backward()
            stepper.step("a test")

    whole = stepper_of(copy.deepcopy(module), schedule="linear", warmup=2)
    train(whole, range(6))
    first = stepper_of(copy.deepcopy(module), schedule="linear", warmup=2)
    train(first, range(3))
    tensors, state = first.saved("policy")
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    second = stepper_of(copy.deepcopy(module), schedule="linear", warmup=2)
    second.restore("policy", tensors, state)
    train(second, range(3, 6))
    for name, value in whole.module.state_dict().items():
        assert torch.equal(value, second.module.state_dict()[name])
