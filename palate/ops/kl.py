"""KL divergence of the policy from the reference, in nats, and the controllers of its coefficient.

A controller is a frozen record of plain numbers: `dataclasses.asdict` writes it, its class called with that
dict reads it.
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from palate.ops.masking import at_least_float32


def kl_estimate(
    *, logprobs: Float[Tensor, "*shape"], ref_logprobs: Float[Tensor, "*shape"], kind: str
) -> Float[Tensor, "*shape"]:
    """Estimate of KL(π‖ref) from samples of π, one number a sample.

    x = log π − log ref:  k1 = x,  k2 = ½x²,  k3 = e⁻ˣ − 1 + x,  abs = |x|

    k1 and k3 are unbiased, k3 is never negative, k2 is biased with little variance, abs is a distance only
    (Schulman, "Approximating KL divergence", 2020). As a term of the loss they differ from what they
    estimate: the expected gradient of k1 is 0, that of k2 is the gradient of KL(π‖ref), that of k3 the
    gradient of KL(ref‖π) (arXiv 2506.09477). Raises ValueError for any other kind.
    """
    x = logprobs - ref_logprobs
    match kind:
        case "k1":
            return x
        case "k2":
            return 0.5 * x.square()
        case "k3":
            return torch.expm1(-x) + x
        case "abs":
            return x.abs()
        case _:
            raise ValueError(f"kind is {kind!r}; an estimator of KL is one of 'k1', 'k2', 'k3' and 'abs'.")


def exact_kl(
    *, logits: Float[Tensor, "*shape vocabulary"], ref_logits: Float[Tensor, "*shape vocabulary"]
) -> Float[Tensor, "*shape"]:
    """KL(π‖ref) = Σ_v π_v·(log π_v − log ref_v); an id that π never takes adds 0.

    Infinite where π takes an id that the reference never does.
    """
    log_p = torch.log_softmax(at_least_float32(logits), dim=-1)
    log_q = torch.log_softmax(at_least_float32(ref_logits), dim=-1)
    p = log_p.exp()
    never = p == 0
    return (p * (log_p.masked_fill(never, 0.0) - log_q.masked_fill(never, 0.0))).sum(-1)


@dataclass(frozen=True)
class FixedKL:
    """A coefficient that stays as it is."""

    coef: float | int

    def __post_init__(self) -> None:
        _require_coefficient(self.coef)

    def update(self, kl: float | int, samples: int) -> "FixedKL":
        """This controller, whatever was measured."""
        return self


@dataclass(frozen=True)
class AdaptiveKL:
    """A proportional controller that steers the mean sequence KL to a target.

    e = clip(kl/target − 1, −0.2, 0.2),  coef ← coef·(1 + e·samples/horizon)

    Ziegler et al., arXiv 1909.08593, §2.2, with K_β = samples/horizon as in their code, so that the pace is
    one of episodes and not of batches.
    """

    coef: float | int
    target: float | int
    horizon: float | int

    def __post_init__(self) -> None:
        _require_coefficient(self.coef)
        _require_positive(self.target, "target")
        _require_positive(self.horizon, "horizon")

    def update(self, kl: float | int, samples: int) -> "AdaptiveKL":
        """The controller after `samples` episodes (completions, not tokens) of mean sequence KL `kl`."""
        factor = 1 + _clip(_violation(kl, self.target), 0.2) * samples / self.horizon
        if factor <= 0:
            raise ValueError(
                f"horizon is {self.horizon} and one update has {samples} samples; a coefficient may "
                "shrink but not reach 0, so give a horizon above a fifth of the samples."
            )
        return replace(self, coef=self.coef * factor)


@dataclass(frozen=True)
class BudgetKL:
    """A fixed coefficient, and a budget of mean sequence KL that ends the stage once it is spent."""

    coef: float | int
    budget: float | int

    def __post_init__(self) -> None:
        _require_coefficient(self.coef)
        _require_positive(self.budget, "budget")

    def update(self, kl: float | int, samples: int) -> "BudgetKL":
        """This controller, whatever was measured."""
        return self

    def exceeded(self, kl: float | int) -> bool:
        """Whether the mean sequence KL `kl` lies above the budget."""
        return _violation(kl, self.budget) > 0


@dataclass(frozen=True)
class DualKL:
    """The dual variable of the constraint "mean sequence KL ≤ target", by projected gradient ascent.

    max_π min_{coef ≥ 0}  E[r] − coef·(KL − target):  coef ← max(0, coef + rate·clip(kl/target − 1, −1, 1))

    `rate` is the most that coef moves in one update. Unlike `AdaptiveKL` it lets go of a constraint that does
    not bind (coef reaches 0) and takes hold again at once, where a coefficient that shrinks by factors needs
    as long to come back as it took to vanish.
    """

    coef: float | int
    target: float | int
    rate: float | int

    def __post_init__(self) -> None:
        _require_coefficient(self.coef)
        _require_positive(self.target, "target")
        _require_positive(self.rate, "rate")

    def update(self, kl: float | int, samples: int) -> "DualKL":
        """The controller after one measurement `kl` of the mean sequence KL, on however many samples."""
        return replace(self, coef=max(0.0, self.coef + self.rate * _clip(_violation(kl, self.target), 1.0)))


def _violation(kl: float | int, target: float | int) -> float:
    if not math.isfinite(kl):
        raise ValueError(f"kl is {kl}; a controller needs a finite mean sequence KL, so look for where it came from.")
    return kl / target - 1


def _clip(x: float | int, bound: float | int) -> float:
    return max(-bound, min(bound, x))


def _require_coefficient(coef: float | int) -> None:
    if not 0 <= coef < math.inf:
        raise ValueError(f"coef is {coef}; the coefficient of the KL penalty must be finite and not negative.")


def _require_positive(value: float | int, name: str) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{name} is {value}; it must be finite and above 0.")
