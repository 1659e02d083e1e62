"""Root-mean-square normalisation with its derivative written out: half the passes over memory, and as exact as the
model's own type.

transformers computes these norms in float32 whatever the model's type, and lets autograd derive each of five steps.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from palate.ops.masking import at_least_float32


def rms_norm(states: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """y = w ∘ x̂,  x̂ = x/√(mean x² + ε) over the last dimension (Zhang and Sennrich, 1910.07467, eq. 4).

    With g = ∂L/∂y:  ∂L/∂w = Σ g ∘ x̂,  ∂L/∂x = (g ∘ w − x̂·mean(g ∘ w ∘ x̂))/√(mean x² + ε). The statistics are in
    float32 or better; x̂ is rounded to the type of x before it meets w, as in transformers.
    """
    return _RootMeanSquare.apply(states, weight, epsilon)


def unit_rms(states: Tensor, epsilon: float) -> Tensor:
    """x̂ = x/√(mean x² + ε) over the last dimension: the norm without its weight.

    ∂L/∂x = (g − x̂·mean(g ∘ x̂))/√(mean x² + ε).
    """
    if torch.is_grad_enabled():
        return _UnitRootMeanSquare.apply(states, epsilon)
    # The same steps, so that scoring and training agree to the bit.
    exact = at_least_float32(states)
    return (exact * _inverse_rms(exact, epsilon)).to(states.dtype)


def _inverse_rms(exact: Tensor, epsilon: float) -> Tensor:
    """1/√(mean x² + ε) of each row, [..., 1]."""
    norm = torch.linalg.vector_norm(exact, dim=-1, keepdim=True)
    return norm.square_().div_(exact.shape[-1]).add_(epsilon).rsqrt_()


class _UnitRootMeanSquare(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, epsilon: float) -> Tensor:
        exact = at_least_float32(states)
        scale = _inverse_rms(exact, epsilon)
        unit = (exact * scale).to(states.dtype)
        ctx.save_for_backward(unit, scale)
        return unit

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        unit, scale = ctx.saved_tensors
        exact = at_least_float32(unit)
        slope = torch.linalg.vecdot(at_least_float32(grad), exact).div_(-exact.shape[-1]).unsqueeze(-1)
        return torch.addcmul(grad, exact, slope).mul_(scale).to(unit.dtype), None


class _RootMeanSquare(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        exact = at_least_float32(states)
        scale = _inverse_rms(exact, epsilon)
        ctx.save_for_backward(states, weight, scale)
        return weight * (exact * scale).to(states.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        states, weight, scale = ctx.saved_tensors
        normed = at_least_float32(states) * scale
        slopes = at_least_float32(grad) * normed
        exact = weight.to(slopes.dtype)
        mean = (slopes @ exact).div_(len(weight)).unsqueeze(-1)
        inner = (grad * exact).addcmul_(normed, mean, value=-1).mul_(scale)
        return inner.to(states.dtype), slopes.reshape(-1, len(weight)).sum(dim=0).to(weight.dtype), None


@torch.no_grad()
def use_exact_norms(model: nn.Module) -> None:
    """Lets the norms of a transformers model that are of this kind be computed by `rms_norm`; twice is as once.

    A norm is of this kind when its name and attributes say so, nobody has replaced its `forward`, and it gives what
    `rms_norm` gives on a probe.
    """
    for module in model.modules():
        named = type(module).__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon")
        if named and "forward" not in vars(module) and _agrees(module):
            module.forward = MethodType(_forward, module)


def _agrees(module: Any) -> bool:
    weight: Tensor = module.weight
    probe = torch.linspace(-2, 3, weight.numel(), device=weight.device).to(weight.dtype)[None]
    own, ours = module(probe).float(), rms_norm(probe, weight, module.variance_epsilon).float()
    return torch.allclose(own, ours, rtol=4 * torch.finfo(weight.dtype).eps + 1e-6, atol=1e-6)


def _forward(self: Any, hidden_states: Tensor) -> Tensor:
    return rms_norm(hidden_states, self.weight, self.variance_epsilon)
