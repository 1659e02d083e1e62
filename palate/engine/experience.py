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
from torch.nn.functional import pad

from palate.ops import reduce

Finish = Literal["eos", "length"]


@dataclass(frozen=True, slots=True)
class Rollout:
    """Completions as the sampler wrote them.

    `row_ids [B]` index the prompts; rows with equal `group_ids [B]` answer the same prompt draw; `ids, mask [B, T]`
    include the EOS; `sampler_logprobs [B, T]` in nats at the sampling temperature; `finish` says why each row
    ended; `version` counts the policy's publications; `limit` is the most tokens that a completion could have.
    """

    row_ids: Tensor
    group_ids: Tensor
    ids: Tensor
    mask: Tensor
    sampler_logprobs: Tensor
    finish: tuple[Finish, ...]
    version: int
    limit: int

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

    def take(self, rows: Tensor) -> Rollout:
        """Some rows alone."""
        return Rollout(
            row_ids=self.row_ids[rows],
            group_ids=self.group_ids[rows],
            ids=self.ids[rows],
            mask=self.mask[rows],
            sampler_logprobs=self.sampler_logprobs[rows],
            finish=tuple(self.finish[row] for row in rows.tolist()),
            version=self.version,
            limit=self.limit,
        )

    def joined(self, other: Rollout) -> Rollout:
        """These rows and then those of `other`, a rollout of the same policy whose groups are others."""
        return Rollout(
            row_ids=torch.cat([self.row_ids, other.row_ids]),
            group_ids=torch.cat([self.group_ids, other.group_ids]),
            ids=stacked(self.ids, other.ids),
            mask=stacked(self.mask, other.mask),
            sampler_logprobs=stacked(self.sampler_logprobs, other.sampler_logprobs),
            finish=(*self.finish, *other.finish),
            version=self.version,
            limit=self.limit,
        )


@dataclass(frozen=True, slots=True)
class Scored:
    """A rollout with everything that judges it.

    `scores [B]` are what the algorithm maximises (after shaping), of which `dense [B, T]` was earned token by token and
    the rest with the last; `parts` the judges' raw numbers by name, [B] each; `old_logprobs [B, T]` the trainer's own;
    `signals` exactly what the algorithm's `needs` yield: "reference" → log-probabilities of the reference [B, T],
    "critic" → values [B, T], "greedy" → the score of the likeliest completion to each row's prompt [B], "baseline" →
    the running mean of earlier returns [B].
    """

    rollout: Rollout
    scores: Tensor
    dense: Tensor
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
    """What some rows add to their minibatch's loss, and to figures worth logging under the names given."""

    total: Tensor
    figures: Mapping[str, Tensor]

    def joined(self, figures: Mapping[str, Tensor], extra: Tensor | float = 0.0) -> Losses:
        """With more figures, and `extra` added to the loss."""
        return Losses(self.total + extra, {**self.figures, **figures})


@dataclass(frozen=True, slots=True)
class Denominators:
    """What a minibatch's loss is divided by: counts of the whole minibatch, whatever part of it is at hand.

    `tokens` of its completions, `rows`, and `length`, the most tokens that a completion could have.
    """

    tokens: int
    rows: int
    length: int

    def reduce(self, loss: Tensor, mask: Tensor, by: str) -> Tensor:
        """One number for `loss [N, T]`: `palate.ops.reduce` with the count that `by` asks for."""
        counts = {"token": self.tokens, "sequence": self.rows, "fixed": self.rows * self.length}
        return reduce(loss=loss, mask=mask, by=by, denominator=counts.get(by, 1))


def stacked(above: Tensor, below: Tensor) -> Tensor:
    """[A, S] and [B, T] as [A + B, max(S, T)], what is missing on the right being 0."""
    width = max(above.shape[1], below.shape[1])
    return torch.cat([pad(one, (0, width - one.shape[1])) for one in (above, below)])
