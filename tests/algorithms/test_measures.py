"""What the online loop tells of an iteration, by hand: padding is in no figure; the critic learns what was earned."""

import math
from dataclasses import replace

import pytest
import torch

from palate.algorithms.leash import KL
from palate.algorithms.measures import experience_metrics, reward_metrics, rollout_metrics, score_metrics
from palate.algorithms.online import Online, OnlineLoop
from palate.algorithms.policies import A2C, PPO
from palate.algorithms.shaping import Shaping
from palate.engine.experience import Experience, Losses, Outputs, Rollout, Scored
from palate.engine.generation import Sampling
from palate.errors import TrainingError
from palate.ops import Moments
from palate.records import Prompt
from palate.testbed.enumerable import REFERENCE, TabularCodec, TabularCritic, TabularPolicy, TabularReward

# Two completions, of three tokens and of one; what stands in padding must be in no figure.
MASK = torch.tensor([[True, True, True], [True, False, False]])
FREE = KL(kind="fixed", coef=0.0)
NONE = Moments(*torch.zeros(3, dtype=torch.float64))
PLAIN = Shaping(normalise="none", missing_eos_penalty=0.0)


def padded(first: list[float], second: float, padding: float) -> torch.Tensor:
    """Four numbers at the four real tokens, `padding` at the other two places."""
    return torch.tensor([first, [second, padding, padding]])


def scored_of(**signals: torch.Tensor) -> Scored:
    """Log-probabilities of −1 everywhere, under the reference of −1.5, −2, −1 and −3.5: token KLs .5, 1, 0 and 2.5."""
    old = padded([-1.0, -1.0, -1.0], -1.0, 0.0)
    reference = padded([-1.5, -2.0, -1.0], -3.5, 0.0)
    sampler = padded([-1.0, -1.0, -1.25], -1.0, 0.0)
    rollout = Rollout(
        row_ids=torch.tensor([0, 1]),
        group_ids=torch.tensor([0, 1]),
        ids=torch.zeros(MASK.shape, dtype=torch.int64),
        mask=MASK,
        sampler_logprobs=sampler,
        finish=("length", "eos"),
        version=0,
        limit=3,
    )
    scores = torch.tensor([2.0, 1.0])
    return Scored(rollout, scores, torch.zeros(MASK.shape), {}, old, {"reference": reference, **signals})


def loop_of(settings: Online) -> OnlineLoop:
    """PPO on the enumerable policy."""
    return OnlineLoop(
        policy=TabularPolicy(REFERENCE),
        reference=TabularPolicy(REFERENCE),
        critic=TabularCritic(),
        reward=TabularReward(),
        algorithm=PPO(),
        prompts=(Prompt.of("?"),),
        prompt_ids=((0,),),
        codec=TabularCodec(),
        settings=settings,
        critic_learning_rate=0.0,
        seed=0,
    )


@pytest.mark.parametrize("padding", [0.0, 1e6, math.nan])
def test_figures_of_a_rollout_are_means_over_its_real_tokens(padding):
    # Entropies .5, 1, 1.5 and 2: mean 1.25 over four tokens, where six places would give less. Under the reference the
    # tokens have −1.5, −2, −1 and −3.5, of which the mean is −2. Lengths 3 and 1; the 0.9 quantile 2.8.
    found = rollout_metrics(scored_of(), padded([0.5, 1.0, 1.5], 2.0, padding))
    assert found["entropy"] == pytest.approx(1.25)
    assert found["perplexity"] == pytest.approx(math.exp(2.0))
    assert found["sampler/gap_max"] == pytest.approx(0.25)
    assert (found["length/mean"], found["length/std"]) == (2.0, 1.0)
    assert found["length/p90"] == pytest.approx(2.8)
    assert found["length/eos_rate"] == 0.5


def test_sequence_kl_is_the_sum_of_token_kls_and_their_mean_is_over_real_tokens():
    # Sequences of .5 + 1 + 0 = 1.5 and 2.5 nats: mean 2, and 4 nats over four tokens. A nat costs .1.
    scored = scored_of(baseline=torch.tensor([0.3, 0.3]))
    found = reward_metrics(scored, torch.tensor([1.5, 2.5]), 0.1)
    assert found["kl/sequence"] == 2.0 and found["kl/token"] == 1.0 and found["kl/coef"] == 0.1
    assert found["reward/mean"] == pytest.approx((2.0 - 0.15 + 1.0 - 0.25) / 2)
    assert found["baseline/mean"] == pytest.approx(0.3)


def test_scores_are_told_as_the_judges_gave_them():
    # 0, 1, 2, 3, 4: mean 2, variance 2, and the quantiles lie .4 of the way from the ends.
    parts = {"judge": torch.tensor([4.0, 0.0, 2.0, 1.0, 3.0]), "other": torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0])}
    found = score_metrics(parts, "judge")
    assert found["score/mean"] == found["score/judge"] == 2.0 and found["score/other"] == pytest.approx(0.8)
    assert found["score/std"] == pytest.approx(math.sqrt(2))
    assert (found["score/p10"], found["score/p90"]) == (pytest.approx(0.4), pytest.approx(3.6))


@pytest.mark.parametrize("padding", [0.0, 1e6])
def test_figures_of_an_experience_leave_padding_out(padding):
    # Advantages 1, 3, 1, 3: deviation 1. Returns 1, 2, 3, 4 of variance 5/3, missed by 1, 0, 0, −1: of variance 2/3.
    targets = {"returns": padded([1.0, 2.0, 3.0], 4.0, padding), "old_values": padded([0.0, 2.0, 3.0], 5.0, 0.0)}
    experience = Experience(torch.tensor([0, 1]), MASK.float(), padded([1.0, 3.0, 1.0], 3.0, padding), targets)
    found = experience_metrics(scored_of(), experience)
    assert found["advantage/std"] == pytest.approx(1.0)
    assert found["value/explained_variance"] == pytest.approx(1 - (2 / 3) / (5 / 3))


def test_of_dropped_rows_and_of_none_nothing_is_told():
    experience = Experience(torch.tensor([1]), MASK[1:].float(), torch.tensor([[2.0, 9.0, 9.0]]), {})
    assert experience_metrics(scored_of(), experience) == {"advantage/std": 0.0}
    assert experience_metrics(scored_of(), replace(experience, rows=torch.zeros(0, dtype=torch.int64))) == {}


@pytest.mark.parametrize("padding", [0.0, 5.0])
def test_an_updates_ratio_and_approximate_kl_leave_padding_out(padding):
    # Log-ratios ln 2, 0, 0 and −ln 2: ratios 2, 1, 1, ½, of mean 9/8; k3 of KL(old‖new) is ρ − 1 − ln ρ: 1 − ln 2, 0, 0
    # and −½ + ln 2, of mean 1/8. The part is half of a minibatch of 8 tokens, so it brings half of each.
    loop = loop_of(Online())
    old = padded([-1.0, -1.0, -1.0], -1.0, 0.0)
    logprobs = old + padded([math.log(2), 0.0, 0.0], -math.log(2), padding)
    batch = Experience(torch.tensor([0, 1]), old, torch.zeros(MASK.shape), {})
    losses = Losses(torch.tensor(0.0), {"loss/policy": torch.tensor(0.25)})
    found = loop._diagnose(Outputs(logprobs, torch.zeros(MASK.shape), None), batch, MASK, losses, tokens=8)
    assert found["ratio/mean"] == pytest.approx(9 / 8 / 2)
    assert found["approx_kl"] == pytest.approx(1 / 8 / 2)
    assert found["loss/policy"] == 0.25


def test_the_critic_learns_returns_in_the_scores_own_unit_whatever_becomes_of_advantages():
    # Nothing is paid for KL, γ = λ = 1: the return of every token is its completion's score, 2 or 1, whether or not the
    # advantages over values of ½ are then whitened.
    values = torch.where(MASK, torch.tensor(0.5), 0.0)
    expected = [[2.0, 2.0, 2.0], [1.0, 0.0, 0.0]]
    for algorithm in (PPO(lam=1.0, whiten=True, kl=FREE), PPO(lam=1.0, whiten=False, kl=FREE), A2C(kl=FREE)):
        experience = algorithm.assign(scored_of(critic=values), 0.0)
        assert experience.targets["returns"].tolist() == expected
        assert experience.targets["old_values"].equal(values)
    whitened = PPO(lam=1.0, kl=FREE).assign(scored_of(critic=values), 0.0).advantages[MASK]
    assert float(whitened.mean()) == pytest.approx(0, abs=1e-6) and float(whitened.var()) == pytest.approx(1, abs=1e-6)


def test_at_another_temperature_the_reference_is_read_at_it_too():
    # The policy begins as the reference, so at temperature .7, as at any, its first KL is 0; read at temperature 1, the
    # reference would give KL(softmax(z/.7) ‖ softmax(z)).
    tempered = (TabularPolicy(REFERENCE).table.detach()[0] / 0.7).softmax(-1)
    wrong = float((tempered * (tempered / torch.tensor(REFERENCE)).log()).sum())
    loop = loop_of(Online(batch=64, max_new_tokens=1, sampling=Sampling(temperature=0.7), shaping=PLAIN))
    row = loop.iterate(loop.start(NONE), loop.steppers()).row
    assert abs(row["kl/sequence"]) < 1e-6 < wrong / 10
    assert row["perplexity"] == pytest.approx(math.exp(row["entropy"]), rel=0.15)


@pytest.mark.parametrize(("apart", "stops"), [(0.0, False), (9e-4, False), (1.1e-3, True), (math.nan, True)])
def test_sampler_and_trainer_may_be_a_thousandth_of_a_nat_apart(apart, stops):
    scored = scored_of()
    sampler = scored.old_logprobs + padded([0.0, 0.0, 0.0], -apart, 0.0)
    rollout, loop = replace(scored.rollout, sampler_logprobs=sampler, version=4), loop_of(Online())
    if stops:
        with pytest.raises(TrainingError, match=r"nats on a token of row 1 in iteration 5\."):
            loop._same_policy(rollout, scored.old_logprobs)
    else:
        loop._same_policy(rollout, scored.old_logprobs)
