"""Sampling completions: one uniform number a token, ids and log-probabilities from the same forward pass.

    next id = min{ i : C_i > u·C_V },   C = cumulative sum of softmax(logits / temperature)

The search is strict on the right side and the target is kept below C_V, so an id of probability zero, or the
index V, cannot come out. Rows that wrote EOS leave the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor

from palate.engine.experience import Finish
from palate.engine.interfaces import Decoder, LanguageModel
from palate.errors import ModelError
from palate.ops import token_logprobs
from palate.settings import record

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


def sample_ids(logits: Tensor, u: Tensor) -> Tensor:
    """Inverse-CDF sampling: `logits [B, V]` and uniforms `u [B]` in [0, 1) → ids [B]."""
    exact = torch.float64 if logits.dtype == torch.float64 else torch.float32
    cumulative = torch.softmax(logits, dim=-1, dtype=exact).cumsum(dim=-1)
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
        return ids, _logprobs(logits, ids, 1.0)
    scaled = logits / sampling.temperature
    ids = sample_ids(truncate(scaled, sampling) if sampling.truncated else scaled, u)
    return ids, _logprobs(logits, ids, sampling.temperature)


def _logprobs(logits: Tensor, ids: Tensor, temperature: float) -> Tensor:
    return token_logprobs(logits=logits.unsqueeze(1), labels=ids.unsqueeze(1), temperature=temperature).squeeze(1)


@torch.no_grad()
def generate(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    *,
    u: Tensor,
    eos_id: int | None,
    pad_id: int,
    sampling: Sampling,
) -> Generated:
    """Samples one completion for each prompt, at most T = u.shape[1] tokens long.

    `prompts` are token ids without padding; `u [B, T]` holds one uniform a token. A row ends with EOS (kept in the
    row), after T tokens, or where the model's context is full. Raises ModelError when a prompt leaves no room.
    """
    rows, length = u.shape
    device = next(iter(model.parameters())).device
    limits = torch.tensor([_room(model, prompt, length) for prompt in prompts], device=device)
    ids = torch.full((rows, length), pad_id, dtype=torch.int64, device=device)
    lengths = torch.zeros(rows, dtype=torch.int64, device=device)
    ended = torch.zeros(rows, dtype=torch.bool, device=device)
    u = u.to(device)

    decoder: Decoder = model.decoder(prompts)
    exact = torch.float64 if decoder.logits.dtype == torch.float64 else torch.float32
    logprobs = torch.zeros((rows, length), dtype=exact, device=device)
    kept = torch.arange(rows, device=device)  # the row behind each of the decoder's rows
    going = torch.ones(rows, dtype=torch.bool, device=device)  # per decoder row
    for position in range(length):
        chosen, chosen_logprobs = choose(decoder.logits, u[kept, position], sampling)
        active = kept[going]
        ids[active, position] = chosen[going]
        logprobs[active, position] = chosen_logprobs[going].to(exact)
        lengths[active] += 1
        if eos_id is not None:
            ended[active] = chosen[going] == eos_id
        going = going & ~ended[kept] & (lengths[kept] < limits[kept])
        alive = int(going.sum())
        if alive == 0:
            break
        if alive <= COMPACT_BELOW * len(kept):
            staying = going.nonzero().squeeze(1)
            decoder.keep(staying)
            kept, chosen, going = kept[staying], chosen[staying], going[staying]
        decoder.step(chosen)

    width = max(int(lengths.max()), 1)
    mask = torch.arange(width, device=device) < lengths.unsqueeze(1)
    finish: tuple[Finish, ...] = tuple("eos" if end else "length" for end in ended.tolist())
    return Generated(ids[:, :width], mask, logprobs[:, :width], finish)


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
