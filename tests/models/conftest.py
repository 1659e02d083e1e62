"""Tiny random models of the architectures that differ in what can go wrong with them."""

from collections.abc import Callable

import pytest
import torch
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTJConfig,
    GPTJForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from palate.models import CausalLM

VOCABULARY = 60

_SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 160,
    "attention_dropout": 0.1,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_OLD_SHAPE = {
    "vocab_size": VOCABULARY,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 160,
    "attn_pdrop": 0.1,
    "embd_pdrop": 0.1,
    "resid_pdrop": 0.1,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

# llama: rotary positions; gpt2: learned ones; qwen2: sliding windows in one layer, tied head; qwen3: norms
# on queries and keys; gemma2: soft caps and sliding windows; cohere: scaled logits; gptj: a head with a bias.
_MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**_SHAPE)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**_OLD_SHAPE)),
    "qwen2": lambda: Qwen2ForCausalLM(
        Qwen2Config(**_SHAPE, use_sliding_window=True, sliding_window=8, max_window_layers=1, tie_word_embeddings=True)
    ),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**_SHAPE, head_dim=8)),
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**_SHAPE, head_dim=8, sliding_window=8)),
    "cohere": lambda: CohereForCausalLM(CohereConfig(**_SHAPE, logit_scale=0.5)),
    "gptj": lambda: GPTJForCausalLM(GPTJConfig(**_OLD_SHAPE, rotary_dim=8)),
}


@pytest.fixture
def transformer() -> Callable[..., PreTrainedModel]:
    """`transformer(name, dtype, seed)`: a tiny random transformers model with dropout, in training mode."""

    def make(name: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> PreTrainedModel:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = _MODELS[name]().to(dtype).train()
            with torch.no_grad():
                for parameter in model.parameters():
                    # Weights as drawn give nearly uniform logits, which would hide most mistakes.
                    parameter.add_(0.1 * torch.randn_like(parameter))
        return model

    return make


@pytest.fixture
def causal(transformer: Callable[..., PreTrainedModel]) -> Callable[..., CausalLM]:
    """`causal(name, dtype, seed)`: the same, wrapped."""

    def make(name: str = "llama", dtype: torch.dtype = torch.float32, seed: int = 0) -> CausalLM:
        return CausalLM(transformer(name, dtype, seed))

    return make


@pytest.fixture
def documents() -> tuple[list[list[int]], list[list[int]]]:
    """Prompts of 1 to 64 tokens and completions of 0 to 12."""
    generator = torch.Generator().manual_seed(3)
    sizes = [(1, 12), (2, 5), (5, 0), (17, 12), (33, 1), (64, 9)]
    draw = [[torch.randint(3, VOCABULARY, (size,), generator=generator).tolist() for size in pair] for pair in sizes]
    return [prompt for prompt, _ in draw], [completion for _, completion in draw]
