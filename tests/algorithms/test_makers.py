"""What is kept of a round's completions, what is set against it, and the exact distribution of best-of-n."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palate.algorithms.makers import (
    MAKERS,
    SPIN,
    Group,
    OnlineDPO,
    Rejection,
    best,
    best_of_n,
    best_of_n_kl,
    best_of_n_kl_bound,
    pair,
)
from palate.algorithms.supervised import Supervision
from palate.errors import RecipeError
from palate.settings import build
from palate.testbed import enumerable

FOUR = Group((9,), ((1, 0), (2, 0), (3, 0), (2, 0)), (0.5, 2.0, -1.0, 2.0))
LEVEL = Group((8,), ((1, 0), (2, 0)), (0.5, 0.5))


# ---- the choice


def test_the_best_come_first_and_equal_completions_count_once():
    assert best(FOUR.scores, FOUR.completions) == [1, 0, 2]
    assert best((1.0, 1.0), ((1,), (2,))) == [0, 1]


@pytest.mark.parametrize(("keep", "kept"), [(1, [(2, 0)]), (2, [(2, 0), (1, 0)]), (4, [(2, 0), (1, 0), (3, 0)])])
def test_rejection_keeps_the_best_distinct_completions(keep, kept):
    examples = Rejection(samples=4, keep=keep).examples([FOUR], seed=0)
    assert [example.completions for example in examples] == [(one,) for one in kept]
    assert {example.prompt for example in examples} == {(9,)}


def test_keeping_more_than_is_sampled_is_refused():
    with pytest.raises(RecipeError, match="at most as many"):
        build(Rejection, {"samples": 2, "keep": 3}, "align.rejection")


def test_a_pair_is_the_best_against_the_worst():
    assert pair(FOUR.scores, "worst") == [(1, 2)]
    (example,) = OnlineDPO(samples=4).examples([FOUR, LEVEL], seed=0)
    assert example.completions == ((2, 0), (3, 0))


def test_a_random_rival_is_worse_fixed_by_its_seed_and_any_of_the_worse():
    drawn = {seed: pair(FOUR.scores, "random", seed, 0) for seed in range(40)}
    assert all(chosen == 1 and rejected in (0, 2) for ((chosen, rejected),) in drawn.values())
    assert {rejected for ((_, rejected),) in drawn.values()} == {0, 2}
    assert drawn == {seed: pair(FOUR.scores, "random", seed, 0) for seed in range(40)}


def test_equal_scores_prefer_nothing():
    assert pair(LEVEL.scores, "worst") == [] == pair(LEVEL.scores, "random", 0, 0)


def test_spin_sets_the_demonstration_against_the_policys_own_words():
    own, same = Group((9,), ((1, 0),), demonstration=(5, 0)), Group((8,), ((5, 0),), demonstration=(5, 0))
    (example,) = SPIN().examples([own, same], seed=0)
    assert example.prompt == (9,) and example.completions == ((5, 0), (1, 0))


@pytest.mark.parametrize("maker", MAKERS.values(), ids=list(MAKERS))
def test_every_maker_says_what_the_stage_asks(maker):
    method = maker()
    assert method.data in ("prompts", "demonstrations") and method.reference in ("fixed", "last")
    assert method.judged == (method.data == "prompts")
    assert method.rounds >= 1 and method.samples >= 1 and isinstance(method.loop, Supervision)


# ---- best-of-n

REFERENCE = torch.tensor(enumerable.REFERENCE, dtype=torch.float64)
REWARDS = torch.tensor(enumerable.REWARDS, dtype=torch.float64)


def test_best_of_two_by_hand():
    # Worst first: id 2 (.2), id 0 (.5), id 1 (.3). P = .2², .7² − .2², 1 − .7².
    chosen = best_of_n(REFERENCE, REWARDS, 2)
    assert chosen.tolist() == pytest.approx([0.45, 0.51, 0.04])
    kl = 0.45 * math.log(0.45 / 0.5) + 0.51 * math.log(0.51 / 0.3) + 0.04 * math.log(0.04 / 0.2)
    assert float(best_of_n_kl(REFERENCE, REWARDS, 2)) == pytest.approx(kl)


@pytest.mark.parametrize("rewards", [(1.0, 2.0, 0.0), (1.0, 1.0, 0.0), (0.0, 1.0, 1.0), (3.0, 3.0, 3.0)])
def test_best_of_n_is_what_enumerating_all_samples_gives(rewards):
    expected = [0.0, 0.0, 0.0]
    for drawn in itertools.product(range(3), repeat=3):
        first_best = max(drawn, key=lambda y: rewards[y])
        expected[first_best] += math.prod(enumerable.REFERENCE[y] for y in drawn)
    assert best_of_n(REFERENCE, torch.tensor(rewards), 3).tolist() == pytest.approx(expected)


@given(
    weights=st.lists(st.floats(0.01, 1.0), min_size=2, max_size=6),
    scores=st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.0]), min_size=6, max_size=6),
    n=st.integers(1, 32),
)
def test_the_kl_of_best_of_n_is_within_its_bound(weights, scores, n):
    policy = torch.tensor(weights, dtype=torch.float64)
    policy = policy / policy.sum()
    rewards = torch.tensor(scores[: len(policy)])
    assert float(best_of_n(policy, rewards, n).sum()) == pytest.approx(1.0)
    assert -1e-12 <= float(best_of_n_kl(policy, rewards, n)) <= best_of_n_kl_bound(n) + 1e-12


def test_the_bound_is_reached_where_nothing_ties_and_nothing_is_likely():
    count = 4000
    policy = torch.full((count,), 1 / count, dtype=torch.float64)
    kl = float(best_of_n_kl(policy, torch.arange(count), 16))
    # ln 16 − 15/16 = 1.8351
    assert best_of_n_kl_bound(16) == pytest.approx(1.8351, abs=1e-4)
    assert kl == pytest.approx(best_of_n_kl_bound(16), abs=2e-3)


def test_one_sample_or_equal_scores_cost_nothing():
    assert best_of_n_kl_bound(1) == 0.0
    assert float(best_of_n_kl(REFERENCE, REWARDS, 1)) == pytest.approx(0.0, abs=1e-12)
    assert float(best_of_n_kl(REFERENCE, torch.ones(3), 8)) == pytest.approx(0.0, abs=1e-12)


def test_what_rejection_learns_from_is_distributed_as_best_of_n():
    drawn = torch.multinomial(REFERENCE, 20_000 * 4, replacement=True, generator=torch.Generator().manual_seed(0))
    groups = [
        Group((0,), tuple((y,) for y in row), tuple(enumerable.REWARDS[y] for y in row))
        for row in drawn.view(-1, 4).tolist()
    ]
    kept = torch.tensor([example.completions[0][0] for example in Rejection(samples=4).examples(groups, seed=0)])
    shares = torch.bincount(kept, minlength=3) / len(kept)
    assert enumerable.total_variation(shares, best_of_n(REFERENCE, REWARDS, 4)) < 0.01
