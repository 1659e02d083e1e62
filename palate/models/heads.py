"""Scalar heads on a trunk: reward models, critics with a trunk of their own, critics on the policy's."""

from __future__ import annotations

import copy
import math
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from palate.data.layout import Layout, spread
from palate.models.causal import CausalLM
from palate.models.trunk import Reading, prepared, reading_of, trunk_states

Pooling = Literal["last", "mean"]


class RewardModel(nn.Module):
    """A score for a whole completion: s = gain · wᵀh + bias, without any bias inside the head.

    h is the hidden state of the document's last real token (`pooling="last"`), or the mean over those of the
    real completion tokens, EOS included (`"mean"`; of an empty completion, zero). Both go by the layout,
    never by a padding id.
    """

    trunk: PreTrainedModel

    def __init__(
        self,
        trunk: PreTrainedModel,
        head: Tensor,
        *,
        pooling: Pooling = "last",
        gain: float = 1.0,
        bias: float = 0.0,
    ):
        super().__init__()
        self.trunk = prepared(trunk)
        self.head = nn.Parameter(head)
        self.pooling: Pooling = pooling
        self.gain = gain
        self.bias = bias
        self.reading: Reading = reading_of(trunk)
        self.supports_packing = self.reading != "padded"

    @classmethod
    def on(cls, model: CausalLM, *, pooling: Pooling, generator: torch.Generator) -> RewardModel:
        """A reward model on a copy of a language model's trunk, its head drawn from `generator`."""
        trunk = copy.deepcopy(model.trunk)
        return cls(trunk, _draw_head(trunk, trunk.config.hidden_size, generator), pooling=pooling)

    def scores(self, layout: Layout) -> Tensor:
        """Scores of the layout's B documents, [B]."""
        if self.pooling == "last":
            pooled = trunk_states(self.trunk, layout, self.reading, layout.last)
        else:
            states = trunk_states(self.trunk, layout, self.reading, layout.own[layout.mask])
            documents = layout.mask.nonzero()[:, 0]
            sums = states.new_zeros((len(layout.mask), states.shape[1])).index_add(0, documents, states)
            pooled = sums / layout.mask.sum(dim=1, keepdim=True).clamp(min=1)
        return self.gain * _project(pooled, self.head) + self.bias

    def calibrated(self, gain: float, bias: float) -> RewardModel:
        """The same model, weights shared, with another gain and bias in place of its own."""
        other = copy.copy(self)
        other.gain, other.bias = gain, bias
        return other


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
        (InstructGPT, 2203.02155)."""
        return cls(copy.deepcopy(model.trunk), model.gain * model.head.detach(), model.bias)

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
    return states.to(exact) @ head.to(exact)


def _draw_head(trunk: PreTrainedModel, width: int, generator: torch.Generator) -> Tensor:
    """w ~ N(0, 1/(width + 1)), as in Stiennon et al. (2009.01325), from the generator alone."""
    drawn = torch.randn(width, generator=generator, device=generator.device) / math.sqrt(width + 1)
    return drawn.to(trunk.device, trunk.dtype)
