"""An algorithm of one's own, given in a recipe by path: `algorithm = "examples/algorithm.py:AWR"`."""

from typing import ClassVar

import torch
from pydantic import Field

from palate.algorithms.leash import KL
from palate.algorithms.parts import compared, with_kl
from palate.ops import leave_one_out
from palate.settings import record


@record
class AWR:
    """Advantage-weighted regression (Peng et al., 1910.00177, eq. 3) without a critic: L = −exp(Â/τ)·log π, Â the
    return less the mean of the prompt's other completions."""

    needs: ClassVar[frozenset[str]] = frozenset({"reference"})
    samples: ClassVar[int] = 4
    epochs: int = 1
    minibatches: int = 4
    target_kl: float | None = None
    temperature: float = Field(1.0, gt=0, description="τ; the smaller, the more the best completions count")
    kl: KL = KL()

    def assign(self, scored, kl_coef):
        return compared(scored, leave_one_out, self.kl, kl_coef)

    def loss(self, outputs, batch, mask, denominators):
        weights = torch.exp((batch.advantages / self.temperature).clamp(max=3.0))
        return with_kl(-weights * outputs.logprobs, outputs, batch, mask, denominators, kl=self.kl, by="token")
