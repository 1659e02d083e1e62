"""Generation one token at a time, with a cache, or reading all anew at each step as the plain reference."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from palate.data.layout import Layout, completions, padded


class HiddenStates(Protocol):
    """What the recomputing decoder asks of a model."""

    context: int | None

    def hidden(self, layout: Layout, read: Tensor | None = None) -> Tensor:
        """Hidden states [K, H] at the flat positions `read [K]`."""
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of the next token, [N, H] → [N, V]."""
        ...


class _RoomyLayer(DynamicLayer):
    """A cache layer that writes into room set aside; transformers' own copies all it holds at each token.

    The one subclass of a library's class here: transformers asks a cache's layers for their type.
    """

    def update(self, key_states: Tensor, value_states: Tensor, *_args, **_kwargs) -> tuple[Tensor, Tensor]:
        """Appends keys and values [B, heads, n, d] and returns all held so far."""
        used = self.get_seq_length()
        needed = used + key_states.shape[2]
        if self.keys is None or needed > self._key_room.shape[2]:
            room = needed + max(64, needed // 2)
            if self.keys is None or self.values is None:
                self._make_room(key_states[:, :, :0], value_states[:, :, :0], room)
            else:
                self._make_room(self.keys, self.values, room)
            self.is_initialized = True
        self._key_room[:, :, used:needed] = key_states
        self._value_room[:, :, used:needed] = value_states
        self.keys, self.values = self._key_room[:, :, :needed], self._value_room[:, :, :needed]
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keeps the rows that `indices` names."""
        used = self.get_seq_length()
        keys, values = self._key_room[:, :, :used], self._value_room[:, :, :used]
        self._make_room(keys[indices], values[indices], self._key_room.shape[2])
        self.keys, self.values = self._key_room[:, :, :used], self._value_room[:, :, :used]

    def _make_room(self, keys: Tensor, values: Tensor, slots: int) -> None:
        self._key_room = keys.new_empty((*keys.shape[:2], slots, keys.shape[3]))
        self._value_room = values.new_empty((*values.shape[:2], slots, values.shape[3]))
        self._key_room[:, :, : keys.shape[2]] = keys
        self._value_room[:, :, : values.shape[2]] = values


def left_padded(prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor, Tensor]:
    """The different prompts among B, padded on the left: ids [D, W], lengths [D], and which of them each row has [B].

    Several completions of one prompt read it once, and what was read is copied.
    """
    places = {prompt: row for row, prompt in enumerate(dict.fromkeys(tuple(prompt) for prompt in prompts))}
    width = max(map(len, places))
    ids = torch.zeros((len(places), width), dtype=torch.long)
    for prompt, row in places.items():
        ids[row, width - len(prompt) :] = torch.tensor(prompt, dtype=torch.long)
    lengths = torch.tensor([len(prompt) for prompt in places])
    return ids, lengths, torch.tensor([places[tuple(prompt)] for prompt in prompts])


class CachedDecoder:
    """Decodes B prompts in one batch on transformers' cache of keys and values.

    Prompts are padded on the left, so that distances between cache slots are distances between tokens
    (sliding windows need that); padding slots are never attended, and every token is given its position
    explicitly. A row at the end of the context may be stepped on, as rows that have ended are until they are
    dropped; its logits then mean nothing.
    """

    def __init__(
        self,
        trunk: PreTrainedModel,
        logits: Callable[[Tensor], Tensor],
        prompts: Sequence[Sequence[int]],
        context: int | None,
    ):
        device = trunk.device
        self._trunk = trunk
        self._last_position = sys.maxsize if context is None else context - 1
        self._project = logits
        self._cache = DynamicCache(config=trunk.config)
        plain = [type(layer) is DynamicLayer for layer in self._cache.layers]
        layers = zip(self._cache.layers, plain, strict=True)
        self._cache.layers = [_RoomyLayer() if is_plain else layer for layer, is_plain in layers]
        ids, lengths, which = left_padded(prompts)
        self._attended = (torch.arange(ids.shape[1]) >= ids.shape[1] - lengths[:, None]).to(device)
        positions = (self._attended.cumsum(dim=1) - 1).clamp(min=0)
        self._next_position = positions[:, -1] + 1
        self.logits = self._read(ids.to(device), positions)
        if len(ids) < len(prompts):
            self.keep(which.to(device))

    def step(self, ids: Tensor) -> None:
        """Appends one token a row, `ids [B]`, and renews `logits`."""
        self._attended = torch.nn.functional.pad(self._attended, (0, 1), value=True)
        positions = self._next_position[:, None]
        self._next_position = (self._next_position + 1).clamp(max=self._last_position)
        self.logits = self._read(ids[:, None], positions)

    def keep(self, rows: Tensor) -> None:
        """Keeps the rows whose indices `rows [B']` names, in that order, and forgets the others."""
        self._cache.batch_select_indices(rows)
        self._attended = self._attended[rows]
        self._next_position = self._next_position[rows]
        self.logits = self.logits[rows]

    @torch.no_grad()
    def _read(self, ids: Tensor, positions: Tensor) -> Tensor:
        states = self._trunk(
            input_ids=ids,
            position_ids=positions,
            attention_mask=self._attended,
            past_key_values=self._cache,
            use_cache=True,
        ).last_hidden_state
        return self._project(states[:, -1])


class RecomputingDecoder:
    """Decodes with `hidden` and `logits` alone, reading all anew at each step: slow, and plainly right."""

    def __init__(self, model: HiddenStates, prompts: Sequence[Sequence[int]], device: torch.device | str = "cpu"):
        self._model = model
        self._device = device
        self._documents = [list(prompt) for prompt in prompts]
        self.logits = self._read()

    def step(self, ids: Tensor) -> None:
        """Appends one token a row, `ids [B]`, and renews `logits`."""
        for document, token in zip(self._documents, ids.tolist(), strict=True):
            if self._model.context is None or len(document) < self._model.context:
                document.append(token)
        self.logits = self._read()

    def keep(self, rows: Tensor) -> None:
        """Keeps the rows whose indices `rows [B']` names, in that order, and forgets the others."""
        self._documents = [self._documents[row] for row in rows.tolist()]
        self.logits = self.logits[rows]

    def replace(self, rows: Tensor, prompts: Sequence[Sequence[int]]) -> None:
        """Forgets the rows that `rows [B']` names and lets one prompt take each."""
        for row, prompt in zip(rows.tolist(), prompts, strict=True):
            self._documents[row] = list(prompt)
        self.logits = self._read()

    @torch.no_grad()
    def _read(self) -> Tensor:
        ids, mask = completions([[] for _ in self._documents], pad_id=0)
        layout = padded(self._documents, ids, mask, pad_id=0).to(self._device)
        return self._model.logits(self._model.hidden(layout, layout.last))
