"""Palate's own layers against transformers' modules: states, gradients, what is read, what is computed again."""

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from palate.data.layout import completions, packed
from palate.models import CausalLM, RewardModel
from palate.models.blocks import _gated, _turned
from palate.models.norm import unit_rms
from palate.models.trunk import recompute_layers, trunk_states


def biased(dtype):
    """A Qwen 2 whose queries, keys and values have biases that are not zero, and no sliding windows."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        config = Qwen2Config(
            vocab_size=60, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=160,
        )  # fmt: skip
        model = Qwen2ForCausalLM(config).to(dtype)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return CausalLM(model)


@pytest.fixture(params=["llama", "qwen3", "biased"])
def lm(request, causal):
    return biased(torch.float64) if request.param == "biased" else causal(request.param, torch.float64)


@pytest.fixture
def layout(documents):
    prompts, replies = documents
    # Three answers to one prompt, and one of the others again: what they share stands in the row once.
    prompts, replies = [*prompts, prompts[3], prompts[3]], [*replies, [5, 6, 7], replies[4]]
    return packed(prompts, *completions(replies, pad_id=0))


def gradients(lm, layout, reading, read):
    lm.zero_grad()
    states = trunk_states(lm.trunk, layout, reading, read)
    weights = torch.linspace(-1, 1, states.numel(), dtype=states.dtype).view_as(states)
    (states.sin() * weights).sum().backward()
    return states.detach(), [parameter.grad.clone() for parameter in lm.trunk.parameters()]


@pytest.mark.parametrize("which", ["predicting", "last", "every"])
def test_own_layers_give_the_states_and_gradients_of_transformers(which, lm, layout):
    assert lm.reading == "layers"
    read = {"predicting": layout.predicting, "last": layout.last, "every": None}[which]
    ours, our_gradients = gradients(lm, layout, "layers", read)
    plain, plain_gradients = gradients(lm, layout, "attention", read)
    torch.testing.assert_close(ours, plain, atol=1e-10, rtol=0)
    for mine, other in zip(our_gradients, plain_gradients, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-9, rtol=1e-9)


def test_scoring_and_training_agree_to_the_bit(causal, layout):
    # The first ratio of an update must be exactly 1.
    lm = causal("llama")
    trained = trunk_states(lm.trunk, layout, "layers", layout.predicting)
    with torch.no_grad():
        scored = trunk_states(lm.trunk, layout, "layers", layout.predicting)
    assert torch.equal(scored, trained)


@torch.no_grad()
def test_what_is_not_read_changes_nothing_of_what_is(lm, layout):
    every = trunk_states(lm.trunk, layout, "layers")
    some = torch.tensor([4, 0, 4, layout.total - 1])
    torch.testing.assert_close(trunk_states(lm.trunk, layout, "layers", some), every[some], atol=1e-12, rtol=0)


@pytest.mark.parametrize("reading", ["layers", "attention"])
def test_layers_computed_again_give_the_same_gradients_from_less_memory(reading, causal, layout):
    def held_and_gradients(lm):
        held = 0

        def pack(tensor):
            nonlocal held
            held += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            states = trunk_states(lm.trunk, layout, reading, layout.predicting)
        states.square().sum().backward()
        return held, [parameter.grad for parameter in lm.trunk.parameters()]

    plain, again = causal("llama"), causal("llama")
    recompute_layers(again.trunk)
    held, expected = held_and_gradients(plain)
    held_less, found = held_and_gradients(again)
    assert all(torch.equal(mine, other) for mine, other in zip(found, expected, strict=True))
    assert held_less < held / 2


def test_a_copied_trunk_computes_its_layers_again_too(causal, layout):
    lm = causal("llama")
    recompute_layers(lm.trunk)
    model = RewardModel.on(lm, pooling="last", generator=torch.Generator().manual_seed(0))
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        model.scores(layout)
    widest = max(tensor.shape[-1] for tensor in saved if tensor.dim() == 2)
    assert widest <= 32  # no [N, 2·64] of a gate is kept


def test_derivatives_by_finite_differences():
    random = torch.Generator().manual_seed(0)
    joined = torch.randn((5, 3, 4), generator=random, dtype=torch.float64, requires_grad=True)
    turns = torch.polar(torch.ones(5, 1, 2, dtype=torch.float64), torch.randn((5, 1, 2), generator=random).double())
    assert torch.autograd.gradcheck(lambda given: _turned(given * 1, turns, 2), joined)
    assert torch.autograd.gradcheck(_gated, joined.detach().flatten(1).requires_grad_())
    assert torch.autograd.gradcheck(lambda given: unit_rms(given, 1e-5), joined)


def test_turning_pairs_is_the_rotation_of_the_plane():
    # (3, 4) by 90° is (−4, 3); the third head, a value, stays.
    joined = torch.tensor([[[3.0, 4.0], [1.0, 0.0], [5.0, 6.0]]])
    turns = torch.polar(torch.ones(1, 1, 1), torch.full((1, 1, 1), torch.pi / 2))
    expected = torch.tensor([[[-4.0, 3.0], [0.0, 1.0], [5.0, 6.0]]])
    torch.testing.assert_close(_turned(joined, turns, 2), expected, atol=1e-6, rtol=0)
