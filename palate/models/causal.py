"""Any transformers causal language model behind Palate's own protocol: hidden states, logits, decoding.

The head is run apart from the trunk, several documents may share a row, and decoding runs on a cache. Each of
the three is compared, when a model is wrapped, with the model's own forward pass over single documents; where
one differs, the plain way is taken instead and the log says so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from palate.data.layout import Layout
from palate.errors import ModelError
from palate.models.blocks import fits
from palate.models.decoder import CachedDecoder, RecomputingDecoder
from palate.models.fused import FusedDecoder
from palate.models.trunk import PROBE, Reading, gap, model_inputs, prepared, reading_of, trunk_states

logger = logging.getLogger(__name__)

# Trunk and head apart do the same arithmetic as the model itself; cache and batch do it in another order.
SAME_ARITHMETIC, OTHER_ORDER = 1e-5, 1e-4


class CausalLM(nn.Module):
    """A transformers causal language model as `LanguageModel`; dropout is switched off for good.

    `vocabulary` is V, the number of ids that may be sampled: the model's embedding may be longer (padded to a
    round number), and what lies beyond V has no logit, neither in sampling nor in training. Where the head is
    more than trunk and matrix can reproduce, `hidden` holds the logits themselves and `logits` passes them
    on.
    """

    model: PreTrainedModel

    def __init__(self, model: PreTrainedModel, vocabulary: int | None = None):
        super().__init__()
        self.model = prepared(model)
        self.vocabulary = model.config.vocab_size if vocabulary is None else vocabulary
        self.context: int | None = getattr(model.config, "max_position_embeddings", None)
        self.reading: Reading = reading_of(self.trunk)
        self.supports_packing = self.reading != "padded"
        self._transform = _logit_transform(model.config)
        self._separable = self._caches = True
        self._fuses = fits(self.trunk)
        self._probe()

    @property
    def width(self) -> int:
        """H, the size of a hidden state."""
        return self.model.config.hidden_size if self._separable else self.vocabulary

    @property
    def trunk(self) -> PreTrainedModel:
        """The model below its head."""
        trunk: Any = self.model.base_model
        return trunk

    @property
    def projection(self) -> Tensor | None:
        """The weight [V, H] when `logits(h)` is exactly `h @ weight.T`; None when it is anything more."""
        weight, bias = self._head()
        return weight if self._separable and self._transform is None and bias is None else None

    def hidden(self, layout: Layout, read: Tensor | None = None) -> Tensor:
        """Hidden states [K, H] at the flat positions `read [K]` of the layout; [R·L, H] at all of them unless
        given."""
        if self._separable:
            return trunk_states(self.trunk, layout, self.reading, read)
        logits = self.model(**model_inputs(layout)).logits[..., : self.vocabulary].flatten(0, 1)
        return logits if read is None else logits.index_select(0, read)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of the next token, [N, H] → [N, V]."""
        if not self._separable:
            return hidden
        logits = nn.functional.linear(hidden, *self._head())
        return logits if self._transform is None else self._transform(logits)

    def decoder(self, prompts: Sequence[Sequence[int]]) -> FusedDecoder | CachedDecoder | RecomputingDecoder:
        """Reads the prompts (token ids, no padding) and stands ready for each row's first token."""
        if self._separable and self._fuses:
            return FusedDecoder(self.trunk, self.logits, prompts, self.context)
        if self._separable and self._caches:
            return CachedDecoder(self.trunk, self.logits, prompts, self.context)
        return RecomputingDecoder(self, prompts, self.model.device)

    def _head(self) -> tuple[Tensor, Tensor | None]:
        head: Any = self.model.get_output_embeddings()
        bias = getattr(head, "bias", None)
        return head.weight[: self.vocabulary], None if bias is None else bias[: self.vocabulary]

    @torch.no_grad()
    def _probe(self) -> None:
        documents = [torch.tensor([document], device=self.model.device) % self.vocabulary for document in PROBE]
        plain = [self.model(input_ids=ids).logits[0, :, : self.vocabulary] for ids in documents]
        shorter = [self.model(input_ids=ids[:, :-1]).logits[0, :, : self.vocabulary] for ids in documents]
        if gap(shorter, [logits[:-1] for logits in plain]) > OTHER_ORDER:
            raise ModelError(
                f"What a {type(self.model).__name__} predicts changes with the tokens that follow. A policy "
                "predicts each token from the ones before alone. Use a causal language model."
            )
        apart = [self.logits(self.trunk(input_ids=ids).last_hidden_state[0]) for ids in documents]
        if gap(apart, plain) > SAME_ARITHMETIC:
            self._separable = False
            self._say("its head is more than a matrix", "every forward pass computes all logits")
        if not self.supports_packing:
            self._say("its attention cannot keep documents in one row apart", "each has a row of its own, padded")
        expected = [logits[-2:] for logits in plain]
        if self._fuses and gap(self._decoded(documents), expected) > OTHER_ORDER:
            self._fuses = False
            self._say("it is not what its name says", "it decodes through transformers' own modules")
        if not self._fuses and gap(self._decoded(documents), expected) > OTHER_ORDER:
            self._caches = False
            self._say("its cache changes what it says", "every token generated reads the whole text anew")

    def _decoded(self, documents: Sequence[Tensor]) -> list[Tensor]:
        """Logits [2, V] after all but the last token and after the last, from the decoder."""
        decoder = self.decoder([ids[0, :-1].tolist() for ids in documents])
        before = decoder.logits
        decoder.step(torch.cat([ids[0, -1:] for ids in documents]))
        return list(torch.stack([before, decoder.logits], dim=1))

    def _say(self, finding: str, consequence: str) -> None:
        logger.warning("A probe of %s found that %s: %s.", type(self.model).__name__, finding, consequence)


def _logit_transform(config: Any) -> Callable[[Tensor], Tensor] | None:
    """What known architectures do after the matrix: a scale (Cohere, Granite) or a soft cap (Gemma)."""
    scale = (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)
    cap = getattr(config, "final_logit_softcapping", None)
    if cap is not None:
        return lambda logits: cap * torch.tanh(scale * logits / cap)
    return None if scale == 1.0 else lambda logits: scale * logits
