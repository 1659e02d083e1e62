"""What the loops ask of models, decoders, rewards and onlookers, as Protocols: nobody inherits, whoever fits may enter.

Everything that a lower layer needs from above (a judge during alignment, progress, a wish to stop) comes in
through one of these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from palate.data.layout import Layout


class Decoder(Protocol):
    """One generation in progress: B rows, each with its prompt already read.

    `logits [B, V]` are those of each row's next token, in the order of the rows still kept.
    """

    logits: Tensor

    def step(self, ids: Tensor) -> None:
        """Appends one token a row, `ids [B]`, and renews `logits`."""
        ...

    def keep(self, rows: Tensor) -> None:
        """Keeps the rows whose indices `rows [B']` names, in that order, and forgets the others."""
        ...


@runtime_checkable
class LanguageModel(Protocol):
    """An autoregressive model: hidden states of a layout, and the projection from hidden states to logits."""

    vocabulary: int     # V, the number of ids that may be sampled
    width: int          # H, the size of a hidden state
    context: int | None     # the longest prompt + completion, None where there is no limit

    def hidden(self, layout: Layout) -> Tensor:
        """Hidden states of every position of the layout, [R, L] → [R·L, H]."""
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of the next token, [N, H] → [N, V]."""
        ...

    @property
    def projection(self) -> Tensor | None:
        """The weight [V, H] when `logits(h)` is exactly `h @ weight.T`; None when it is anything more."""
        ...

    def decoder(self, prompts: Sequence[Sequence[int]]) -> Decoder:
        """Reads the prompts (token ids, no padding) and stands ready for each row's first token."""
        ...

    def parameters_module(self) -> nn.Module:
        """The module whose parameters are trained and saved."""
        ...
