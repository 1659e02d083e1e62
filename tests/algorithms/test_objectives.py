"""Objectives of reward models beyond pairs: rankings with ties, ratings of several attributes."""

import math

import pytest
import torch

from palate.algorithms.objectives import Order, Preference, Regression, examples_of, fold_of
from palate.algorithms.supervised import collate, held_out
from palate.models import RewardModel
from palate.models.scratch import scratch_model
from palate.records import PreferencePair, Prompt, Ranking, Rating

WORDS = ("red", "green", "blue", "old", "new", "sky", "sea", "sun", "rain", "wind")
RANKINGS = tuple(
    Ranking(
        Prompt.of(f"Rank {word} {' '.join(WORDS[:index])}"), tuple(f"{word} {other}" for other in WORDS[:size]), ranks
    )
    for index, (word, (size, ranks)) in enumerate(
        zip(WORDS, [(4, (2, 0, 1, 3)), (2, (1, 0)), (3, (0, 0, 1)), (2, (0, 0)), (5, (0, 1, 1, 2, 1))], strict=False)
    )
)
RATINGS = (
    Rating(Prompt.of("Rate red"), "red sky", {"helpful": 3.0, "brief": 1.0}),
    Rating(Prompt.of("Rate the blue sea"), "blue old new", {"helpful": 0.0}),
    Rating(Prompt.of("Rate sun"), "sun", {"brief": 2.0, "polite": 4.0}),
)
ATTRIBUTES = ("helpful", "brief")


def reward_model(heads=()):
    """A reward model, with as many outputs as `heads` says where it says any."""
    model, chat, _ = scratch_model(WORDS, hidden=16, layers=1, heads=2, vocabulary=280, context=128, seed=0)
    made = RewardModel.on(model, pooling="last", generator=torch.Generator().manual_seed(0))
    if heads:
        made.head = torch.nn.Parameter(torch.randn(*heads, 16, generator=torch.Generator().manual_seed(1)))
    return made.to(torch.float64), chat


def alone(model, example):
    """The scores of an example's completions, each read in a forward pass of its own."""
    with torch.no_grad():
        documents = [type(example)(example.prompt, (completion,)) for completion in example.completions]
        return [model.scores(collate([one], pad_id=0, packing=False).layout)[0] for one in documents]


def log_loss(difference):
    return math.log(1 + math.exp(-difference))


@pytest.mark.parametrize("packing", [True, False])
def test_rankings_of_unlike_sizes_share_a_batch(packing):
    model, chat = reward_model()
    objective = Order(chat)
    examples = examples_of(objective, RANKINGS)
    batch = collate(examples, pad_id=chat.pad_id, packing=packing)
    found = objective.evaluate(model, batch)
    expected, ahead = [], []
    for example in examples:
        scores = [float(score) for score in alone(model, example)]
        ranks = example.labels
        gaps = [a - b for a, i in zip(scores, ranks, strict=True) for b, j in zip(scores, ranks, strict=True) if i < j]
        expected.append(sum(map(log_loss, gaps)) / max(len(gaps), 1))
        ahead += [sum(gap > 0 for gap in gaps) / len(gaps)] if gaps else []
    assert found.losses.tolist() == pytest.approx(expected, abs=1e-10)
    assert found.count == 4 == sum(map(objective.count, examples))  # all but the ranking of equals
    assert found.sums["accuracy"] == pytest.approx(sum(ahead))
    assert found.counts["accuracy"] == len(ahead) == 4
    if packing:  # one forward pass a completion, and one a prompt
        once = sum(len(one.prompt) + sum(map(len, one.completions)) for one in examples)
        assert batch.layout.total == once


@pytest.mark.parametrize(
    ("settings", "loss"),
    [
        ({"ties": "half"}, math.log(2)),  # equal scores: −½·log ½ − ½·log ½
        ({"ties": "davidson", "tie_weight": 2.0}, math.log(2)),  # 2/(2 + 2)
        ({"by": "plackett-luce"}, 2 * math.log(2)),  # each of two equals first with ½
    ],
)
def test_a_tie_counts_where_it_is_told_to(settings, loss):
    model, chat = reward_model()
    objective = Order(chat, **settings)
    (example,) = examples_of(objective, [Ranking(Prompt.of("Rank"), ("same", "same"), (0, 0))])
    figures = held_out(model, objective, [example], limit=1000, pad_id=chat.pad_id)
    assert objective.count(example) == 1
    assert figures == pytest.approx({"loss": loss}, abs=1e-10)  # nothing is ordered, so nothing is accurate


def test_plackett_luce_of_a_ranking_by_hand():
    model, chat = reward_model()
    objective = Order(chat, by="plackett-luce")
    examples = examples_of(objective, RANKINGS[:2])
    figures = held_out(model, objective, examples, limit=1000, pad_id=chat.pad_id)
    losses = []
    for example in examples:
        scores = [float(score) for score in alone(model, example)]
        order = [score for _, score in sorted(zip(example.labels, scores, strict=True))]
        losses.append(sum(math.log(sum(map(math.exp, order[k:]))) - order[k] for k in range(len(order))))
    assert figures["loss"] == pytest.approx(sum(losses) / 2, abs=1e-10)


@pytest.mark.parametrize("settings", [{}, {"ties": "half"}, {"ties": "davidson"}, {"by": "plackett-luce"}])
def test_rankings_do_not_depend_on_their_batch(settings):
    model, chat = reward_model()
    objective = Order(chat, **settings)
    examples = examples_of(objective, RANKINGS)
    whole = held_out(model, objective, examples, limit=100_000, pad_id=chat.pad_id)
    cut = held_out(model, objective, examples[::-1], limit=1, pad_id=chat.pad_id)
    assert cut == pytest.approx(whole, abs=1e-10)


def test_ratings_by_hand():
    model, chat = reward_model(heads=(2,))
    objective = Regression(chat, ATTRIBUTES)
    examples = examples_of(objective, RATINGS)
    first, second, third = (alone(model, example)[0].tolist() for example in examples)
    errors = {"helpful": [(first[0] - 3) ** 2, second[0] ** 2], "brief": [(first[1] - 1) ** 2, (third[1] - 2) ** 2]}
    for limit in (1, 1000):
        figures = held_out(model, objective, examples, limit=limit, pad_id=chat.pad_id)
        assert figures["loss"] == pytest.approx(sum(map(sum, errors.values())) / 4, abs=1e-10)
        for name, both in errors.items():
            assert figures[f"error/{name}"] == pytest.approx(sum(both) / 2, abs=1e-10)


def test_one_attribute_takes_a_model_of_one_score():
    model, chat = reward_model()
    objective = Regression(chat, ("helpful",))
    examples = examples_of(objective, RATINGS)
    scores = [float(alone(model, example)[0]) for example in examples[:2]]
    figures = held_out(model, objective, examples, limit=1000, pad_id=chat.pad_id)
    assert figures["loss"] == pytest.approx(((scores[0] - 3) ** 2 + scores[1] ** 2) / 2, abs=1e-10)


def test_a_rating_without_the_attribute_teaches_nothing():
    model, chat = reward_model(heads=(2,))
    objective = Regression(chat, ATTRIBUTES)
    examples = examples_of(objective, [Rating(Prompt.of("Rate"), "sun", {"polite": 1.0})])
    evaluated = objective.evaluate(model, collate(examples, pad_id=chat.pad_id, packing=True))
    evaluated.losses.sum().backward()
    assert evaluated.count == 0
    assert model.head.grad is not None
    assert model.head.grad.abs().max() == 0


# ---- several heads on one trunk


def test_a_head_learns_nothing_of_its_own_fold():
    model, chat, _ = scratch_model(WORDS, hidden=16, layers=1, heads=2, vocabulary=280, context=128, seed=0)
    model = RewardModel.on(model, pooling="last", generator=torch.Generator().manual_seed(0), heads=3).to(torch.float64)
    pairs = [PreferencePair(Prompt.of(f"Choose {one}"), f"{one} good", f"{one} bad") for one in WORDS]
    objective = Preference(chat, heads=3)
    examples = examples_of(objective, pairs)
    folds = [fold_of(example.prompt, 3) for example in examples]
    assert set(folds) == {0, 1, 2}
    for example, fold in zip(examples, folds, strict=True):
        model.zero_grad()
        done = objective.evaluate(model, collate([example], pad_id=0, packing=True))
        done.losses.sum().backward()
        assert done.count == objective.count(example) == 2
        assert [bool(row.abs().sum() > 0) for row in model.head.grad] == [head != fold for head in range(3)]
        chosen, rejected = alone(model, example)
        expected = [0.0 if head == fold else log_loss(float(chosen[head] - rejected[head])) for head in range(3)]
        assert done.losses[0].tolist() == pytest.approx(expected)


def test_one_head_counts_every_pair_once():
    model, chat = reward_model()
    example = Preference(chat).example(PreferencePair(Prompt.of("Choose"), "red", "blue", margin=0.5))
    done = Preference(chat).evaluate(model, collate([example], pad_id=0, packing=True))
    chosen, rejected = alone(model, example)
    assert done.count == 1
    assert done.losses.tolist() == [[pytest.approx(log_loss(float(chosen - rejected) - 0.5))]]


# ---- weights


def weighed(weights, heads=1, count=3):
    """Loss, gradient of the head and mean figures of the first `count` words' pairs with these weights."""
    model, chat, _ = scratch_model(WORDS, hidden=16, layers=1, heads=2, vocabulary=280, context=128, seed=0)
    model = RewardModel.on(model, pooling="last", generator=torch.Generator().manual_seed(0), heads=heads)
    model = model.to(torch.float64)
    objective = Preference(chat, heads)
    pairs = [
        PreferencePair(
            Prompt.of(f"Choose {WORDS[row]}"), f"{WORDS[row]} good", f"{WORDS[row]} bad sea", 0.1 * row, weight
        )
        for row, weight in weights
    ]
    examples = examples_of(objective, pairs)
    done = objective.evaluate(model, collate(examples, pad_id=0, packing=True))
    assert done.count == pytest.approx(sum(map(objective.count, examples)))
    loss = done.losses.sum() / done.count
    loss.backward()
    return loss.item(), model.head.grad, {name: value / done.count for name, value in done.sums.items()}


def alike(one, other):
    return one[0] == pytest.approx(other[0]) and torch.allclose(one[1], other[1]) and one[2] == pytest.approx(other[2])


@pytest.mark.parametrize("heads", [1, 3])
def test_a_weight_of_two_is_the_pair_twice_and_none_is_the_pair_away(heads):
    assert alike(weighed([(0, 2.0), (1, 1.0)], heads), weighed([(0, 1.0), (0, 1.0), (1, 1.0)], heads))
    assert alike(weighed([(0, 0.0), (1, 1.0), (2, 0.5)], heads), weighed([(1, 1.0), (2, 0.5)], heads))
    assert not alike(weighed([(0, 2.0), (1, 1.0)], heads), weighed([(0, 1.0), (1, 1.0)], heads))


@pytest.mark.parametrize("weight", [0.25, 1.0, 8.0])
def test_equal_weights_change_no_bit(weight):
    loss, gradient, sums = weighed([(0, weight), (1, weight), (2, weight)])
    plain = weighed([(0, 1.0), (1, 1.0), (2, 1.0)])
    assert (loss, sums) == (plain[0], plain[2])
    assert torch.equal(gradient, plain[1])


def test_weights_in_micro_batches_share_one_denominator():
    """(1·l₀ + 0.2·l₁)/1.2 whatever is read together: a part that weighs less than 1 is no whole one."""
    model, chat = reward_model()
    objective = Preference(chat)
    pairs = [
        PreferencePair(Prompt.of(f"Choose {one}"), one, "bad", weight=weight)
        for one, weight in (("red", 1), ("sea", 0.2))
    ]
    examples = examples_of(objective, pairs)
    losses = [log_loss(float(chosen - rejected)) for chosen, rejected in (alone(model, one) for one in examples)]
    for limit in (1, 1000):
        figures = held_out(model, objective, examples, limit=limit, pad_id=chat.pad_id)
        assert figures["loss"] == pytest.approx((losses[0] + 0.2 * losses[1]) / 1.2)
