"""Numbers that tell how an update went; none of them is trained on, and all of them leave padding out."""

import math
from statistics import NormalDist

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from palate.ops.kl import kl_estimate
from palate.ops.masking import masked_mean, masked_var, zero_masked

Clip = float | int | tuple[float | int, float | int]


def clip_range(clip: Clip) -> tuple[float, float]:
    """The interval [1 − low, 1 + high] that a clip of ε, or of (low, high), keeps a ratio in."""
    low, high = clip if isinstance(clip, tuple) else (clip, clip)
    if not (0 <= low <= 1 and 0 <= high < math.inf):
        raise ValueError(
            f"clip is {clip}; a ratio is kept in [1 − low, 1 + high], so low must lie in [0, 1] and high be at least 0."
        )
    return 1.0 - low, 1.0 + high


def clipped(
    *,
    logprobs: Float[Tensor, "*shape"],
    old_logprobs: Float[Tensor, "*shape"],
    advantages: Float[Tensor, "*shape"],
    clip: Clip,
) -> Float[Tensor, "*shape"]:
    """1 where the clip removes the gradient, ρ > 1 + high and A > 0, or ρ < 1 − low and A < 0; else 0.

    A ratio outside the interval whose advantage pulls it back is not clipped and does not count.
    """
    ratio = (logprobs - old_logprobs).exp()
    low, high = clip_range(clip)
    return (((ratio > high) & (advantages > 0)) | ((ratio < low) & (advantages < 0))).to(ratio.dtype)


def clip_fraction(
    *,
    logprobs: Float[Tensor, "*shape"],
    old_logprobs: Float[Tensor, "*shape"],
    advantages: Float[Tensor, "*shape"],
    mask: Bool[Tensor, "*shape"],
    clip: Clip,
) -> Float[Tensor, ""]:
    """Share of real tokens whose gradient the clip removes, the mean of `clipped`."""
    return masked_mean(clipped(logprobs=logprobs, old_logprobs=old_logprobs, advantages=advantages, clip=clip), mask)


def approx_kl(
    *,
    logprobs: Float[Tensor, "*shape"],
    old_logprobs: Float[Tensor, "*shape"],
    mask: Bool[Tensor, "*shape"],
) -> Float[Tensor, ""]:
    """Mean over real tokens of the k3 estimate of KL(old‖new), ρ − 1 − log ρ, where old drew the tokens."""
    per_token = kl_estimate(
        logprobs=zero_masked(old_logprobs, mask), ref_logprobs=zero_masked(logprobs, mask), kind="k3"
    )
    return masked_mean(per_token, mask)


def explained_variance(
    *, values: Float[Tensor, "*shape"], returns: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]
) -> Float[Tensor, ""]:
    """1 − Var(returns − values)/Var(returns) over real tokens: 1 for a perfect critic, 0 for a constant one.

    NaN where the returns do not vary, for then nothing is there to explain.
    """
    variance = masked_var(returns, mask)
    unexplained = masked_var(returns - values, mask)
    return torch.where(variance > 0, 1 - unexplained / variance, math.nan)


def wilson_interval(
    wins: float | int,
    n: int,
    confidence: float | int = 0.95,
    ties: int = 0,
    effective: float | int | None = None,
) -> tuple[float, float]:
    """Wilson's score interval (low, high) for the probability behind `wins` out of `n`.

    (p + z²/2m ± z·√(v/m + z²/4m²)) / (1 + z²/m),  p = wins/n,  v = p(1 − p) − ties/4n,  z = Φ⁻¹((1 + confidence)/2)

    Wilson, 1927. A tie may count as half a win; v is then the variance of outcomes 0, ½ and 1. Where the number of
    `ties` is not given, that of wins and losses alone is taken, and the interval is, if anything, too wide. m is n, or
    the `effective` number of independent observations that the n are worth. (0, 1) for n = 0. Raises ValueError unless
    0 ≤ wins − ties/2 ≤ n − ties, ties ≥ 0, 0 < confidence < 1 and 0 < effective.
    """
    if not (ties >= 0 and 0 <= wins - ties / 2 <= n - ties and 0 < confidence < 1):
        raise ValueError(
            f"wins is {wins}, n is {n}, ties is {ties}, confidence is {confidence}; "
            "wins, half a tie each among them, must lie in [0, n] and confidence between 0 and 1."
        )
    if effective is not None and not effective > 0:
        raise ValueError(f"effective is {effective}; what was observed is worth more than 0 observations.")
    if n == 0:
        return 0.0, 1.0
    p, z = wins / n, NormalDist().inv_cdf((1 + confidence) / 2)
    variance = max(p * (1 - p) - ties / (4 * n), 0.0)
    size = n if effective is None else effective
    centre = p + z * z / (2 * size)
    half = z * math.sqrt(variance / size + z * z / (4 * size * size))
    scale = 1 + z * z / size
    # Rounding may put a bound on the wrong side of p, which at p = 0 and p = 1 is the bound itself.
    return max(0.0, min(p, (centre - half) / scale)), min(1.0, max(p, (centre + half) / scale))
