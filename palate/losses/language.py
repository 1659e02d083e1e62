"""The language-modelling loss of supervised fine-tuning."""

from jaxtyping import Bool, Float
from torch import Tensor

from palate.ops.masking import zero_masked


def negative_log_likelihood(
    *, logprobs: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """Cross-entropy of each real token, −log π(y_t | x, y_<t), in nats; 0 at masked positions."""
    return -zero_masked(logprobs, mask)
