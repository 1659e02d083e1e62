"""The trainer's forward pass: log-probabilities and entropies of completion tokens, and nothing else.

Only the hidden states that predict a completion token reach the vocabulary projection.
"""

from __future__ import annotations

from torch import Tensor

from palate.data.layout import Layout, spread
from palate.engine.interfaces import LanguageModel
from palate.ops import entropy_from_logits, fused_logprobs, token_logprobs

# Rows of logits held at once: 2,048 rows of 32,000 ids are 262 MB in float32.
CHUNK = 2048


def completion_logprobs(model: LanguageModel, layout: Layout, temperature: float) -> tuple[Tensor, Tensor]:
    """`logprobs [B, T]` of the layout's completion tokens and the `entropy [B, T]` of the distribution each was drawn
    from, at this temperature, in nats; 0 where masked."""
    return logprobs_from(model, model.hidden(layout, layout.predicting), layout, temperature)


def logprobs_from(model: LanguageModel, hidden: Tensor, layout: Layout, temperature: float) -> tuple[Tensor, Tensor]:
    """The same from the hidden states [N, H] that predict the layout's N real tokens, `layout.predicting`."""
    labels = layout.labels[layout.mask]
    if model.projection is not None:
        logprobs, entropy = fused_logprobs(
            hidden=hidden, weight=model.projection, labels=labels, temperature=temperature, chunk=CHUNK
        )
    else:
        logits = model.logits(hidden)
        logprobs = token_logprobs(
            logits=logits.unsqueeze(0), labels=labels.unsqueeze(0), temperature=temperature
        ).squeeze(0)
        entropy = entropy_from_logits(logits=logits / temperature)
    return spread(logprobs, layout.mask), spread(entropy, layout.mask)
