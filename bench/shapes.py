"""The shapes of the models that are measured, and how many parameters each has; no torch, so that the process which
starts the sides stays small."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Family = Literal["llama", "qwen2"]


@dataclass(frozen=True)
class Shape:
    """A decoder with gated feed-forward layers, its embedding and its vocabulary projection apart."""

    family: Family
    hidden: int
    layers: int
    heads: int
    key_heads: int
    intermediate: int
    vocabulary: int
    context: int

    @property
    def head(self) -> int:
        """Parameters of the vocabulary projection."""
        return self.vocabulary * self.hidden

    @property
    def body(self) -> int:
        """Parameters of the layers and norms: neither embedding nor vocabulary projection."""
        keys = self.hidden // self.heads * self.key_heads
        attention = 2 * self.hidden * (self.hidden + keys)
        biases = self.hidden + 2 * keys if self.family == "qwen2" else 0
        layer = attention + biases + 3 * self.hidden * self.intermediate + 2 * self.hidden
        return self.layers * layer + self.hidden

    @property
    def parameters(self) -> int:
        """All parameters of the language model."""
        return self.body + 2 * self.head


CPU_SHAPES = {
    "small": Shape("llama", 128, 4, 4, 4, 304, 512, 256),
    "large": Shape("llama", 512, 6, 8, 8, 1080, 8192, 256),
}
# Those of Qwen 2.5 with 0.5 and 1.5 billion parameters; it ties embedding and projection, which is 0.1 and 0.2 less.
CUDA_SHAPES = {
    "small": Shape("qwen2", 896, 24, 14, 2, 4864, 151936, 1024),
    "large": Shape("qwen2", 1536, 28, 12, 2, 8960, 151936, 1024),
}


def shape_of(model: str, device: str) -> Shape:
    """The shape that `model` ("small" or "large") names on this kind of device."""
    return (CUDA_SHAPES if device == "cuda" else CPU_SHAPES)[model]
