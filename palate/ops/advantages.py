"""From rewards or scores to advantages: how much better a token or completion did than was to be expected."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from palate.ops.masking import Moments, at_least_float32, zero_masked
from palate.ops.masking import moments as moments_of


def gae(
    *,
    rewards: Float[Tensor, "batch time"],
    values: Float[Tensor, "batch time"],
    mask: Bool[Tensor, "batch time"],
    gamma: float | int,
    lam: float | int,
) -> tuple[Float[Tensor, "batch time"], Float[Tensor, "batch time"]]:
    """Generalised advantage estimation: (advantages, returns) for every real token, both 0 elsewhere.

    δ_t = r_t + γ·V_{t+1} − V_t,  A_t = δ_t + γλ·A_{t+1},  returns_t = A_t + V_t

    Schulman et al., arXiv 1506.02438, eq. 16. V_{t+1} and A_{t+1} are those of the next real token and 0
    after the last, where the episode ends. `values[b, t]` is the critic's before it sees token t.
    """
    rewards, values = zero_masked(rewards, mask), zero_masked(values, mask)
    advantages = torch.zeros_like(rewards)
    next_value = next_advantage = rewards.new_zeros(rewards.shape[0])
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantage = delta + gamma * lam * next_advantage
        advantages[:, t] = torch.where(mask[:, t], advantage, 0)
        next_advantage = torch.where(mask[:, t], advantage, next_advantage)
        next_value = torch.where(mask[:, t], values[:, t], next_value)
    return advantages, advantages + values


def group_rows(*, group_ids: Int[Tensor, " batch"]) -> Int[Tensor, "prompts group"]:
    """The rows of each group, wherever in the batch they stand: `x[group_rows(…)]` is [P, G].

    Groups come in the order of their ids, a group's rows in the order of the batch. Raises ValueError where groups
    differ in size.
    """
    sizes = group_ids.unique(return_counts=True)[1]
    if len(sizes.unique()) > 1:
        raise ValueError(
            f"group_ids has groups of {int(sizes.min())} to {int(sizes.max())} rows; the groups of a batch are of one "
            "size, so keep or drop a group as a whole."
        )
    return group_ids.argsort(stable=True).view(len(sizes), -1)


def leave_one_out(*, scores: Float[Tensor, "prompts group"]) -> Float[Tensor, "prompts group"]:
    """Each score less the mean of the others of its group.

    A_i = x_i − 1/(G − 1)·Σ_{j≠i} x_j = G/(G − 1)·(x_i − mean)

    RLOO, Ahmadian et al., arXiv 2402.14740, after Kool et al. 2019. Exactly 0 in a group whose scores are all
    equal. Raises ValueError for groups of one, which have no others.
    """
    size = _group_size(scores)
    return size / (size - 1) * _centred(scores)


def group_normalised(*, scores: Float[Tensor, "prompts group"], std: bool = True) -> Float[Tensor, "prompts group"]:
    """Each score less its group's mean, divided by the group's standard deviation.

    A_i = (x_i − mean)/(s + 10⁻⁴)

    s is unbiased (divisor G − 1). GRPO, Shao et al., arXiv 2402.03300, §4.1.2; without std as in Dr. GRPO,
    Liu et al., arXiv 2503.20783. Exactly 0 in a group whose scores are all equal: rounding of the mean,
    divided by a small number, would pass for an advantage. Raises ValueError for groups of one, which would
    silently learn nothing.
    """
    _group_size(scores)
    centred = _centred(scores)
    return centred / (scores.std(dim=1, keepdim=True) + 1e-4) if std else centred


def whiten(
    x: Float[Tensor, "*shape"],
    mask: Bool[Tensor, "*shape"],
    shift_mean: bool = True,
    moments: Moments | None = None,
) -> Float[Tensor, "*shape"]:
    """The real entries scaled to variance 1, (x − mean)/√(var + 10⁻⁸); masked entries are 0.

    With shift_mean the result has mean 0; without, the mean is added back. The variance is unbiased.
    `moments` are those to whiten by, when the whole batch lies in several micro-batches or ranks: merge
    theirs and hand the result to each. A single entry gives 0 (or itself), not NaN.
    """
    over = moments_of(x, mask) if moments is None else moments
    whitened = (zero_masked(at_least_float32(x), mask) - over.mean) * torch.rsqrt(over.variance() + 1e-8)
    return zero_masked(whitened if shift_mean else whitened + over.mean, mask)


def _centred(scores: Tensor) -> Tensor:
    """Scores less their group's mean, exactly 0 where all are equal."""
    equal = scores.amax(1, keepdim=True) == scores.amin(1, keepdim=True)
    return (scores - scores.mean(1, keepdim=True)).masked_fill(equal, 0.0)


def _group_size(scores: Tensor) -> int:
    size = scores.shape[1]
    if size < 2:
        raise ValueError(
            f"scores has groups of {size}; a completion is compared with the others of its prompt, "
            "so sample at least 2 completions a prompt."
        )
    return size
