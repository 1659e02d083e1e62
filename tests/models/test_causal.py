"""The wrapped model says what the model itself says, whatever the layout, batch, mode and head."""

import copy
import logging

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertLMHeadModel

from palate.data.layout import completions, packed, padded
from palate.engine.interfaces import LanguageModel
from palate.errors import ModelError
from palate.models import CausalLM
from palate.models.trunk import gap, reading_of, without_dropout

EVERY = ["llama", "gpt2", "qwen2", "qwen3", "gemma2", "cohere", "gptj"]

# transformers' eager attention, which these two need, computes in float32 whatever the model's type.
FLOAT32_INSIDE = ("gemma2", "gptj")


def tolerance(name, dtype):
    return 1e-5 if dtype == torch.float32 or name in FLOAT32_INSIDE else 1e-10


def plain_logprobs(model, prompt, completion, vocabulary):
    """Log-probabilities over the vocabulary for each completion token, from the model's own forward pass."""
    ids = torch.tensor([prompt + completion])
    logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1, :vocabulary]
    return logits.log_softmax(dim=-1)


def layout_logprobs(lm, layout):
    return lm.logits(lm.hidden(layout)[layout.predictors]).log_softmax(dim=-1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", EVERY)
@torch.no_grad()
def test_every_layout_agrees_with_the_model_itself(name, dtype, causal, documents):
    lm = causal(name, dtype)
    prompts, replies = documents
    ids, mask = completions(replies, pad_id=0)
    layouts = [padded(prompts, ids, mask, pad_id=0), *([packed(prompts, ids, mask)] if lm.supports_packing else [])]
    for layout in layouts:
        ours = layout_logprobs(lm, layout)
        for row, (prompt, reply) in enumerate(zip(prompts, replies, strict=True)):
            plain = plain_logprobs(lm.model, prompt, reply, lm.vocabulary)
            torch.testing.assert_close(ours[row, : len(reply)], plain, atol=tolerance(name, dtype), rtol=0)


@pytest.mark.parametrize("name", EVERY)
def test_all_of_them_keep_documents_apart_and_their_own_width(name, causal):
    lm = causal(name)
    assert lm.supports_packing == (name not in ("gemma2", "gptj"))  # which bring an attention of their own
    assert lm.width == 32
    assert lm.context == 160
    assert (lm.projection is None) == (name in ("gemma2", "cohere", "gptj"))


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@torch.no_grad()
def test_projection_is_the_logits(name, causal):
    lm = causal(name)
    hidden = torch.randn(5, 32, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(hidden @ lm.projection.T, lm.logits(hidden))


@torch.no_grad()
def test_what_stands_in_padding_changes_nothing(causal, documents):
    lm = causal("gpt2")
    prompts, replies = documents
    ids, mask = completions(replies, pad_id=0)
    first, second = (layout_logprobs(lm, padded(prompts, ids, mask, pad_id=pad))[mask] for pad in (0, 41))
    assert torch.equal(first, second)


@torch.no_grad()
def test_packing_leaks_neither_text_nor_position(causal):
    # One token of the first document changes; the second, in the same row, must not move by a bit.
    lm = causal("gpt2", torch.float64)
    ids, mask = completions([[5, 6], [7, 8, 9]], pad_id=0)
    outputs = []
    for first in ([10, 11, 12, 13], [10, 44, 12, 13]):
        layout = packed([first, [20, 21]], ids, mask)
        assert layout.ids.shape[0] == 1
        outputs.append(layout_logprobs(lm, layout))
    assert torch.equal(outputs[0][1], outputs[1][1])
    assert not torch.allclose(outputs[0][0, :2], outputs[1][0, :2])


@pytest.mark.parametrize("name", EVERY)
@torch.no_grad()
def test_training_mode_changes_nothing(name, causal, documents):
    lm = causal(name)
    prompts, replies = documents
    ids, mask = completions(replies, pad_id=0)
    layout = padded(prompts, ids, mask, pad_id=0)
    training, evaluating = lm.train().hidden(layout), lm.eval().hidden(layout)
    assert torch.equal(training, evaluating)


def test_dropout_is_gone_from_modules_and_configuration(transformer):
    gpt2, llama = without_dropout(transformer("gpt2")), without_dropout(transformer("llama"))
    assert {module.p for module in gpt2.modules() if isinstance(module, nn.Dropout)} == {0.0}
    assert (gpt2.config.attn_pdrop, gpt2.config.embd_pdrop, gpt2.config.resid_pdrop) == (0, 0, 0)
    assert llama.config.attention_dropout == 0
    assert llama.model.layers[0].self_attn.attention_dropout == 0


@torch.no_grad()
def test_ids_beyond_the_vocabulary_have_no_logit(transformer, documents):
    model = transformer("llama")
    lm = CausalLM(copy.deepcopy(model), vocabulary=50)
    prompts, replies = documents
    ids, mask = completions(replies, pad_id=0)
    layout = padded(prompts, ids, mask, pad_id=0)
    logits = lm.logits(lm.hidden(layout))
    assert logits.shape[1] == lm.projection.shape[0] == lm.decoder(prompts).logits.shape[1] == 50
    ours = layout_logprobs(lm, layout)[0]
    torch.testing.assert_close(ours, plain_logprobs(model.eval(), prompts[0], replies[0], 50), atol=1e-5, rtol=0)


class OddHead(nn.Linear):
    """A head that does something to the logits that no configuration tells of."""

    def forward(self, input):
        return super().forward(input).clamp(min=-1.0)


@torch.no_grad()
def test_unknown_head_falls_back_to_full_logits_and_says_so(transformer, documents, caplog):
    model = transformer("llama")
    head = OddHead(32, 60, bias=False)
    head.weight = model.lm_head.weight
    model.lm_head = head
    with caplog.at_level(logging.WARNING):
        lm = CausalLM(model)
    assert "its head is more than a matrix" in caplog.text
    assert lm.projection is None
    assert lm.width == lm.vocabulary == 60
    prompts, replies = documents
    ids, mask = completions(replies, pad_id=0)
    ours = layout_logprobs(lm, padded(prompts, ids, mask, pad_id=0))
    for row, (prompt, reply) in enumerate(zip(prompts, replies, strict=True)):
        plain = plain_logprobs(model, prompt, reply, 60)
        torch.testing.assert_close(ours[row, : len(reply)], plain, atol=1e-5, rtol=0)
    first = torch.stack([plain_logprobs(model, prompt, [3], 60)[0] for prompt in prompts])
    decoded = lm.decoder(prompts).logits.log_softmax(dim=-1)
    torch.testing.assert_close(decoded, first, atol=1e-5, rtol=0)


def test_models_that_mix_packed_documents_are_found_out(transformer, monkeypatch, caplog):
    model = transformer("llama")
    trunk = model.base_model
    forward = trunk.forward

    def deaf_to_positions(input_ids, position_ids=None, **others):
        return forward(input_ids=input_ids, **others)

    monkeypatch.setattr(trunk, "forward", deaf_to_positions)
    assert reading_of(trunk) == "padded"
    assert trunk.config._attn_implementation == "sdpa"
    with caplog.at_level(logging.WARNING):
        lm = CausalLM(model)
    assert not lm.supports_packing
    assert "cannot keep documents in one row apart" in caplog.text


def test_models_that_look_ahead_are_refused():
    config = BertConfig(vocab_size=60, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
    with torch.random.fork_rng(devices=[]):
        model = BertLMHeadModel(config)
    with pytest.raises(ModelError, match="changes with the tokens that follow"):
        CausalLM(model)


@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen2", "qwen3", "cohere"])
def test_ordinary_models_load_without_a_word(name, causal, caplog):
    with caplog.at_level(logging.WARNING):
        causal(name)
    assert not caplog.records


def test_not_a_number_counts_as_a_gap():
    one, nan = torch.ones(2), torch.tensor([1.0, torch.nan])
    assert gap([one, one], [one, one]) == 0
    assert gap([one, nan], [one, one]) == gap([nan, one], [one, one]) == torch.inf


def test_gradients_reach_trunk_and_head(causal):
    lm = causal("llama")
    ids, mask = completions([[5, 6]], pad_id=0)
    layout = padded([[3, 4]], ids, mask, pad_id=0)
    lm.logits(lm.hidden(layout)[layout.predictors]).log_softmax(-1)[..., 5].sum().backward()
    assert all(parameter.grad is not None for parameter in lm.parameters())


def test_it_is_a_language_model_to_the_engine(causal):
    assert isinstance(causal(), LanguageModel)


def test_wrapping_leaves_the_random_state_alone(transformer):
    model = transformer("llama")
    before = torch.get_rng_state()
    CausalLM(model)
    assert torch.equal(before, torch.get_rng_state())
