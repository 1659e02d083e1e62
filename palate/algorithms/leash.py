"""The leash of alignment: what a nat of KL to the reference costs, how that price moves, and where it is paid."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from palate.algorithms.measures import sequence_kl
from palate.engine.experience import Experience, Outputs, Scored
from palate.ops import AdaptiveKL, BudgetKL, DualKL, FixedKL, kl_estimate, shaped_rewards
from palate.settings import record

Controller = FixedKL | AdaptiveKL | BudgetKL | DualKL


@record
class KL:
    """The leash. In the reward, token by token, it is k1, and the policy gradient makes of it the gradient of
    KL(π‖π_ref) (Ziegler et al., 1909.08593). In the loss (Shao et al., 2402.03300, eq. 3) it is β times

        k2 = ½x²,   k3 = e⁻ˣ − 1 + x,   x = log π − log π_ref

    a token, whose expected gradients are those of KL(π‖π_ref) and KL(π_ref‖π) at each token, earlier tokens taken as
    given (2506.09477)."""

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
    place: Literal["reward", "loss"] = Field("reward", description="where it is paid")
    estimator: Literal["k1", "k2", "k3"] = Field("k1", description="k1 in the reward; k2 or k3 in the loss")

    def __post_init__(self) -> None:
        if self.place == "loss" and self.estimator == "k1":
            raise ValueError(
                "k1 in the loss holds nothing back, as its expected gradient, that of Σ π = 1, is zero; take k2 (the "
                "gradient of KL to the reference) or k3, or pay k1 in the reward"
            )
        if self.place == "reward" and self.estimator != "k1":
            raise ValueError(
                f"{self.estimator} in the reward holds nothing back near the reference, where the policy gradient of "
                "its square vanishes to first order; take k1 in the reward, or place the KL in the loss"
            )

    def controller(self) -> Controller:
        """The controller at its start."""
        if self.kind == "fixed":
            return FixedKL(self.coef)
        if self.kind == "budget":
            return BudgetKL(self.coef, self.target)
        if self.kind == "dual":
            return DualKL(self.coef, self.target, self.rate)
        return AdaptiveKL(self.coef, self.target, self.horizon)

    def rewards(self, scored: Scored, coef: float) -> Tensor:
        """Rewards [B, T]: what each token earned, the rest of the score on the last, less the KL if it is paid here."""
        return scored.dense + shaped_rewards(
            scores=scored.scores - scored.dense.sum(dim=1),
            logprobs=scored.old_logprobs,
            ref_logprobs=scored.signals["reference"],
            mask=scored.rollout.mask,
            kl_coef=coef if self.place == "reward" else 0.0,
        )

    def returns(self, scored: Scored, coef: float) -> Tensor:
        """The sum of a completion's rewards, [B]; the score itself, to the bit, where nothing is paid here."""
        return scored.scores if self.place == "loss" else scored.scores - coef * sequence_kl(scored)

    def targets(self, scored: Scored, coef: float) -> dict[str, Tensor]:
        """What `losses` will need of a scored rollout."""
        if self.place == "reward":
            return {}
        reference = scored.signals["reference"]
        return {"reference": reference, "kl_coef": torch.full_like(reference, coef)}

    def losses(self, outputs: Outputs, batch: Experience) -> Tensor:
        """β·k a token, [N, T], where the KL is paid in the loss."""
        estimate = kl_estimate(logprobs=outputs.logprobs, ref_logprobs=batch.targets["reference"], kind=self.estimator)
        return batch.targets["kl_coef"] * estimate
