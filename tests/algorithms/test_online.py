"""The online loop: the known optimum of the enumerable policy, ratios, prices, budgets, resuming to the bit."""

import copy
import json
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palate.algorithms.measures import clearly_negative
from palate.algorithms.online import LoopState, Online, OnlineLoop, balanced, importance_weights, occurrences
from palate.algorithms.policies import KL, PPO
from palate.algorithms.shaping import Shaping
from palate.engine.generation import Sampling
from palate.engine.optimiser import Optimiser
from palate.errors import RewardError, TrainingError
from palate.ops import Moments, moments
from palate.records import Prompt
from palate.testbed.enumerable import (
    BETA,
    REFERENCE,
    REWARDS,
    TabularCodec,
    TabularCritic,
    TabularPolicy,
    TabularReward,
    optimum,
    total_variation,
)

NONE = Moments(*torch.zeros(3, dtype=torch.float64))
PLAIN = Shaping(normalise="none", missing_eos_penalty=0.0)


def tabular_loop(*, algorithm=None, reward=None, seed=0, reference=REFERENCE, **settings) -> OnlineLoop:
    base = {"iterations": 60, "batch": 128, "max_new_tokens": 1, "learning_rate": 0.05, "shaping": PLAIN}
    return OnlineLoop(
        policy=TabularPolicy(REFERENCE),
        reference=TabularPolicy(reference),
        critic=TabularCritic(),
        reward=reward or TabularReward(),
        algorithm=algorithm or PPO(kl=KL(kind="fixed", coef=BETA)),
        prompts=(Prompt.of("?"),),
        prompt_ids=((0,),),
        codec=TabularCodec(),
        settings=Online(**{**base, "optimiser": Optimiser(schedule="linear"), **settings}),
        critic_learning_rate=0.05,
        seed=seed,
    )


def run(loop: OnlineLoop, iterations: int | None = None):
    steppers, state, rows = loop.steppers(), loop.start(NONE), []
    for _ in range(iterations or loop.settings.iterations):
        done = loop.iterate(state, steppers)
        state = done.state
        rows.append(done.row)
    return state, rows, steppers


def test_the_optimum_by_hand():
    # e^(r/β) = e², e⁴, 1; times the reference: 3.69453, 16.37945, 0.2; Z = 20.27397; J* = ½·log Z.
    best, value = optimum(REFERENCE, REWARDS, BETA)
    torch.testing.assert_close(best, torch.tensor([0.1822, 0.8079, 0.0099], dtype=torch.float64), atol=5e-5, rtol=0)
    assert value == pytest.approx(0.5 * math.log(20.27397), abs=1e-6)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_ppo_reaches_the_known_optimum(seed):
    loop = tabular_loop(seed=seed)
    _, rows, _ = run(loop)
    best, value = optimum(REFERENCE, REWARDS, BETA)
    assert total_variation(loop.policy.probabilities, best) < 0.03
    assert rows[-1]["reward/mean"] == pytest.approx(value, abs=0.05)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_first_ratio_is_exactly_one_and_later_ones_move(temperature):
    # At temperature τ the policy that is trained, and whose KL is paid, is the tempered one.
    _, rows, _ = run(tabular_loop(sampling=Sampling(temperature=temperature)), 5)
    for row in rows:
        assert row["ratio/first"] == 1.0
        assert row["ratio/mean"] != 1.0
        assert row["sampler/gap_max"] < 1e-6


def test_one_pass_of_one_minibatch_never_clips():
    _, rows, _ = run(tabular_loop(algorithm=PPO(epochs=1, minibatches=1, kl=KL(kind="fixed", coef=BETA))), 3)
    assert all(row["clip_fraction"] == 0 and row["ratio/mean"] == 1.0 for row in rows)


def test_micro_batches_change_nothing():
    rows = []
    for micro_tokens in (10_000, 10):
        loop = tabular_loop(micro_tokens=micro_tokens)
        loop.policy.double(), loop.reference.double(), loop.critic.double()
        rows.append(run(loop, 3)[1][-1])
    for name in ("loss/policy", "loss/value", "grad_norm", "kl/sequence", "approx_kl", "clip_fraction"):
        assert rows[0][name] == pytest.approx(rows[1][name], rel=1e-6, abs=1e-9)


def test_an_adaptive_price_follows_the_controllers_rule():
    loop = tabular_loop(algorithm=PPO(kl=KL(kind="adaptive", coef=0.1, target=0.01, horizon=1280)))
    state, rows, _ = run(loop, 4)
    # Batches of 128 episodes, horizon 1280: a KL far above the target raises the price by 2 % an iteration.
    assert rows[0]["kl/sequence"] == pytest.approx(0, abs=1e-6)
    assert state.kl.coef == pytest.approx(0.1 * 0.98 * 1.02**3)


def test_a_dual_price_rises_until_the_constraint_holds():
    loop = tabular_loop(
        algorithm=PPO(kl=KL(kind="dual", coef=0.0, target=0.2, rate=0.05)), iterations=150, learning_rate=0.03
    )
    _, rows, _ = run(loop)
    late = [row["kl/sequence"] for row in rows[-20:]]
    assert sum(late) / len(late) == pytest.approx(0.2, abs=0.06)


def test_a_budget_ends_the_stage():
    loop = tabular_loop(algorithm=PPO(kl=KL(kind="budget", coef=0.0, target=0.3)))
    steppers, state = loop.steppers(), loop.start(NONE)
    while state.ended is None and state.iteration < 60:
        state = loop.iterate(state, steppers).state
    assert state.iteration < 60
    assert "over the budget of 0.3" in state.ended


def test_early_stopping_by_approximate_kl_saves_passes():
    eager = PPO(epochs=4, minibatches=4, target_kl=1e-6, kl=KL(kind="fixed", coef=BETA))
    _, rows, _ = run(tabular_loop(algorithm=eager), 2)
    assert [row["updates"] for row in rows] == [4, 4]


def test_a_negative_kl_is_counted():
    # A sampler that prefers what the policy finds likelier than the reference gives positive gaps; the other way
    # round the k1 estimate is below zero, as it is when samples are not the policy's own.
    assert clearly_negative(torch.full((64,), -0.5) + 0.1 * torch.randn(64, generator=torch.Generator().manual_seed(0)))
    assert not clearly_negative(torch.randn(64, generator=torch.Generator().manual_seed(0)))


def test_a_state_survives_its_checkpoint_exactly():
    loop = tabular_loop(algorithm=PPO(kl=KL(kind="adaptive", coef=0.1)), shaping=Shaping(normalise="running"))
    state, _, _ = run(loop, 3)
    again = LoopState.from_json(state.to_json(), type(state.kl), state.tensors())
    assert again.to_json() == state.to_json()
    assert all(torch.equal(one, other) for one, other in zip(again.scores, state.scores, strict=True))


def test_going_on_from_a_checkpoint_equals_the_uncut_run():
    whole = tabular_loop(shaping=Shaping(normalise="running", missing_eos_penalty=0.0))
    _, rows, _ = run(whole, 6)
    cut = tabular_loop(shaping=Shaping(normalise="running", missing_eos_penalty=0.0))
    state, _, steppers = run(cut, 3)
    saved = {name: stepper.saved(name) for name, stepper in steppers.items()}
    saved = copy.deepcopy(saved)
    fresh = tabular_loop(shaping=Shaping(normalise="running", missing_eos_penalty=0.0))
    again = fresh.steppers()
    for name, stepper in again.items():
        stepper.restore(name, *saved[name])
    state = LoopState.from_json(state.to_json(), type(state.kl), state.tensors())
    for expected in rows[3:]:
        done = fresh.iterate(state, again)
        state = done.state
        for name in expected:
            if not name.startswith("time/"):
                assert done.row[name] == expected[name], name
    assert torch.equal(fresh.policy.table, whole.policy.table)


def test_a_sampler_that_is_not_the_policy_stops_the_run(monkeypatch):
    loop = tabular_loop()
    other = TabularPolicy((0.4, 0.4, 0.2))
    monkeypatch.setattr(loop.policy, "decoder", other.decoder)
    with pytest.raises(TrainingError, match="Sampler and trainer differ"):
        run(loop, 1)


class Broken:
    name = "broken"

    def __init__(self, scores):
        self.scores = scores

    def score(self, completions):
        return self.scores(len(completions.texts))


@pytest.mark.parametrize(
    ("scores", "complaint"),
    [
        (lambda count: torch.full((count,), torch.nan), "gave nan to"),
        (lambda count: torch.zeros(count - 1), "returned 127 numbers for 128"),
        (lambda count: 1 / 0, "raised ZeroDivisionError"),
    ],
)
def test_a_broken_reward_is_named(scores, complaint):
    with pytest.raises(RewardError, match=complaint):
        run(tabular_loop(reward=Broken(scores)), 1)


def test_a_row_drawn_twice_is_two_samples():
    assert occurrences([5, 7, 5, 5]) == [0, 0, 1, 2]
    loop = tabular_loop()
    rollout, _ = loop.sample(loop.start(NONE), loop.policy, version=0)
    assert len(set(rollout.ids[:, 0].tolist())) == 3  # one prompt, 128 different samples


def test_the_order_of_shaping():
    # Moments of (1, 3): mean 2, variance 1. Score 9 → 7 → clipped to 5 → 4 without its EOS.
    shaping = Shaping(normalise="reference", clip=5.0, missing_eos_penalty=1.0)
    known = moments(torch.tensor([1.0, 3.0]), torch.ones(2, dtype=torch.bool))
    shaped = shaping.shape(torch.tensor([9.0, 3.0]), torch.tensor([False, True]), known)
    assert shaped.tolist() == [4.0, 1.0]


@given(st.lists(st.integers(1, 100), min_size=1, max_size=60), st.integers(1, 8))
def test_minibatches_hold_every_row_once_and_like_many_rows_and_tokens(sizes, parts):
    parts, lengths = min(parts, len(sizes)), torch.tensor(sizes)
    hands = balanced(torch.arange(len(sizes)), lengths, parts)
    assert sorted(row for hand in hands for row in hand.tolist()) == list(range(len(sizes)))
    counts = [len(hand) for hand in hands]
    assert len(counts) == parts and max(counts) - min(counts) <= 1
    # Each deal hands out neighbours in length, so what two hands differ by telescopes to the longest row at most.
    tokens = [int(lengths[hand].sum()) for hand in hands]
    assert max(tokens) - min(tokens) <= 2 * max(sizes)


def test_chance_decides_between_rows_of_one_length():
    orders = [torch.randperm(40, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    first, second = (balanced(order, torch.full((40,), 7), 4)[0].tolist() for order in orders)
    assert set(first) != set(second)


def asynchronous_loop(**settings) -> OnlineLoop:
    return replace(tabular_loop(asynchronous=True, **settings), sampler=TabularPolicy((0.1, 0.1, 0.8)))


def test_importance_weights_are_ratios_cut_at_the_cap():
    # Twice as likely to the policy as to its sampler, half as likely, and ten times.
    policy, sampler = torch.tensor([0.4, 0.1, 0.5]).log(), torch.tensor([0.2, 0.2, 0.05]).log()
    torch.testing.assert_close(importance_weights(policy, sampler, cap=2.5), torch.tensor([2.0, 0.5, 2.5]))


def test_asynchronous_rollouts_are_one_policy_old_exactly():
    loop = asynchronous_loop()
    steppers, state, before = loop.steppers(), loop.start(NONE), [loop.policy.probabilities]
    for iteration in range(4):
        done = loop.iterate(state, steppers)
        assert done.row["ratio/first"] == 1.0
        assert torch.equal(loop.sampler.probabilities, before[-1])  # the weights that this iteration began with
        assert done.state.pending.rollout.version == iteration
        drawn = done.state.pending.rollout
        expected = before[-1].log()[drawn.ids]
        torch.testing.assert_close(drawn.sampler_logprobs, expected, atol=1e-6, rtol=0)
        before.append(loop.policy.probabilities)
        state = done.state
    assert not torch.equal(before[0], before[-1])


def test_a_policy_that_stands_still_does_not_notice_that_its_rollouts_are_old():
    still = {"learning_rate": 1e-30, "optimiser": Optimiser()}
    _, plain, _ = run(tabular_loop(**still), 4)
    _, ahead, _ = run(asynchronous_loop(**still), 4)
    for one, other in zip(plain, ahead, strict=True):
        for name in ("score/mean", "kl/sequence", "length/mean", "advantage/std", "loss/policy"):
            assert other[name] == pytest.approx(one[name], abs=1e-6), name


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_asynchronous_ppo_reaches_the_known_optimum(seed):
    loop = asynchronous_loop(seed=seed)
    run(loop)
    best, _ = optimum(REFERENCE, REWARDS, BETA)
    assert total_variation(loop.policy.probabilities, best) < 0.03


def test_an_asynchronous_run_goes_on_with_its_pending_rollout():
    whole, cut, fresh = asynchronous_loop(), asynchronous_loop(), asynchronous_loop()
    _, rows, _ = run(whole, 5)
    state, _, steppers = run(cut, 2)
    saved = copy.deepcopy({name: stepper.saved(name) for name, stepper in steppers.items()})
    again = fresh.steppers()
    for name, stepper in again.items():
        stepper.restore(name, *saved[name])
    state = LoopState.from_json(json.loads(json.dumps(state.to_json())), type(state.kl), state.tensors())
    for expected in rows[2:]:
        done = fresh.iterate(state, again)
        state = done.state
        assert {name: value for name, value in done.row.items() if not name.startswith("time/")} == {
            name: value for name, value in expected.items() if not name.startswith("time/")
        }
    assert torch.equal(fresh.policy.table, whole.policy.table)


def test_what_fails_while_sampling_ahead_is_heard():
    loop = asynchronous_loop()
    loop.sampler.decoder = lambda prompts: 1 / 0
    with pytest.raises(ZeroDivisionError):
        run(loop, 1)
