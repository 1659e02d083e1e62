"""Sums and statistics over the real entries of a padded tensor.

What stands in a masked position never matters, NaN and infinity included, neither to a value nor to a
gradient: masked entries are replaced before any arithmetic, since 0 · NaN is NaN forwards and backwards.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def zero_masked(x: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """x where the mask is true and exactly 0 elsewhere, with zero gradient there.

    Use it on what goes into a formula, not on what comes out: a masked NaN must not pass through the
    formula's derivative.
    """
    return torch.where(mask, x, torch.zeros_like(x))


def at_least_float32(x: Tensor) -> Tensor:
    """x in float32 where it is bfloat16 or float16, unchanged otherwise."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def masked_mean(
    x: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"], dim: int | tuple[int, ...] | None = None
) -> Float[Tensor, "..."]:
    """Mean of the real entries, Σ m·x / Σ m, over `dim` or everything; 0 where there is no real entry."""
    x = zero_masked(at_least_float32(x), mask)
    return x.sum(dim) / mask.sum(dim).clamp(min=1)


class Moments(NamedTuple):
    """Count, mean and M₂ = Σ (x − mean)² of a sample, three scalars that merge over ranks."""

    n: Tensor
    mean: Tensor
    M2: Tensor

    def merge(self, other: "Moments") -> "Moments":
        """The moments of both samples together, up to rounding in any order.

        δ = mean_b − mean_a,  mean = mean_a + δ·n_b/n,  M₂ = M₂_a + M₂_b + δ²·n_a·n_b/n

        Chan, Golub and LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances",
        1979.
        """
        n = self.n + other.n
        share = other.n / n.clamp(min=1)
        delta = other.mean - self.mean
        return Moments(n, self.mean + delta * share, self.M2 + other.M2 + delta.square() * self.n * share)

    def variance(self, unbiased: bool = True) -> Tensor:
        """M₂/(n − 1), or M₂/n when not unbiased; 0 for a sample of one or none."""
        return self.M2 / (self.n - int(unbiased)).clamp(min=1)


def moments(x: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Moments:
    """Count, mean and M₂ of the real entries, in two passes, so that a large mean costs no digits."""
    x = at_least_float32(x)
    mean = masked_mean(x, mask)
    return Moments(mask.sum().to(x.dtype), mean, zero_masked(x - mean, mask).square().sum())


def masked_var(x: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"], unbiased: bool = True) -> Float[Tensor, ""]:
    """Variance of the real entries, Σ m·(x − mean)² / (Σ m − 1), or / Σ m; 0 for one entry or none."""
    return moments(x, mask).variance(unbiased)
