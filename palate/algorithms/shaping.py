"""From a judge's number to the score that an algorithm maximises.

The order is fixed: normalise, clip, then take off the penalty for a missing EOS, so that clipping cannot hide it.
The KL term is added later, token by token, and is neither normalised nor clipped.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from palate.ops import Moments, moments
from palate.settings import record


@record
class Shaping:
    """How a judge's number becomes a score."""

    normalise: Literal["none", "reference", "running", "batch"] | None = Field(
        None,
        description="to mean 0 and variance 1, by moments of what the policy writes as the stage begins (frozen), "
        "of all completions so far, or of this batch; unless set, none for a reward model and reference for any other "
        "judge",
    )
    clip: float | None = Field(None, gt=0, description="largest absolute score after normalising; none unless set")
    missing_eos_penalty: float = Field(1.0, ge=0, description="taken off a completion that was cut at the length limit")

    def renew(self, known: Moments, scores: Tensor) -> Moments:
        """The moments to normalise this batch by, given those known so far."""
        if self.normalise == "running":
            return known.merge(moments(scores.double(), torch.ones_like(scores, dtype=torch.bool)))
        if self.normalise == "batch":
            return moments(scores.double(), torch.ones_like(scores, dtype=torch.bool))
        return known

    def deviation(self, known: Moments) -> Tensor | float:
        """How much of a judge's number makes a unit of the score."""
        return 1.0 if self.normalise in (None, "none") else known.variance(unbiased=False).sqrt().clamp_min(1e-6)

    def shape(self, scores: Tensor, ended: Tensor, known: Moments) -> Tensor:
        """Scores [B] as the algorithm sees them; `ended [B]` says which rows closed with EOS."""
        if self.normalise not in (None, "none"):
            scores = ((scores.double() - known.mean) / self.deviation(known)).to(scores.dtype)
        if self.clip is not None:
            scores = scores.clamp(-self.clip, self.clip)
        return scores - self.missing_eos_penalty * (~ended).to(scores.dtype)
