"""What passes from one iteration of the online loop to the next, and how it is written into a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from palate.algorithms.leash import Controller
from palate.data.sampling import Cursor
from palate.engine.experience import Rollout
from palate.ops import Moments

_ROLLOUT_TENSORS = ("row_ids", "group_ids", "ids", "mask", "sampler_logprobs")


@dataclass(frozen=True, slots=True)
class Pending:
    """A rollout that was sampled ahead of its iteration, and where the prompts stand after it."""

    rollout: Rollout
    cursor: Cursor


@dataclass(frozen=True, slots=True)
class LoopState:
    """All that changes from iteration to iteration, besides weights and optimisers."""

    iteration: int
    cursor: Cursor
    kl: Controller
    scores: Moments
    baseline: float | None = None  # the running mean of the returns, once there are some
    negative_kl: int = 0  # iterations in a row whose KL was below 0 beyond its noise
    ended: str | None = None  # why the stage is over before its last iteration
    pending: Pending | None = None  # the next iteration's rollout, where the loop is asynchronous

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of a pending rollout for a checkpoint."""
        if self.pending is None:
            return {}
        return {name: getattr(self.pending.rollout, name) for name in _ROLLOUT_TENSORS}

    def to_json(self) -> dict[str, Any]:
        """Plain numbers for a checkpoint."""
        return {
            "iteration": self.iteration,
            "cursor": asdict(self.cursor),
            "kl": asdict(self.kl),
            "scores": [float(number) for number in self.scores],
            "baseline": self.baseline,
            "negative_kl": self.negative_kl,
            "ended": self.ended,
            "pending": None if self.pending is None else self._plain(self.pending),
        }

    @staticmethod
    def _plain(pending: Pending) -> dict[str, Any]:
        rollout = pending.rollout
        single = {"finish": rollout.finish, "version": rollout.version, "limit": rollout.limit}
        return {"cursor": asdict(pending.cursor), **single}

    @classmethod
    def from_json(
        cls,
        plain: Mapping[str, Any],
        controller: type[Controller],
        tensors: Mapping[str, Tensor],
        device: torch.device | str = "cpu",
    ) -> LoopState:
        """The state that `to_json` and `tensors` gave; `controller` is the class of its KL controller."""
        pending = None
        if plain["pending"] is not None:
            held: dict[str, Any] = {name: tensors[name].to(device) for name in _ROLLOUT_TENSORS}
            single = {name: plain["pending"][name] for name in ("version", "limit")}
            rollout = Rollout(**held, **single, finish=tuple(plain["pending"]["finish"]))
            pending = Pending(rollout, Cursor(**plain["pending"]["cursor"]))
        return cls(
            iteration=plain["iteration"],
            cursor=Cursor(**plain["cursor"]),
            kl=controller(**plain["kl"]),
            scores=Moments(*(torch.tensor(number, dtype=torch.float64) for number in plain["scores"])),
            baseline=plain["baseline"],
            negative_kl=plain["negative_kl"],
            ended=plain["ended"],
            pending=pending,
        )
