"""What the algorithms of the online loop are composed of, and what the loop asks of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Annotated, ClassVar, Literal, Protocol, runtime_checkable

import torch
from pydantic import Field
from torch import Tensor

from palate.algorithms.leash import KL
from palate.engine.experience import Denominators, Experience, Losses, Outputs, Rollout, Scored
from palate.losses import clipped_surrogate, clipped_value, policy_gradient
from palate.ops import clipped, gae, group_rows, sequence_mean, whiten
from palate.settings import record

# What an algorithm may need besides the scores; the KL to the reference is always measured.
SIGNALS = frozenset({"reference", "critic", "greedy", "baseline"})

# Settings that several algorithms have: type, bounds and help stand here once, the default in each record.
Epochs = Annotated[int, Field(ge=1, description="passes over a rollout")]
Minibatches = Annotated[int, Field(ge=1, description="optimiser steps a pass")]
TargetKL = Annotated[
    float | None,
    Field(gt=0, description="no further pass once the mean approximate KL to the rollout's policy exceeds this"),
]
Clip = Annotated[float, Field(gt=0, le=1, description="ε of the clipped ratio")]
ClipPair = Annotated[
    tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0)]],
    Field(description="ε_low and ε_high of the clipped ratio"),
]
Reduction = Annotated[
    Literal["token", "sequence", "fixed"],
    Field(
        description="the loss is a mean over tokens, a mean over completions of their tokens' means, or a sum over "
        "tokens divided by completions × max_new_tokens"
    ),
]
Discount = Annotated[float, Field(gt=0, le=1, description="discount of GAE")]
Lambda = Annotated[float, Field(ge=0, le=1, description="λ of GAE; at 1 the advantage is the return less the value")]
ValueWeight = Annotated[
    float, Field(ge=0, description="c_v, of the critic's loss; matters where the critic shares the policy's trunk")
]
EntropyWeight = Annotated[float, Field(ge=0, description="c_e, of the entropy bonus")]
Leash = Annotated[KL, Field(description="the leash to the reference")]


@record
class Critic:
    """Who predicts the return at every token."""

    trunk: Literal["own", "policy"] = Field(
        "own", description="a model of its own, or a head on the policy's hidden states"
    )
    init: Literal["reward", "sft"] = Field("reward", description="where an own trunk starts from")
    learning_rate: float = Field(1e-4, gt=0, description="the critic's own peak learning rate")


ValueFrom = Annotated[Critic, Field(description="who predicts the return")]


class OnlineAlgorithm(Protocol):
    """What the online loop asks of a method."""

    needs: ClassVar[frozenset[str]]
    samples: ClassVar[int]  # completions a prompt unless the recipe says; above 1, those of a prompt are compared

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

    def loss(self, outputs: Outputs, batch: Experience, mask: Tensor, denominators: Denominators) -> Losses:
        """What some rows add to the loss; `denominators` count the whole minibatch that they belong to."""
        ...


@runtime_checkable
class Selective(Protocol):
    """An algorithm that can tell from the scores that it will learn nothing from some groups.

    The loop drops them before the trainer reads them, and draws others.
    """

    @property
    def refills(self) -> int:
        """How often at most the loop draws further prompts for the groups it dropped."""
        ...

    def teaching(self, rollout: Rollout, scores: Tensor) -> Tensor:
        """Which rows something is learnt from, boolean [B]: all of a group or none."""
        ...


# ---- from scores to advantages


def whole_completions(scored: Scored, advantages: Tensor, targets: Mapping[str, Tensor]) -> Experience:
    """An experience in which all tokens of a completion have its advantage [B]."""
    return _experience(scored, torch.where(scored.rollout.mask, advantages.unsqueeze(1), 0), targets)


def compared(scored: Scored, advantages: Callable[..., Tensor], kl: KL, kl_coef: float) -> Experience:
    """An experience of returns compared within their groups, by a function of `scores [P, G]`."""
    rows = group_rows(group_ids=scored.rollout.group_ids)
    returns = kl.returns(scored, kl_coef)
    found = torch.empty_like(returns)
    found[rows] = advantages(scores=returns[rows])
    return whole_completions(scored, found, kl.targets(scored, kl_coef))


def rewards_to_go(scored: Scored, kl: KL, kl_coef: float) -> Experience:
    """An experience whose advantages are the sums of what is still to come at each token, whitened over the batch."""
    rewards, mask = kl.rewards(scored, kl_coef), scored.rollout.mask
    to_go, _ = gae(rewards=rewards, values=torch.zeros_like(rewards), mask=mask, gamma=1.0, lam=1.0)
    return _experience(scored, whiten(to_go, mask), kl.targets(scored, kl_coef))


def against_critic(scored: Scored, kl: KL, kl_coef: float, *, gamma: float, lam: float, whitened: bool) -> Experience:
    """An experience of advantages over a critic's values, with the returns that it is to learn."""
    mask, values = scored.rollout.mask, scored.signals["critic"]
    rewards = kl.rewards(scored, kl_coef)
    advantages, returns = gae(rewards=rewards, values=values, mask=mask, gamma=gamma, lam=lam)
    targets = {"returns": returns, "old_values": values, **kl.targets(scored, kl_coef)}
    return _experience(scored, whiten(advantages, mask) if whitened else advantages, targets)


def _experience(scored: Scored, advantages: Tensor, targets: Mapping[str, Tensor]) -> Experience:
    rows = torch.arange(scored.rollout.rows, device=advantages.device)
    return Experience(rows, scored.old_logprobs, advantages, targets)


# ---- from advantages to the loss


def with_kl(
    losses: Tensor, outputs: Outputs, batch: Experience, mask: Tensor, denominators: Denominators, *, kl: KL, by: str
) -> Losses:
    """The policy's losses [N, T] as one number, and the leash's with them where it is paid in the loss."""
    policy = denominators.reduce(losses, mask, by)
    if kl.place == "reward":
        return Losses(policy, {"loss/policy": policy})
    price = denominators.reduce(kl.losses(outputs, batch), mask, by)
    return Losses(policy + price, {"loss/policy": policy, "loss/kl": price})


def gradient_losses(
    outputs: Outputs, batch: Experience, mask: Tensor, denominators: Denominators, *, kl: KL, by: str
) -> Losses:
    """The policy gradient and the leash."""
    losses = policy_gradient(logprobs=outputs.logprobs, advantages=batch.advantages)
    return with_kl(losses, outputs, batch, mask, denominators, kl=kl, by=by)


def ratio_losses(
    outputs: Outputs,
    batch: Experience,
    mask: Tensor,
    denominators: Denominators,
    *,
    clip: float | tuple[float, float],
    kl: KL,
    by: str,
    whole: bool = False,
) -> Losses:
    """PPO's clipped surrogate, of tokens or of `whole` completions, the leash, and the share of tokens clipped."""
    logprobs, old_logprobs, advantages = outputs.logprobs, batch.old_logprobs, batch.advantages
    if whole:
        logprobs, old_logprobs = sequence_mean(logprobs, mask), sequence_mean(old_logprobs, mask)
    surrogate = clipped_surrogate(logprobs=logprobs, old_logprobs=old_logprobs, advantages=advantages, clip=clip)
    silenced = clipped(logprobs=logprobs, old_logprobs=old_logprobs, advantages=advantages, clip=clip)
    losses = with_kl(surrogate, outputs, batch, mask, denominators, kl=kl, by=by)
    return losses.joined({"clip_fraction": denominators.reduce(silenced, mask, "token")})


def with_critic(
    losses: Losses,
    outputs: Outputs,
    batch: Experience,
    mask: Tensor,
    denominators: Denominators,
    *,
    value_weight: float,
    value_clip: float | None,
    entropy_weight: float,
    by: str,
) -> Losses:
    """The losses with the critic's squared error, a mean over tokens, and the entropy bonus."""
    assert outputs.values is not None
    squared = clipped_value(
        values=outputs.values,
        old_values=batch.targets["old_values"],
        returns=batch.targets["returns"],
        clip=math.inf if value_clip is None else value_clip,
    )
    value = denominators.reduce(squared, mask, "token")
    entropy = denominators.reduce(outputs.entropy, mask, by)
    return losses.joined({"loss/value": value}, value_weight * value - entropy_weight * entropy)
