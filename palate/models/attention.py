"""Attention for documents that stand one after the other in a single row, without padding between them.

transformers hands every layer's queries, keys and values to a function chosen by name; this one sorts them into
blocks of documents of like length, lets torch's own attention run within each document, and puts the results
back into the row. Nothing outside attention ever sees a padded position, and no mask over the whole row is made.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from palate.data.layout import Spans

DOCUMENTS = "palate_documents"


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    spans: Spans | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Causal attention within documents: query [1, h, N, d], key and value [1, h or fewer, N, d] → [1, N, h, d].

    With spans the mask says nothing. Without them, in padded rows and with a cache, this is transformers' own use of
    torch's attention.
    """
    if spans is None:
        others |= {"scaling": scaling, "sliding_window": sliding_window}
        return sdpa_attention_forward(module, query, key, value, attention_mask, **others)
    joined = torch.cat([states[0].transpose(0, 1) for states in (query, key, value)], dim=1)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    mixed = attend_within(joined, spans, queries=query.shape[1], scale=scale, window=sliding_window)
    return mixed.unflatten(1, (-1, query.shape[-1])).unsqueeze(0), None


def attend_within(joined: Tensor, spans: Spans, *, queries: int, scale: float, window: int | None) -> Tensor:
    """Causal attention within documents: joined [N, queries + 2·keys, d] → [N, queries·d].

    The heads of queries come first, then those of keys, then as many of values.
    """
    keys = (joined.shape[1] - queries) // 2
    blocks = _Unpacked.apply(joined, spans).split([documents * width for documents, width in spans.shapes])
    mixed = []
    for shape, block in zip(spans.shapes, blocks, strict=True):
        parts = block.unflatten(0, shape).split([queries, keys, keys], dim=2)
        found = _within(*(part.transpose(1, 2) for part in parts), window=window, scale=scale)
        mixed.append(found.transpose(1, 2).flatten(2).flatten(0, 1))
    return _Repacked.apply(torch.cat(mixed) if len(mixed) > 1 else mixed[0], spans)


def _within(query: Tensor, key: Tensor, value: Tensor, *, window: int | None, scale: float) -> Tensor:
    """Causal attention in each of D documents, [D, heads, W, d]; what stands behind a document's end is never seen."""
    width, grouped = query.shape[2], query.shape[1] != key.shape[1]
    if window is None or width <= window:
        return scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=grouped)
    ages = torch.arange(width, device=query.device)[:, None] - torch.arange(width, device=query.device)
    seen = (ages >= 0) & (ages < window)
    return scaled_dot_product_attention(query, key, value, attn_mask=seen, scale=scale, enable_gqa=grouped)


class _Unpacked(torch.autograd.Function):
    """Positions [N, …] to places [M, …]. The derivative reads each position's gradient where its first place is and
    adds those of its other places: what stands in padding has none."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, spans: Spans) -> Tensor:
        """What stands at each place."""
        ctx.spans = spans
        return states.index_select(0, spans.tokens)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """The gradient of each position."""
        spans: Spans = ctx.spans
        total = grad.index_select(0, spans.places)
        if len(spans.repeats):
            total.index_add_(0, spans.tokens[spans.repeats], grad.index_select(0, spans.repeats))
        return total, None


class _Repacked(torch.autograd.Function):
    """Places [M, …] to positions [N, …]: of a prompt that several documents share, the first one's copy."""

    @staticmethod
    def forward(ctx: Any, mixed: Tensor, spans: Spans) -> Tensor:
        """What stands at each position."""
        ctx.spans = spans
        return mixed.index_select(0, spans.places)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """The gradient of each place: 0 at padding and at further copies."""
        spans: Spans = ctx.spans
        return grad.new_zeros((len(spans.tokens), *grad.shape[1:])).index_copy_(0, spans.places, grad), None


AttentionInterface.register(DOCUMENTS, attend)
AttentionMaskInterface.register(DOCUMENTS, sdpa_mask)
