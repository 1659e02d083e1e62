"""Decoding for models of Llama's shape (Llama, Mistral, Qwen 2 and 3) with weights laid out for it.

Queries, keys and values come from one product, and so do the gate and its partner; the cache is one block of memory
that is written in place, and rows that have ended make room for new prompts. The arithmetic is that of
transformers' own modules, in another order: `CausalLM` compares the two when it wraps a model.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention, silu
from transformers import PreTrainedModel

from palate.models.decoder import left_padded
from palate.models.norm import rms_norm

SHAPES = ("LlamaModel", "MistralModel", "Qwen2Model", "Qwen3Model")

# Rotary tables that depend on positions alone, and not on how long the text has become.
ROTARY = ("default", "linear", "llama3", "yarn")


# Columns set aside beyond those in use.
ROOM = 64


@dataclass(frozen=True, eq=False)
class Linear:
    """A weight [out, in] and perhaps a bias [out]."""

    weight: Tensor
    bias: Tensor | None

    def __call__(self, states: Tensor) -> Tensor:
        """States [N, in] → [N, out]."""
        return linear(states, self.weight, self.bias)

    @classmethod
    def joined(cls, *layers: nn.Linear) -> Linear:
        """Several layers that read the same input, as one."""
        weights = [layer.weight.detach() for layer in layers]
        biases = [layer.bias.detach() for layer in layers if layer.bias is not None]
        return cls(torch.cat(weights) if len(layers) > 1 else weights[0], torch.cat(biases) if biases else None)


@dataclass(frozen=True, eq=False)
class Norm:
    """Root-mean-square normalisation."""

    weight: Tensor
    epsilon: float

    def __call__(self, states: Tensor) -> Tensor:
        """The last dimension normalised."""
        return rms_norm(states, self.weight, self.epsilon)

    @classmethod
    def of(cls, module: Any) -> Norm:
        """The weight and ε of a transformers module."""
        return cls(module.weight.detach(), module.variance_epsilon)


@dataclass(frozen=True, eq=False)
class Block:
    """One layer's weights."""

    before_attention: Norm
    projections: Linear  # queries, keys and values of all heads
    query_norm: Norm | None
    key_norm: Norm | None
    output: Linear
    before_gate: Norm
    gates: Linear
    down: Linear

    @classmethod
    def of(cls, layer: Any) -> Block:
        """From a transformers layer."""
        attention, gate = layer.self_attn, layer.mlp
        return cls(
            Norm.of(layer.input_layernorm),
            Linear.joined(attention.q_proj, attention.k_proj, attention.v_proj),
            Norm.of(attention.q_norm) if hasattr(attention, "q_norm") else None,
            Norm.of(attention.k_norm) if hasattr(attention, "k_norm") else None,
            Linear.joined(attention.o_proj),
            Norm.of(layer.post_attention_layernorm),
            Linear.joined(gate.gate_proj, gate.up_proj),
            Linear.joined(gate.down_proj),
        )


def fits(trunk: PreTrainedModel) -> bool:
    """Whether a model has the shape that this file decodes: no adapters, no sliding windows, plain rotary positions."""
    if type(trunk).__name__ not in SHAPES:
        return False
    config, rotary = trunk.config, getattr(trunk, "rotary_emb", None)
    windows = getattr(config, "layer_types", None) or []
    sliding = "sliding_attention" in windows or (not windows and getattr(config, "sliding_window", None) is not None)
    plain = all(type(module) is nn.Linear for name, module in trunk.named_modules() if name.endswith("_proj"))
    return plain and not sliding and config.hidden_act == "silu" and getattr(rotary, "rope_type", None) in ROTARY


class FusedDecoder:
    """Decodes B prompts in one batch; `replace` lets new prompts take the rows of those that have ended.

    All rows write the same column of the cache [layers, B, heads, columns, d] at each step; a prompt stands to the
    left of the column that is next, and what stands further left is not the row's own and never attended. The
    weights are those of the moment the decoder was made.
    """

    def __init__(
        self,
        trunk: PreTrainedModel,
        logits: Callable[[Tensor], Tensor],
        prompts: Sequence[Sequence[int]],
        context: int | None,
    ):
        layers: Any = trunk.layers
        self._trunk: Any = trunk
        self._project = logits
        self._last_position = sys.maxsize if context is None else context - 1
        self._blocks = [Block.of(layer) for layer in layers]
        self._norm = Norm.of(trunk.norm)
        attention = layers[0].self_attn
        self._size, self._scale = attention.head_dim, attention.scaling
        self._queries = trunk.config.num_attention_heads
        self._heads = trunk.config.num_key_value_heads
        self._cosine = self._sine = torch.empty(0)
        self._next = max(map(len, prompts))  # the column that comes next
        self._starts = torch.zeros(len(prompts), dtype=torch.long, device=trunk.device)  # each row's first column
        shape = (len(self._blocks), len(prompts), self._heads, self._next + ROOM, self._size)
        # Zeros, not whatever the memory held: a NaN in a column that is masked would still be one.
        self._keys, self._values = (torch.zeros(shape, dtype=trunk.dtype, device=trunk.device) for _ in range(2))
        vocabulary = logits(torch.zeros((1, trunk.config.hidden_size), dtype=trunk.dtype, device=trunk.device)).shape[1]
        self.logits = torch.zeros((len(prompts), vocabulary), dtype=trunk.dtype, device=trunk.device)
        self.replace(torch.arange(len(prompts), device=trunk.device), prompts)

    @torch.no_grad()
    def step(self, ids: Tensor) -> None:
        """Appends one token a row, `ids [B]`, and renews `logits`."""
        if self._next == self._keys.shape[3]:
            self._make_room(self._next + ROOM)
        column = self._next
        first = int(self._starts.min())
        positions = (column - self._starts).clamp(max=self._last_position)
        seen = torch.arange(first, column + 1, device=ids.device) >= self._starts[:, None]
        rotation = self._rotation(positions)
        states = self._trunk.embed_tokens.weight[ids]
        for block, keys, values in zip(self._blocks, self._keys, self._values, strict=True):
            query, key, value = self._attended(block, states, rotation)
            keys[:, :, column], values[:, :, column] = key, value
            mixed = scaled_dot_product_attention(
                query.unflatten(1, (self._heads, -1)),  # the queries that share a head's keys, as so many positions
                keys[:, :, first : column + 1],
                values[:, :, first : column + 1],
                attn_mask=seen[:, None, None],
                scale=self._scale,
            )
            states = self._mixed(block, states, mixed.flatten(1))
        self._next += 1
        self.logits = self._project(self._norm(states))

    def keep(self, rows: Tensor) -> None:
        """Keeps the rows whose indices `rows [B']` names, in that order, and forgets the others."""
        self._keys, self._values = (held.index_select(1, rows) for held in (self._keys, self._values))
        self._starts, self.logits = self._starts[rows], self.logits[rows]

    @torch.no_grad()
    def replace(self, rows: Tensor, prompts: Sequence[Sequence[int]]) -> None:
        """Forgets the rows that `rows [B']` names and lets one prompt take each, read and ready for its first token."""
        ids, lengths, which = (numbers.to(rows.device) for numbers in left_padded(prompts))
        width = ids.shape[1]
        if width > self._next:
            self._make_room(width + ROOM, next_column=width)
        keys, values, logits = self._read(ids, lengths)
        columns = slice(self._next - width, self._next)
        self._keys[:, rows, :, columns] = keys[:, which]
        self._values[:, rows, :, columns] = values[:, which]
        self._starts[rows] = self._next - lengths[which]
        self.logits[rows] = logits[which]

    def _read(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Keys and values [layers, B, heads, W, d] and the next token's logits [B, V] of left-padded prompts [B, W]."""
        width = ids.shape[1]
        columns = torch.arange(width, device=ids.device)
        starts = width - lengths
        own = columns[None, :] >= starts[:, None]
        # What pads a prompt sees itself alone, so that no softmax is over nothing.
        seen = (columns[:, None] >= columns) & own[:, None] | torch.eye(width, dtype=torch.bool, device=ids.device)
        rotation = self._rotation((columns - starts[:, None]).clamp(min=0).flatten())
        states = self._trunk.embed_tokens.weight[ids.flatten()]
        all_keys, all_values = [], []
        for block in self._blocks:
            query, key, value = (
                part.unflatten(0, ids.shape).transpose(1, 2) for part in self._attended(block, states, rotation)
            )
            grouped = query.shape[1] != key.shape[1]
            mixed = scaled_dot_product_attention(
                query, key, value, attn_mask=seen[:, None], scale=self._scale, enable_gqa=grouped
            )
            states = self._mixed(block, states, mixed.transpose(1, 2).flatten(0, 1).flatten(1))
            all_keys.append(key)
            all_values.append(value)
        last = states.unflatten(0, ids.shape)[:, -1]
        return torch.stack(all_keys), torch.stack(all_values), self._project(self._norm(last))

    def _attended(self, block: Block, states: Tensor, rotation: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        """Queries, keys and values [N, heads, d] of states [N, H], the first two turned to their positions."""
        joined = block.projections(block.before_attention(states)).unflatten(1, (-1, self._size))
        query, key, value = joined.split([self._queries, self._heads, self._heads], dim=1)
        if block.query_norm is not None and block.key_norm is not None:
            query, key = block.query_norm(query), block.key_norm(key)
        return _turned(query, rotation), _turned(key, rotation), value

    def _mixed(self, block: Block, states: Tensor, mixed: Tensor) -> Tensor:
        """What a layer makes of its input and of what attention [N, heads·d] found."""
        states = states + block.output(mixed)
        gate, partner = block.gates(block.before_gate(states)).chunk(2, dim=1)
        return states + block.down(silu(gate) * partner)

    def _rotation(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine [N, 1, d/2] of positions [N]."""
        longest = int(positions.max()) + 1
        if longest > len(self._cosine):
            every = torch.arange(longest + ROOM, device=positions.device)[None]
            # The table is asked in the model's type: transformers rounds it so.
            tables = self._trunk.rotary_emb(self._trunk.embed_tokens.weight, every)
            self._cosine, self._sine = (table[0, :, None, : self._size // 2].contiguous() for table in tables)
        return self._cosine[positions], self._sine[positions]

    def _make_room(self, columns: int, next_column: int | None = None) -> None:
        """Moves the cache to one of more columns, without those that no row attends any more."""
        first = int(self._starts.min())
        held = self._next - first
        self._next, end = max(held, next_column or 0), self._next
        size = max(columns - first, self._next + ROOM)
        for name in ("_keys", "_values"):
            old: Tensor = getattr(self, name)
            new = old.new_zeros((*old.shape[:3], size, old.shape[4]))
            new[:, :, :, self._next - held : self._next] = old[:, :, :, first:end]
            setattr(self, name, new)
        self._starts += self._next - end


def _turned(states: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary positions (2104.09864, eq. 34), the first half of each head paired with the second."""
    (left, right), (cosine, sine) = states.chunk(2, dim=-1), rotation
    return torch.cat((left * cosine - right * sine, right * cosine + left * sine), dim=-1)
