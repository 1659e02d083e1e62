"""Scalar heads on a trunk: reward models, critics with a trunk of their own, critics on the policy's."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from palate.data.layout import Layout, spread
from palate.models.causal import CausalLM
from palate.models.trunk import Reading, prepared, reading_of, trunk_states

Pooling = Literal["last", "mean"]

# One number for all heads, or one for each.
Scale = float | tuple[float, ...]


class RewardModel(nn.Module):
    """A score for a whole completion: s = gain · wᵀh + bias, without any bias inside the head.

    h is the hidden state of the document's last real token (`pooling="last"`), or the mean over those of the
    real completion tokens, EOS included (`"mean"`; of an empty completion, zero). Both go by the layout,
    never by a padding id. A head [K, H] gives K scores, each with a gain and bias of its own: those of `attributes`,
    or, where these have no names, of an ensemble's members that share the trunk.
    """

    trunk: PreTrainedModel

    def __init__(
        self,
        trunk: PreTrainedModel,
        head: Tensor,
        *,
        pooling: Pooling = "last",
        gain: Scale = 1.0,
        bias: Scale = 0.0,
        attributes: Sequence[str] = (),
    ):
        super().__init__()
        self.trunk = prepared(trunk)
        self.head = nn.Parameter(head)
        self.pooling: Pooling = pooling
        self.gain = gain
        self.bias = bias
        self.attributes = tuple(attributes)
        self.reading: Reading = reading_of(trunk)
        self.supports_packing = self.reading != "padded"

    @classmethod
    def on(
        cls,
        model: CausalLM,
        *,
        pooling: Pooling,
        generator: torch.Generator,
        heads: int = 1,
        attributes: Sequence[str] = (),
    ) -> RewardModel:
        """A reward model on a copy of a language model's trunk, its heads drawn from `generator`: one, one for each
        of `attributes`, or as many as an ensemble of `heads` members has."""
        trunk = copy.deepcopy(model.trunk)
        drawn = [_draw_head(trunk, trunk.config.hidden_size, generator) for _ in attributes or range(heads)]
        head = drawn[0] if heads == 1 and not attributes else torch.stack(drawn)
        return cls(trunk, head, pooling=pooling, attributes=attributes)

    @property
    def members(self) -> int:
        """How many judges of the same thing it holds: the heads of an ensemble, else 1."""
        return 1 if self.head.dim() == 1 or self.attributes else len(self.head)

    def scores(self, layout: Layout) -> Tensor:
        """Scores of the layout's B documents, [B], or [B, K] of K heads."""
        if self.pooling == "last":
            pooled = trunk_states(self.trunk, layout, self.reading, layout.last)
        else:
            states = trunk_states(self.trunk, layout, self.reading, layout.own[layout.mask])
            documents = layout.mask.nonzero()[:, 0]
            sums = states.new_zeros((len(layout.mask), states.shape[1])).index_add(0, documents, states)
            pooled = sums / layout.mask.sum(dim=1, keepdim=True).clamp(min=1)
        projected = _project(pooled, self.head)
        return projected * _as_wide(self.gain, projected) + _as_wide(self.bias, projected)

    def calibrated(self, gain: Scale, bias: Scale) -> RewardModel:
        """The same model, weights shared, with another gain and bias in place of its own."""
        other = copy.copy(self)
        other.gain, other.bias = gain, bias
        return other

    def folded(self) -> tuple[Tensor, Tensor]:
        """The heads [K, H] with their gains in them, and their biases [K], in double precision."""
        head = self.head.detach().double().cpu().reshape(-1, self.head.shape[-1])
        gain, bias = (torch.tensor(scale, dtype=torch.float64).expand(len(head)) for scale in (self.gain, self.bias))
        return gain.unsqueeze(1) * head, bias


class Critic(nn.Module):
    """Expected return before each completion token, from a trunk of its own: V_t = wᵀh_{t−1} + b.

    h_{t−1} is the hidden state that predicts token t, so a value never sees the action it judges.
    """

    trunk: PreTrainedModel

    def __init__(self, trunk: PreTrainedModel, head: Tensor, bias: float = 0.0):
        super().__init__()
        self.trunk = prepared(trunk)
        self.head = nn.Parameter(head)
        self.bias = nn.Parameter(head.new_full((), bias))
        self.reading: Reading = reading_of(trunk)
        self.supports_packing = self.reading != "padded"

    @classmethod
    def on(cls, model: CausalLM, *, generator: torch.Generator) -> Critic:
        """A critic on a copy of a language model's trunk, its head drawn from `generator`."""
        trunk = copy.deepcopy(model.trunk)
        return cls(trunk, _draw_head(trunk, trunk.config.hidden_size, generator))

    @classmethod
    def from_reward_model(cls, model: RewardModel) -> Critic:
        """A critic that begins as a copy of a reward model, whose gain and bias go into the head
        (InstructGPT, 2203.02155); of an ensemble's members it takes the mean."""
        head, bias = model.folded()
        return cls(copy.deepcopy(model.trunk), head.mean(dim=0).to(model.head), float(bias.mean()))

    def values(self, layout: Layout, hidden: Tensor | None = None) -> Tensor:
        """Values [B, T], 0 where masked; the policy's hidden states are left aside."""
        states = trunk_states(self.trunk, layout, self.reading, layout.predicting)
        return _values(states, layout, self.head, self.bias)


class SharedCritic(nn.Module):
    """A value head on the policy's own hidden states, which its gradient reaches: V_t = wᵀh_{t−1} + b."""

    supports_packing = True  # it reads no layout itself

    def __init__(self, policy: CausalLM, *, generator: torch.Generator):
        super().__init__()
        self.head = nn.Parameter(_draw_head(policy.model, policy.width, generator))
        self.bias = nn.Parameter(self.head.new_zeros(()))

    def values(self, layout: Layout, hidden: Tensor) -> Tensor:
        """Values [B, T], 0 where masked, from the policy's hidden states [N, H] that predict the N real tokens."""
        return _values(hidden, layout, self.head, self.bias)


def _values(states: Tensor, layout: Layout, head: Tensor, bias: Tensor) -> Tensor:
    values = _project(states, head) + bias
    return spread(values, layout.mask)


def _project(states: Tensor, head: Tensor) -> Tensor:
    # A score in bfloat16 has three digits: two answers of one prompt would often tie.
    exact = torch.promote_types(states.dtype, torch.float32)
    return states.to(exact) @ head.to(exact).t()


def _as_wide(scale: Scale, scores: Tensor) -> Tensor:
    return torch.as_tensor(scale, dtype=scores.dtype, device=scores.device)


def _draw_head(trunk: PreTrainedModel, width: int, generator: torch.Generator) -> Tensor:
    """w ~ N(0, 1/(width + 1)), as in Stiennon et al. (2009.01325), from the generator alone."""
    drawn = torch.randn(width, generator=generator, device=generator.device) / math.sqrt(width + 1)
    return drawn.to(trunk.device, trunk.dtype)
