"""Sampling completions: one uniform number a token, ids and log-probabilities from the same forward pass.

    next id = min{ i : C_i > u·C_V },   C = cumulative sum of softmax(logits / temperature)

The search is strict on the right side and the target is kept below C_V, so an id of probability zero, or the
index V, cannot come out. Rows that wrote EOS leave the batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor

from palate.engine.experience import Finish
from palate.engine.interfaces import Decoder, LanguageModel, Refillable
from palate.errors import ModelError
from palate.ops.masking import at_least_float32
from palate.settings import record

# New prompts are read once an eighth of the rows has ended: reading a few at a time costs as much as many.
REFILL_AT = 1 / 8

# Compacting copies the cache: it pays once a quarter of the rows it would drop have ended.
COMPACT_BELOW = 0.75


@record
class Sampling:
    """How the next token is drawn."""

    temperature: float = Field(1.0, ge=0, description="divides the logits; 0 takes the likeliest token")
    top_k: int | None = Field(None, ge=1, description="only the k likeliest tokens (never in training)")
    top_p: float | None = Field(
        None, gt=0, le=1, description="only the likeliest tokens of this total mass (never in training)"
    )

    @property
    def truncated(self) -> bool:
        """Whether some tokens that the policy gives probability cannot be drawn."""
        return self.top_k is not None or (self.top_p is not None and self.top_p < 1)


@dataclass(frozen=True, slots=True)
class Generated:
    """Completions, right-padded: `ids, mask, logprobs [B, T]` and why each row ended.

    `logprobs` are those of the policy at the sampling temperature, without truncation, in nats.
    """

    ids: Tensor
    mask: Tensor
    logprobs: Tensor
    finish: tuple[Finish, ...]


def sample_ids(probabilities: Tensor, u: Tensor) -> Tensor:
    """Inverse-CDF sampling: `probabilities [B, V]`, float32 or better, and uniforms `u [B]` in [0, 1) → ids [B]."""
    cumulative = probabilities.cumsum(dim=-1)
    total = cumulative[:, -1:]
    below = torch.nextafter(total, torch.zeros_like(total))
    target = torch.minimum(u.to(total.dtype).unsqueeze(1) * total, below)
    return torch.searchsorted(cumulative, target, right=True).squeeze(1)


def truncate(logits: Tensor, sampling: Sampling) -> Tensor:
    """Logits with the tokens outside top-k and top-p at −∞; ties at the border stay."""
    if sampling.top_k is not None and sampling.top_k < logits.shape[-1]:
        smallest = logits.topk(sampling.top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < smallest, -torch.inf)
    if sampling.top_p is not None and sampling.top_p < 1:
        ordered, order = logits.sort(dim=-1, descending=True)
        before = torch.softmax(ordered, dim=-1).cumsum(dim=-1) - torch.softmax(ordered, dim=-1)
        outside = (before >= sampling.top_p).scatter(1, order, before >= sampling.top_p)
        logits = logits.masked_fill(outside, -torch.inf)
    return logits


def choose(logits: Tensor, u: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """The next ids [B] and their log-probabilities [B] under the untruncated policy."""
    if sampling.temperature == 0:
        ids = logits.argmax(dim=-1)
        return ids, _drawn(torch.log_softmax(at_least_float32(logits), dim=-1), ids)
    scaled = at_least_float32(logits)
    if sampling.temperature != 1:
        scaled = scaled / sampling.temperature
    probabilities = torch.softmax(scaled, dim=-1)
    allowed = torch.softmax(truncate(scaled, sampling), dim=-1) if sampling.truncated else probabilities
    ids = sample_ids(allowed, u)
    return ids, _drawn(probabilities, ids).log()


def _drawn(values: Tensor, ids: Tensor) -> Tensor:
    return values.gather(1, ids.unsqueeze(1)).squeeze(1)


@torch.no_grad()
def generate(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    *,
    u: Tensor,
    eos_id: int | None,
    pad_id: int,
    sampling: Sampling,
    slots: int | None = None,
) -> Generated:
    """Samples one completion for each prompt, at most T = u.shape[1] tokens long.

    `prompts` are token ids without padding; `u [B, T]` holds one uniform a token. A row ends with EOS (kept in the
    row), after T tokens, or where the model's context is full. With `slots`, so many rows are decoded at a time, and
    the others, longest prompt first, take the places of rows that have ended. Raises ModelError when a prompt leaves
    no room.
    """
    device = next(iter(model.parameters())).device
    length = u.shape[1]
    written = _Written(u.to(device), pad_id, eos_id, torch.tensor([_room(model, prompt, length) for prompt in prompts]))
    waiting = _queue(prompts, slots)
    while waiting:
        kept = [waiting.popleft() for _ in range(min(slots or len(prompts), len(waiting)))]
        decoder: Decoder = model.decoder([prompts[row] for row in kept])
        queue = waiting if isinstance(decoder, Refillable) else deque[int]()
        _write(written, decoder, torch.tensor(kept, device=device), prompts, queue, sampling)
    return written.completed()


class _Written:
    """The completions of all rows as they grow."""

    def __init__(self, u: Tensor, pad_id: int, eos_id: int | None, limits: Tensor):
        self.u = u
        self._eos_id = eos_id
        self._limits = limits.to(u.device)
        self._ids = torch.full(u.shape, pad_id, dtype=torch.int64, device=u.device)
        self._logprobs = torch.zeros(u.shape, dtype=torch.float32, device=u.device)
        self._lengths = torch.zeros(len(u), dtype=torch.int64, device=u.device)
        self._ended = torch.zeros(len(u), dtype=torch.bool, device=u.device)

    def uniforms(self, rows: Tensor) -> Tensor:
        """The number that decides each row's next token; of a row that is full, its last once more."""
        return self.u[rows, self._lengths[rows].clamp(max=self.u.shape[1] - 1)]

    def append(self, rows: Tensor, ids: Tensor, logprobs: Tensor) -> None:
        """One more token for each row."""
        if logprobs.dtype != self._logprobs.dtype:
            self._logprobs = self._logprobs.to(logprobs.dtype)
        self._ids[rows, self._lengths[rows]] = ids
        self._logprobs[rows, self._lengths[rows]] = logprobs
        self._lengths[rows] += 1
        if self._eos_id is not None:
            self._ended[rows] = ids == self._eos_id

    def going(self, rows: Tensor) -> Tensor:
        """Which of the rows have neither ended nor filled their room."""
        return ~self._ended[rows] & (self._lengths[rows] < self._limits[rows])

    def completed(self) -> Generated:
        """All rows, cut to the longest."""
        width = max(int(self._lengths.max()), 1)
        mask = torch.arange(width, device=self._ids.device) < self._lengths.unsqueeze(1)
        finish: tuple[Finish, ...] = tuple("eos" if end else "length" for end in self._ended.tolist())
        return Generated(self._ids[:, :width], mask, self._logprobs[:, :width], finish)


def _write(
    written: _Written,
    decoder: Decoder,
    kept: Tensor,
    prompts: Sequence[Sequence[int]],
    waiting: deque[int],
    sampling: Sampling,
) -> None:
    """Decodes until the rows `kept`, which stand behind those of the decoder, and all in the queue have ended."""
    going = torch.ones_like(kept, dtype=torch.bool)
    while True:
        chosen, logprobs = choose(decoder.logits, written.uniforms(kept), sampling)
        written.append(kept[going], chosen[going], logprobs[going])
        going = written.going(kept)
        alive = int(going.sum())
        if alive == 0 and not waiting:
            return
        if not waiting and alive <= COMPACT_BELOW * len(kept):
            staying = going.nonzero().squeeze(1)
            decoder.keep(staying)
            kept, chosen, going = kept[staying], chosen[staying], going[staying]
        if alive > 0:
            decoder.step(chosen)
        if waiting and len(kept) - alive >= REFILL_AT * len(kept):
            assert isinstance(decoder, Refillable)
            free = (~going).nonzero().squeeze(1)[: len(waiting)]
            taken = [waiting.popleft() for _ in range(len(free))]
            decoder.replace(free, [prompts[row] for row in taken])
            kept[free] = torch.tensor(taken, device=kept.device)
            going[free] = True


def _queue(prompts: Sequence[Sequence[int]], slots: int | None) -> deque[int]:
    """The order in which rows are taken up: as they come, or where some must wait, longest prompt first."""
    if slots is None or slots >= len(prompts):
        return deque(range(len(prompts)))
    return deque(sorted(range(len(prompts)), key=lambda row: -len(prompts[row])))


def _room(model: LanguageModel, prompt: Sequence[int], length: int) -> int:
    if model.context is None:
        return length
    room = model.context - len(prompt)
    if room < 1:
        raise ModelError(
            f"A prompt of {len(prompt)} tokens was given to a model whose context is {model.context} tokens: a prompt "
            "must leave room for at least one token. Shorten or drop the prompt, or use a model with a longer context."
        )
    return min(length, room)
