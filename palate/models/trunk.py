"""A transformers model below its head: hidden states of a layout, dropout, and whether documents may share a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from palate.data.layout import Layout, completions, packed
from palate.models.attention import DOCUMENTS
from palate.models.blocks import fits
from palate.models.documents import document_states
from palate.models.norm import use_exact_norms

# What transformers calls torch's own attention, and what it takes by default wherever a model can.
TORCH = "sdpa"

# Three documents of unlike lengths: together they need padding, share a row, and meet each other's tokens.
PROBE = tuple(tuple(range(2 + length, 2 + 8 * length, 7)) for length in (6, 3, 9))


# How a trunk reads a layout: through Palate's own layers, or transformers' modules with Palate's attention, both
# packed; or with a padded row for each document.
Reading = Literal["layers", "attention", "padded"]


def trunk_states(trunk: PreTrainedModel, layout: Layout, reading: Reading, read: Tensor | None = None) -> Tensor:
    """Last hidden states [K, H] at the flat positions `read [K]` of the layout; [R·L, H] at all of them unless
    given."""
    if reading == "layers" and layout.spans is not None:
        every = torch.arange(layout.total, device=layout.ids.device)
        return document_states(trunk, layout, every if read is None else read)
    states = trunk(**model_inputs(layout)).last_hidden_state.flatten(0, 1)
    return states if read is None else states.index_select(0, read)


def model_inputs(layout: Layout) -> dict[str, Any]:
    """A layout as the keyword arguments of a transformers model that has gone through `reading_of`.

    In padded rows causal attention is enough, and a mask of ones says so at no cost; for a packed row the spans say
    all, and an empty mask of the shape that transformers takes for a finished one keeps it from making another.
    """
    inputs = {"input_ids": layout.ids, "position_ids": layout.positions, "use_cache": False}
    if layout.spans is None:
        return {**inputs, "attention_mask": torch.ones_like(layout.ids)}
    return {**inputs, "attention_mask": layout.ids.new_empty((0, 0, 0, 0)), "spans": layout.spans}


@torch.no_grad()
def reading_of(trunk: PreTrainedModel) -> Reading:
    """The fastest way to read documents that gives, on a probe, the hidden states that they have alone.

    Two of the probe's documents begin with the same prompt, which stands in the row once. A model that does not use
    torch's own attention, or fails the probe, stays as it was.
    """
    config: Any = trunk.config
    if config._attn_implementation not in (TORCH, DOCUMENTS):
        return "padded"
    config._attn_implementation = DOCUMENTS
    documents = [[token % config.vocab_size for token in document] for document in PROBE]
    documents.append(documents[-1][:2] + documents[0])
    alone = [trunk(input_ids=torch.tensor([ids], device=trunk.device)).last_hidden_state[0] for ids in documents]
    ids, mask = completions([document[2:] for document in documents], pad_id=0)
    layout = packed([document[:2] for document in documents], ids, mask).to(trunk.device)
    ways: tuple[Reading, ...] = ("layers", "attention") if fits(trunk) else ("attention",)
    for way in ways:
        states = trunk_states(trunk, layout, way)
        together = [
            torch.cat([states[predictors[:1]], states[own[real]]])
            for predictors, own, real in zip(layout.predictors, layout.own, layout.mask, strict=True)
        ]
        if gap(together, [states[1:] for states in alone]) <= 1e-4:
            return way
    config._attn_implementation = TORCH
    return "padded"


def gap(ours: Sequence[Tensor], plain: Sequence[Tensor]) -> float:
    """The largest difference relative to the largest plain number, less the rounding of a lower precision.

    In float32 and above nothing is taken off, so a limit holds as it stands.
    """
    apart = torch.stack([(a - b).abs().max() for a, b in zip(ours, plain, strict=True)]).double()
    scale = torch.stack([numbers.abs().max() for numbers in plain]).double().max().clamp(min=1e-30)
    # A NaN must count as a difference, and comparisons would pass over it.
    relative = torch.nan_to_num(apart, nan=torch.inf).max() / scale
    rounding = 4 * torch.finfo(plain[0].dtype).eps if plain[0].dtype.itemsize < 4 else 0.0
    return float(relative) - rounding


def recompute_layers(trunk: PreTrainedModel) -> None:
    """Lets each layer keep its input alone for the way back and compute the rest again: less memory, a third more
    time, the same gradients. A copy of the trunk does so too."""
    # transformers 5 renames it, and warns of the older name.
    enable = getattr(trunk, "activation_checkpointing_enable", None) or trunk.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    # Its modules do so in training mode alone, which without dropout computes the same.
    trunk.train()


def prepared(model: PreTrainedModel) -> PreTrainedModel:
    """The model, with what training needs of it, in place: no dropout, and exact norms."""
    use_exact_norms(model)
    return without_dropout(model)


def without_dropout(model: PreTrainedModel) -> PreTrainedModel:
    """Sets every probability of dropping or jittering to 0, in place, in modules and configurations.

    Training mode then computes what evaluation mode does.
    """
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        _silence(module)
        if hasattr(module, "config"):
            _silence(module.config)
    return model


def _silence(holder: object) -> None:
    for name, value in list(vars(holder).items()):
        if ("drop" in name or "jitter" in name) and isinstance(value, float):
            setattr(holder, name, 0.0)
