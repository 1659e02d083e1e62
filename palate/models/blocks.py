"""The layers of models of Llama's shape (Llama, Mistral, Qwen 2 and 3) as plain tensors, and their arithmetic.

Decoding and training run on these in place of transformers' modules: queries, keys and values come from one product
and so do the gate and its partner, a norm's weight is folded into the product that reads it, and rotary positions are
one complex product. It is the same arithmetic in another order; whoever uses it compares the two when a model is
loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear, silu
from transformers import PreTrainedModel

from palate.models.norm import rms_norm, unit_rms
from palate.ops.masking import at_least_float32

SHAPES = ("LlamaModel", "MistralModel", "Qwen2Model", "Qwen3Model")

# Rotary tables that depend on positions alone, and not on how long the text has become.
ROTARY = ("default", "linear", "llama3", "yarn")


def fits(trunk: PreTrainedModel) -> bool:
    """Whether a model has the shape of this file: no adapters, no sliding windows, plain rotary positions; and stands
    on a device that knows complex numbers."""
    if type(trunk).__name__ not in SHAPES or "forward" in vars(trunk) or trunk.device.type not in ("cpu", "cuda"):
        return False
    config, rotary = trunk.config, getattr(trunk, "rotary_emb", None)
    windows = getattr(config, "layer_types", None) or []
    sliding = "sliding_attention" in windows or (not windows and getattr(config, "sliding_window", None) is not None)
    projections = [module for name, module in trunk.named_modules() if name.endswith("_proj")]
    plain = all(type(module) is nn.Linear for module in projections)
    bare = all(module.bias is None for name, module in trunk.named_modules() if name.endswith(("o_proj", "down_proj")))
    known = config.hidden_act == "silu" and getattr(rotary, "rope_type", None) in ROTARY
    return plain and bare and known and not sliding


@dataclass(frozen=True, eq=False)
class Heads:
    """How many query heads and key heads there are, their size, and the scale of their products."""

    queries: int
    keys: int
    size: int
    scale: float

    @classmethod
    def of(cls, trunk: PreTrainedModel) -> Heads:
        """Those of a transformers model."""
        layers: Any = trunk.layers
        attention = layers[0].self_attn
        return cls(
            trunk.config.num_attention_heads,
            trunk.config.num_key_value_heads,
            attention.head_dim,
            attention.scaling,
        )


@dataclass(frozen=True, eq=False)
class Block:
    """One layer. The rows of each query and key head stand in pairs (first with the one half a head further on), as
    rotary positions turn them; a product of queries and keys does not notice."""

    attention_epsilon: float
    projections: Tensor  # [(queries + 2·keys)·d, H] of queries, keys and values, the norm's weight in it
    biases: Tensor | None
    query_norm: Tensor | None  # [d], in pairs like the heads
    key_norm: Tensor | None
    head_epsilon: float
    output: Tensor  # [H, queries·d]
    gate_epsilon: float
    gates: Tensor  # [2·I, H] of the gate and its partner, the norm's weight in it
    down: Tensor  # [H, I]

    @classmethod
    def of(cls, layer: Any, heads: Heads) -> Block:
        """From a transformers layer; the gradient reaches its parameters."""
        attention, gate = layer.self_attn, layer.mlp
        named = (attention.q_proj, attention.k_proj, attention.v_proj)
        query, key, value = (projection.weight for projection in named)
        joined = torch.cat([_paired(query, heads.size), _paired(key, heads.size), value])
        biases = None
        if named[0].bias is not None:
            query, key, value = (projection.bias for projection in named)
            biases = torch.cat([_paired(query, heads.size), _paired(key, heads.size), value])
        query_norm, key_norm = (getattr(attention, name, None) for name in ("q_norm", "k_norm"))
        return cls(
            layer.input_layernorm.variance_epsilon,
            joined * layer.input_layernorm.weight,
            biases,
            None if query_norm is None else _paired(query_norm.weight, heads.size),
            None if key_norm is None else _paired(key_norm.weight, heads.size),
            getattr(query_norm, "variance_epsilon", 0.0),
            attention.o_proj.weight,
            layer.post_attention_layernorm.variance_epsilon,
            torch.cat([gate.gate_proj.weight, gate.up_proj.weight]) * layer.post_attention_layernorm.weight,
            gate.down_proj.weight,
        )

    def attended(self, states: Tensor, rotation: Tensor, heads: Heads) -> Tensor:
        """Queries, keys and values [N, queries + 2·keys, d] of states [N, H], the first two turned."""
        joined = linear(unit_rms(states, self.attention_epsilon), self.projections, self.biases)
        joined = joined.unflatten(1, (-1, heads.size))
        if self.query_norm is not None and self.key_norm is not None:
            query, key, value = joined.split([heads.queries, heads.keys, heads.keys], dim=1)
            query, key = (
                rms_norm(part, weight, self.head_epsilon)
                for part, weight in ((query, self.query_norm), (key, self.key_norm))
            )
            joined = torch.cat([query, key, value], dim=1)
        return _turned(joined, rotation, heads.queries + heads.keys)

    def mixed(self, states: Tensor, found: Tensor) -> Tensor:
        """What the layer makes of its input [N, H] and of what attention found [N, queries·d]."""
        states = torch.addmm(states, found, self.output.T)
        gated = _gated(linear(unit_rms(states, self.gate_epsilon), self.gates))
        return torch.addmm(states, gated, self.down.T)


def rotations(trunk: PreTrainedModel, positions: Tensor, size: int) -> Tensor:
    """Rotary turns [N, 1, d/2] of positions [N], as complex numbers cos + i·sin."""
    module: Any = trunk
    # The table is asked in the model's type: transformers rounds it so.
    tables = module.rotary_emb(module.embed_tokens.weight, positions[None])
    cosine, sine = (at_least_float32(table[0, :, None, : size // 2]) for table in tables)
    return torch.complex(cosine, sine)


def _paired(rows: Tensor, size: int) -> Tensor:
    """Rows [heads·d, …] with each row of a head's first half followed by its partner from the second."""
    return rows.unflatten(0, (-1, 2, size // 2)).transpose(1, 2).flatten(0, 2)


# Without gradients the functions are called bare: what decoding a token costs is mostly calls.


def _turned(joined: Tensor, rotation: Tensor, count: int) -> Tensor:
    turn = _Turned.apply if torch.is_grad_enabled() else _turn
    return turn(joined, rotation, count)


def _gated(joined: Tensor) -> Tensor:
    return _Gated.apply(joined) if torch.is_grad_enabled() else _gate(joined)


class _Turned(torch.autograd.Function):
    """Rotary positions (2104.09864, eq. 34): the first `count` heads of [N, heads, d], pairs of numbers taken as one
    complex number, times the turns [N, 1, d/2]. Done in place: nothing else reads the product it is given."""

    @staticmethod
    def forward(ctx: Any, joined: Tensor, rotation: Tensor, count: int) -> Tensor:
        ctx.save_for_backward(rotation)
        ctx.count = count
        ctx.mark_dirty(joined)
        return _turn(joined, rotation, count)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (rotation,) = ctx.saved_tensors
        return _turn(grad.clone(), rotation.conj(), ctx.count), None, None


def _turn(joined: Tensor, rotation: Tensor, count: int) -> Tensor:
    turning = joined[:, :count]
    exact = at_least_float32(turning)
    torch.view_as_complex(exact.unflatten(2, (-1, 2))).mul_(rotation)
    if exact is not turning:
        turning.copy_(exact)
    return joined


class _Gated(torch.autograd.Function):
    """silu(gate) ∘ partner of joined [N, 2·I], the gate first (SwiGLU, 2002.05202); its derivative written into one
    tensor, silu(gate) computed again."""

    @staticmethod
    def forward(ctx: Any, joined: Tensor) -> Tensor:
        ctx.save_for_backward(joined)
        return _gate(joined)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (joined,) = ctx.saved_tensors
        gate, partner = joined.chunk(2, dim=1)
        slopes = torch.empty_like(joined)
        to_gate, to_partner = slopes.chunk(2, dim=1)
        torch.mul(grad, silu(gate), out=to_partner)
        torch.ops.aten.silu_backward.grad_input(grad * partner, gate, grad_input=to_gate)
        return slopes


def _gate(joined: Tensor) -> Tensor:
    gate, partner = joined.chunk(2, dim=1)
    return silu(gate).mul_(partner)
