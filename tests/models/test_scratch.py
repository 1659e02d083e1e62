"""Models from nothing: the same from the same seed and texts, with a tokenizer that loses no byte."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.models import scratch_model, weight_hash
from palate.models.scratch import CONTROL_TOKENS
from palate.records import Message, Prompt

TEXTS = ["What is 2 + 2? 4.", "The capital of France is Paris.", "Which is larger, 3 or 5? 5."] * 4
SHAPE = {"hidden": 32, "layers": 2, "heads": 4, "vocabulary": 290, "context": 64}


def make(seed=1, texts=TEXTS):
    return scratch_model(texts, **SHAPE, seed=seed)


def test_same_seed_same_model_whatever_the_global_state():
    torch.manual_seed(11)
    first, _, tokenizer = make()
    torch.manual_seed(22)
    state = torch.get_rng_state()
    second, _, again = make()
    assert torch.equal(state, torch.get_rng_state())
    assert weight_hash(first) == weight_hash(second)
    assert tokenizer.get_vocab() == again.get_vocab()
    assert weight_hash(first) != weight_hash(make(seed=2)[0])


def test_shape_and_tied_embeddings():
    lm, chat, tokenizer = make()
    assert (lm.width, lm.context, lm.vocabulary) == (32, 64, len(tokenizer))
    assert len(tokenizer) <= 290
    assert lm.projection.data_ptr() == lm.trunk.get_input_embeddings().weight.data_ptr()
    assert [tokenizer.convert_tokens_to_ids(token) for token in CONTROL_TOKENS] == [0, 1, 2, 3, 4]
    assert (chat.pad_id, chat.eos_id) == (0, 4)


def test_template_has_no_newlines():
    _, chat, tokenizer = make()
    turns = (Message("system", "s"), Message("user", "q"), Message("assistant", "a"), Message("user", "p"))
    ids = chat.encode_prompt(Prompt(turns)) + chat.encode_completion("b")
    expected = "<|system|>s<|end|><|user|>q<|end|><|assistant|>a<|end|><|user|>p<|end|><|assistant|>b<|end|>"
    assert tokenizer.decode(ids) == expected


@settings(deadline=None, max_examples=20)
@given(st.text(max_size=40))
def test_no_text_is_lost(text):
    _, chat, _ = make()
    assert chat.decode(chat.encode_completion(text)) == text


@torch.no_grad()
def test_first_predictions_are_nearly_uniform():
    # Weights drawn small leave an untrained model with nearly all of the ln V nats of surprise.
    lm, chat, _ = make()
    logprobs = lm.decoder([chat.encode_prompt(Prompt.of("hi"))]).logits.log_softmax(dim=-1)
    assert float(-(logprobs.exp() * logprobs).sum()) > 0.95 * math.log(lm.vocabulary)
