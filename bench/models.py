"""Makes the models that both sides read: random weights from a seed, saved as Hugging Face directories.

How often a completion ends is in the weights alone, so no side can tell the difference: hidden feature 0 is kept
for it. Every embedding holds the same constant there and no layer writes to it, so after the last norm it is nearly
the same number at every token; the row of the vocabulary projection that makes EOS reads this feature and nothing
else, with the weight that gives EOS the wanted mean probability on a probe. Padding gets a row of the same kind and
a probability near zero, because a peer may find the end of a completion by its padding.

The weights are large enough for the context to matter, and the logits spread enough for a likeliest token to stand
out: greedy completions differ from prompt to prompt and end at different lengths, so comparing them means something.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GenerationConfig,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from bench.inputs import EOS, PAD, SPECIAL, word
from bench.shapes import Shape, shape_of

NEVER = 1e-9
ENDINGS = {"early": 1 / 32, "full": NEVER}

# Of the same order as what a layer writes into all other features together: the norm hardly moves it, and does not
# drown the rest in it.
CONSTANT = 0.35
# The spread of logits in units of √(log V): at √2 the likeliest token would take all the probability.
SPREAD = 0.8


def tokenizer_of(shape: Shape) -> PreTrainedTokenizerFast:
    """One token a word: "w7 w9" is [7, 9]."""
    words = {word(token): token for token in range(shape.vocabulary)}
    backend = Tokenizer(models.WordLevel(words, unk_token=SPECIAL[2]))
    # Splits "<pad>" in three, so that no text reads as a control token.
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=SPECIAL[0],
        eos_token=SPECIAL[1],
        unk_token=SPECIAL[2],
        model_max_length=shape.context,
    )


def configuration(shape: Shape, **more: Any) -> LlamaConfig | Qwen2Config:
    """The transformers configuration of a shape."""
    kind = {"llama": LlamaConfig, "qwen2": Qwen2Config}[shape.family]
    return kind(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_heads,
        max_position_embeddings=shape.context,
        tie_word_embeddings=False,
        initializer_range=1 / math.sqrt(shape.hidden),
        bos_token_id=None,
        eos_token_id=EOS,
        pad_token_id=PAD,
        **more,
    )


@torch.no_grad()
def policy(shape: Shape, ending: float, seed: int, device: str = "cpu") -> PreTrainedModel:
    """A language model whose completions end with probability `ending` at each token."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(configuration(shape)).to(device).eval()
    spread = SPREAD * math.sqrt(math.log(shape.vocabulary))
    embedding, projection = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    projection *= spread  # one feature of the last hidden state has the size 1, one of the projection 1/√H
    projection[:, 0] = 0
    embedding *= math.sqrt(shape.hidden)
    embedding[:, 0] = CONSTANT * math.sqrt(shape.hidden)
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight[0] = 0
        layer.mlp.down_proj.weight[0] = 0
    states = model.model(input_ids=probe(shape, seed).to(device)).last_hidden_state.flatten(0, 1)
    words = torch.logsumexp((states @ projection[len(SPECIAL) :].T).double(), dim=1).cpu()
    feature = states[:, 0].double().cpu()
    for token, probability in ((EOS, ending), (PAD, NEVER)):
        projection[token] = 0
        projection[token, 0] = weight_for(probability, feature, words)
    model.generation_config = GenerationConfig(do_sample=True, top_k=0, top_p=1.0, eos_token_id=EOS, pad_token_id=PAD)
    return model


def probe(shape: Shape, seed: int) -> Tensor:
    """Random rows as long as a prompt with its completion, [rows, length]; the vocabulary bounds their number."""
    rows = 16 if shape.vocabulary < 100_000 else 4
    drawn = torch.Generator().manual_seed(seed)
    return torch.randint(len(SPECIAL), shape.vocabulary, (rows, 96), generator=drawn)


def weight_for(probability: float, feature: Tensor, words: Tensor) -> float:
    """w with mean σ(w·feature − words) = probability: `words [N]` is the log-sum-exp of all other logits."""
    low, high = -1e4, 1e4
    for _ in range(100):
        middle = (low + high) / 2
        if float(torch.sigmoid(middle * feature - words).mean()) < probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def judge(shape: Shape, seed: int) -> PreTrainedModel:
    """A sequence classifier with one label: the reward model, and what the critic starts from."""
    torch.manual_seed(seed + 1)
    return AutoModelForSequenceClassification.from_config(configuration(shape, num_labels=1)).eval()


def make(shape: Shape, ending: float, seed: int, directory: Path, device: str) -> None:
    """Writes `policy` and `reward` into the directory, in the device's precision."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    for name, model in (("policy", policy(shape, ending, seed, device)), ("reward", judge(shape, seed))):
        nn.Module.to(model, dtype)
        model.save_pretrained(directory / name)
        tokenizer_of(shape).save_pretrained(directory / name)


if __name__ == "__main__":
    name, device, wanted, number, place = sys.argv[1:]
    make(shape_of(name, device), ENDINGS[wanted], int(number), Path(place), device)
