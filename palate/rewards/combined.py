"""Rewards made of rewards: an ensemble of reward models, and a weighted sum of what has different units."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from palate.engine.interfaces import Completions, Judgement, Reward
from palate.ops import Moments
from palate.rewards.checking import checked_scores, finite, judged
from palate.rewards.model import ModelReward

Combining = Literal["mean", "worst", "cautious"]


@dataclass(frozen=True)
class EnsembleReward:
    """Several judges of one unit as one: where they disagree, they know little.

        mean:     s = mean_k s_k
        worst:    s = min_k s_k
        cautious: s = mean_k s_k − λ·std_k s_k,   std with divisor K

    Coste et al., arXiv 2310.02743, §3.3, who take off λ times the variance: the deviation has the score's own unit. The
    disagreement std_k is the part NAME/std. A reward model of several heads is as many judges, on one trunk.
    """

    name: str
    members: tuple[Reward, ...]
    combine: Combining = "mean"
    penalty: float = 1.0

    def score(self, completions: Completions) -> Tensor:
        """The combined scores, [B]."""
        return self.judge(completions).scores

    def judge(self, completions: Completions) -> Judgement:
        """The combined scores and the members' disagreement."""
        scores = torch.cat([_each(member, completions) for member in self.members])
        deviation = scores.std(dim=0, unbiased=False)
        return Judgement(self._combined(scores, deviation), {f"{self.name}/std": deviation})

    def _combined(self, scores: Tensor, deviation: Tensor) -> Tensor:
        if self.combine == "worst":
            return scores.amin(dim=0)
        mean = scores.mean(dim=0)
        return mean if self.combine == "mean" else mean - self.penalty * deviation


def _each(member: Reward, completions: Completions) -> Tensor:
    """The scores of a judge, or of each head of a reward model, [K, B]."""
    if not isinstance(member, ModelReward) or member.model.members == 1:
        return checked_scores(member, completions).unsqueeze(0)
    return torch.stack([finite(member.name, column, completions) for column in member.columns(completions).unbind(1)])


@dataclass(frozen=True)
class Term:
    """One reward of a sum: w·(s − mean)/std by frozen moments, or w·s where there are none."""

    reward: Reward
    weight: float
    moments: Moments | None = None

    @property
    def unit(self) -> float:
        """std; 1 where there are no moments, or where all that was sampled had the same score."""
        variance = 0.0 if self.moments is None else float(self.moments.variance(unbiased=False))
        return math.sqrt(variance) if variance > 1e-12 else 1.0

    @property
    def zero(self) -> float:
        """mean; 0 where there are no moments."""
        return 0.0 if self.moments is None else float(self.moments.mean)


@dataclass(frozen=True)
class WeightedReward:
    """A weighted sum of named rewards, s = Σ_i w_i·(s_i − mean_i)/std_i, with each term's own number as a part.

    mean_i and std_i were taken before alignment, of what the policy then wrote, and stay: a term's unit does not move
    with the policy.
    """

    name: str
    terms: tuple[Term, ...]

    def score(self, completions: Completions) -> Tensor:
        """The sums, [B]."""
        return self.judge(completions).scores

    def judge(self, completions: Completions) -> Judgement:
        """The sums, the terms' own numbers, and what each token earned where a term says."""
        total = torch.zeros(len(completions.texts), dtype=torch.float64, device=completions.ids.device)
        parts: dict[str, Tensor] = {}
        dense: Tensor | None = None
        for term in self.terms:
            said = judged(term.reward, completions)
            total += term.weight * (said.scores.double() - term.zero) / term.unit
            parts |= said.parts
            if said.dense is not None:
                earned = term.weight / term.unit * said.dense
                dense = earned if dense is None else dense + earned
        return Judgement(total, parts, dense)


def moments_to_json(moments: Mapping[str, Moments]) -> dict[str, list[float]]:
    """Plain numbers [n, mean, M2] by name."""
    return {name: [float(number) for number in one] for name, one in moments.items()}


def moments_from_json(plain: Mapping[str, list[float]]) -> dict[str, Moments]:
    """The moments that `moments_to_json` wrote."""
    return {
        name: Moments(*(torch.tensor(number, dtype=torch.float64) for number in numbers))
        for name, numbers in plain.items()
    }
