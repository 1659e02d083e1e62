"""The three stations of the online loop, and the state that passes from one iteration to the next.

    Prompts ─sample▶ Rollout ─score▶ Scored ─assign▶ Experience ─loss▶ update

Each station is frozen and complete from construction on: what a later station adds stands in a later type.
B rows, T completion tokens; all [B, T] tensors cover the completion only and are right-padded, `mask` is boolean.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Finish = Literal["eos", "length"]


@dataclass(frozen=True, slots=True)
class Rollout:
    """Completions as the sampler wrote them.

    `row_ids [B]` index the prompts; rows with equal `group_ids [B]` answer the same prompt draw; `ids, mask [B, T]`
    include the EOS; `sampler_logprobs [B, T]` in nats at the sampling temperature; `finish` says why each row
    ended; `version` counts the policy's publications.
    """

    row_ids: Tensor
    group_ids: Tensor
    ids: Tensor
    mask: Tensor
    sampler_logprobs: Tensor
    finish: tuple[Finish, ...]
    version: int

    @property
    def rows(self) -> int:
        """B, the number of completions."""
        return self.ids.shape[0]

    @property
    def lengths(self) -> Tensor:
        """Tokens of each completion, EOS included, [B]."""
        return self.mask.sum(dim=1)

    @property
    def ended(self) -> Tensor:
        """Whether each completion closed with EOS, boolean [B]."""
        return torch.tensor([finish == "eos" for finish in self.finish], device=self.ids.device)


@dataclass(frozen=True, slots=True)
class Scored:
    """A rollout with everything that judges it.

    `scores [B]` are what the algorithm maximises (after shaping); `parts` the judges' raw numbers by name, [B] each;
    `old_logprobs [B, T]` the trainer's own; `signals` exactly what the algorithm's `needs` yield:
    "reference" → log-probabilities of the reference [B, T], "critic" → values [B, T], "greedy" → scores [B].
    """

    rollout: Rollout
    scores: Tensor
    parts: Mapping[str, Tensor]
    old_logprobs: Tensor
    signals: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Experience:
    """What an update learns from: N of the rollout's rows with advantages and the loss's declared targets.

    `rows [N]` index the rollout; all other tensors are [N, T].
    """

    rows: Tensor
    old_logprobs: Tensor
    advantages: Tensor
    targets: Mapping[str, Tensor]

    def take(self, indices: Tensor) -> Experience:
        """The experience of some rows alone: a minibatch."""
        return Experience(
            rows=self.rows[indices],
            old_logprobs=self.old_logprobs[indices],
            advantages=self.advantages[indices],
            targets={name: target[indices] for name, target in self.targets.items()},
        )


@dataclass(frozen=True, slots=True)
class Outputs:
    """One trainer forward over some rows: `logprobs, entropy [N, T]` at the sampling temperature, and what else
    the algorithm asked for by name ("values" [N, T] where it needs a critic)."""

    logprobs: Tensor
    entropy: Tensor
    values: Tensor | None


@dataclass(frozen=True, slots=True)
class Losses:
    """A minibatch's loss, already divided by its global denominator, and numbers worth logging (sums over tokens)."""

    total: Tensor
    policy: Tensor
    value: Tensor | None
