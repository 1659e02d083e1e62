"""Decoding agrees with the trainer's forward pass, with the plain reference, and with itself in any batch."""

import pytest
import torch
from transformers import DynamicCache

from palate.data.layout import completions, padded
from palate.models import CachedDecoder, RecomputingDecoder

EVERY = ["llama", "gpt2", "qwen2", "qwen3", "gemma2", "cohere", "gptj"]
STEPS = 12


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
@pytest.mark.parametrize("name", EVERY)
@torch.no_grad()
def test_sampler_and_trainer_agree(name, dtype, causal, prompts, continuation):
    # transformers' eager attention, which these two need, computes in float32 whatever the model's type.
    tolerance = 1e-5 if dtype == torch.float32 or name in ("gemma2", "gptj") else 1e-10
    lm = causal(name, dtype)
    layout = padded(prompts, continuation, torch.ones_like(continuation, dtype=torch.bool), pad_id=0)
    trainer = lm.logits(lm.hidden(layout)[layout.predictors]).log_softmax(dim=-1)
    torch.testing.assert_close(forced(lm.decoder(prompts), continuation), trainer, atol=tolerance, rtol=0)


@pytest.mark.parametrize("name", EVERY)
def test_float32_models_decode_on_the_cache(name, causal):
    assert isinstance(causal(name).decoder([[3]]), CachedDecoder)


@torch.no_grad()
def test_recomputing_decoder_is_the_same_and_needs_no_cache(causal, prompts, continuation):
    lm = causal("llama", torch.float64)
    plain = forced(RecomputingDecoder(lm, prompts), continuation)
    torch.testing.assert_close(forced(lm.decoder(prompts), continuation), plain, atol=1e-10, rtol=0)


@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen2", "gemma2"])
@pytest.mark.parametrize("kind", ["cached", "recomputing"])
@torch.no_grad()
def test_dropping_and_reordering_rows_changes_no_other(name, kind, causal, prompts, continuation):
    lm = causal(name)
    make = lm.decoder if kind == "cached" else lambda rows: RecomputingDecoder(lm, rows)
    whole = forced(make(prompts), continuation)
    decoder, kept = make(prompts), torch.arange(len(prompts))
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


@pytest.mark.parametrize("name", ["gpt2", "qwen2"])
@torch.no_grad()
def test_repeated_prompts_are_rows_of_their_own(name, causal):
    lm = causal(name)
    ids = torch.tensor([[7, 8], [9, 10], [11, 12], [13, 14]])
    prompts = [[3, 4, 5], [6], [3, 4, 5], [6]]
    together = forced(lm.decoder(prompts), ids)
    for row, prompt in enumerate(prompts):
        alone = forced(lm.decoder([prompt]), ids[row : row + 1])
        torch.testing.assert_close(together[row], alone[0], atol=1e-5, rtol=0)


@torch.no_grad()
def test_long_generations_outgrow_the_room_set_aside(causal):
    # The room is 64 slots beyond the prompt at first: 120 steps make it grow, with rows dropped on the way.
    lm = causal("llama", torch.float64)
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(3, 60, (2, 120), generator=generator)
    decoder = lm.decoder([[3, 4, 5], [6]])
    for step in range(119):
        decoder.step(ids[:, step])
        if step == 80:
            decoder.keep(torch.tensor([1]))
            ids = ids[1:]
    layout = padded([[6]], ids, torch.ones_like(ids, dtype=torch.bool), pad_id=0)
    trainer = lm.logits(lm.hidden(layout)[layout.predictors[0, -1:]])
    torch.testing.assert_close(decoder.logits, trainer, atol=1e-10, rtol=0)


@pytest.mark.parametrize("kind", ["cached", "recomputing"])
@torch.no_grad()
def test_a_row_that_ended_with_the_context_holds_up_no_other(kind, causal):
    # This GPT-2 has learned 160 positions; one row begins at 158, and is stepped on while the other writes.
    lm = causal("gpt2")
    prompts = [[3 + token % 50 for token in range(158)], [5, 6]]
    ids = torch.randint(3, 60, (2, 6), generator=torch.Generator().manual_seed(2))
    outputs = forced(lm.decoder(prompts) if kind == "cached" else RecomputingDecoder(lm, prompts), ids)
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
    decoder = lm.decoder(prompts)
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
