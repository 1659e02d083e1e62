"""From a loss a token to one number, so that padding, micro-batches and ranks change nothing."""

from jaxtyping import Bool, Float
from torch import Tensor

from palate.ops.masking import masked_mean, zero_masked


def reduce(
    *,
    loss: Float[Tensor, "*batch time"],
    mask: Bool[Tensor, "*batch time"],
    by: str,
    denominator: float | int | Tensor,
) -> Float[Tensor, ""]:
    """The sum over real tokens, or over sequences of their means, divided by a count of the whole batch.

    token: Σ_{b,t} m·ℓ / tokens,  sequence: Σ_b (Σ_t m·ℓ / Σ_t m) / sequences,  fixed: Σ_{b,t} m·ℓ / constant

    The denominator is global: count over every micro-batch and rank of the optimiser's step, then add up the
    parts. "token" weighs every token alike, "sequence" every completion alike (GRPO, arXiv 2402.03300, eq.
    3), "fixed" divides by a number that no length enters, such as sequences · longest length (Dr. GRPO, arXiv
    2503.20783). A row without a real token adds 0. Raises ValueError for another `by`, or for a denominator
    that is not positive.
    """
    if not denominator > 0:
        raise ValueError(
            f"denominator is {denominator}; the loss is divided by this count over the whole batch, "
            "so it must be above 0 (was every row of the batch dropped?)."
        )
    match by:
        case "token" | "fixed":
            return zero_masked(loss, mask).sum() / denominator
        case "sequence":
            return masked_mean(loss, mask, dim=-1).sum() / denominator
        case _:
            raise ValueError(f"by is {by!r}; a loss is reduced by 'token', 'sequence' or 'fixed'.")


def sequence_mean(x: Float[Tensor, "batch time"], mask: Bool[Tensor, "batch time"]) -> Float[Tensor, "batch time"]:
    """The mean of each row's real entries at every one of them, 0 elsewhere.

    Of log-probabilities it is the log of a completion's per-token geometric mean, whose ratio GSPO clips (Zheng et
    al., arXiv 2507.18071, eq. 7).
    """
    return zero_masked(masked_mean(x, mask, dim=-1).unsqueeze(-1).expand(mask.shape), mask)
