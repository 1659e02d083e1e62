"""Ensembles, weighted sums and dense parts against numbers worked out by hand."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from palate.engine.interfaces import Completions, Judgement
from palate.errors import RewardError
from palate.models import RewardModel
from palate.models.scratch import scratch_model
from palate.ops import moments
from palate.records import Prompt
from palate.rewards import (
    AttributeReward,
    EnsembleReward,
    FunctionReward,
    ModelReward,
    StepReward,
    Term,
    WeightedReward,
    checked_scores,
    judged,
)
from palate.rewards.combined import moments_from_json, moments_to_json


def fixed(name, *numbers):
    return FunctionReward(name, lambda prompts, completions, **_: list(numbers))


def sample_of(*numbers):
    values = torch.tensor(numbers, dtype=torch.float64)
    return moments(values, torch.ones_like(values, dtype=torch.bool))


# ---- ensembles

# Two completions, three members: (1, 2, 3) with std √(2/3), and (4, 4, 4) with std 0.
MEMBERS = tuple(fixed(f"m{k}", k, 4.0) for k in (1.0, 2.0, 3.0))
DEVIATION = math.sqrt(2 / 3)


@pytest.mark.parametrize(
    ("combine", "penalty", "first"),
    [("mean", 1.0, 2.0), ("worst", 1.0, 1.0), ("cautious", 1.0, 2 - DEVIATION), ("cautious", 0.5, 2 - DEVIATION / 2)],
)
def test_an_ensemble_combines_its_members(completions, combine, penalty, first):
    said = judged(EnsembleReward("team", MEMBERS, combine, penalty), completions("a", "b"))
    assert said.scores.tolist() == pytest.approx([first, 4.0])
    assert said.parts["team/std"].tolist() == pytest.approx([DEVIATION, 0.0])
    assert said.parts["team"].tolist() == said.scores.tolist()


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=6), st.floats(0, 1))
def test_caution_lies_below_the_mean_and_agreement_costs_nothing(numbers, penalty):
    one = Completions((Prompt.of("?"),), ((1,),), torch.zeros((1, 1)), torch.ones((1, 1), dtype=torch.bool), ("a",))
    members = tuple(fixed(str(index), number) for index, number in enumerate(numbers))
    mean, cautious = (float(EnsembleReward("t", members, how, penalty).score(one)) for how in ("mean", "cautious"))
    assert cautious <= mean + 1e-6
    assert EnsembleReward("t", members[:1] * 2, "cautious", penalty).score(one) == pytest.approx(numbers[0])


def trained(kind, name="team"):
    """A reward model of random weights."""
    model, chat, _ = scratch_model(("a", "b"), hidden=16, layers=1, heads=2, vocabulary=280, context=64, seed=0)
    made = RewardModel.on(model, pooling="last", generator=torch.Generator().manual_seed(1), **kind)
    return ModelReward(name, made, chat, rereads=True)


@pytest.mark.parametrize("combine", ["mean", "worst", "cautious"])
def test_heads_on_one_trunk_are_members_like_others(completions, combine):
    team, seen = trained({"heads": 3}), completions("a", "b b")
    columns = team.columns(seen)
    apart = tuple(fixed(str(k), *columns[:, k].tolist()) for k in range(3))
    together = judged(EnsembleReward("team", (team,), combine), seen)
    expected = judged(EnsembleReward("team", apart, combine), seen)
    assert together.scores.tolist() == pytest.approx(expected.scores.tolist())
    assert team.score(seen).tolist() == pytest.approx(columns.mean(dim=1).tolist())
    joined = judged(EnsembleReward("team", (team, fixed("x", 1.0, 2.0)), "mean"), seen).scores
    assert joined[0] == pytest.approx((float(columns[0].sum()) + 1) / 4)


def test_attributes_are_weighed_by_name(completions):
    rated, seen = trained({"attributes": ("helpful", "brief")}), completions("a", "b b")
    columns = rated.columns(seen)
    said = judged(AttributeReward(rated, {"helpful": 0.7, "brief": -2.0}), seen)
    assert said.scores.tolist() == pytest.approx((0.7 * columns[:, 0] - 2 * columns[:, 1]).tolist())
    assert said.parts["team/brief"].tolist() == pytest.approx(columns[:, 1].tolist())


def test_a_head_that_fails_is_named(completions):
    team = trained({"heads": 2})
    team.model.bias = (0.0, math.nan)
    with pytest.raises(RewardError, match="The reward 'team' gave nan to 'a'"):
        judged(EnsembleReward("ensemble", (team,)), completions("a", "b"))


def test_a_member_that_fails_is_named(completions):
    members = (fixed("sound", 1.0, 1.0), fixed("broken", 1.0, math.nan))
    with pytest.raises(RewardError, match="The reward 'broken' gave nan to 'b'"):
        checked_scores(EnsembleReward("team", members), completions("a", "b"))


# ---- weighted sums


def test_a_sum_weighs_what_is_normalised_by_frozen_moments(completions):
    # helpful on SFT samples: 1, 3 → mean 2, std 1; brief: −10, −30 → mean −20, std 10.
    terms = (
        Term(fixed("helpful", 4.0, 2.0), 0.7, sample_of(1.0, 3.0)),
        Term(fixed("brief", -30.0, 0.0), 0.3, sample_of(-10.0, -30.0)),
    )
    said = judged(WeightedReward("sum", terms), completions("a", "b"))
    # .7·(4 − 2)/1 + .3·(−30 + 20)/10 = 1.4 − .3 and .7·0 + .3·2
    assert said.scores.tolist() == pytest.approx([1.1, 0.6])
    assert {name: part.tolist() for name, part in said.parts.items()} == {
        "helpful": [4.0, 2.0],
        "brief": [-30.0, 0.0],
        "sum": pytest.approx([1.1, 0.6]),
    }


def test_a_term_without_moments_or_without_spread_keeps_its_unit(completions):
    same = Term(fixed("rare", 1.0, 0.0), 2.0, sample_of(0.0, 0.0, 0.0))
    plain = Term(fixed("plain", 1.0, 5.0), 1.0)
    assert judged(WeightedReward("sum", (same, plain)), completions("a", "b")).scores.tolist() == [3.0, 5.0]


def test_the_parts_of_an_ensemble_within_a_sum_are_told(completions):
    said = judged(WeightedReward("sum", (Term(EnsembleReward("team", MEMBERS), 1.0),)), completions("a", "b"))
    assert set(said.parts) == {"team", "team/std", "sum"}


def test_moments_survive_the_way_to_disk():
    found = {"a": sample_of(1.0, 2.5, 1 / 3), "b": sample_of(0.0, 0.0)}
    again = moments_from_json(moments_to_json(found))
    assert all(torch.equal(x, y) for name in found for x, y in zip(found[name], again[name], strict=True))


# ---- dense parts


@dataclass(frozen=True)
class Dense:
    """A judge whose tokens earn what `dense` says, and whose last token earns the rest of `scores`."""

    name: str
    scores: Tensor
    dense: Tensor

    def score(self, completions):
        return self.scores

    def judge(self, completions):
        return Judgement(self.scores, dense=self.dense)


def test_a_dense_part_goes_through_a_sum_in_the_terms_unit(completions):
    given = completions("ab", "cd", lengths=[2, 1])
    dense = torch.tensor([[1.0, 2.0], [4.0, 0.0]])
    term = Term(Dense("steps", torch.tensor([3.0, 4.0]), dense), 0.5, sample_of(0.0, 4.0))  # mean 2, std 2
    said = judged(WeightedReward("sum", (term, Term(fixed("plain", 1.0, 1.0), 1.0))), given)
    assert said.scores.tolist() == [0.25 + 1, 0.5 + 1]  # .5·(3 − 2)/2, .5·(4 − 2)/2
    torch.testing.assert_close(said.dense, 0.25 * dense)


@pytest.mark.parametrize(
    ("dense", "said"),
    [
        (torch.zeros(2, 3), r"dense part of shape \[2, 3\] for completions of shape \[2, 2\]"),
        (torch.tensor([[0.0, math.nan], [0.0, 0.0]]), "tokens of 'ab' .*not finite"),
        (torch.tensor([[0.0, 0.0], [0.0, 1.0]]), "tokens of 'cd' .*behind its end"),
    ],
)
def test_a_dense_part_that_is_none_is_named(completions, dense, said):
    given = completions("ab", "cd", lengths=[2, 1])
    with pytest.raises(RewardError, match=f"The reward 'steps' .*{said}"):
        judged(Dense("steps", torch.zeros(2), dense), given)


def letters(ids):
    """A tokenizer of three letters a token: 0 → abc, 1 → def, …"""
    return "".join("abcdefghijkl"[3 * token : 3 * token + 3] for token in ids)


def steps(*returned):
    return StepReward("steps", lambda prompts, completions, **_: list(returned), letters)


def test_a_steps_number_lands_on_the_token_that_ends_it(completions):
    given = completions("abcdefghi", "abc", lengths=[4, 2])  # the last token of each is EOS, without text
    given = replace(given, ids=torch.tensor([[0, 1, 2, 9], [0, 9, 0, 0]]))
    said = judged(steps([(3, 1.0), (4, 2.0), (6, 4.0), (9, 8.0), (0, 16.0)], [(3, 0.5)]), given)
    assert said.dense is not None
    assert said.dense.tolist() == [[17.0, 6.0, 8.0, 0.0], [0.5, 0.0, 0.0, 0.0]]
    assert said.scores.tolist() == [31.0, 0.5]


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (([1.0], []), r"returned \[1\.0\] for 'abc' .*pairs \(end, number\)"),
        (([(99, 1.0)], []), "end from 0 to its 3 characters"),
        (([(1, None)], []), r"returned None \(NoneType\) for 'abc'"),
        (([],), "must return one list of steps for each"),
        ((1.0, 2.0), r"returned 1\.0 for 'abc'"),
    ],
)
def test_what_are_no_steps_is_named(completions, returned, said):
    with pytest.raises(RewardError, match=said):
        judged(steps(*returned), completions("abc", "abc", lengths=[1, 1]))
