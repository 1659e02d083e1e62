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


def soft_bradley_terry(
    *, first: Float[Tensor, "*shape"], second: Float[Tensor, "*shape"], preference: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """Cross-entropy of a comparison whose label is the probability p that the first wins; a tie is p = ½.

    −p·log σ(d) − (1 − p)·log σ(−d),  d = r_first − r_second

    Bradley-Terry with a soft label; a tie costs least, ln 2, where the scores are equal.
    """
    difference = first - second
    return -preference * logsigmoid(difference) - (1 - preference) * logsigmoid(-difference)


def davidson(
    *,
    first: Float[Tensor, "*shape"],
    second: Float[Tensor, "*shape"],
    preference: Float[Tensor, "*shape"],
    tie_weight: float | int,
) -> Float[Tensor, "*shape"]:
    """Negative log-likelihood of a comparison that may end in a tie, which has a probability of its own.

    P(first wins) = e^{d/2}/Z,  P(tie) = ν/Z,  Z = e^{d/2} + e^{−d/2} + ν,  d = r_first − r_second

    Davidson, "On Extending the Bradley-Terry Model to Accommodate Ties", 1970, whose ν is `tie_weight`: equals tie with
    probability ν/(2 + ν). `preference` is 1 where the first won, 0 where the second, ½ for a tie. Raises ValueError
    unless ν > 0.
    """
    if not tie_weight > 0:
        raise ValueError(f"tie_weight is {tie_weight}; it weighs a tie beside the two wins, so it must be above 0.")
    half = (first - second) / 2
    log_tie = torch.full_like(half, tie_weight).log()
    log_normaliser = torch.stack([half, -half, log_tie]).logsumexp(0)
    won = (2 * preference - 1) * half
    return log_normaliser - torch.where(preference == 0.5, log_tie, won)


def all_pairs(
    *,
    scores: Float[Tensor, "prompts completions"],
    ranks: Int[Tensor, "prompts completions"],
    mask: Bool[Tensor, "prompts completions"],
    ties: str = "skip",
    tie_weight: float | int = 1,
) -> Float[Tensor, " prompts"]:
    """Mean Bradley-Terry loss of all comparisons that a ranking makes: each prompt counts once, however many it ranks.

    ℓ = −1/|C| Σ_{(i, j) ∈ C} log σ(s_i − s_j),  C = {(i, j): rank_i < rank_j}

    Ouyang et al., arXiv 2203.02155, eq. 1, where |C| = K(K − 1)/2; rank 0 is the best. Completions of equal rank are
    not compared ("skip": the ranking is a partial order), count as half a win for each ("half"), or as a tie of
    Davidson's model with ν = `tie_weight` ("davidson", which then holds for the wins too). Masked completions are in no
    comparison, and a row without one gives 0. Raises ValueError for another `ties`.
    """
    if ties not in ("skip", "half", "davidson"):
        raise ValueError(f"ties is {ties!r}; equal ranks are handled by 'skip', 'half' or 'davidson'.")
    compared = comparisons(ranks=ranks, mask=mask, ties=ties != "skip")
    scores = zero_masked(scores, mask)
    first, second = (side.expand_as(compared) for side in (scores.unsqueeze(2), scores.unsqueeze(1)))
    preference = (1 + (ranks.unsqueeze(1) - ranks.unsqueeze(2)).sign()).to(scores.dtype) / 2
    if ties == "davidson":
        losses = davidson(first=first, second=second, preference=preference, tie_weight=tie_weight)
    else:
        losses = soft_bradley_terry(first=first, second=second, preference=preference)
    return zero_masked(losses, compared).sum((1, 2)) / compared.sum((1, 2)).clamp(min=1)


def comparisons(
    *, ranks: Int[Tensor, "prompts completions"], mask: Bool[Tensor, "prompts completions"], ties: bool
) -> Bool[Tensor, "prompts completions completions"]:
    """Which pairs (i, j) of a ranking are compared, each once: the better first, ties (where they count) with i < j."""
    better = ranks.unsqueeze(2) < ranks.unsqueeze(1)
    if ties:
        equal = ranks.unsqueeze(2) == ranks.unsqueeze(1)
        better = better | (equal & torch.ones_like(equal).triu(1))
    return better & mask.unsqueeze(2) & mask.unsqueeze(1)


def attribute_regression(
    *,
    predictions: Float[Tensor, "batch attributes"],
    targets: Float[Tensor, "batch attributes"],
    mask: Bool[Tensor, "batch attributes"],
) -> Float[Tensor, "batch attributes"]:
    """Squared error of each attribute that was scored, (r_a − s_a)²; 0 where it was not.

    Wang et al., arXiv 2406.08673 (HelpSteer2); Wang et al., arXiv 2406.12845 (ArmoRM). In the squared units of the
    scores.
    """
    return (zero_masked(predictions, mask) - zero_masked(targets, mask)).square()
