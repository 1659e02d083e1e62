"""A short run through every fast path ends with the weights of one through the plain paths."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from palate.algorithms.online import Online, OnlineLoop
from palate.algorithms.policies import KL, PPO
from palate.algorithms.shaping import Shaping
from palate.models import CausalLM, SharedCritic
from palate.ops import Moments
from palate.records import Prompt
from palate.testbed.enumerable import TabularCodec, TabularReward

PROMPTS = ((5, 6), (7, 8, 9), (10,), (11, 12, 13, 14))
ITERATIONS = 5


def model(dtype):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=20, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                max_position_embeddings=64, tie_word_embeddings=True,
            )
        )  # fmt: skip
    return CausalLM(made.to(dtype))


def slow(lm):
    """The same model through transformers' own modules: padded rows, a plain cache."""
    lm.reading, lm.supports_packing, lm._fuses = "padded", False, False
    return lm


def trained(policy, reference):
    loop = OnlineLoop(
        policy=policy,
        reference=reference.requires_grad_(False),
        critic=SharedCritic(policy, generator=torch.Generator().manual_seed(0)).to(policy.model.dtype),
        reward=TabularReward(tuple(torch.linspace(-1, 1, 20).tolist())),
        algorithm=PPO(kl=KL(kind="fixed", coef=0.05), epochs=2, minibatches=2),
        prompts=tuple(Prompt.of(str(ids)) for ids in PROMPTS),
        prompt_ids=PROMPTS,
        codec=TabularCodec(eos_id=3),
        settings=Online(
            iterations=ITERATIONS, batch=16, max_new_tokens=8, slots=4, learning_rate=1e-3,
            shaping=Shaping(normalise="none"),
        ),
        critic_learning_rate=1e-3,
        seed=0,
    )  # fmt: skip
    state, rows = loop.start(Moments(*torch.zeros(3, dtype=torch.float64))), []
    steppers = loop.steppers()
    for _ in range(ITERATIONS):
        done = loop.iterate(state, steppers)
        state = done.state
        rows.append(done.row)
    return torch.cat([parameter.detach().flatten() for parameter in policy.parameters()]), rows


# Adam divides a gradient by its own size, so a rounding error of the smallest gradients becomes a step's fraction.
@pytest.mark.parametrize(("dtype", "weights", "losses"), [(torch.float64, 1e-9, 1e-10), (torch.float32, 2e-5, 1e-5)])
def test_a_short_run_ends_with_the_same_weights(dtype, weights, losses):
    fast, rows = trained(model(dtype), model(dtype))
    plain, plain_rows = trained(slow(model(dtype)), slow(model(dtype)))
    start = torch.cat([parameter.detach().flatten() for parameter in model(dtype).parameters()])
    assert float((fast - start).abs().max()) > 1e-2  # the run moved the weights by far more than they may differ
    assert float((fast - plain).abs().max()) < weights
    for one, other in zip(rows, plain_rows, strict=True):
        assert one["tokens/padded"] == 0 < other["tokens/padded"]
        for name in ("loss/policy", "loss/value", "kl/sequence", "entropy", "score/mean"):
            assert one[name] == pytest.approx(other[name], abs=losses), name
