"""Algorithms of the online loop: each assigns advantages to a scored rollout and says what loss follows.

What several share is composed from `KL` and `Critic`. A new algorithm is one loss in `palate.losses` and one record
here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor

from palate.engine.experience import Experience, Losses, Outputs, Scored
from palate.losses import clipped_surrogate, clipped_value
from palate.ops import AdaptiveKL, BudgetKL, DualKL, FixedKL, gae, reduce, shaped_rewards, whiten
from palate.settings import record

Controller = FixedKL | AdaptiveKL | BudgetKL | DualKL


@record
class KL:
    """The leash: what a nat of KL to the reference costs, and how that price moves."""

    kind: Literal["fixed", "adaptive", "budget", "dual"] = Field(
        "adaptive",
        description="fixed price; price steered to a target; fixed price and the stage ends past the target; "
        "price as the multiplier of the constraint KL ≤ target",
    )
    coef: float = Field(
        0.05,
        ge=0,
        description="price of a nat, in units of the score (at the start, where it moves)",
    )
    target: float = Field(6.0, gt=0, description="nats a sequence: the target, budget or bound")
    horizon: int = Field(10_000, ge=1, description="episodes over which an adaptive price moves")
    rate: float = Field(0.02, gt=0, description="step of a dual price, per iteration")

    def controller(self) -> Controller:
        """The controller at its start."""
        if self.kind == "fixed":
            return FixedKL(self.coef)
        if self.kind == "budget":
            return BudgetKL(self.coef, self.target)
        if self.kind == "dual":
            return DualKL(self.coef, self.target, self.rate)
        return AdaptiveKL(self.coef, self.target, self.horizon)


@record
class Critic:
    """Who predicts the return at every token."""

    trunk: Literal["own", "policy"] = Field(
        "own", description="a model of its own, or a head on the policy's hidden states"
    )
    init: Literal["reward", "sft"] = Field("reward", description="where an own trunk starts from")
    learning_rate: float = Field(1e-4, gt=0, description="the critic's own peak learning rate")


class OnlineAlgorithm(Protocol):
    """What the online loop asks of a method."""

    needs: ClassVar[frozenset[str]]

    @property
    def epochs(self) -> int:
        """Passes over a rollout."""
        ...

    @property
    def minibatches(self) -> int:
        """Optimiser steps a pass."""
        ...

    @property
    def target_kl(self) -> float | None:
        """The approximate KL past which no further pass is made."""
        ...

    @property
    def kl(self) -> KL:
        """The leash."""
        ...

    def assign(self, scored: Scored, kl_coef: float) -> Experience:
        """Advantages and targets for a scored rollout; rows may be dropped."""
        ...

    def loss(self, outputs: Outputs, batch: Experience, mask: Tensor, denominator: int) -> Losses:
        """The loss of some rows; `denominator` counts the tokens of the whole minibatch they belong to."""
        ...


@record
class PPO:
    """Proximal policy optimisation (Schulman et al., 1707.06347, eq. 7), with the KL to the reference paid token by
    token inside the reward (Ziegler et al., 1909.08593):

        r_t = [t last]·score − β·(log π_old(a_t|s_t) − log π_ref(a_t|s_t)),   Â = GAE(γ, λ)   (1506.02438, eq. 16)
        L = −min(ρ·Â, clip(ρ, 1 ± ε)·Â) + c_v·½(V − R)² − c_e·H,   ρ = π/π_old

    averaged over the tokens of the minibatch.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"reference", "critic"})

    epochs: int = Field(4, ge=1, description="passes over a rollout")
    minibatches: int = Field(4, ge=1, description="optimiser steps a pass")
    clip: float = Field(0.2, gt=0, le=1, description="ε of the clipped ratio")
    value_clip: float | None = Field(
        None, gt=0, description="clips how far the critic moves, in units of the return; off unless set"
    )
    gamma: float = Field(1.0, gt=0, le=1, description="discount of GAE")
    lam: float = Field(0.95, ge=0, le=1, description="λ of GAE")
    whiten: bool = Field(True, description="advantages to mean 0 and variance 1 over the whole batch's tokens")
    value_weight: float = Field(
        0.5, ge=0, description="c_v, of the critic's loss; matters where the critic shares the policy's trunk"
    )
    entropy_weight: float = Field(0.0, ge=0, description="c_e, of the entropy bonus")
    target_kl: float | None = Field(
        None,
        gt=0,
        description="no further pass once the mean approximate KL to the rollout's policy exceeds this",
    )
    kl: KL = Field(default_factory=KL, description="the leash to the reference")
    critic: Critic = Field(default_factory=Critic, description="who predicts the return")

    def assign(self, scored: Scored, kl_coef: float) -> Experience:
        """Shapes rewards, estimates advantages and returns, and whitens the advantages."""
        mask = scored.rollout.mask
        values = scored.signals["critic"]
        rewards = shaped_rewards(
            scores=scored.scores,
            logprobs=scored.old_logprobs,
            ref_logprobs=scored.signals["reference"],
            mask=mask,
            kl_coef=kl_coef,
        )
        advantages, returns = gae(rewards=rewards, values=values, mask=mask, gamma=self.gamma, lam=self.lam)
        if self.whiten:
            advantages = whiten(advantages, mask)
        return Experience(
            rows=torch.arange(scored.rollout.rows, device=mask.device),
            old_logprobs=scored.old_logprobs,
            advantages=advantages,
            targets={"returns": returns, "old_values": values},
        )

    def loss(self, outputs: Outputs, batch: Experience, mask: Tensor, denominator: int) -> Losses:
        """The clipped surrogate, the critic's squared error and the entropy bonus."""
        assert outputs.values is not None
        surrogate = clipped_surrogate(
            logprobs=outputs.logprobs,
            old_logprobs=batch.old_logprobs,
            advantages=batch.advantages,
            clip=self.clip,
        )
        squared = clipped_value(
            values=outputs.values,
            old_values=batch.targets["old_values"],
            returns=batch.targets["returns"],
            clip=math.inf if self.value_clip is None else self.value_clip,
        )
        policy = reduce(loss=surrogate, mask=mask, by="token", denominator=denominator)
        value = reduce(loss=squared, mask=mask, by="token", denominator=denominator)
        entropy = reduce(loss=outputs.entropy, mask=mask, by="token", denominator=denominator)
        return Losses(policy + self.value_weight * value - self.entropy_weight * entropy, policy, value)


ALGORITHMS: Mapping[str, type] = {"ppo": PPO}
