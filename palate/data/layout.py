"""The one place where prompts and completions become model inputs, and where the shift by one lives.

Elsewhere a completion is [B, T], right-padded, and `logprobs[b, t]` belongs to completion token t. A model
reads rows [R, L] in which whole documents (prompt + completion) stand, one a row or several packed. A
`Layout` holds those rows and the way back: the position whose hidden state predicts token t is that of the
token before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Layout:
    """B documents laid out in R rows of L positions; a flat index into R·L names a position.

    With `documents` None every row holds one right-padded document, so causal attention alone keeps padding
    out. Otherwise rows are packed: attention stays within equal document numbers, and positions restart at 0
    in each. Padding never influences a real position, and its ids are there to fill the rectangle only.
    """

    ids: Tensor  # [R, L] token ids
    positions: Tensor  # [R, L] position within the document
    documents: Tensor | None  # [R, L] document number, −1 at padding
    predictors: Tensor  # [B, T] flat index of the position that predicts completion token t; 0 where masked
    last: Tensor  # [B] flat index of the document's last real token
    labels: Tensor  # [B, T] completion token t; 0 where masked
    mask: Tensor  # [B, T] True on real completion tokens
    useful: int  # real tokens among the R·L positions
    total: int  # R·L

    def to(self, device: torch.device | str) -> Layout:
        """The same layout with its tensors on `device`."""
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}
        moved = {name: value.to(device) for name, value in tensors.items() if isinstance(value, Tensor)}
        return replace(self, **moved)


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
    lengths = _lengths(prompts, ids, mask)
    width = max((len(prompt) + length for prompt, length in zip(prompts, lengths, strict=True)), default=0)
    starts = [(row, 0) for row in range(len(prompts))]
    layout = _lay_out(prompts, ids, mask, lengths, starts, (len(prompts), width), pad_id)
    # Positions run on through the padding: restarting there would make every padded row look packed.
    positions = torch.arange(width).expand(len(prompts), width).contiguous()
    return replace(layout, positions=positions, documents=None)


def packed(prompts: Sequence[Sequence[int]], ids: Tensor, mask: Tensor, *, pad_id: int, capacity: int) -> Layout:
    """Several documents a row of at most `capacity` tokens, placed first-fit by falling length.

    Raises ValueError where a prompt is empty, a mask is not right-padded, or a document exceeds the capacity.
    """
    lengths = _lengths(prompts, ids, mask)
    sizes = [len(prompt) + length for prompt, length in zip(prompts, lengths, strict=True)]
    starts, filled = _first_fit(sizes, capacity)
    return _lay_out(prompts, ids, mask, lengths, starts, (len(filled), max(filled, default=0)), pad_id)


def _lengths(prompts: Sequence[Sequence[int]], ids: Tensor, mask: Tensor) -> list[int]:
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
    return counts.tolist()


def _first_fit(sizes: list[int], capacity: int) -> tuple[list[tuple[int, int]], list[int]]:
    """Start (row, column) of every document, and how far each row is filled."""
    starts = [(0, 0)] * len(sizes)
    filled: list[int] = []
    for index in sorted(range(len(sizes)), key=lambda index: (-sizes[index], index)):
        if sizes[index] > capacity:
            raise ValueError(
                f"A document of {sizes[index]} tokens was to go into rows of {capacity}. A document is never "
                "split over rows. Raise the capacity to the longest document, or truncate."
            )
        row = next((row for row, used in enumerate(filled) if used + sizes[index] <= capacity), len(filled))
        if row == len(filled):
            filled.append(0)
        starts[index] = (row, filled[row])
        filled[row] += sizes[index]
    return starts, filled


def _lay_out(
    prompts: Sequence[Sequence[int]],
    ids: Tensor,
    mask: Tensor,
    lengths: list[int],
    starts: list[tuple[int, int]],
    shape: tuple[int, int],
    pad_id: int,
) -> Layout:
    width = shape[1]
    rows = torch.full(shape, pad_id, dtype=torch.long)
    positions = torch.zeros(shape, dtype=torch.long)
    documents = torch.full(shape, -1, dtype=torch.long)
    first, last = [], []
    mask = mask.bool().cpu()
    labels = torch.where(mask, ids.cpu(), 0)
    for number, (prompt, length, (row, column)) in enumerate(zip(prompts, lengths, starts, strict=True)):
        border, end = column + len(prompt), column + len(prompt) + length
        rows[row, column:border] = torch.tensor(prompt, dtype=torch.long)
        rows[row, border:end] = labels[number, :length]
        positions[row, column:end] = torch.arange(end - column)
        documents[row, column:end] = number
        first.append(row * width + border - 1)
        last.append(row * width + end - 1)
    # The shift by one: completion token t stands at border + t, and border + t − 1 predicts it.
    predictors = torch.tensor(first, dtype=torch.long)[:, None] + torch.arange(mask.shape[1])
    return Layout(
        ids=rows,
        positions=positions,
        documents=documents,
        predictors=torch.where(mask, predictors, 0),
        last=torch.tensor(last, dtype=torch.long),
        labels=labels,
        mask=mask,
        useful=sum(map(len, prompts)) + sum(lengths),
        total=rows.numel(),
    )
