"""The one place where prompts and completions become model inputs, and where the shift by one lives.

Elsewhere a completion is [B, T], right-padded, and `logprobs[b, t]` belongs to completion token t. A model
reads rows [R, L] in which whole documents (prompt + completion) stand: one a row, padded, or all of them one
after the other in a single row without padding, where equal prompts stand once. A `Layout` holds those rows
and the way back: the position whose hidden state predicts token t is that of the token before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

Held = TypeVar("Held", "Spans", "Layout")

# Documents share a block of attention while the shortest has this share of the longest's length: attention costs the
# square of what is padded there, and a block costs a call.
ALIKE = 2 / 3


@dataclass(frozen=True, eq=False)
class Spans:
    """How attention finds the documents of a single row of N positions: blocks of documents of like length.

    The places of all blocks, D × W each, are counted through: M in all. A prompt that several documents share stands
    once in the row and once in each of their documents.
    """

    shapes: tuple[tuple[int, int], ...]  # documents D and width W of each block
    tokens: Tensor  # [M] position in the row of the token at each place; 0 at padding
    places: Tensor  # [N] place of each position, the first where it has several
    repeats: Tensor  # [E] the further places of positions that have several


@dataclass(frozen=True, eq=False)
class Layout:
    """B documents laid out in R rows of L positions; a flat index into R·L names a position.

    With `spans` None every row holds one right-padded document, so causal attention alone keeps padding
    out. Otherwise there is one row without padding, positions restart at 0 in each document, and attention
    goes by the spans. Padding never influences a real position, and its ids are there to fill the rectangle only.
    """

    ids: Tensor  # [R, L] token ids
    positions: Tensor  # [R, L] position within the document
    spans: Spans | None
    predictors: Tensor  # [B, T] flat index of the position that predicts completion token t; 0 where masked
    own: Tensor  # [B, T] flat index of completion token t itself; 0 where masked
    last: Tensor  # [B] flat index of the document's last real token
    labels: Tensor  # [B, T] completion token t; 0 where masked
    mask: Tensor  # [B, T] True on real completion tokens
    useful: int  # real tokens among the R·L positions
    total: int  # R·L

    @property
    def predicting(self) -> Tensor:
        """Flat indices [N] of the positions that predict the N real completion tokens, in the order of `mask`."""
        return self.predictors[self.mask]

    def to(self, device: torch.device | str) -> Layout:
        """The same layout with its tensors on `device`."""
        spans = None if self.spans is None else _moved(self.spans, device)
        return replace(_moved(self, device), spans=spans)


def spread(values: Tensor, mask: Tensor) -> Tensor:
    """Values [N] of the N real tokens, laid out as [B, T] with 0 where masked."""
    return torch.zeros(mask.shape, dtype=values.dtype, device=values.device).masked_scatter(mask, values)


def completions(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Right-pads completions to `ids [B, T]` and `mask [B, T]`, T being the longest."""
    width = max((len(row) for row in rows), default=0)
    ids = torch.full((len(rows), width), pad_id, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.bool)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row, dtype=torch.long)
        mask[index, : len(row)] = True
    return ids, mask


def padded(prompts: Sequence[Sequence[int]], ids: Tensor, mask: Tensor, *, pad_id: int) -> Layout:
    """One document a row, right-padded: prompts of B token lists, completions `ids [B, T]` with `mask [B,
    T]`.

    Raises ValueError where a prompt is empty or a mask is not right-padded.
    """
    written = _written(prompts, ids, mask)
    width = max((len(prompt) + len(tokens) for prompt, tokens in zip(prompts, written, strict=True)), default=0)
    rows = torch.full((len(prompts), width), pad_id, dtype=torch.long)
    for number, (prompt, tokens) in enumerate(zip(prompts, written, strict=True)):
        rows[number, : len(prompt) + len(tokens)] = torch.tensor([*prompt, *tokens], dtype=torch.long)
    useful = sum(map(len, prompts)) + sum(map(len, written))
    starts = [number * width for number in range(len(prompts))]
    borders = [start + len(prompt) for start, prompt in zip(starts, prompts, strict=True)]
    # Positions run on through the padding: restarting there would make every padded row look packed.
    positions = torch.arange(width).expand(len(prompts), width).contiguous()
    return _layout(rows, positions, None, [border - 1 for border in borders], borders, written, ids, mask, useful)


def packed(prompts: Sequence[Sequence[int]], ids: Tensor, mask: Tensor) -> Layout:
    """All documents in a single row without padding; a prompt that several begin with stands there once.

    What follows a shared prompt is predicted from the prompt's one last position, and attends to its one copy, so
    that a group of samples or the two sides of a pair read their prompt once, with its gradient. Raises ValueError
    as `padded` does.
    """
    written = _written(prompts, ids, mask)
    row: list[int] = []
    positions: list[int] = []
    prompt_starts: dict[tuple[int, ...], int] = {}
    starts, borders = [], []  # of each document's prompt and completion
    for prompt, tokens in zip(prompts, written, strict=True):
        size = len(prompt)
        known = prompt_starts.setdefault(tuple(prompt), len(row))
        if known == len(row):
            row += prompt
            positions += range(size)
        starts.append(known)
        borders.append(len(row))
        row += tokens
        positions += range(size, size + len(tokens))
    heads = [start + len(prompt) - 1 for start, prompt in zip(starts, prompts, strict=True)]
    spans = _spans(starts, borders, list(map(len, prompts)), list(map(len, written)), len(row))
    rows, places = (torch.tensor(numbers, dtype=torch.long)[None] for numbers in (row, positions))
    return _layout(rows, places, spans, heads, borders, written, ids, mask, len(row))


def _written(prompts: Sequence[Sequence[int]], ids: Tensor, mask: Tensor) -> list[list[int]]:
    """The completions without their padding."""
    if ids.shape != mask.shape or ids.dim() != 2 or len(prompts) != len(ids):
        raise ValueError(
            f"{len(prompts)} prompts came with ids {tuple(ids.shape)} and mask {tuple(mask.shape)}. Both "
            "must be [B, T] with one row a prompt. Make them with `completions(rows, pad_id)`."
        )
    if any(len(prompt) == 0 for prompt in prompts):
        raise ValueError(
            "A prompt has no token. The first completion token is predicted from the prompt's last one, so "
            "there must be one. Begin the prompt with the tokenizer's BOS token, or leave the row out."
        )
    counts = mask.sum(dim=1)
    if not torch.equal(mask.bool(), torch.arange(mask.shape[1], device=mask.device) < counts[:, None]):
        raise ValueError(
            "A completion mask has a gap. The mask must be right-padded: True on the real tokens, then "
            "False. Tokens that should not be trained belong to the prompt, or get an advantage of 0."
        )
    return [row[:count] for row, count in zip(ids.tolist(), counts.tolist(), strict=True)]


def _spans(starts: list[int], borders: list[int], prompts: list[int], written: list[int], size: int) -> Spans:
    """Blocks of documents of like length, from where each one's prompt and completion begin and how long they are."""
    lengths = [prompt + completion for prompt, completion in zip(prompts, written, strict=True)]
    blocks: list[list[int]] = []
    for number in sorted(range(len(lengths)), key=lambda number: (-lengths[number], number)):
        if not blocks or lengths[number] < ALIKE * lengths[blocks[-1][0]]:
            blocks.append([])
        blocks[-1].append(number)
    shapes = tuple((len(block), lengths[block[0]]) for block in blocks)
    tokens = [np.zeros(shape, dtype=np.int64) for shape in shapes]
    real = [np.zeros(shape, dtype=bool) for shape in shapes]
    for block, columns, filled in zip(blocks, tokens, real, strict=True):
        for line, number in enumerate(block):
            border, end = prompts[number], lengths[number]
            columns[line, :border] = np.arange(starts[number], starts[number] + border)
            columns[line, border:end] = np.arange(borders[number], borders[number] + end - border)
            filled[line, :end] = True
    token = np.concatenate([columns.ravel() for columns in tokens] or [np.zeros(0, dtype=np.int64)])
    place = np.flatnonzero(np.concatenate([filled.ravel() for filled in real] or [np.zeros(0, dtype=bool)]))
    places = np.empty(size, dtype=np.int64)
    places[token[place[::-1]]] = place[::-1]  # the first place of each token is written last
    repeats = place[places[token[place]] != place]
    return Spans(shapes, *(torch.from_numpy(numbers) for numbers in (token, places, repeats)))


def _layout(
    rows: Tensor,
    positions: Tensor,
    spans: Spans | None,
    heads: list[int],
    borders: list[int],
    written: list[list[int]],
    ids: Tensor,
    mask: Tensor,
    useful: int,
) -> Layout:
    """A layout from where each completion begins (`borders`) and where its first token is predicted (`heads`)."""
    mask = mask.bool().cpu()
    own = torch.tensor(borders, dtype=torch.long).reshape(-1, 1) + torch.arange(mask.shape[1])
    # The shift by one: token t is predicted where token t − 1 stands, and the first where the prompt ends.
    predictors = own - 1
    predictors[:, :1] = torch.tensor(heads, dtype=torch.long).reshape(-1, 1)[:, : mask.shape[1]]
    ends = [
        border + len(tokens) - 1 if tokens else head
        for border, head, tokens in zip(borders, heads, written, strict=True)
    ]
    return Layout(
        ids=rows,
        positions=positions,
        spans=spans,
        predictors=torch.where(mask, predictors, 0),
        own=torch.where(mask, own, 0),
        last=torch.tensor(ends, dtype=torch.long),
        labels=torch.where(mask, ids.cpu(), 0),
        mask=mask,
        useful=useful,
        total=rows.numel(),
    )


def _moved(held: Held, device: torch.device | str) -> Held:
    tensors = {field.name: getattr(held, field.name) for field in fields(held)}
    return replace(held, **{name: value.to(device) for name, value in tensors.items() if isinstance(value, Tensor)})
