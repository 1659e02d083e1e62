"""Selection: inclusion probabilities that are exact, by enumeration and simulation; count and cap in every draw."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.collect import selection
from palate.collect.selection import Selection, adversity, choose, inclusion, uncertainty

# ---- what makes a pair worth asking


def test_uncertainty_is_nearness_to_zero_by_rank():
    # Of four, the nearest has 1/8 of them below it, ties half, and so on: (7/8)³, (5/8)³, (3/8)³, (1/8)³.
    margins = np.array([[0.3], [-0.1], [-9.0], [1.0]])
    assert uncertainty(margins) == pytest.approx(np.array([5, 7, 1, 3]) ** 3 / 512)
    assert uncertainty(100 * margins) == pytest.approx(uncertainty(margins))


def test_heads_that_disagree_add_to_it():
    # Both means are 0, each with half below it: 1/8. Of the deviations, 2 has 3/4 below it and 0 has 1/4.
    assert uncertainty(np.array([[2.0, -2.0], [0.0, 0.0]])) == pytest.approx([1 / 8 + 27 / 64, 1 / 8 + 1 / 64])


def test_what_was_not_scored_weighs_nothing():
    margins = np.array([[np.nan, 0.0], [1.0, 1.0]])
    # Half of one is below the one that is known, in margin and deviation: 1/8 + 1/8.
    assert uncertainty(margins).tolist() == [0.0, 0.25]
    assert adversity(margins, np.ones((2, 1))).tolist() == [0.0, 1.0]


def test_adversity_is_preference_for_what_is_counted_however_sure():
    margins = np.array([[0.1], [-1.0], [-9.0], [0.0]])
    excess = np.array([[2.0], [2.0], [-2.0], [2.0]])
    # rms 2. The preferred side has more in the first and third; nobody is preferred in the last.
    assert adversity(margins, excess) == pytest.approx([1.0, 0.0, 1.0, 0.0])


def test_a_rare_feature_weighs_more_and_one_makes_up_for_another():
    margins = np.ones((100, 1))
    excess = np.zeros((100, 3))
    excess[0, 0] = 1.0  # rms 1/10
    excess[:, 1] = 1.0  # rms 1
    excess[1, 1] = -1.0  # rms 1 still
    # The first pair has both, the second less of the one; the third feature is never there.
    assert adversity(margins, excess)[:3] == pytest.approx([11.0, 0.0, 1.0])


# ---- inclusion probabilities

sizes = st.lists(st.integers(1, 7), min_size=1, max_size=8)
settings = st.builds(
    Selection,
    count=st.integers(1, 60),
    random=st.floats(0.05, 1),
    uncertain=st.floats(0, 1),
    adversarial=st.floats(0, 1),
    per_prompt=st.integers(1, 8),
)


def drawn_weights(count, seed):
    """Weights of which many are 0 and some are large."""
    random = np.random.default_rng(seed)
    return {
        "uncertain": random.random(count) + 0.01,
        "adversarial": random.exponential(size=count) ** 3 * (random.random(count) < 0.3),
    }


def numbered(sizes):
    return np.repeat(np.arange(len(sizes)), sizes)


@given(sizes, settings, st.integers(0, 99))
def test_probabilities_keep_count_and_cap_and_the_random_slice_is_uniform(sizes, wanted, seed):
    prompts = numbered(sizes)
    parts = inclusion(prompts, drawn_weights(len(prompts), seed), wanted)
    total = sum(parts.values())
    assert all((part >= 0).all() for part in parts.values())
    assert (total <= 1 + 1e-9).all()
    assert (np.bincount(prompts, total) <= wanted.per_prompt + 1e-9).all()
    assert np.ptp(parts["random"]) < 1e-12
    assert total.sum() <= wanted.count + 1e-9
    room = sum(min(size, wanted.per_prompt) for size in sizes)
    # The uncertain slice, whose weights are all positive, takes what the others cannot place.
    if wanted.uncertain > 0:
        assert total.sum() == pytest.approx(min(wanted.count, room), abs=1e-6)


def test_without_a_reward_model_all_is_random():
    parts = inclusion(numbered([6, 6, 6]), {}, Selection(count=3))
    assert parts["random"] == pytest.approx(np.full(18, 3 / 18))
    assert not parts["uncertain"].any() and not parts["adversarial"].any()


def test_the_cap_limits_what_can_be_asked():
    # Six questions a prompt and two of them at most: 1/3 each, ten in all, whatever is wanted.
    parts = inclusion(numbered([6] * 5), {}, Selection(count=100, per_prompt=2))
    assert parts["random"] == pytest.approx(np.full(30, 1 / 3))


def test_focused_slices_go_by_weight():
    # Ten prompts of one question: 2 of 10 at random, 1/5 each; of 2 uncertain ones 1/2·3/4 to each, and so on.
    weights = {"uncertain": np.array([3.0, 1.0] + [0.0] * 8), "adversarial": np.zeros(10)}
    wanted = Selection(count=3, random=2, uncertain=0.8, adversarial=0.2, per_prompt=1)
    parts = inclusion(np.arange(10), weights, wanted)
    assert parts["random"] == pytest.approx(np.full(10, 0.2))
    # The adversarial slice has nothing to place: its share goes to the uncertain one, 1 in all as 3/4 and 1/4.
    assert parts["uncertain"][:2] == pytest.approx([0.75, 0.25])
    assert not parts["adversarial"].any()


def test_what_is_full_leaves_the_rest_to_others():
    # 1.8 for weights 8 and 1: room for 0.9 each beside the random 0.1. Nothing else has weight: the random slice rises.
    weights = {"uncertain": np.array([8.0, 1.0] + [0.0] * 18)}
    parts = inclusion(np.arange(20), weights, Selection(count=4, random=2, uncertain=1.5, adversarial=0.5))
    assert parts["uncertain"][:2] == pytest.approx([0.9, 0.9])
    assert parts["random"] == pytest.approx(np.full(20, 0.1))  # the two are certain, so nothing uniform can be added


def test_questions_that_only_a_focused_slice_may_ask():
    eligible = np.arange(10) < 8
    weights = {"uncertain": eligible.astype(float), "adversarial": (~eligible).astype(float)}
    wanted = Selection(count=4, random=2, uncertain=1, adversarial=1, per_prompt=1)
    parts = inclusion(np.arange(10), weights, wanted, eligible)
    assert parts["random"] == pytest.approx([0.25] * 8 + [0.0] * 2)
    assert parts["adversarial"] == pytest.approx([0.0] * 8 + [0.5] * 2)


# ---- the draw


class Start:
    """A generator that always begins at the same place."""

    def __init__(self, start):
        self.start = start

    def integers(self, high):
        assert self.start < high
        return self.start


def test_each_is_drawn_from_as_many_starts_as_its_probability_says(monkeypatch):
    monkeypatch.setattr(selection, "TICKS", 12)
    twelfths = np.array([3, 0, 5, 1, 12, 2, 1, 12])  # three in all
    draws = np.array([selection._drawn(twelfths / 12, Start(start)) for start in range(12)])
    assert (draws.sum(axis=0) == twelfths).all()
    assert (draws.sum(axis=1) == 3).all()


@given(sizes, settings, st.integers(0, 9999))
def test_count_and_cap_hold_in_every_draw(sizes, wanted, seed):
    prompts = numbered(sizes)
    weights = drawn_weights(len(prompts), seed)
    chosen = choose(prompts.tolist(), weights, wanted, seed=seed)
    total = sum(inclusion(prompts, weights, wanted).values())
    assert len({one.place for one in chosen}) == len(chosen)
    assert abs(len(chosen) - total.sum()) < 1
    if abs(total.sum() - round(total.sum())) < 1e-6:
        assert len(chosen) == round(total.sum())
    assert (np.bincount(prompts[[one.place for one in chosen]], minlength=1) <= wanted.per_prompt).all()
    for one in chosen:
        assert one.propensity == pytest.approx(total[one.place], abs=1e-9)
        assert 0 < one.propensity <= 1


def test_chosen_as_often_as_recorded_so_that_weighting_is_unbiased():
    sizes = [1, 3, 6, 6, 2, 4, 6, 1]
    prompts, draws = numbered(sizes), 1000
    weights, wanted = drawn_weights(len(prompts), 3), Selection(count=12, per_prompt=3)
    eligible = np.arange(len(prompts)) % 5 != 0
    parts = inclusion(prompts, weights, wanted, eligible)
    total = sum(parts.values())
    values = weights["adversarial"] > 0  # what only some have, and the slice of that name looks for
    counts, by_slice, estimates, tests = np.zeros(len(prompts)), dict.fromkeys(parts, 0), [], np.zeros(len(prompts))
    for seed in range(draws):
        chosen = choose(prompts.tolist(), weights, wanted, seed=seed, eligible=eligible)
        for one in chosen:
            counts[one.place] += 1
            by_slice[one.slice] += 1
            tests[one.place] += one.slice == "random"
        estimates.append(sum(values[one.place] / one.propensity for one in chosen))
    # Five standard errors of a binomial share: of 29 shares, all lie within in all but one of 60,000 runs.
    assert (np.abs(counts / draws - total) <= 5 * np.sqrt(total * (1 - total) / draws) + 1e-9).all()
    rate = parts["random"]
    assert (np.abs(tests / draws - rate) <= 5 * np.sqrt(rate * (1 - rate) / draws)).all()
    for name, part in parts.items():
        assert by_slice[name] / draws == pytest.approx(part.sum(), abs=0.15)
    error = np.std(estimates) / math.sqrt(draws)
    assert abs(np.mean(estimates) - values.sum()) < 5 * error
    # The plain mean of what was chosen is not: what draws attention is not what is common.
    assert counts @ values / counts.sum() > values.mean() + 0.1


def test_everything_is_asked_where_everything_is_wanted():
    weights = drawn_weights(9, 0)
    chosen = choose(numbered([4, 5]).tolist(), weights, Selection(count=9, per_prompt=5), seed=0)
    assert sorted(one.place for one in chosen) == list(range(9))
    assert [one.propensity for one in chosen] == pytest.approx([1.0] * 9)


def test_slices_have_their_shares_where_everything_is_asked():
    weights = {"uncertain": np.ones(100), "adversarial": np.ones(100)}
    for seed in range(5):
        chosen = choose(range(100), weights, Selection(count=100), seed=seed)
        counts = {name: sum(one.slice == name for one in chosen) for name in ("random", "uncertain", "adversarial")}
        assert counts == {"random": 30, "uncertain": 40, "adversarial": 30}


def test_a_draw_is_fixed_by_its_seed_and_in_random_order():
    arguments = (numbered([6] * 20).tolist(), drawn_weights(120, 1), Selection(count=30))
    once = choose(*arguments, seed=4)
    assert once == choose(*arguments, seed=4)
    assert once != choose(*arguments, seed=5)
    places = [one.place for one in once]
    assert places != sorted(places)
    assert choose([], {}, Selection(), seed=0) == []
