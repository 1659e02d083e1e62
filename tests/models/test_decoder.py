"""Decoding agrees with the trainer's forward pass, with the plain reference, and with itself in any batch."""

import logging

import pytest
import torch
from transformers import DynamicCache

from palate.data.layout import completions, padded
from palate.models import CachedDecoder, CausalLM, FusedDecoder, RecomputingDecoder

EVERY = ["llama", "gpt2", "qwen2", "qwen3", "gemma2", "cohere", "gptj"]
STEPS = 12

# Of Llama's shape; Qwen 2 has it too, but for the sliding window in one layer of this one.
FUSED = ["llama", "qwen3"]


def cached(lm, prompts):
    """The decoder on transformers' cache, also for models that have a faster one."""
    return CachedDecoder(lm.trunk, lm.logits, prompts, lm.context)


def recomputing(lm, prompts):
    """The plain reference."""
    return RecomputingDecoder(lm, prompts)


def own(lm, prompts):
    """The decoder that the model chooses."""
    return lm.decoder(prompts)


def forced(decoder, ids):
    """Log-probabilities [B, T, V] of a decoder that is fed `ids [B, T]`."""
    outputs = [decoder.logits]
    for step in range(ids.shape[1] - 1):
        decoder.step(ids[:, step])
        outputs.append(decoder.logits)
    return torch.stack(outputs, dim=1).log_softmax(dim=-1)


@pytest.fixture
def prompts(documents):
    return documents[0]


@pytest.fixture
def continuation(prompts):
    return torch.randint(3, 60, (len(prompts), STEPS), generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("name", "make"), [*((name, own) for name in EVERY), *((name, cached) for name in FUSED)])
@torch.no_grad()
def test_sampler_and_trainer_agree(name, make, dtype, causal, prompts, continuation):
    # transformers' eager attention, which these two need, computes in float32 whatever the model's type.
    tolerance = 1e-5 if dtype == torch.float32 or name in ("gemma2", "gptj") else 1e-10
    lm = causal(name, dtype)
    layout = padded(prompts, continuation, torch.ones_like(continuation, dtype=torch.bool), pad_id=0)
    trainer = lm.logits(lm.hidden(layout)[layout.predictors]).log_softmax(dim=-1)
    torch.testing.assert_close(forced(make(lm, prompts), continuation), trainer, atol=tolerance, rtol=0)


@pytest.mark.parametrize("name", EVERY)
def test_float32_models_decode_on_a_cache(name, causal):
    kind = FusedDecoder if name in FUSED else CachedDecoder
    assert type(causal(name).decoder([[3]])) is kind


@pytest.mark.parametrize("make", [own, cached])
@torch.no_grad()
def test_recomputing_decoder_is_the_same_and_needs_no_cache(make, causal, prompts, continuation):
    lm = causal("llama", torch.float64)
    plain = forced(RecomputingDecoder(lm, prompts), continuation)
    torch.testing.assert_close(forced(make(lm, prompts), continuation), plain, atol=1e-10, rtol=0)


@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen2", "gemma2"])
@pytest.mark.parametrize("make", [own, cached, recomputing])
@torch.no_grad()
def test_dropping_and_reordering_rows_changes_no_other(name, make, causal, prompts, continuation):
    lm = causal(name)
    whole = forced(make(lm, prompts), continuation)
    decoder, kept = make(lm, prompts), torch.arange(len(prompts))
    for step in range(STEPS - 1):
        decoder.step(continuation[kept, step])
        if step in (2, 6):
            rows = torch.tensor([4, 0, 3, 2] if step == 2 else [2, 0])
            decoder.keep(rows)
            kept = kept[rows]
        now = decoder.logits.log_softmax(dim=-1)
        torch.testing.assert_close(now, whole[kept, step + 1], atol=1e-5, rtol=0)
    assert kept.tolist() == [3, 4]


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@torch.no_grad()
def test_a_row_alone_is_the_row_in_its_batch(name, causal, prompts, continuation):
    lm = causal(name)
    together = forced(lm.decoder(prompts), continuation)
    for row, prompt in enumerate(prompts):
        alone = forced(lm.decoder([prompt]), continuation[row : row + 1])
        torch.testing.assert_close(alone[0], together[row], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen2"])
@torch.no_grad()
def test_repeated_prompts_are_rows_of_their_own(name, causal):
    lm = causal(name)
    ids = torch.tensor([[7, 8], [9, 10], [11, 12], [13, 14]])
    prompts = [[3, 4, 5], [6], [3, 4, 5], [6]]
    together = forced(lm.decoder(prompts), ids)
    for row, prompt in enumerate(prompts):
        alone = forced(lm.decoder([prompt]), ids[row : row + 1])
        torch.testing.assert_close(together[row], alone[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("make", [own, cached])
@torch.no_grad()
def test_long_generations_outgrow_the_room_set_aside(make, causal):
    # The room is 64 slots beyond the prompt at first: 120 steps make it grow, with rows dropped on the way.
    lm = causal("llama", torch.float64)
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(3, 60, (2, 120), generator=generator)
    decoder = make(lm, [[3, 4, 5], [6]])
    for step in range(119):
        decoder.step(ids[:, step])
        if step == 80:
            decoder.keep(torch.tensor([1]))
            ids = ids[1:]
    layout = padded([[6]], ids, torch.ones_like(ids, dtype=torch.bool), pad_id=0)
    trainer = lm.logits(lm.hidden(layout)[layout.predictors[0, -1:]])
    torch.testing.assert_close(decoder.logits, trainer, atol=1e-10, rtol=0)


@pytest.mark.parametrize(("name", "make"), [("llama", own), ("llama", cached), ("gpt2", own), ("gpt2", recomputing)])
@torch.no_grad()
def test_a_row_that_ended_with_the_context_holds_up_no_other(name, make, causal):
    # This GPT-2 has learned 160 positions; one row begins at 158, and is stepped on while the other writes.
    lm = causal(name)
    prompts = [[3 + token % 50 for token in range(158)], [5, 6]]
    ids = torch.randint(3, 60, (2, 6), generator=torch.Generator().manual_seed(2))
    outputs = forced(make(lm, prompts), ids)
    alone = forced(lm.decoder(prompts[1:]), ids[1:])
    torch.testing.assert_close(outputs[1], alone[0], atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_model_without_a_limit_has_none(causal):
    lm = causal("llama")
    lm.context = None
    decoder = lm.decoder([[3, 4], [5]])
    decoder.step(torch.tensor([6, 7]))
    assert bool(torch.isfinite(decoder.logits).all())


@torch.no_grad()
def test_nothing_decoded_carries_a_gradient(causal):
    with torch.enable_grad():
        decoder = causal("llama").decoder([[3, 4]])
        decoder.step(torch.tensor([5]))
    assert not decoder.logits.requires_grad


def test_left_padding_reaches_no_layer(causal, prompts):
    # Keys in a row's own slots are those of the row alone: padding was never attended, at any depth.
    lm = causal("llama", torch.float64)
    decoder = cached(lm, prompts)
    width = max(map(len, prompts))
    for row, prompt in enumerate(prompts):
        cache = DynamicCache(config=lm.model.config)
        with torch.no_grad():
            lm.trunk(input_ids=torch.tensor([prompt]), past_key_values=cache, use_cache=True)
        for ours, alone in zip(decoder._cache.layers, cache.layers, strict=True):
            own = ours.keys[row : row + 1, :, width - len(prompt) :]
            torch.testing.assert_close(own, alone.keys, atol=1e-10, rtol=0)


@torch.no_grad()
def test_completions_without_tokens_are_refused_nowhere(causal):
    ids, mask = completions([[], []], pad_id=0)
    lm = causal("llama")
    layout = padded([[3], [4, 5]], ids, mask, pad_id=0)
    expected = lm.logits(lm.hidden(layout)[layout.last])
    torch.testing.assert_close(lm.decoder([[3], [4, 5]]).logits, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("make", [own, recomputing])
@torch.no_grad()
def test_new_prompts_take_rows_and_disturb_no_other(make, causal):
    # Row 1 is taken at step 3 by a prompt longer than all so far, row 0 at step 70, when the first room is used up
    # and what stands left of every row's beginning has been given back.
    lm = causal("llama", torch.float64)
    generator = torch.Generator().manual_seed(3)
    prompts = [[3, 4, 5], [6], [7, 8]]
    taken = {3: (1, [9, 10, 11, 12, 13, 14, 15, 16, 17]), 70: (0, [20, 21])}
    ids = torch.randint(3, 60, (3, 90), generator=generator)
    decoder = make(lm, prompts)
    texts = [list(prompt) for prompt in prompts]
    for step in range(90):
        decoder.step(ids[:, step])
        for row in range(3):
            texts[row].append(int(ids[row, step]))
        if step in taken:
            row, prompt = taken[step]
            decoder.replace(torch.tensor([row]), [prompt])
            texts[row] = list(prompt)
        if step in (2, 3, 4, 69, 70, 71, 89):
            expected = RecomputingDecoder(lm, texts).logits
            torch.testing.assert_close(decoder.logits, expected, atol=1e-10, rtol=0)


@torch.no_grad()
def test_several_rows_taken_by_one_prompt_and_others_at_once(causal):
    lm = causal("qwen3", torch.float64)
    decoder = lm.decoder([[3], [4, 5], [6], [7]])
    decoder.step(torch.tensor([8, 9, 10, 11]))
    decoder.replace(torch.tensor([3, 0, 2]), [[12, 13], [14], [12, 13]])
    decoder.step(torch.tensor([15, 16, 17, 18]))
    texts = [[14, 15], [4, 5, 9, 16], [12, 13, 17], [12, 13, 18]]
    torch.testing.assert_close(decoder.logits, RecomputingDecoder(lm, texts).logits, atol=1e-10, rtol=0)


@torch.no_grad()
def test_each_decoder_has_the_weights_of_the_moment_it_is_made(causal):
    lm = causal("llama", torch.float64)
    for parameter in lm.parameters():
        parameter.mul_(1.1)
    torch.testing.assert_close(lm.decoder([[3, 4]]).logits, RecomputingDecoder(lm, [[3, 4]]).logits, atol=1e-10, rtol=0)


@torch.no_grad()
def test_a_model_that_is_not_what_its_name_says_is_found_out(transformer, caplog):
    # Norms that scale by 1 + w, as Gemma's: the weights are read as Llama's would be.
    model = transformer("llama")
    for layer in model.model.layers:
        norm = layer.input_layernorm
        norm.forward = lambda states, norm=norm: type(norm).forward(norm, states) + states
    with caplog.at_level(logging.WARNING):
        lm = CausalLM(model)
    assert type(lm.decoder([[3]])) is CachedDecoder
    assert "not what its name says" in caplog.text
