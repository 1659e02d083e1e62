"""A second objective on the online loop: its gradient, its examples as a function of names, resuming."""

import copy
import json
import math
from dataclasses import dataclass, replace

import pytest
import torch

from palate.algorithms.auxiliary import Auxiliary
from palate.algorithms.leash import KL
from palate.algorithms.loop_state import LoopState
from palate.algorithms.objectives import Example, Imitation
from palate.algorithms.online import Online, OnlineLoop
from palate.algorithms.policies import REINFORCE
from palate.algorithms.shaping import Shaping
from palate.errors import TrainingError
from palate.ops import Moments
from palate.records import Prompt
from palate.testbed.enumerable import REFERENCE, TabularCodec, TabularPolicy, TabularReward, total_variation

NONE = Moments(*torch.zeros(3, dtype=torch.float64))

# Demonstrations of one or two tokens: 0 stands four times, 1 once, 2 three times.
EXAMPLES = tuple(
    Example((0,) * length, (ids,)) for length, ids in ((1, (0, 0)), (2, (2,)), (1, (0, 2)), (3, (1, 0)), (1, (2,)))
)
SHARES = torch.tensor([4, 1, 3]) / 8


def mixed(weight=1.0, batch_tokens=1000, examples=EXAMPLES) -> Auxiliary:
    return Auxiliary(Imitation(chat=None), examples, weight, batch_tokens, pad_id=0)


def loop_of(auxiliary, rewards=(0.0, 0.0, 0.0), **settings) -> OnlineLoop:
    base = {"iterations": 60, "batch": 16, "max_new_tokens": 1, "learning_rate": 0.1}
    return OnlineLoop(
        policy=TabularPolicy(REFERENCE),
        reference=TabularPolicy(REFERENCE),
        critic=None,
        reward=TabularReward(rewards),
        algorithm=REINFORCE(kl=KL(kind="fixed", coef=0.0)),
        prompts=(Prompt.of("?"),),
        prompt_ids=((0,),),
        codec=TabularCodec(),
        settings=Online(**{**base, "shaping": Shaping(normalise="none", missing_eos_penalty=0.0), **settings}),
        critic_learning_rate=0.0,
        seed=0,
        auxiliary=auxiliary,
    )


def run(loop, count, state=None, steppers=None):
    steppers, state, rows = steppers or loop.steppers(), state or loop.start(NONE), []
    for _ in range(count):
        done = loop.iterate(state, steppers)
        state = done.state
        rows.append({name: value for name, value in done.row.items() if not name.startswith("time/")})
    return state, rows, steppers


@pytest.mark.parametrize("micro_tokens", [4, 1000])
def test_its_gradient_is_the_weighted_one_of_its_objective(micro_tokens):
    # Of all eight tokens, the mean of −log π has the gradient π − shares in the logits; it adds to what is there.
    policy = TabularPolicy(REFERENCE)
    policy.table.grad = torch.ones(3)
    loss = mixed(weight=2.0).add_gradient(policy, 0, 0, 0, micro_tokens)
    pi = torch.tensor(REFERENCE)
    torch.testing.assert_close(policy.table.grad, 1 + 2 * (pi - SHARES))
    assert loss == pytest.approx(-float((SHARES * pi.log()).sum()))


def test_without_a_reward_it_is_imitation():
    loop = loop_of(mixed())
    _, rows, _ = run(loop, 60)
    assert total_variation(loop.policy.probabilities, SHARES) < 0.01
    assert rows[-1]["loss/auxiliary"] == pytest.approx(-float((SHARES * SHARES.log()).sum()), abs=1e-3)


def test_without_weight_it_is_only_looked_at():
    plain, watched = loop_of(None, (1.0, 2.0, 0.0)), loop_of(mixed(weight=0.0), (1.0, 2.0, 0.0))
    _, rows, _ = run(plain, 3)
    _, others, _ = run(watched, 3)
    assert torch.equal(plain.policy.table, watched.policy.table)
    assert [set(row) ^ set(other) for row, other in zip(rows, others, strict=True)] == [{"loss/auxiliary"}] * 3


def test_its_examples_are_a_function_of_seed_iteration_and_minibatch():
    auxiliary = mixed(batch_tokens=6)
    names = [(seed, iteration, number) for seed in (0, 1) for iteration in (0, 1) for number in range(6)]
    drawn = {name: tuple(auxiliary._drawn(*name)) for name in names}
    assert drawn == {name: tuple(auxiliary._drawn(*name)) for name in reversed(names)}
    assert len(set(drawn.values())) > 6
    for examples in drawn.values():
        tokens = [example.tokens for example in examples]
        assert sum(tokens[:-1]) < 6 <= sum(tokens)
        assert len(set(examples)) == len(examples)


def test_it_resumes_to_the_bit():
    auxiliary = mixed(batch_tokens=4)
    whole, cut, fresh = (loop_of(auxiliary, (1.0, 2.0, 0.0)) for _ in range(3))
    _, expected, _ = run(whole, 4)
    state, _, steppers = run(cut, 2)
    saved = copy.deepcopy(steppers["policy"].saved("policy"))
    again = fresh.steppers()
    again["policy"].restore("policy", *saved)
    state = LoopState.from_json(json.loads(json.dumps(state.to_json())), type(state.kl), state.tensors())
    _, rows, _ = run(fresh, 2, state, again)
    assert rows == expected[2:]
    assert torch.equal(fresh.policy.table, whole.policy.table)


@dataclass(frozen=True)
class Infinite:
    """An objective whose loss is no number."""

    plain: Imitation

    def evaluate(self, model, batch):
        evaluated = self.plain.evaluate(model, batch)
        return replace(evaluated, losses=evaluated.losses * math.inf)

    def count(self, example):
        return self.plain.count(example)


def test_a_loss_that_is_no_number_stops_before_a_step():
    loop = loop_of(replace(mixed(), objective=Infinite(Imitation(chat=None))))
    before = loop.policy.table.detach().clone()
    with pytest.raises(TrainingError, match=r"auxiliary loss is \w+ at iteration 1: no step was taken"):
        run(loop, 1)
    assert torch.equal(loop.policy.table, before)
