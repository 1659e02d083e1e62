"""What a reward model is trained with: the likelihood of the comparisons that people made."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import logsigmoid

from palate.ops.masking import zero_masked


def bradley_terry(
    *,
    chosen: Float[Tensor, "*shape"],
    rejected: Float[Tensor, "*shape"],
    margin: Float[Tensor, "*shape"] | None = None,
) -> Float[Tensor, "*shape"]:
    """Negative log-likelihood that the chosen completion wins: −log σ(r_chosen − r_rejected − margin).

    Bradley and Terry, 1952; Ouyang et al., arXiv 2203.02155, eq. 1; with a margin, Touvron et al., arXiv
    2307.09288, eq. 2.
    """
    difference = chosen - rejected
    return -logsigmoid(difference if margin is None else difference - margin)


def plackett_luce(
    *,
    scores: Float[Tensor, "prompts completions"],
    ranks: Int[Tensor, "prompts completions"],
    mask: Bool[Tensor, "prompts completions"],
) -> Float[Tensor, " prompts"]:
    """Negative log-likelihood of each ranking, drawn best first without replacement.

    ℓ = Σ_i (log Σ_{j: rank_j ≥ rank_i} exp s_j − s_i) over the real completions; rank 0 is the best

    Plackett, 1975; Luce, 1959. Two completions give Bradley-Terry. Only the order of ranks counts.
    Completions of equal rank stand in each other's sums (Breslow's rule), so that their order in the row does
    not matter. A row without a real completion gives 0.
    """
    scores = zero_masked(scores, mask)
    not_better = ranks.unsqueeze(1) >= ranks.unsqueeze(2)
    rivals = not_better & mask.unsqueeze(1)
    # Not −∞: a masked completion has no rivals at all, and −∞ − (−∞) is NaN on the way back.
    lowest = torch.finfo(scores.dtype).min
    log_normaliser = scores.unsqueeze(1).masked_fill(~rivals, lowest).logsumexp(-1)
    return zero_masked(log_normaliser - scores, mask).sum(-1)
