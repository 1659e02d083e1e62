"""AdamW with warm-up, a schedule, clipping of the global gradient norm, and a refusal to step on a non-finite
gradient."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from palate.engine.checkpoint import flatten_optimiser, restore_optimiser
from palate.errors import TrainingError
from palate.settings import record


@record
class Optimiser:
    """AdamW (1711.05101) and the schedule of its learning rate."""

    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="of the learning rate after warm-up; the other two end at 0"
    )
    warmup: int = Field(0, ge=0, description="steps over which the rate rises linearly from 0")
    weight_decay: float = Field(0.0, ge=0, description="decoupled; matrices only, never norms or biases")
    betas: tuple[float, float] = Field((0.9, 0.95), description="decay of the two moments")
    epsilon: float = Field(1e-8, gt=0, description="added to the root of the second moment")
    gradient_clip: float = Field(1.0, gt=0, description="largest global gradient norm")

    def factor(self, step: int, total: int) -> float:
        """What the peak learning rate is multiplied by at step 0 ≤ step < total."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        if self.schedule == "constant":
            return 1.0
        progress = (step - self.warmup) / max(total - self.warmup, 1)
        if self.schedule == "linear":
            return 1 - progress
        return 0.5 * (1 + math.cos(math.pi * progress))


class Stepper:
    """One module's optimiser in motion: `step()` clips, checks, sets the rate and moves the weights."""

    def __init__(self, module: nn.Module, settings: Optimiser, *, learning_rate: float, total: int):
        self.module, self.settings, self.total, self.steps = module, settings, total, 0
        self.learning_rate = learning_rate
        named = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
        matrices = [(name, parameter) for name, parameter in named if parameter.dim() > 1]
        others = [(name, parameter) for name, parameter in named if parameter.dim() <= 1]
        groups = [
            {"params": matrices, "weight_decay": settings.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        self.optimiser = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=learning_rate,
            betas=settings.betas,
            eps=settings.epsilon,
            fused=True,
        )
        self.parameters = [parameter for _, parameter in named]

    def step(self, describe: str) -> tuple[float, float]:
        """Moves the weights and forgets the gradients; returns (gradient norm before clipping, learning rate).

        Raises TrainingError, before any weight moved, when the norm is not finite; `describe` names the step in it.
        """
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.gradient_clip))
        if not math.isfinite(norm):
            raise TrainingError(
                f"The gradient's norm is {norm} at {describe}: no step was taken. Training with non-finite gradients "
                "destroys the weights. Lower the learning rate, or look at the samples of this step."
            )
        rate = self.learning_rate * self.settings.factor(self.steps, self.total)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.steps += 1
        return norm, rate

    def saved(self, prefix: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and plain state for a checkpoint: the module's weights, the moments, the step count."""
        tensors, state = flatten_optimiser(self.optimiser, f"{prefix}.optimiser.")
        weights = {f"{prefix}.weights.{name}": tensor for name, tensor in self.module.state_dict().items()}
        return {**weights, **tensors}, {"optimiser": state, "steps": self.steps}

    def restore(self, prefix: str, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Puts back what `saved` gave, to the bit."""
        start = f"{prefix}.weights."
        weights = {name[len(start) :]: tensor for name, tensor in tensors.items() if name.startswith(start)}
        self.module.load_state_dict(weights, strict=True)
        restore_optimiser(self.optimiser, f"{prefix}.optimiser.", tensors, state["optimiser"])
        self.steps = state["steps"]
