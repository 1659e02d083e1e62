"""Log-probabilities of given tokens and the entropy of next-token distributions, in nats.

Log-softmax always runs in float32 or better: bfloat16 keeps two or three digits, too few for a ratio of
probabilities.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from palate.ops.masking import at_least_float32


def token_logprobs(
    *,
    logits: Float[Tensor, "*shape vocabulary"],
    labels: Int[Tensor, "*shape"],
    temperature: float | int = 1.0,
) -> Float[Tensor, "*shape"]:
    """Log-probability of each label under its own logits.

    log p(y) = z_y − log Σ_v exp z_v,  z = logits / temperature

    Logits and labels are aligned: `logits[b, t]` predict `labels[b, t]`, the shift by one has been made
    before. An id whose logit is −∞ has probability 0. Raises ValueError for a temperature that is not
    positive.
    """
    logprobs = _log_softmax(logits, temperature)
    return logprobs.gather(-1, labels.long().unsqueeze(-1)).squeeze(-1)


def entropy_from_logits(*, logits: Float[Tensor, "*shape vocabulary"]) -> Float[Tensor, "*shape"]:
    """Entropy H = −Σ_v p_v·log p_v of each distribution; an id of probability 0 (logit −∞) adds 0."""
    logprobs = _log_softmax(logits, 1.0)
    return -(logprobs.exp() * logprobs.masked_fill(logprobs.isneginf(), 0.0)).sum(-1)


def fused_logprobs(
    *,
    hidden: Float[Tensor, "tokens width"],
    weight: Float[Tensor, "vocabulary width"],
    labels: Int[Tensor, " tokens"],
    temperature: float | int,
    chunk: int,
) -> tuple[Float[Tensor, " tokens"], Float[Tensor, " tokens"]]:
    """Log-probabilities of the labels, and entropies, under logits h·Wᵀ that are never held all at once.

    z = h·Wᵀ / temperature,  log p(y) = z_y − log Σ_v exp z_v,  H = −Σ_v p_v·log p_v
    ∂log p(y)/∂z_v = 1[v = y] − p_v,  ∂H/∂z_v = −p_v·(log p_v + H)

    Equal to `token_logprobs(logits=hidden @ weight.T, …)` and its entropy, values and gradients. Works on
    `chunk` tokens at a time and computes their logits again going backwards, so the largest tensor is [chunk,
    V] or [V, H]. The product runs in the dtype of hidden and weight, which must be one, as in the model's own
    head; what follows runs in float32 or better, and so are the results. Raises ValueError for a temperature
    or chunk that is not positive, or when the two dtypes differ.
    """
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}; it counts tokens worked on at a time, so give 1 or more.")
    if hidden.dtype != weight.dtype:
        raise ValueError(
            f"hidden is {hidden.dtype} and weight is {weight.dtype}; their product needs one dtype, "
            "so convert one of them."
        )
    return _FusedLogprobs.apply(hidden, weight, labels.long(), temperature, chunk)


class _FusedLogprobs(torch.autograd.Function):
    """The chunked projection, log-softmax and gather with their hand-written derivative."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, temperature: float | int, chunk: int) -> Any:
        """Logprobs and entropy [N], chunk by chunk; the inputs and the entropy are kept for the way back."""
        logprobs = hidden.new_empty(hidden.shape[0], dtype=torch.promote_types(hidden.dtype, torch.float32))
        entropy = torch.empty_like(logprobs)
        for rows in _chunks(hidden.shape[0], chunk):
            log_p = _log_softmax(hidden[rows] @ weight.T, temperature)
            logprobs[rows] = log_p.gather(-1, labels[rows].unsqueeze(-1)).squeeze(-1)
            entropy[rows] = -(log_p.exp() * log_p).sum(-1)
        ctx.save_for_backward(hidden, weight, labels, entropy)
        ctx.temperature = temperature
        ctx.chunk = chunk
        return logprobs, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logprobs: Tensor, grad_entropy: Tensor) -> Any:
        """Gradients for hidden and weight; the weight's is summed over chunks in float32 or better."""
        hidden, weight, labels, entropy = ctx.saved_tensors
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=entropy.dtype) if wants_weight else None
        for rows in _chunks(hidden.shape[0], ctx.chunk):
            log_p = _log_softmax(hidden[rows] @ weight.T, ctx.temperature)
            grad_z = log_p + entropy[rows].unsqueeze(-1)
            grad_z.mul_(grad_entropy[rows].unsqueeze(-1)).add_(grad_logprobs[rows].unsqueeze(-1))
            grad_z.mul_(-log_p.exp_())
            grad_z.scatter_add_(-1, labels[rows].unsqueeze(-1), grad_logprobs[rows].unsqueeze(-1))
            grad_logits = (grad_z / ctx.temperature).to(hidden.dtype)
            if grad_hidden is not None:
                grad_hidden[rows] = grad_logits @ weight
            if grad_weight is not None:
                grad_weight += grad_logits.T @ hidden[rows]
        return grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype), None, None, None


def _chunks(total: int, chunk: int) -> list[slice]:
    return [slice(start, start + chunk) for start in range(0, total, chunk)]


def _log_softmax(logits: Tensor, temperature: float | int) -> Tensor:
    if not temperature > 0:
        raise ValueError(
            f"temperature is {temperature}; logits are divided by it, so it must be above 0 "
            "(for the most likely token take the argmax of the logits)."
        )
    return torch.log_softmax(at_least_float32(logits) / temperature, dim=-1)
