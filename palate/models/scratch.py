"""A small language model from nothing: a tokenizer made from the run's own text, and a random Llama."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from palate.data.chat import ChatFormat, chat_format
from palate.models.causal import CausalLM

PAD, USER, ASSISTANT, SYSTEM, END = "<|pad|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"
CONTROL_TOKENS = (PAD, USER, ASSISTANT, SYSTEM, END)

TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def scratch_model(
    texts: Iterable[str], *, hidden: int, layers: int, heads: int, vocabulary: int, context: int, seed: int
) -> tuple[CausalLM, ChatFormat, PreTrainedTokenizerBase]:
    """A Llama of `layers` × `hidden` with tied embeddings and a byte-level BPE of at most `vocabulary` ids.

    The same texts and seed give the same model, whatever the global random state, which is left as it was.
    """
    tokenizer = scratch_tokenizer(texts, vocabulary, context)
    chat = chat_format(tokenizer)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=8 * math.ceil(hidden / 3),  # the usual 8/3, in multiples of eight
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=chat.eos_id,
        pad_token_id=chat.pad_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    return CausalLM(model, len(tokenizer)), chat, tokenizer


def scratch_tokenizer(texts: Iterable[str], vocabulary: int, context: int) -> PreTrainedTokenizerBase:
    """A byte-level BPE learnt from the texts, with control tokens and a chat template of its own."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(CONTROL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=PAD, eos_token=END, model_max_length=context
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer
