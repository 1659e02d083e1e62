"""From a completion's score to one reward a token."""

from jaxtyping import Bool, Float
from torch import Tensor

from palate.ops.kl import kl_estimate
from palate.ops.masking import zero_masked


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
