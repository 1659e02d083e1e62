"""A transformers model below its head: hidden states of a layout, dropout, and whether rows may be packed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from palate.data.layout import Layout, completions, packed

# Three documents of unlike lengths: together they need padding, share a row, and meet each other's tokens.
PROBE = tuple(tuple(range(2 + length, 2 + 8 * length, 7)) for length in (6, 3, 9))


def trunk_states(trunk: PreTrainedModel, layout: Layout) -> Tensor:
    """Last hidden states, [R, L] → [R·L, H]."""
    return trunk(**model_inputs(layout)).last_hidden_state.flatten(0, 1)


def model_inputs(layout: Layout) -> dict[str, Tensor | bool | None]:
    """A layout as the keyword arguments of a transformers model.

    Without a mask, transformers keeps documents apart where positions restart, sliding windows included. In
    padded rows causal attention is enough, and a mask of ones says so at no cost.
    """
    mask = torch.ones_like(layout.ids) if layout.documents is None else None
    return {
        "input_ids": layout.ids,
        "position_ids": layout.positions,
        "attention_mask": mask,
        "use_cache": False,
    }


@torch.no_grad()
def keeps_documents_apart(trunk: PreTrainedModel) -> bool:
    """Whether documents that share a row have the hidden states that they have alone, on a probe."""
    documents = [[token % trunk.config.vocab_size for token in document] for document in PROBE]
    alone = [trunk(input_ids=torch.tensor([ids], device=trunk.device)).last_hidden_state[0] for ids in documents]
    ids, mask = completions([document[1:] for document in documents], pad_id=0)
    prompts, size = [document[:1] for document in documents], sum(map(len, documents))
    layout = packed(prompts, ids, mask, pad_id=0, capacity=size).to(trunk.device)
    states, ends = trunk_states(trunk, layout), (layout.last + 1).tolist()
    together = [states[end - len(document) : end] for document, end in zip(documents, ends, strict=True)]
    return gap(together, alone) <= 1e-4


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
