"""The operations of useful work: against numbers by hand, and against what torch counts in a real forward pass."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench import models, operations
from bench.shapes import Shape

# A layer has 2·8·(8 + 8) + 3·8·10 + 2·8 = 512 parameters, the last norm 8: N = 520; P = 20·8 = 160.
SHAPE = Shape("llama", hidden=8, layers=1, heads=1, key_heads=1, intermediate=10, vocabulary=20, context=64)
DOCUMENTS, COMPLETIONS = 30, 10
POLICY = 520 * 30 + 160 * 10  # 17,200
TRUNK = 520 * 30  # 15,600


def test_by_hand():
    assert (SHAPE.body, SHAPE.head) == (520, 160)
    assert operations.rollout(SHAPE, DOCUMENTS, COMPLETIONS) == 2 * POLICY
    assert operations.sft(SHAPE, DOCUMENTS, COMPLETIONS) == 6 * POLICY
    assert operations.reward(SHAPE, DOCUMENTS) == 6 * TRUNK


@pytest.mark.parametrize(
    ("old_logprobs", "shared_critic", "expected"),
    [
        # rollout 2; old, reference 2 each of the policy, judge and critic 2 each of the trunk; 4 passes of 6 for both
        (True, False, (2 + 4 + 24) * POLICY + (4 + 24) * TRUNK),
        (False, False, (2 + 2 + 24) * POLICY + (4 + 24) * TRUNK),
        (True, True, (2 + 4 + 24) * POLICY + 2 * TRUNK),
    ],
)
def test_ppo_by_hand(old_logprobs, shared_critic, expected):
    counted = operations.ppo(
        SHAPE, DOCUMENTS, COMPLETIONS, epochs=4, old_logprobs=old_logprobs, shared_critic=shared_critic
    )
    assert counted == expected


def test_a_step_costs_what_torch_counts(tiny):
    # All tokens of a row are completion tokens here. Norms are counted as if they were matrices, attention not at all.
    model = models.policy(tiny, models.NEVER, seed=0)
    ids = torch.randint(3, tiny.vocabulary, (2, 10))
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids).logits.sum().backward()
    products = sum(count for kind, count in counter.get_flop_counts()["Global"].items() if "attention" not in str(kind))
    norms = tiny.hidden * (2 * tiny.layers + 1)
    assert operations.sft(tiny, 20, 20) - 6 * 20 * norms == pytest.approx(products, rel=0.02)
