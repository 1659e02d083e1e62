"""The forward pass of models of Llama's shape over packed documents, for training and scoring.

Same arithmetic as transformers' modules, with fewer passes over memory, and of the last layer only what somebody
reads: the inside of a prompt lends it keys and values, and nothing else.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from palate.data.layout import Layout, Spans
from palate.models.attention import attend_within
from palate.models.blocks import Block, Heads, rotations
from palate.models.norm import rms_norm


def document_states(trunk: PreTrainedModel, layout: Layout, read: Tensor) -> Tensor:
    """Last hidden states at the positions `read [K]` of a packed layout, [K, H]; the model is one that `fits`."""
    module: Any = trunk
    assert layout.spans is not None
    heads = Heads.of(trunk)
    rotation = rotations(trunk, layout.positions[0], heads.size)
    states = embedding(layout.ids[0], module.embed_tokens.weight, module.embed_tokens.padding_idx)
    recomputing = getattr(module.layers[0], "gradient_checkpointing", False) and torch.is_grad_enabled()
    for number, layer in enumerate(module.layers):
        chosen = read if number + 1 == len(module.layers) else None
        if recomputing:
            states = checkpoint(_layer, layer, states, rotation, layout.spans, heads, chosen, use_reentrant=False)
        else:
            states = _layer(layer, states, rotation, layout.spans, heads, chosen)
    return rms_norm(states, module.norm.weight, module.norm.variance_epsilon)


def _layer(layer: Any, states: Tensor, rotation: Tensor, spans: Spans, heads: Heads, read: Tensor | None) -> Tensor:
    block = Block.of(layer, heads)
    joined = block.attended(states, rotation, heads)
    found = attend_within(joined, spans, queries=heads.queries, scale=heads.scale, window=None)
    if read is not None:
        states, found = states.index_select(0, read), found.index_select(0, read)
    return block.mixed(states, found)
