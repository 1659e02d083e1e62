"""The loss that learns from completions judged one by one, good or bad."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def kto(
    *,
    logprobs: Float[Tensor, "*shape"],
    ref_logprobs: Float[Tensor, "*shape"],
    desirable: Bool[Tensor, "*shape"],
    kl: Float[Tensor, ""],
    beta: float | int,
    weights: tuple[float | int, float | int] = (1, 1),
) -> Float[Tensor, "*shape"]:
    """How far a completion's value falls short of the best, by Kahneman and Tversky's curve around a moving zero.

    desirable: λ_D·(1 − σ(β·(r − z₀))),  undesirable: λ_U·(1 − σ(β·(z₀ − r))),
    r = log π(y|x) − log π_ref(y|x),  z₀ = max(0, kl)

    Ethayarajh et al., arXiv 2402.01306, eq. 8. Log-probabilities are sums over tokens, in nats; `kl` estimates
    KL(π‖π_ref) over the whole optimiser step, from completions of other prompts, and gets no gradient; `weights`
    are (λ_D, λ_U). Raises ValueError unless β > 0 and the weights are 0 or more.
    """
    if not beta > 0:
        raise ValueError(f"beta is {beta}; log-probabilities are scaled by it, so it must be above 0.")
    if not min(weights) >= 0:
        raise ValueError(f"weights are {weights}; they multiply the two kinds of loss, so give 0 or more for each.")
    zero = kl.detach().clamp(min=0)
    advantage = beta * (logprobs - ref_logprobs - zero)
    good, bad = weights
    # 1 − σ(x) = σ(−x), which keeps its digits where it is small.
    return torch.where(desirable, good * torch.sigmoid(-advantage), bad * torch.sigmoid(advantage))
