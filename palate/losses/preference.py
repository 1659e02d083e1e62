"""Losses that teach a policy from preference pairs directly, one number a pair.

`chosen`, `rejected` and their `ref_` counterparts are log-probabilities of whole completions, summed over their tokens,
in nats; where the name ends in `_mean` they are means over the tokens. Throughout

    h = (log π(y_c|x) − log π_ref(y_c|x)) − (log π(y_r|x) − log π_ref(y_r|x))
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid


def dpo(
    *,
    chosen: Float[Tensor, "*shape"],
    rejected: Float[Tensor, "*shape"],
    ref_chosen: Float[Tensor, "*shape"],
    ref_rejected: Float[Tensor, "*shape"],
    beta: float | int,
    label_smoothing: float | int = 0,
) -> Float[Tensor, "*shape"]:
    """Likelihood of the preference under the reward that the policy stands for, β·(log π − log π_ref).

    −(1 − ε)·log σ(β·h) − ε·log σ(−β·h)

    Rafailov et al., arXiv 2305.18290, eq. 7; ε is the share of labels believed to be flipped (Mitchell, "A note on
    DPO with noisy preferences", 2023): the loss is least where σ(β·h) = 1 − ε. ln 2 where the policy is the reference.
    Raises ValueError unless β > 0 and 0 ≤ ε < ½.
    """
    _require_positive(beta, "beta")
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(
            f"label_smoothing is {label_smoothing}; it is the share of flipped labels, and from one half on they say "
            "nothing, or the opposite. Give 0 or more, and less than 0.5."
        )
    x = beta * _log_ratio_gap(chosen, rejected, ref_chosen, ref_rejected)
    return -(1 - label_smoothing) * logsigmoid(x) - label_smoothing * logsigmoid(-x)


def ipo(
    *,
    chosen: Float[Tensor, "*shape"],
    rejected: Float[Tensor, "*shape"],
    ref_chosen: Float[Tensor, "*shape"],
    ref_rejected: Float[Tensor, "*shape"],
    tau: float | int,
) -> Float[Tensor, "*shape"]:
    """Squared distance of the log-ratio gap from a finite goal: (h − 1/(2τ))².

    Azar et al., arXiv 2310.12036, eq. 17. Pairs that are always judged alike drive h to 1/(2τ) and no further, where
    DPO would go on. Sums over tokens, as in the paper, not means. Raises ValueError unless τ > 0.
    """
    _require_positive(tau, "tau")
    return (_log_ratio_gap(chosen, rejected, ref_chosen, ref_rejected) - 1 / (2 * tau)).square()


def hinge(
    *,
    chosen: Float[Tensor, "*shape"],
    rejected: Float[Tensor, "*shape"],
    ref_chosen: Float[Tensor, "*shape"],
    ref_rejected: Float[Tensor, "*shape"],
    beta: float | int,
) -> Float[Tensor, "*shape"]:
    """What the log-ratio gap lacks to its goal 1/β, and nothing once it is there: max(0, 1 − β·h).

    Zhao et al., arXiv 2305.10425 (SLiC-HF), eq. 1, normalised by the reference as in Liu et al., arXiv 2309.06657
    (RSO). Raises ValueError unless β > 0.
    """
    _require_positive(beta, "beta")
    return (1 - beta * _log_ratio_gap(chosen, rejected, ref_chosen, ref_rejected)).clamp(min=0)


def simpo(
    *,
    chosen_mean: Float[Tensor, "*shape"],
    rejected_mean: Float[Tensor, "*shape"],
    beta: float | int,
    gamma: float | int,
) -> Float[Tensor, "*shape"]:
    """Preference likelihood of mean log-probabilities that must differ by a margin, without a reference.

    −log σ(β·(c̄ − r̄) − γ),  c̄ = log π(y_c|x)/|y_c|

    Meng et al., arXiv 2405.14734, eq. 6; γ is in units of the reward β·c̄. Raises ValueError unless β > 0 and γ ≥ 0.
    """
    _require_positive(beta, "beta")
    if not gamma >= 0:
        raise ValueError(f"gamma is {gamma}; it is the margin by which the chosen side must win, so give 0 or more.")
    return -logsigmoid(beta * (chosen_mean - rejected_mean) - gamma)


def orpo(
    *,
    chosen_mean: Float[Tensor, "*shape"],
    rejected_mean: Float[Tensor, "*shape"],
    weight: float | int,
) -> Float[Tensor, "*shape"]:
    """Likelihood of the chosen side, and beside it a preference for its odds over the rejected side's.

    −c̄ − λ·log σ(log odds(c̄) − log odds(r̄)),  c̄ = log π(y_c|x)/|y_c|,  odds(c̄) = e^c̄/(1 − e^c̄)

    Hong et al., arXiv 2403.07691, eq. 6 and 7, λ = `weight`; no reference. Raises ValueError for a negative weight.
    """
    if not weight >= 0:
        raise ValueError(f"weight is {weight}; it multiplies the odds-ratio term, so give 0 or more.")
    return -chosen_mean - weight * logsigmoid(log_odds(chosen_mean) - log_odds(rejected_mean))


def log_odds(logprobs: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """log(p/(1 − p)) of log p ≤ 0; at p = 1, whose odds are infinite, that of the largest p below 1.

    Exact near p = 1 and near p = 0 alike.
    """
    # Without a bound two certain completions would give ∞ − ∞, and a gradient of ∞ · 0.
    below = logprobs.clamp(max=-torch.finfo(logprobs.dtype).eps)
    # Where p > ½, 1 − p = −expm1(log p) loses no digit; elsewhere log1p(−p) does not.
    near = below > -0.5
    complement = torch.where(
        near, torch.where(near, below, -1.0).expm1().neg().log(), torch.where(near, -1.0, below).exp().neg().log1p()
    )
    return below - complement


def _log_ratio_gap(chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor) -> Tensor:
    return (chosen - ref_chosen) - (rejected - ref_rejected)


def _require_positive(value: float | int, name: str) -> None:
    if not value > 0:
        raise ValueError(f"{name} is {value}; log-probabilities are scaled by it, so it must be above 0.")
