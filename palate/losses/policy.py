"""Policy-gradient losses, one number a token."""

import torch
from jaxtyping import Float
from torch import Tensor

from palate.ops.diagnostics import Clip, clip_range


def policy_gradient(
    *, logprobs: Float[Tensor, "*shape"], advantages: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """The policy gradient as a loss: −A·log π, whose derivative is that of −E[A] where π drew the samples.

    REINFORCE, Williams, 1992; Sutton et al., 1999.
    """
    return -advantages * logprobs


def clipped_surrogate(
    *,
    logprobs: Float[Tensor, "*shape"],
    old_logprobs: Float[Tensor, "*shape"],
    advantages: Float[Tensor, "*shape"],
    clip: Clip,
) -> Float[Tensor, "*shape"]:
    """PPO's pessimistic surrogate: −min(ρ·A, clip(ρ, 1 − low, 1 + high)·A), ρ = exp(log π − log π_old).

    Schulman et al., arXiv 1707.06347, eq. 7; a clip of (low, high) as in Yu et al., arXiv 2503.14476. The
    clip takes away the reason to go further, never the reason to come back: at ρ = 1.3, A = −3, ε = 0.2 the
    loss is 3.9 and alive. Raises ValueError unless 0 ≤ low ≤ 1 and high ≥ 0.
    """
    ratio = (logprobs - old_logprobs).exp()
    return -torch.minimum(ratio * advantages, ratio.clamp(*clip_range(clip)) * advantages)
