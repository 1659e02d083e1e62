"""The models that both sides read: parameter counts, how often completions end, what loads them."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench import inputs, models
from bench.shapes import CPU_SHAPES, CUDA_SHAPES, shape_of
from palate.models import load_causal, load_reward_model


def test_the_shapes_have_the_parameters_they_are_named_for():
    # Small: 4 layers of 4·128² + 3·128·304 + 2·128, a last norm of 128, and twice 512·128.
    assert CPU_SHAPES["small"].parameters == 4 * (65536 + 116736 + 256) + 128 + 2 * 65536 == 861_312
    assert CPU_SHAPES["large"].parameters == pytest.approx(24.65e6, rel=1e-3)
    # Qwen 2.5 tells 0.36 and 1.31 billion without embeddings.
    assert [shape.body / 1e9 for shape in CUDA_SHAPES.values()] == pytest.approx([0.358, 1.310], abs=5e-4)
    assert shape_of("small", "cuda") is CUDA_SHAPES["small"]


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_counts_are_those_of_the_model_itself(tiny, family):
    shape = replace(tiny, family=family)
    model = models.policy(shape, 1 / 32, seed=0)
    assert sum(parameter.numel() for parameter in model.parameters()) == shape.parameters
    trunk = sum(parameter.numel() for parameter in model.base_model.parameters())
    assert trunk - shape.head == shape.body


@given(st.floats(1e-9, 0.5), st.floats(0.5, 5.0), st.floats(1.0, 12.0))
def test_the_weight_of_an_end(probability, feature, words):
    # With one probe position: σ(w·f − s) = p, so w = (s + log(p/(1 − p)))/f.
    found = models.weight_for(
        probability, torch.tensor([feature], dtype=torch.float64), torch.tensor([words], dtype=torch.float64)
    )
    assert found == pytest.approx((words + math.log(probability / (1 - probability))) / feature, abs=1e-6)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize(("ending", "wanted"), [("early", 1 / 32), ("full", 0.0)])
def test_completions_end_as_often_as_asked(tiny, family, ending, wanted):
    model = models.policy(replace(tiny, family=family, hidden=32), models.ENDINGS[ending], seed=3)
    rows = torch.randint(3, tiny.vocabulary, (64, 96), generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        probabilities = model(input_ids=rows).logits.softmax(dim=-1)
    ends = probabilities[:, :, inputs.EOS]
    # Fresh rows, not those of the probe: the mean is of the same size, and no position is far from it.
    assert float(ends.mean()) == pytest.approx(wanted, rel=0.15, abs=1e-6)
    assert float(ends.max()) <= 8 * wanted + 1e-6
    assert float(probabilities[:, :, inputs.PAD].max()) < 1e-6


def test_the_context_decides_the_likeliest_token(tiny):
    model = models.policy(tiny, models.NEVER, seed=0)
    rows = torch.randint(3, tiny.vocabulary, (32, 24), generator=torch.Generator().manual_seed(1))
    rows[:, -1] = 7  # the same last token behind different ones
    with torch.no_grad():
        likeliest = model(input_ids=rows).logits[:, -1].argmax(dim=-1)
    assert len(likeliest.unique()) > 3


def test_both_directories_load_and_agree_on_tokens(tiny, tiny_models):
    policy, chat, tokenizer = load_causal(tiny_models / "policy")
    load_reward_model(tiny_models / "reward")
    assert (chat.eos_id, chat.pad_id) == (inputs.EOS, inputs.PAD)
    assert policy.vocabulary == tiny.vocabulary == len(tokenizer)
    for row in inputs.prompts(5, tiny.vocabulary, seed=1):
        assert tokenizer(row["text"]).input_ids == row["prompt"]


def test_the_same_seed_makes_the_same_model(tiny):
    one, same, other = (models.policy(tiny, 1 / 32, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["lm_head.weight"], other["lm_head.weight"])
