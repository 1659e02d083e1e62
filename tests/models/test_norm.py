"""The norm with its derivative written out: the values of transformers, the gradients of finite differences."""

import copy

import pytest
import torch
from torch.autograd import gradcheck
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from palate.models.norm import rms_norm, use_exact_norms


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_by_hand():
    # x = (3, 4, 0, 0): the mean square is 25/4, its root 5/2, so x̂ = (1.2, 1.6, 0, 0).
    normed = rms_norm(torch.tensor([3.0, 4.0, 0.0, 0.0]), torch.tensor([1.0, 10.0, 1.0, 1.0]), 0.0)
    torch.testing.assert_close(normed, torch.tensor([1.2, 16.0, 0.0, 0.0]))


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5)])
def test_gradients_are_those_of_finite_differences(shape):
    states = torch.randn(shape, generator=generator(1), dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, generator=generator(2), dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x, w: rms_norm(x, w, 1e-2), (states, weight))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_values_and_gradients_are_those_of_transformers(dtype, tolerance):
    theirs = LlamaRMSNorm(64, eps=1e-5).to(dtype)
    with torch.no_grad():
        theirs.weight.copy_(torch.randn(64, generator=generator(1)))
    ours = copy.deepcopy(theirs)
    use_exact_norms(ours)
    assert "forward" in vars(ours)
    states = torch.randn(7, 64, generator=generator(2)).to(dtype)
    direction = torch.randn(7, 64, generator=generator(3)).to(dtype)
    found = []
    for module in (theirs, ours):
        leaf = states.clone().requires_grad_()
        output = module(leaf)
        (output * direction).sum().backward()
        found.append((output.detach(), leaf.grad, module.weight.grad))
    for plain, exact in zip(*found, strict=True):
        torch.testing.assert_close(exact, plain, rtol=tolerance, atol=tolerance * float(plain.abs().max()))


def test_copies_read_their_own_weight():
    norm = LlamaRMSNorm(4)
    use_exact_norms(norm)
    other = copy.deepcopy(norm)
    with torch.no_grad():
        other.weight.mul_(2)
    states = torch.ones(1, 4)
    torch.testing.assert_close(other(states), 2 * norm(states))


class ShiftedRMSNorm(LlamaRMSNorm):
    """Another formula under the same name and attributes, as Gemma's would be."""

    def forward(self, hidden_states):
        return super().forward(hidden_states) + hidden_states


def test_norms_of_another_formula_or_another_forward_are_left_alone():
    shifted, replaced = ShiftedRMSNorm(4), LlamaRMSNorm(4)
    replaced.forward = lambda hidden_states: hidden_states
    use_exact_norms(torch.nn.ModuleList([shifted, replaced]))
    states = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    assert "forward" not in vars(shifted)
    assert torch.equal(replaced(states), states)
