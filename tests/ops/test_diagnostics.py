"""Diagnostics by hand; none of them counts padding or a clip that does nothing."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palate.losses import clipped_surrogate
from palate.ops import approx_kl, clip_fraction, explained_variance, wilson_interval

NAN = math.nan


def vector(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_only_active_clips_count():
    # Clipped: 1.3 with A > 0, .7 with A < 0. Pulled back: the other signs. Idle: A = 0. Inside: 1.1.
    fraction = clip_fraction(
        logprobs=torch.cat([vector(1.3, 0.7, 1.3, 0.7, 1.3, 1.1).log(), vector(5, NAN)]),
        old_logprobs=torch.cat([torch.zeros(6, dtype=torch.float64), vector(0, NAN)]),
        advantages=vector(1, -1, -1, 1, 0, 1, 1, NAN),
        mask=torch.tensor([True] * 6 + [False] * 2),
        clip=0.2,
    )
    assert fraction.item() == pytest.approx(2 / 6, rel=1e-14)


def test_clip_fraction_with_two_sides():
    ratios, advantages, mask = vector(1.25, 0.85), vector(1, -1), torch.tensor([True, True])
    for clip, expected in (((0.2, 0.28), 0.0), ((0.1, 0.28), 0.5), ((0.1, 0.2), 1.0)):
        fraction = clip_fraction(
            logprobs=ratios.log(),
            old_logprobs=torch.zeros_like(ratios),
            advantages=advantages,
            mask=mask,
            clip=clip,
        )
        assert fraction.item() == expected


@given(seed=st.integers(0, 10**6))
def test_the_clip_fraction_is_the_share_of_tokens_without_gradient(ragged, seed):
    (logprobs, old_logprobs, advantages), mask = ragged(seed, 3)
    old_logprobs = logprobs + 0.3 * old_logprobs
    fraction = clip_fraction(logprobs=logprobs, old_logprobs=old_logprobs, advantages=advantages, mask=mask, clip=0.2)
    real = logprobs[mask].clone().requires_grad_()
    loss = clipped_surrogate(logprobs=real, old_logprobs=old_logprobs[mask], advantages=advantages[mask], clip=0.2)
    (gradient,) = torch.autograd.grad(loss.sum(), real)
    dead = gradient.eq(0).sum().item() / max(1, mask.sum().item())
    assert fraction.item() == pytest.approx(dead, abs=1e-14)


@pytest.mark.parametrize("clip", [-0.1, (1.1, 0.2), (0.2, math.inf), math.nan])
def test_a_bad_clip_is_refused(clip):
    with pytest.raises(ValueError, match="clip is"):
        clip_fraction(
            logprobs=vector(0),
            old_logprobs=vector(0),
            advantages=vector(0),
            mask=torch.tensor([True]),
            clip=clip,
        )


def test_approx_kl_is_from_the_old_policy_to_the_new():
    # Ratios new/old of 2 and 3: ρ − 1 − log ρ = 1 − ln 2 and 2 − ln 3.
    kl = approx_kl(
        logprobs=vector(math.log(2), math.log(3), NAN),
        old_logprobs=vector(0, 0, 3),
        mask=torch.tensor([True, True, False]),
    )
    assert kl.item() == pytest.approx((3 - math.log(6)) / 2, rel=1e-14)


def test_explained_variance():
    # Returns 2, 4, 6 have variance 4; the errors 1, 0, −1 have 1.
    returns, mask = vector(2, 4, 6, NAN), torch.tensor([True, True, True, False])
    for values, expected in (
        (vector(1, 4, 7, NAN), 0.75),
        (returns, 1.0),
        (returns + 10, 1.0),
        (vector(2, 2, 2, NAN), 0.0),
        (-returns, -3.0),
    ):
        found = explained_variance(values=values, returns=returns, mask=mask).item()
        assert found == pytest.approx(expected, abs=1e-14)


def test_explained_variance_of_constant_returns_is_undefined():
    values, mask = vector(0, 1, 2), torch.tensor([True] * 3)
    assert explained_variance(values=values, returns=torch.ones_like(values), mask=mask).isnan()


@given(
    n=st.integers(1, 10_000),
    share=st.floats(0, 1),
    confidence=st.sampled_from([0.8, 0.95, 0.99]),
)
def test_wilson_bounds_are_where_the_score_test_turns(n, share, confidence):
    # At either bound p the observed share lies exactly z standard errors √(p(1 − p)/n) away.
    wins = round(2 * share * n) / 2
    low, high = wilson_interval(wins, n, confidence)
    assert 0 <= low <= wins / n <= high <= 1
    z = {0.8: 1.2815515655446004, 0.95: 1.959963984540054, 0.99: 2.5758293035489004}[confidence]
    for bound in (low, high):
        assert (bound - wins / n) ** 2 == pytest.approx(z * z * bound * (1 - bound) / n, rel=1e-6, abs=1e-12)
    assert wilson_interval(n - wins, n, confidence) == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_wilson_at_the_edges():
    # No win in n: the upper bound is z²/(n + z²).
    low, high = wilson_interval(0, 10)
    assert low == 0
    assert high == pytest.approx(1.959963984540054**2 / (10 + 1.959963984540054**2), rel=1e-12)
    assert wilson_interval(10, 10)[1] == 1
    assert wilson_interval(0, 0) == (0, 1)


@pytest.mark.parametrize(("wins", "n", "confidence"), [(-1, 10, 0.9), (11, 10, 0.9), (5, 10, 1.0), (5, 10, 0)])
def test_wilson_refuses_what_is_no_share(wins, n, confidence):
    with pytest.raises(ValueError, match=f"wins is {wins}"):
        wilson_interval(wins, n, confidence)
