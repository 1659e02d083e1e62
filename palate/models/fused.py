"""Decoding for models of Llama's shape: the layers of `blocks`, laid out once, and one block of memory as cache.

The cache is written in place, and rows that have ended make room for new prompts. The arithmetic is that of
transformers' own modules, in another order: `CausalLM` compares the two when it wraps a model.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import PreTrainedModel

from palate.models.blocks import Block, Heads, rotations
from palate.models.decoder import left_padded
from palate.models.norm import rms_norm
from palate.ops.masking import at_least_float32

# Columns set aside beyond those in use.
ROOM = 64


class FusedDecoder:
    """Decodes B prompts in one batch; `replace` lets new prompts take the rows of those that have ended.

    All rows write the same column of the cache [layers, B, heads, columns, d] at each step; a prompt stands to the
    left of the column that is next, and what stands further left is not the row's own and never attended. The
    weights are those of the moment the decoder was made.
    """

    @torch.no_grad()
    def __init__(
        self,
        trunk: PreTrainedModel,
        logits: Callable[[Tensor], Tensor],
        prompts: Sequence[Sequence[int]],
        context: int | None,
    ):
        self._trunk: Any = trunk
        self._project = logits
        self._last_position = sys.maxsize if context is None else context - 1
        self._heads = Heads.of(trunk)
        self._blocks = [Block.of(layer, self._heads) for layer in self._trunk.layers]
        self._turns = torch.empty(0)
        self._next = max(map(len, prompts))  # the column that comes next
        self._starts = torch.zeros(len(prompts), dtype=torch.long, device=trunk.device)  # each row's first column
        shape = (len(self._blocks), len(prompts), self._heads.keys, self._next + ROOM, self._heads.size)
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
        hidden = torch.arange(first, column + 1, device=ids.device) < self._starts[:, None]
        # Added to the products; torch would make it anew from booleans in each layer.
        mask = torch.zeros_like(hidden, dtype=self._keys.dtype).masked_fill_(hidden, -torch.inf)[:, None, None]
        rotation = self._rotation(positions)
        states = self._trunk.embed_tokens.weight[ids]
        for block, keys, values in zip(self._blocks, self._keys, self._values, strict=True):
            query, key, value = self._split(block.attended(states, rotation, self._heads))
            keys[:, :, column], values[:, :, column] = key, value
            # The queries that share a head's keys stand as so many positions, [B, keys, queries/keys, d].
            likeness = query.unflatten(1, (self._heads.keys, -1)) @ keys[:, :, first : column + 1].transpose(2, 3)
            likeness = at_least_float32(likeness).mul_(self._heads.scale).add_(mask)
            weights = torch.softmax(likeness, dim=-1).to(values.dtype)
            mixed = weights @ values[:, :, first : column + 1]
            states = block.mixed(states, mixed.flatten(1))
        self._next += 1
        self.logits = self._project(self._normed(states))

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
                part.unflatten(0, ids.shape).transpose(1, 2)
                for part in self._split(block.attended(states, rotation, self._heads))
            )
            grouped = query.shape[1] != key.shape[1]
            mixed = scaled_dot_product_attention(
                query, key, value, attn_mask=seen[:, None], scale=self._heads.scale, enable_gqa=grouped
            )
            states = block.mixed(states, mixed.transpose(1, 2).flatten(2).flatten(0, 1))
            all_keys.append(key)
            all_values.append(value)
        last = states.unflatten(0, ids.shape)[:, -1]
        return torch.stack(all_keys), torch.stack(all_values), self._project(self._normed(last))

    def _split(self, joined: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values of [N, heads, d]."""
        return joined.split([self._heads.queries, self._heads.keys, self._heads.keys], dim=1)

    def _normed(self, states: Tensor) -> Tensor:
        return rms_norm(states, self._trunk.norm.weight, self._trunk.norm.variance_epsilon)

    def _rotation(self, positions: Tensor) -> Tensor:
        """The turns [N, 1, d/2] of positions [N]."""
        longest = int(positions.max()) + 1
        if longest > len(self._turns):
            every = torch.arange(longest + ROOM, device=positions.device)
            self._turns = rotations(self._trunk, every, self._heads.size)
        return self._turns[positions]

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
