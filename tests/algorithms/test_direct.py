"""Direct methods: known optima, where they start, what their batches may look like, and what is refused."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palate.algorithms.direct import DIRECT, DPO, IPO, KTO, mismatched, with_reference
from palate.algorithms.objectives import Example, examples_of
from palate.algorithms.supervised import Means, Reader, SupervisedLoop, Supervision, collate, held_out
from palate.engine.checkpoint import Checkpoints
from palate.engine.metrics import JsonLines
from palate.engine.optimiser import Optimiser
from palate.errors import DataError, RecipeError
from palate.models import weight_hash
from palate.models.scratch import scratch_model
from palate.records import Feedback, PreferencePair, Prompt
from palate.testbed import enumerable

WORDS = ("red", "green", "blue", "old", "new", "sky", "sea", "sun", "rain", "wind")
PAIRS = tuple(
    PreferencePair(Prompt.of(f"Choose {first} {' '.join(WORDS[:index])}"), f"{first} {second} good", f"bad {second}")
    for index, first in enumerate(WORDS)
    for second in WORDS[:3]
)
FEEDBACK = tuple(
    Feedback(pair.prompt, text, good)
    for pair in PAIRS[::2]
    for text, good in ((pair.chosen, True), (pair.rejected, False))
)
METHODS = {name: made() for name, made in DIRECT.items()}


def language_model(seed=0, dtype=torch.float64):
    model, chat, _ = scratch_model(WORDS, hidden=16, layers=1, heads=2, vocabulary=280, context=128, seed=seed)
    return model.to(dtype), chat


def prepared(name, reference=None, records=None):
    """A model, its objective and its examples, compared with a reference of other weights."""
    model, chat = language_model()
    other, _ = language_model(seed=1)
    objective = METHODS[name].objective(chat)
    records = records or (FEEDBACK if METHODS[name].data == "feedback" else PAIRS)
    examples = examples_of(objective, records)
    return model, objective, with_reference(objective, examples, reference or other, limit=200, pad_id=chat.pad_id)


class Silent:
    """An onlooker that asks to stop after step `last`, if that is given."""

    def __init__(self, last=None):
        self.last, self.seen = last, 0

    def begin(self, total, done):
        self.seen = done

    def advance(self, row):
        self.seen = row["step"]

    def say(self, sentence):
        raise AssertionError(sentence)

    def stopping(self):
        return self.seen == self.last

    def check(self):
        if self.seen == self.last:
            raise KeyboardInterrupt


def train(place, objective, model, examples, onlooker=None, **settings):
    base = {"epochs": 2, "learning_rate": 1e-2, "batch_tokens": 300, "checkpoint_every": 4}
    place.mkdir(exist_ok=True)
    metrics = JsonLines(place / "metrics.jsonl")
    loop = SupervisedLoop(model, objective, examples, Supervision(**{**base, **settings}), 0, 0)
    loop.train(Checkpoints(place / "checkpoints"), metrics, onlooker or Silent())
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in metrics.rows()]


def evaluated(model, objective, examples):
    return held_out(model, objective, examples, limit=100_000, pad_id=0)


# ---- known optima


def solved(tmp_path, method):
    """The tabular policy after the method on Bradley-Terry data: of every 50 comparisons of two ids, 50·p for one."""
    examples = []
    for first, second in ((0, 1), (0, 2), (1, 2)):
        gap = enumerable.REWARDS[first] - enumerable.REWARDS[second]
        wins = round(50 / (1 + math.exp(-gap)))
        for chosen, rejected, count in ((first, second, wins), (second, first, 50 - wins)):
            examples += [Example((0,), ((chosen,), (rejected,)))] * count
    policy = enumerable.TabularPolicy(enumerable.REFERENCE)
    reference = enumerable.TabularPolicy(enumerable.REFERENCE)
    objective = method.objective(None)
    examples = with_reference(objective, examples, reference, limit=10_000, pad_id=0)
    train(tmp_path, objective, policy, examples, epochs=60, batch_tokens=10_000, learning_rate=0.1)
    return policy.probabilities


def test_dpo_finds_the_optimum_of_the_reward_behind_its_data(tmp_path):
    best, _ = enumerable.optimum(enumerable.REFERENCE, enumerable.REWARDS, enumerable.BETA)
    found = solved(tmp_path, DPO(beta=enumerable.BETA))
    assert enumerable.total_variation(torch.tensor(enumerable.REFERENCE), best) > 0.3
    assert enumerable.total_variation(found, best) < 0.03


def test_ipo_finds_its_own_optimum(tmp_path):
    # Least squares over all pairs of three: g_y − g_y′ = (p(y ≻ μ) − p(y′ ≻ μ))/τ, g = log π/π_ref, μ uniform over the
    # three, so that π ∝ π_ref·exp(p(y ≻ μ)/τ).
    rewards = torch.tensor(enumerable.REWARDS, dtype=torch.float64)
    beats = torch.sigmoid(rewards.unsqueeze(1) - rewards).mean(dim=1)
    tau = 0.2
    best, _ = enumerable.optimum(enumerable.REFERENCE, beats.tolist(), tau)
    found = solved(tmp_path, IPO(tau=tau))
    assert enumerable.total_variation(torch.tensor(enumerable.REFERENCE), best) > 0.2
    assert enumerable.total_variation(found, best) < 0.03


# ---- where they start


@pytest.mark.parametrize(("name", "start"), [("dpo", math.log(2)), ("hinge", 1.0), ("ipo", 25.0), ("kto", 0.5)])
def test_the_reference_itself_starts_where_nothing_is_learnt(name, start):
    # IPO: (0 − 1/(2·.1))². KTO: σ(0) on both sides, as its KL is 0.
    figures = evaluated(*prepared(name, reference=language_model()[0]))
    assert figures["loss"] == pytest.approx(start, abs=1e-10)
    assert figures["rewards/chosen"] == pytest.approx(0, abs=1e-10)


def by_hand(model, prompt, completion):
    """The log-probabilities of a completion from transformers' own logits over prompt and completion."""
    logprobs = model.model(input_ids=torch.tensor([prompt + completion])).logits[0].log_softmax(dim=-1)
    return torch.stack([logprobs[len(prompt) - 1 + t, token] for t, token in enumerate(completion)])


def test_references_are_sums_over_each_completions_own_tokens():
    _, objective, examples = prepared("dpo")
    reference, _ = language_model(seed=1)
    plain = examples_of(objective, PAIRS)
    assert [replace(example, reference=()) for example in examples] == list(plain)
    with torch.no_grad():
        for example in examples[::7]:
            expected = [float(by_hand(reference, example.prompt, side).sum()) for side in example.completions]
            assert example.reference == pytest.approx(expected, abs=1e-10)


def test_figures_of_a_pair_by_hand():
    model, objective, examples = prepared("dpo")
    with torch.no_grad():
        (chosen, rejected) = (by_hand(model, examples[0].prompt, side) for side in examples[0].completions)
    rewards = [
        0.1 * (float(side.sum()) - ref) for side, ref in zip((chosen, rejected), examples[0].reference, strict=True)
    ]
    figures = evaluated(model, objective, examples[:1])
    assert figures == pytest.approx(
        {
            "loss": math.log(1 + math.exp(rewards[1] - rewards[0])),
            "accuracy": float(rewards[0] > rewards[1]),
            "margin": rewards[0] - rewards[1],
            "rewards/chosen": rewards[0],
            "rewards/rejected": rewards[1],
            "logprobs/chosen": float(chosen.sum()),
            "logprobs/rejected": float(rejected.sum()),
        },
        abs=1e-10,
    )
    # SimPO and ORPO go by means, and have no reference to be rewarded against.
    means = [float(chosen.mean()), float(rejected.mean())]
    _, objective, examples = prepared("simpo")
    figures = evaluated(model, objective, examples[:1])
    assert figures["loss"] == pytest.approx(math.log(1 + math.exp(1 - 2 * (means[0] - means[1]))), abs=1e-10)
    assert not any(name.startswith("rewards") for name in figures)
    _, objective, examples = prepared("orpo")
    odds = [mean - math.log(1 - math.exp(mean)) for mean in means]
    figures = evaluated(model, objective, examples[:1])
    assert figures["loss"] == pytest.approx(-means[0] + 0.1 * math.log(1 + math.exp(odds[1] - odds[0])), abs=1e-10)
    assert figures["margin"] == pytest.approx(odds[0] - odds[1], abs=1e-10)


# ---- what changes nothing


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("change", ["micro-batches", "packing", "order"])
def test_how_a_step_is_cut_changes_nothing(tmp_path, name, change):
    def result(place, changed):
        model, objective, examples = prepared(name)
        settings = {"batch_tokens": 100_000, "epochs": 3}  # one step an epoch, all of it
        if changed and change == "micro-batches":
            settings["micro_tokens"] = 30  # KTO's completions one by one
        if changed and change == "packing":
            model.supports_packing = False
        if changed and change == "order":
            examples = examples[::-1]
        found = train(tmp_path / place, objective, model, examples, **settings)
        assert len(found) == 3
        return found, model.state_dict()

    (rows, weights), (other_rows, other_weights) = result("one", False), result("other", True)
    for row, other in zip(rows, other_rows, strict=True):
        assert set(row) == set(other)
        for figure in set(row) - {"tokens/padded", "tokens/useful"}:  # a prompt that examples share may be read once
            assert other[figure] == pytest.approx(row[figure], abs=1e-10), figure
    for weight, tensor in weights.items():
        torch.testing.assert_close(other_weights[weight], tensor, atol=1e-10, rtol=0)


@pytest.mark.parametrize("name", METHODS)
def test_it_learns_what_it_is_shown(tmp_path, name):
    model, objective, examples = prepared(name, reference=language_model()[0])
    rows = train(tmp_path, objective, model, examples, epochs=4)
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert rows[-1]["accuracy"] > 0.9
    assert (
        rows[-1]["logprobs/chosen"] - rows[-1]["logprobs/rejected"]
        > rows[0]["logprobs/chosen"] - rows[0]["logprobs/rejected"]
    )


@pytest.mark.parametrize("name", ["dpo", "kto", "orpo"])
@pytest.mark.parametrize("share", [0.2, 0.55])
def test_stopped_anywhere_it_goes_on_to_the_bit(tmp_path, name, share):
    settings = {"epochs": 3, "optimiser": Optimiser(schedule="cosine", warmup=3, weight_decay=0.1)}
    uncut, objective, examples = prepared(name)
    expected = train(tmp_path / "uncut", objective, uncut, examples, **settings)
    model, objective, examples = prepared(name)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", objective, model, examples, Silent(int(share * len(expected))), **settings)
    model, objective, examples = prepared(name)
    assert train(tmp_path / "cut", objective, model, examples, **settings) == expected
    assert weight_hash(model) == weight_hash(uncut)


def test_a_shared_prompt_is_read_once():
    _, _, examples = prepared("dpo")
    batch = collate(examples[:1], pad_id=0, packing=True)
    assert batch.layout.total == len(examples[0].prompt) + sum(map(len, examples[0].completions))


# ---- weights


def weighed(name, weights, **cut):
    """Loss, gradients and mean figures of one step over the first pairs with these weights."""
    model, objective, _ = prepared(name)
    records = [replace(PAIRS[row], weight=weight) for row, weight in weights]
    examples = with_reference(
        objective, examples_of(objective, records), language_model(seed=1)[0], limit=200, pad_id=0
    )
    reader = Reader(model, cut.get("micro_tokens", 10_000), 0)
    count, means = sum(map(objective.count, examples)), Means()
    for batch in reader.batches(examples):
        found = objective.evaluate(model, batch)
        (found.losses.sum() / count).backward()
        means.add(found)
    return means.figures(), {name: one.grad for name, one in model.named_parameters()}


def assert_alike(one, other, close=1e-10):
    assert one[0] == pytest.approx(other[0], abs=close)
    for name, gradient in one[1].items():
        torch.testing.assert_close(gradient, other[1][name], atol=close, rtol=0)


COMPARED = [name for name, method in METHODS.items() if method.data == "pairs"]


@pytest.mark.parametrize("name", COMPARED)
def test_the_loss_is_the_weighted_mean_of_the_pairs_own(name):
    """(0.5·l₀ + 3·l₁ + 1·l₂)/4.5, and so is every figure."""
    alone = [weighed(name, [(row, 1.0)])[0] for row in range(3)]
    figures, _ = weighed(name, [(0, 0.5), (1, 3.0), (2, 1.0)])
    assert figures == pytest.approx(
        {one: (0.5 * alone[0][one] + 3 * alone[1][one] + alone[2][one]) / 4.5 for one in figures}, abs=1e-10
    )
    assert len({round(one["loss"], 6) for one in alone}) == 3  # else any weights would do


@pytest.mark.parametrize("name", COMPARED)
def test_a_weight_of_two_is_the_pair_twice_and_none_is_the_pair_away(name):
    twice = weighed(name, [(0, 2.0), (1, 1.0)])
    assert_alike(twice, weighed(name, [(0, 1.0), (0, 1.0), (1, 1.0)]))
    assert_alike(weighed(name, [(0, 0.0), (1, 1.0), (2, 0.5)]), weighed(name, [(1, 1.0), (2, 0.5)]))
    with pytest.raises(AssertionError):
        assert_alike(twice, weighed(name, [(0, 1.0), (1, 1.0)]))


@pytest.mark.parametrize("name", COMPARED)
@pytest.mark.parametrize("weight", [0.25, 8.0])
def test_equal_weights_change_no_bit(name, weight):
    one, plain = (weighed(name, [(row, given) for row in range(5)]) for given in (weight, 1.0))
    assert one[0] == plain[0]
    assert all(torch.equal(gradient, plain[1][name]) for name, gradient in one[1].items())


@pytest.mark.parametrize("name", COMPARED)
def test_weights_in_micro_batches_share_one_denominator(name):
    """Parts that weigh less than 1 are no whole ones: pair by pair, or all at once, the gradient is the same."""
    weights = [(0, 0.2), (1, 0.3), (2, 5.0), (3, 0.01)]
    assert_alike(weighed(name, weights, micro_tokens=1), weighed(name, weights))


@pytest.mark.parametrize("name", COMPARED)
def test_the_gradient_of_weighted_pairs_is_that_of_finite_differences(name):
    weights = [(0, 0.5), (1, 3.0), (2, 1.0)]
    _, gradients = weighed(name, weights)
    _, objective, _ = prepared(name)
    parameter = max(gradients, key=lambda one: float(gradients[one].abs().max()))
    place = int(gradients[parameter].abs().argmax())
    examples = examples_of(objective, [replace(PAIRS[row], weight=weight) for row, weight in weights])
    examples = with_reference(objective, examples, language_model(seed=1)[0], limit=200, pad_id=0)
    losses = []
    for step in (1e-5, -1e-5):
        model, _ = language_model()
        with torch.no_grad():
            dict(model.named_parameters())[parameter].view(-1)[place] += step
        losses.append(evaluated(model, objective, examples)["loss"])
    slope = (losses[0] - losses[1]) / 2e-5
    assert slope == pytest.approx(float(gradients[parameter].view(-1)[place]), rel=1e-5)


def test_pairs_that_came_without_a_weight_count_alike():
    model, objective, examples = prepared("dpo")
    bare = [replace(one, labels=()) for one in examples]
    assert evaluated(model, objective, bare) == evaluated(model, objective, examples)


# ---- KTO's mismatched completions


JUDGED = st.lists(st.tuples(st.integers(0, 4), st.integers(1, 5)), min_size=2, max_size=12).filter(
    lambda rows: len({prompt for prompt, _ in rows}) > 1
)


@given(rows=JUDGED)
def test_every_completion_meets_one_of_another_prompt_that_fits(rows):
    # Prompts of unlike lengths, and completions that spell their prompt.
    examples = [Example((9,) * prompt + (prompt,), ((prompt,) * length,)) for prompt, length in rows]
    paired = mismatched(examples)
    for before, after in zip(examples, paired, strict=True):
        own, other = after.completions
        assert (after.prompt, own) == (before.prompt, before.completions[0])
        assert other and other[0] != before.prompt[-1]
        assert after.longest <= max(example.longest for example in examples)


def test_the_mismatch_depends_on_neither_order_nor_batch():
    examples = [Example((prompt,), ((prompt, index),)) for index, prompt in enumerate(range(20))]
    paired = {example.prompt: example.completions for example in mismatched(examples)}
    assert paired == {example.prompt: example.completions for example in mismatched(examples[::-1])}
    # Each completion serves once where no prompt has more of them than others.
    assert len({completions[1] for completions in paired.values()}) == 20


def test_the_kl_is_the_steps_own_and_has_no_gradient():
    model, objective, examples = prepared("kto")
    with torch.no_grad():
        gaps = [float(by_hand(model, one.prompt, one.completions[1]).sum()) - one.reference[1] for one in examples]
    figures = evaluated(model, objective, examples)
    assert figures["kl"] == pytest.approx(sum(gaps) / len(gaps), abs=1e-10)
    # The loss by hand, from that zero.
    zero, losses = max(figures["kl"], 0), []
    with torch.no_grad():
        for one in examples:
            ratio = float(by_hand(model, one.prompt, one.completions[0]).sum()) - one.reference[0]
            value = 1 / (1 + math.exp(-0.1 * (ratio - zero)))
            losses.append(1 - value if one.labels == (1.0,) else value)
    assert figures["loss"] == pytest.approx(sum(losses) / len(losses), abs=1e-10)


def test_what_a_step_lacks_is_absent():
    figures = evaluated(*prepared("kto", records=[one for one in FEEDBACK if one.desirable]))
    assert "rewards/chosen" in figures
    assert "rewards/rejected" not in figures


def test_weights_reach_their_own_kind():
    model, objective, examples = prepared("kto", reference=language_model()[0])
    heavy = replace(objective, method=KTO(desirable_weight=3.0))
    # At the start every loss is ½: 3·½ for one half of the feedback, ½ for the other.
    assert evaluated(model, heavy, examples)["loss"] == pytest.approx(1.0, abs=1e-10)


def test_a_batch_of_one_is_refused(tmp_path):
    model, objective, examples = prepared("kto")
    most = max(example.tokens for example in examples)
    with pytest.raises(RecipeError, match=f"batch of one has nothing to estimate from. Set batch_tokens = {2 * most} "):
        train(tmp_path / "one", objective, model, examples, batch_tokens=most)
    assert train(tmp_path / "two", objective, model, examples, batch_tokens=2 * most, epochs=5)


def test_one_left_over_joins_another_step(tmp_path):
    model, objective, examples = prepared("kto")
    alike = [replace(examples[0], prompt=(5, number)) for number in range(5)]
    rows = train(tmp_path, objective, model, alike, batch_tokens=2 * alike[0].tokens, epochs=4)
    assert len(rows) == 8  # two and three an epoch, not two, two and one


def test_feedback_on_one_prompt_is_refused():
    _, chat = language_model()
    objective = KTO().objective(chat)
    for count in (1, 2):
        examples = examples_of(objective, FEEDBACK[:count])
        with pytest.raises(DataError, match=f"KTO was given {count} judged completions of one prompt"):
            with_reference(objective, examples, language_model()[0], limit=100, pad_id=0)


def test_without_need_of_a_reference_examples_stay_as_they_are():
    _, objective, examples = prepared("simpo")
    assert examples == examples_of(objective, PAIRS)
