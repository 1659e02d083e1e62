"""What the loops ask of models, decoders, rewards and onlookers, as Protocols: nobody inherits, whoever fits may enter.

Everything that a lower layer needs from above (a judge during alignment, progress, a wish to stop) comes in
through one of these.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from palate.data.layout import Layout
from palate.records import Prompt


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
class Refillable(Protocol):
    """A decoder whose rows can be taken over by new prompts while the others go on."""

    def replace(self, rows: Tensor, prompts: Sequence[Sequence[int]]) -> None:
        """Forgets the rows that `rows [B']` names and lets one prompt take each, read and ready for its first
        token."""
        ...


@runtime_checkable
class LanguageModel(Protocol):
    """An autoregressive model: hidden states of a layout, and the projection from hidden states to logits."""

    @property
    def vocabulary(self) -> int:
        """V, the number of ids that may be sampled."""
        ...

    @property
    def context(self) -> int | None:
        """The longest prompt and completion together, None where there is no limit."""
        ...

    @property
    def supports_packing(self) -> bool:
        """Whether several documents may share a row of a layout."""
        ...

    @property
    def projection(self) -> Tensor | None:
        """The weight [V, H] when `logits(h)` is exactly `h @ weight.T`; None when it is anything more."""
        ...

    def hidden(self, layout: Layout, read: Tensor | None = None) -> Tensor:
        """Hidden states [K, H] at the flat positions `read [K]` of the layout; [R·L, H] at all of them unless
        given."""
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of the next token, [N, H] → [N, V]."""
        ...

    def decoder(self, prompts: Sequence[Sequence[int]]) -> Decoder:
        """Reads the prompts (token ids, no padding) and stands ready for each row's first token."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """What is trained, as `nn.Module` gives it."""
        ...


class Onlooker(Protocol):
    """Someone who watches a loop and may ask it to stop: a progress bar, a signal handler, a test."""

    def begin(self, total: int, done: int) -> None:
        """The loop is about to run from step `done` to step `total`."""
        ...

    def advance(self, row: Mapping[str, float]) -> None:
        """One more step is done, with this row of metrics."""
        ...

    def say(self, sentence: str) -> None:
        """Something the user should read, once."""
        ...

    def stopping(self) -> bool:
        """Whether the loop should save now because it is about to be stopped."""
        ...

    def check(self) -> None:
        """Called when all is saved: raises to stop the loop."""
        ...


@dataclass(frozen=True, slots=True)
class Completions:
    """What a reward sees: prompts and completions as records, ids and text. `ids, mask [B, T]` include the EOS."""

    prompts: tuple[Prompt, ...]
    prompt_ids: tuple[tuple[int, ...], ...]
    ids: Tensor
    mask: Tensor
    texts: tuple[str, ...]

    def row(self, index: int) -> Completions:
        """One completion alone, without its padding."""
        length = int(self.mask[index].sum())
        return Completions(
            (self.prompts[index],),
            (self.prompt_ids[index],),
            self.ids[index : index + 1, :length],
            self.mask[index : index + 1, :length],
            (self.texts[index],),
        )


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a judge says of B completions.

    `parts` are the numbers [B] that the `scores [B]` were made of, by name. `dense [B, T]` is how much of its score
    each token earned, 0 where masked; the rest of the score is earned with the last token. None where all of it is.
    """

    scores: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    dense: Tensor | None = None


class ValueFunction(Protocol):
    """A critic."""

    @property
    def supports_packing(self) -> bool:
        """Whether several documents may share a row of a layout."""
        ...

    def values(self, layout: Layout, hidden: Tensor) -> Tensor:
        """The return expected before each completion token, [B, T], 0 where masked.

        `hidden [N, H]` are the policy's states at `layout.predicting`; a critic with its own trunk leaves them.
        """
        ...


class Codec(Protocol):
    """What the online loop needs to know of token ids."""

    @property
    def eos_id(self) -> int | None:
        """The id that ends a completion, None where none does."""
        ...

    @property
    def pad_id(self) -> int:
        """The id that fills what is left of a row."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """A completion's text, without EOS and padding."""
        ...


class Reward(Protocol):
    """A judge of completions."""

    @property
    def name(self) -> str:
        """What its numbers are called in the metrics."""
        ...

    def score(self, completions: Completions) -> Tensor:
        """One finite number a completion, [B]."""
        ...


@runtime_checkable
class DetailedReward(Protocol):
    """A judge that can say more of a completion than its score."""

    @property
    def name(self) -> str:
        """What its scores are called in the metrics."""
        ...

    def judge(self, completions: Completions) -> Judgement:
        """Scores with what they were made of, or with what each token earned."""
        ...

    def score(self, completions: Completions) -> Tensor:
        """The judgement's scores alone, [B]."""
        ...
