"""A world small enough to be solved on paper: one completion token over three ids.

    π*(y) ∝ π_ref(y)·exp(r(y)/β),   J* = β·log Z = β·log Σ_y π_ref(y)·exp(r(y)/β)

The loops meet it through the same protocols as any model and are not told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from palate.data.layout import Layout
from palate.engine.interfaces import Completions
from palate.models.decoder import RecomputingDecoder

REFERENCE = (0.5, 0.3, 0.2)
REWARDS = (1.0, 2.0, 0.0)
BETA = 0.5


class TabularPolicy(nn.Module):
    """A distribution over V ids, the same after any prompt: its logits are its parameters [V]."""

    width: int
    context: int | None = None
    projection: Tensor | None = None
    supports_packing = True

    def __init__(self, probabilities: Sequence[float]):
        super().__init__()
        self.table = nn.Parameter(torch.tensor(probabilities).log())
        self.width = self.vocabulary = len(probabilities)

    def hidden(self, layout: Layout, read: Tensor | None = None) -> Tensor:
        """The logits at each position, [K, V]."""
        return self.table.expand(layout.total if read is None else len(read), -1)

    def logits(self, hidden: Tensor) -> Tensor:
        """The logits themselves."""
        return hidden

    def decoder(self, prompts: Sequence[Sequence[int]]) -> RecomputingDecoder:
        """Decodes by asking anew for each token."""
        return RecomputingDecoder(self, prompts)

    @property
    def probabilities(self) -> Tensor:
        """π, [V]."""
        return torch.softmax(self.table.detach(), dim=0)


class TabularCritic(nn.Module):
    """One number: the return expected of any completion."""

    supports_packing = True

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(()))

    def values(self, layout: Layout, hidden: Tensor) -> Tensor:
        """The same value before every completion token, [B, T]."""
        return torch.where(layout.mask, self.value, 0.0)


@dataclass(frozen=True)
class TabularReward:
    """r(y) of the first completion token."""

    rewards: tuple[float, ...] = REWARDS
    name: str = "table"

    def score(self, completions: Completions) -> Tensor:
        """One number a completion, [B]."""
        return torch.tensor(self.rewards)[completions.ids[:, 0]]


@dataclass(frozen=True)
class TabularCodec:
    """Ids without text: no id ends a completion."""

    eos_id: int | None = None
    pad_id: int = 0

    def decode(self, ids: Sequence[int]) -> str:
        """The ids as digits."""
        return " ".join(map(str, ids))


def optimum(reference: Sequence[float], rewards: Sequence[float], beta: float) -> tuple[Tensor, float]:
    """π* [V] and J*, in float64."""
    weights = torch.tensor(reference, dtype=torch.float64) * torch.exp(
        torch.tensor(rewards, dtype=torch.float64) / beta
    )
    return weights / weights.sum(), beta * float(weights.sum().log())


def total_variation(p: Tensor, q: Tensor) -> float:
    """½·Σ|p − q|."""
    return 0.5 * float((p.double() - q.double()).abs().sum())


def forward_optimum(reference: Sequence[float], rewards: Sequence[float], beta: float) -> Tensor:
    """The π [V] that maximises E_π[r] − β·KL(π_ref‖π), in float64.

    π_y = β·π_ref(y)/(μ − r_y), with μ > max r such that Σ π = 1: there r_y + β·π_ref(y)/π_y − μ, the Lagrangian's
    gradient, is 0.
    """
    weights, r = torch.tensor(reference, dtype=torch.float64), torch.tensor(rewards, dtype=torch.float64)
    low, high = float(r.max()), float(r.max()) + beta
    for _ in range(200):  # Σ π falls in μ: above 1 at the largest reward, at most 1 at β more
        middle = (low + high) / 2
        low, high = (middle, high) if float((beta * weights / (middle - r)).sum()) > 1 else (low, middle)
    return beta * weights / (high - r)
