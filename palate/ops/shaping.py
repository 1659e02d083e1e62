"""From a completion's score to one reward a token."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from palate.ops.kl import kl_estimate
from palate.ops.masking import zero_masked


def soft_overlong(
    *, lengths: Int[Tensor, " batch"], limit: float | int, buffer: float | int
) -> Float[Tensor, " batch"]:
    """What a completion of L tokens loses as it nears the limit: 0 at first, −1 at the end, a line between.

    min(0, max(−1, (limit − buffer − L)/buffer))

    DAPO, Yu et al., arXiv 2503.14476, eq. 13. `limit` and `buffer` are in tokens; with a buffer of 0 the
    penalty is 0 throughout. Raises ValueError unless 0 ≤ buffer ≤ limit.
    """
    if not 0 <= buffer <= limit:
        raise ValueError(
            f"buffer is {buffer} and limit {limit}; the penalty grows over the last tokens before the limit."
        )
    if buffer == 0:
        return torch.zeros(lengths.shape, device=lengths.device)
    return ((limit - buffer - lengths) / buffer).clamp(-1, 0)


def shaped_rewards(
    *,
    scores: Float[Tensor, " batch"],
    logprobs: Float[Tensor, "batch time"],
    ref_logprobs: Float[Tensor, "batch time"],
    mask: Bool[Tensor, "batch time"],
    kl_coef: float | int,
) -> Float[Tensor, "batch time"]:
    """A KL penalty on every real token, and the score on the last.

    r_t = −β·(log π_t − log ref_t) + 1[t last]·score

    Ziegler et al., arXiv 1909.08593, eq. 2; Ouyang et al., arXiv 2203.02155, §3.5. Their sum is the score
    less β times the k1 estimate of the sequence KL. Masked positions are 0; a row without a real token has
    nowhere for its score and is 0 throughout.
    """
    penalty = kl_estimate(logprobs=zero_masked(logprobs, mask), ref_logprobs=zero_masked(ref_logprobs, mask), kind="k1")
    real_from_here = mask.flip(1).cumsum(1).flip(1)
    on_last = zero_masked(scores.unsqueeze(1).expand_as(penalty), mask & (real_from_here == 1))
    return on_last - kl_coef * penalty
