"""Algorithms of the online loop: each assigns advantages to a scored rollout and says what loss follows.

What several share is composed from `palate.algorithms.parts` and `leash`. A new algorithm is one loss in
`palate.losses` and one record here. In the formulas s is the score of a completion y, ρ = π(y_t)/π_old(y_t), and
R = s − β·Σ_t (log π_old − log π_ref) where the KL is paid in the reward, R = s where it is paid in the loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from palate.algorithms.leash import KL
from palate.algorithms.parts import (
    Clip,
    ClipPair,
    Critic,
    Discount,
    EntropyWeight,
    Epochs,
    Lambda,
    Leash,
    Minibatches,
    Reduction,
    TargetKL,
    ValueFrom,
    ValueWeight,
    against_critic,
    compared,
    gradient_losses,
    ratio_losses,
    rewards_to_go,
    whole_completions,
    with_critic,
)
from palate.engine.experience import Denominators, Experience, Losses, Outputs, Rollout, Scored
from palate.ops import group_normalised, group_rows, leave_one_out, soft_overlong
from palate.settings import record

# The leash of algorithms whose papers have none: nothing is paid, and the KL is measured all the same.
FREE = KL(kind="fixed", coef=0.0)


@record
class PPO:
    """Proximal policy optimisation (Schulman et al., 1707.06347, eq. 7), with the KL to the reference paid token by
    token inside the reward (Ziegler et al., 1909.08593):

        r_t = [t last]·s − β·(log π_old(y_t) − log π_ref(y_t)),   Â = GAE(γ, λ)   (1506.02438, eq. 16)
        L = −min(ρ·Â, clip(ρ, 1 ± ε)·Â) + c_v·½(V − R)² − c_e·H
    """

    needs: ClassVar[frozenset[str]] = frozenset({"reference", "critic"})
    samples: ClassVar[int] = 1

    epochs: Epochs = 4
    minibatches: Minibatches = 4
    clip: Clip = 0.2
    value_clip: float | None = Field(
        None, gt=0, description="clips how far the critic moves, in units of the return; off unless set"
    )
    gamma: Discount = 1.0
    lam: Lambda = 0.95
    whiten: bool = Field(True, description="advantages to mean 0 and variance 1 over the whole batch's tokens")
    value_weight: ValueWeight = 0.5
    entropy_weight: EntropyWeight = 0.0
    target_kl: TargetKL = None
    reduction: Reduction = "token"
    kl: Leash = KL()
    critic: ValueFrom = Critic()

    def assign(self, scored: Scored, kl_coef: float) -> Experience:
        """Shapes rewards, estimates advantages and returns, and whitens the advantages."""
        return against_critic(scored, self.kl, kl_coef, gamma=self.gamma, lam=self.lam, whitened=self.whiten)

    def loss(self, outputs: Outputs, batch: Experience, mask: Tensor, denominators: Denominators) -> Losses:
        """The clipped surrogate, the critic's squared error and the entropy bonus."""
        losses = ratio_losses(outputs, batch, mask, denominators, clip=self.clip, kl=self.kl, by=self.reduction)
        return with_critic(
            losses,
            outputs,
            batch,
            mask,
            denominators,
            value_weight=self.value_weight,
            value_clip=self.value_clip,
            entropy_weight=self.entropy_weight,
            by=self.reduction,
        )


@record
class A2C:
    """Advantage actor-critic (Mnih et al., 1602.01783): PPO with one step a rollout, which needs no ratio.

    Â = GAE(γ, λ),   L = −Â·log π + c_v·½(V − R)² − c_e·H
    """

    needs: ClassVar[frozenset[str]] = frozenset({"reference", "critic"})
    samples: ClassVar[int] = 1
    epochs: ClassVar[int] = 1
    minibatches: ClassVar[int] = 1
    target_kl: ClassVar[float | None] = None

    gamma: Discount = 1.0
    lam: Lambda = 1.0
    value_weight: ValueWeight = 0.5
    entropy_weight: EntropyWeight = 0.0
    reduction: Reduction = "token"
    kl: Leash = KL()
    critic: ValueFrom = Critic()

    def assign(self, scored: Scored, kl_coef: float) -> Experience:
        """Shapes rewards and estimates advantages and returns."""
        return against_critic(scored, self.kl, kl_coef, gamma=self.gamma, lam=self.lam, whitened=False)

    def loss(self, outputs: Outputs, batch: Experience, mask: Tensor, denominators: Denominators) -> Losses:
        """The policy gradient, the critic's squared error and the entropy bonus."""
        losses = gradient_losses(outputs, batch, mask, denominators, kl=self.kl, by=self.reduction)
        return with_critic(
            losses,
            outputs,
            batch,
            mask,
            denominators,
            value_weight=self.value_weight,
            value_clip=None,
            entropy_weight=self.entropy_weight,
            by=self.reduction,
        )


@record
class REINFORCE:
    """REINFORCE (Williams, 1992) with the running mean of earlier returns as baseline: Â = R − R̄,  L = −Â·log π."""

    needs: ClassVar[frozenset[str]] = frozenset({"reference", "baseline"})
    samples: ClassVar[int] = 1
    epochs: ClassVar[int] = 1
    minibatches: ClassVar[int] = 1  # a second step would need the ratio
    target_kl: ClassVar[float | None] = None

    reduction: Reduction = "token"
    kl: Leash = KL()

    def assign(self, scored: Scored, kl_coef: float) -> Experience:
        """How much more each completion returned than those of earlier iterations."""
        advantages = self.kl.returns(scored, kl_coef) - scored.signals["baseline"]
        return whole_completions(scored, advantages, self.kl.targets(scored, kl_coef))

    def loss(self, outputs: Outputs, batch: Experience, mask: Tensor, denominators: Denominators) -> Losses:
        """The policy gradient."""
        return gradient_losses(outputs, batch, mask, denominators, kl=self.kl, by=self.reduction)


@record
class ReMax:
    """REINFORCE with the score of the policy's likeliest completion as baseline (Li et al., 2310.10505):
    Â = R − s(greedy),  L = −Â·log π."""

    needs: ClassVar[frozenset[str]] = frozenset({"reference", "greedy"})
    samples: ClassVar[int] = 1
    epochs: ClassVar[int] = 1
    minibatches: ClassVar[int] = 1  # a second step would need the ratio
    target_kl: ClassVar[float | None] = None

    reduction: Reduction = "token"
    kl: Leash = KL()

    def assign(self, scored: Scored, kl_coef: float) -> Experience:
        """How much more each completion returned than the greedy one to the same prompt scored."""
        advantages = self.kl.returns(scored, kl_coef) - scored.signals["greedy"]
        return whole_completions(scored, advantages, self.kl.targets(scored, kl_coef))

    def loss(self, outputs: Outputs, batch: Experience, mask: Tensor, denominators: Denominators) -> Losses:
        """The policy gradient."""
        return gradient_losses(outputs, batch, mask, denominators, kl=self.kl, by=self.reduction)


@record
class ReinforcePlusPlus:
    """REINFORCE++ (Hu et al., 2501.03262): PPO's loss on whitened rewards-to-go instead of a critic.

    Â = whiten(Σ_{i ≥ t} r_i) over all tokens of the batch,   L = −min(ρ·Â, clip(ρ, 1 ± ε)·Â)
    """

    needs: ClassVar[frozenset[str]] = frozenset({"reference"})
    samples: ClassVar[int] = 1

    epochs: Epochs = 1
    minibatches: Minibatches = 4
    clip: Clip = 0.2
    target_kl: TargetKL = None
    reduction: Reduction = "token"
    kl: Leash = KL()

    def assign(self, scored: Scored, kl_coef: float) -> Experience:
        """Sums what is still to come at every token, and whitens over the batch."""
        return rewards_to_go(scored, self.kl, kl_coef)

    def loss(self, outputs: Outputs, batch: Experience, mask: Tensor, denominators: Denominators) -> Losses:
        """The clipped surrogate."""
        return ratio_losses(outputs, batch, mask, denominators, clip=self.clip, kl=self.kl, by=self.reduction)


@record
class RLOO:
    """REINFORCE leave-one-out (Ahmadian et al., 2402.14740): the mean of the prompt's other completions as baseline.

    Â_i = R_i − 1/(G − 1)·Σ_{j ≠ i} R_j,   L = −min(ρ·Â, clip(ρ, 1 ± ε)·Â)

    With one pass of one minibatch, the default, ρ = 1 and the gradient is REINFORCE's.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"reference"})
    samples: ClassVar[int] = 4

    epochs: Epochs = 1
    minibatches: Minibatches = 1
    clip: Clip = 0.2
    target_kl: TargetKL = None
    reduction: Reduction = "token"
    kl: Leash = KL()

    def assign(self, scored: Scored, kl_coef: float) -> Experience:
        """How much more each completion returned than the others to the same prompt."""
        return compared(scored, leave_one_out, self.kl, kl_coef)

    def loss(self, outputs: Outputs, batch: Experience, mask: Tensor, denominators: Denominators) -> Losses:
        """The clipped surrogate."""
        return ratio_losses(outputs, batch, mask, denominators, clip=self.clip, kl=self.kl, by=self.reduction)


@record
class GRPO:
    """Group relative policy optimisation (Shao et al., 2402.03300, eq. 3): scores in units of their group's standard
    deviation, and k3 in the loss.

    Â_i = (R_i − mean R)/(std R + 10⁻⁴),   L = −min(ρ·Â, clip(ρ, 1 ± ε)·Â) + β·k3
    """

    needs: ClassVar[frozenset[str]] = frozenset({"reference"})
    samples: ClassVar[int] = 8

    epochs: Epochs = 1
    minibatches: Minibatches = 4
    clip: Clip = 0.2
    std: bool = Field(True, description="divide by the group's standard deviation")
    target_kl: TargetKL = None
    reduction: Reduction = "sequence"
    kl: Leash = KL(kind="fixed", coef=0.04, place="loss", estimator="k3")

    def assign(self, scored: Scored, kl_coef: float) -> Experience:
        """Where each completion stands in its group."""
        return compared(scored, partial(group_normalised, std=self.std), self.kl, kl_coef)

    def loss(self, outputs: Outputs, batch: Experience, mask: Tensor, denominators: Denominators) -> Losses:
        """The clipped surrogate and the leash."""
        return ratio_losses(outputs, batch, mask, denominators, clip=self.clip, kl=self.kl, by=self.reduction)


@record
class DrGRPO:
    """GRPO done right (Liu et al., 2503.20783): no division by a standard deviation, which favours prompts that are
    nearly always right or wrong, nor by a length, which favours long wrong answers; no KL.

    Â_i = R_i − mean R,   L = −min(ρ·Â, clip(ρ, 1 ± ε)·Â), summed and divided by completions × max_new_tokens
    """

    needs: ClassVar[frozenset[str]] = frozenset({"reference"})
    samples: ClassVar[int] = 8

    epochs: Epochs = 1
    minibatches: Minibatches = 4
    clip: Clip = 0.2
    target_kl: TargetKL = None
    kl: Leash = FREE

    def assign(self, scored: Scored, kl_coef: float) -> Experience:
        """How far each completion is above its group's mean."""
        return compared(scored, partial(group_normalised, std=False), self.kl, kl_coef)

    def loss(self, outputs: Outputs, batch: Experience, mask: Tensor, denominators: Denominators) -> Losses:
        """The clipped surrogate, divided by a constant."""
        return ratio_losses(outputs, batch, mask, denominators, clip=self.clip, kl=self.kl, by="fixed")


@record
class DAPO:
    """Decoupled clip and dynamic sampling (Yu et al., 2503.14476, eq. 8 to 13): a clip that is wider above, a mean over
    tokens, groups whose completions all score alike dropped and others drawn for them, a penalty that grows as a
    completion nears the limit; no KL.

    Â_i = (R_i − mean R)/(std R + 10⁻⁴),   L = −min(ρ·Â, clip(ρ, 1 − ε_low, 1 + ε_high)·Â)
    """

    needs: ClassVar[frozenset[str]] = frozenset({"reference"})
    samples: ClassVar[int] = 8

    epochs: Epochs = 1
    minibatches: Minibatches = 4
    clip: ClipPair = (0.2, 0.28)
    refills: int = Field(3, ge=0, description="how often at most further prompts are drawn for the groups dropped")
    overlong: float = Field(
        0.2, ge=0, le=1, description="last share of max_new_tokens over which a penalty grows from 0 to 1; 0 for none"
    )
    target_kl: TargetKL = None
    kl: Leash = FREE

    def teaching(self, rollout: Rollout, scores: Tensor) -> Tensor:
        """The rows of groups whose scores, penalties included, are not all equal."""
        rows = group_rows(group_ids=rollout.group_ids)
        groups = self._penalised(rollout, scores)[rows]
        found = torch.zeros_like(scores, dtype=torch.bool)
        found[rows] = (groups.amax(dim=1) > groups.amin(dim=1)).unsqueeze(1).expand(rows.shape)
        return found

    def assign(self, scored: Scored, kl_coef: float) -> Experience:
        """Where each completion stands in its group, once penalised; groups that teach nothing are left out."""
        chosen = self.teaching(scored.rollout, scored.scores).nonzero().squeeze(1)
        penalised = replace(scored, scores=self._penalised(scored.rollout, scored.scores))
        return compared(penalised, group_normalised, self.kl, kl_coef).take(chosen)

    def loss(self, outputs: Outputs, batch: Experience, mask: Tensor, denominators: Denominators) -> Losses:
        """The clipped surrogate, a mean over tokens."""
        return ratio_losses(outputs, batch, mask, denominators, clip=self.clip, kl=self.kl, by="token")

    def _penalised(self, rollout: Rollout, scores: Tensor) -> Tensor:
        buffer = self.overlong * rollout.limit
        return scores + soft_overlong(lengths=rollout.lengths, limit=rollout.limit, buffer=buffer)


@record
class GSPO:
    """Group sequence policy optimisation (Zheng et al., 2507.18071, eq. 5): GRPO with one ratio a completion.

    ς_i = (π(y_i)/π_old(y_i))^(1/|y_i|),   L = −min(ς·Â, clip(ς, 1 − ε_low, 1 + ε_high)·Â), a mean over completions
    """

    needs: ClassVar[frozenset[str]] = frozenset({"reference"})
    samples: ClassVar[int] = 8

    epochs: Epochs = 1
    minibatches: Minibatches = 4
    clip: ClipPair = (3e-4, 4e-4)
    target_kl: TargetKL = None
    kl: Leash = FREE

    def assign(self, scored: Scored, kl_coef: float) -> Experience:
        """Where each completion stands in its group."""
        return compared(scored, group_normalised, self.kl, kl_coef)

    def loss(self, outputs: Outputs, batch: Experience, mask: Tensor, denominators: Denominators) -> Losses:
        """The clipped surrogate of whole completions."""
        return ratio_losses(outputs, batch, mask, denominators, clip=self.clip, kl=self.kl, by="sequence", whole=True)


ALGORITHMS: Mapping[str, type] = {
    "a2c": A2C,
    "dapo": DAPO,
    "dr_grpo": DrGRPO,
    "grpo": GRPO,
    "gspo": GSPO,
    "ppo": PPO,
    "reinforce": REINFORCE,
    "reinforce_plus_plus": ReinforcePlusPlus,
    "remax": ReMax,
    "rloo": RLOO,
}
