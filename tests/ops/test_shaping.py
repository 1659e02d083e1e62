"""Where the score lands, and what the KL penalty takes off."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palate.ops import kl_estimate, shaped_rewards, soft_overlong

NAN = math.nan


def test_by_hand():
    # β = .5. Row 0: x = .2, −.4, so −.1, .2, and the score 3 on its last, the second. Row 1: x = 1.
    rewards = shaped_rewards(
        scores=torch.tensor([3.0, 0.0, 7.0], dtype=torch.float64),
        logprobs=torch.tensor([[-1.0, -2.0, NAN], [-1.0, NAN, NAN], [NAN, NAN, NAN]], dtype=torch.float64),
        ref_logprobs=torch.tensor([[-1.2, -1.6, NAN], [-2.0, NAN, NAN], [NAN, NAN, NAN]], dtype=torch.float64),
        mask=torch.tensor([[True, True, False], [True, False, False], [False, False, False]]),
        kl_coef=0.5,
    )
    assert rewards[0].tolist() == pytest.approx([-0.1, 3.2, 0], rel=1e-14)
    assert rewards[1].tolist() == pytest.approx([-0.5, 0, 0], rel=1e-14)
    assert rewards[2].tolist() == [0, 0, 0]


@given(seed=st.integers(0, 10**6), padding=st.integers(0, 3))
def test_a_row_sums_to_its_score_less_beta_times_its_sequence_kl(ragged, seed, padding):
    (logprobs, ref_logprobs), mask = ragged(seed, 2, padding=padding)
    scores = torch.arange(1.0, len(mask) + 1, dtype=torch.float64)
    rewards = shaped_rewards(scores=scores, logprobs=logprobs, ref_logprobs=ref_logprobs, mask=mask, kl_coef=0.3)
    k1 = kl_estimate(logprobs=logprobs, ref_logprobs=ref_logprobs, kind="k1")
    sequence_kl = torch.where(mask, k1, 0).sum(1)
    expected = torch.where(mask.any(1), scores - 0.3 * sequence_kl, 0)
    assert torch.allclose(rewards.sum(1), expected, atol=1e-12)
    assert rewards[~mask].eq(0).all()


def test_without_penalty_the_score_stands_on_the_last_real_token_alone():
    mask = torch.tensor([[True, True, True], [True, True, False]])
    zeros = torch.zeros(2, 3)
    rewards = shaped_rewards(
        scores=torch.tensor([5.0, -2.0]), logprobs=zeros - 1, ref_logprobs=zeros, mask=mask, kl_coef=0
    )
    assert rewards.tolist() == [[0, 0, 5], [0, -2, 0]]


def test_soft_overlong_by_hand():
    # Limit 20, buffer 4: nothing up to 16, then a quarter a token, and never more than 1.
    lengths = torch.tensor([1, 16, 17, 18, 20, 25])
    assert soft_overlong(lengths=lengths, limit=20, buffer=4).tolist() == [0, 0, -0.25, -0.5, -1, -1]
    assert soft_overlong(lengths=lengths, limit=20, buffer=0).eq(0).all()
    with pytest.raises(ValueError, match="buffer is 21 and limit 20"):
        soft_overlong(lengths=lengths, limit=20, buffer=21)
