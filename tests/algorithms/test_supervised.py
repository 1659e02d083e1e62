"""The supervised loop and its objectives: what a step is, what changes nothing, what stops it, resuming to the bit."""

import math
from dataclasses import dataclass, replace

import pytest
import torch

from palate.algorithms.objectives import Evaluated, Imitation, Preference, examples_of
from palate.algorithms.supervised import Plan, SupervisedLoop, Supervision, collate, held_out, micro_batches
from palate.engine.checkpoint import Checkpoints
from palate.engine.metrics import JsonLines
from palate.engine.optimiser import Optimiser
from palate.errors import TrainingError
from palate.models import RewardModel, weight_hash
from palate.models.scratch import scratch_model
from palate.records import Demonstration, PreferencePair, Prompt

WORDS = ("red", "green", "blue", "old", "new", "sky", "sea", "sun", "rain", "wind")
DEMONSTRATIONS = tuple(
    Demonstration(Prompt.of(f"Name {first} {' '.join(WORDS[:index])}"), f"{first} {second}")
    for index, first in enumerate(WORDS)
    for second in WORDS[:3]
)
PAIRS = tuple(
    PreferencePair(Prompt.of(f"Choose {first}"), f"{first} {second} good", f"{second} bad {first} {second}")
    for first in WORDS
    for second in WORDS[:4]
)


def language_model(dtype=torch.float64, seed=0):
    model, chat, _ = scratch_model(WORDS, hidden=16, layers=1, heads=2, vocabulary=280, context=128, seed=seed)
    return model.to(dtype), chat


def reward_model(pooling="last", dtype=torch.float64, seed=0, hidden=16):
    model, chat, _ = scratch_model(WORDS, hidden=hidden, layers=1, heads=2, vocabulary=280, context=128, seed=seed)
    made = RewardModel.on(model, pooling=pooling, generator=torch.Generator().manual_seed(seed))
    return made.to(dtype), chat


class Silent:
    """An onlooker that asks to stop after step `last`, if that is given."""

    def __init__(self, last=None):
        self.last, self.seen, self.total, self.begun = last, 0, 0, 0

    def begin(self, total, done):
        self.total, self.seen, self.begun = total, done, done

    def advance(self, row):
        self.seen = row["step"]

    def say(self, sentence):
        raise AssertionError(sentence)

    def stopping(self):
        return self.seen == self.last

    def check(self):
        if self.seen == self.last:
            raise KeyboardInterrupt


def train(place, objective, model, examples, onlooker=None, pad_id=0, **settings):
    base = {"epochs": 2, "learning_rate": 1e-2, "batch_tokens": 300, "checkpoint_every": 4}
    loop = SupervisedLoop(model, objective, examples, Supervision(**{**base, **settings}), 0, pad_id)
    place.mkdir(exist_ok=True)
    metrics = JsonLines(place / "metrics.jsonl")
    loop.train(Checkpoints(place / "checkpoints"), metrics, onlooker or Silent())
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in metrics.rows()]


# ---- what is learnt from


def test_the_stop_token_is_trained_exactly_once_and_the_prompt_never():
    model, chat = language_model()
    objective = Imitation(chat)
    examples = examples_of(objective, DEMONSTRATIONS)
    for example in examples:
        (completion,) = example.completions
        assert completion[-1] == chat.eos_id and completion.count(chat.eos_id) == 1
    batch = collate(examples, pad_id=chat.pad_id, packing=True)
    evaluated = objective.evaluate(model, batch)
    assert evaluated.count == sum(len(example.completions[0]) for example in examples)
    # By hand, from transformers' own logits over prompt and completion: the completion's tokens and no other.
    for example, losses in zip(examples[::7], evaluated.losses[::7], strict=True):
        (completion,) = example.completions
        ids = torch.tensor([example.prompt + completion])
        logprobs = model.model(input_ids=ids).logits[0].log_softmax(dim=-1)
        first = len(example.prompt) - 1
        expected = [-logprobs[first + t, token] for t, token in enumerate(completion)]
        torch.testing.assert_close(losses[: len(completion)], torch.stack(expected), atol=1e-10, rtol=0)
        assert bool((losses[len(completion) :] == 0).all())


def test_both_sides_of_a_pair_stand_behind_the_same_prompt_and_end():
    _, chat = language_model()
    example = Preference(chat).example(PAIRS[0])
    chosen, rejected = example.completions
    assert chosen != rejected
    assert chosen[-1] == rejected[-1] == chat.eos_id
    assert example.prompt == tuple(chat.encode_prompt(PAIRS[0].prompt))
    assert example.tokens == 2 * len(example.prompt) + len(chosen) + len(rejected)


@pytest.mark.parametrize("margin", [0.0, 1.5])
def test_a_margin_reaches_the_loss(margin):
    model, chat = reward_model()
    objective = Preference(chat)
    examples = examples_of(objective, [replace(pair, margin=margin or None) for pair in PAIRS[:4]])
    evaluated = objective.evaluate(model, collate(examples, pad_id=chat.pad_id, packing=False))
    layout = collate(examples, pad_id=chat.pad_id, packing=False).layout
    chosen, rejected = model.scores(layout).detach().view(-1, 2).unbind(dim=1)
    for loss, ahead in zip(evaluated.losses[:, 0].tolist(), (chosen - rejected).tolist(), strict=True):
        assert loss == pytest.approx(math.log(1 + math.exp(margin - ahead)), abs=1e-10)
    assert evaluated.sums["margin"] == pytest.approx(float((chosen - rejected).sum()), abs=1e-10)


# ---- what changes nothing


def test_micro_batches_keep_order_and_limit():
    examples = examples_of(Imitation(language_model()[1]), DEMONSTRATIONS)
    parts = list(micro_batches(examples, 100))
    assert [example for part in parts for example in part] == list(examples)
    assert len(parts) > 3 and all(sum(example.tokens for example in part) <= 100 for part in parts)
    assert [len(part) for part in micro_batches(examples, 1)] == [1] * len(examples)  # an example is never cut


def test_every_example_comes_once_an_epoch():
    examples = examples_of(Imitation(language_model()[1]), DEMONSTRATIONS)
    plan = Plan.of(examples, Supervision(epochs=3, batch_tokens=200), seed=5)
    rows = [row for step in plan.steps for row in step]
    assert sorted(rows) == sorted(list(range(len(examples))) * 3)
    begun = 0
    for steps in plan.per_epoch:
        epoch = [row for step in plan.steps[begun : begun + steps] for row in step]
        assert sorted(epoch) == list(range(len(examples)))
        begun += steps


@pytest.mark.parametrize("kind", ["imitation", "preference"])
@pytest.mark.parametrize("change", ["micro-batches", "packing", "order"])
def test_how_a_step_is_cut_changes_nothing(tmp_path, kind, change):
    def result(place, changed):
        model, chat = language_model() if kind == "imitation" else reward_model()
        objective = Imitation(chat) if kind == "imitation" else Preference(chat)
        examples = examples_of(objective, DEMONSTRATIONS if kind == "imitation" else PAIRS)
        settings = {"batch_tokens": 100_000, "epochs": 3}  # one step an epoch, all of it
        if changed and change == "micro-batches":
            settings["micro_tokens"] = 90
        if changed and change == "packing":
            model.supports_packing = False
        if changed and change == "order":
            examples = examples[::-1]
        found = train(tmp_path / place, objective, model, examples, pad_id=chat.pad_id, **settings)
        assert len(found) == 3
        return found, model.state_dict()

    (rows, weights), (other_rows, other_weights) = result("one", False), result("other", True)
    for row, other in zip(rows, other_rows, strict=True):
        for name in set(row) - {"tokens/padded", "tokens/useful"}:  # a prompt that examples share may be read once
            assert other[name] == pytest.approx(row[name], abs=1e-10), name
    for name, tensor in weights.items():
        torch.testing.assert_close(other_weights[name], tensor, atol=1e-10, rtol=0)


def test_a_packed_step_reads_each_prompt_once_and_no_padding(tmp_path):
    model, chat = language_model()
    objective = Imitation(chat)
    examples = examples_of(objective, DEMONSTRATIONS)
    padded = {}
    for packing in (True, False):
        model.supports_packing = packing
        (row,) = train(
            tmp_path / str(packing), objective, model, examples, pad_id=chat.pad_id, epochs=1, batch_tokens=100_000
        )
        padded[packing] = row["tokens/padded"]
        once = {example.prompt for example in examples}
        prompts = sum(map(len, once if packing else [example.prompt for example in examples]))
        assert row["tokens/useful"] == prompts + sum(len(example.completions[0]) for example in examples)
    assert padded[True] == 0 < padded[False]


@pytest.mark.parametrize("kind", ["imitation", "preference"])
def test_held_out_figures_do_not_depend_on_batches_or_order(kind):
    model, chat = language_model() if kind == "imitation" else reward_model()
    objective = Imitation(chat) if kind == "imitation" else Preference(chat)
    examples = examples_of(objective, DEMONSTRATIONS if kind == "imitation" else PAIRS)
    whole = held_out(model, objective, examples, limit=100_000, pad_id=chat.pad_id)
    for cut in (examples, examples[::-1]):
        other = held_out(model, objective, cut, limit=60, pad_id=chat.pad_id)
        assert other == pytest.approx(whole, abs=1e-10)
    # And they are means over all tokens (or pairs), not means of batches' means.
    alone = [held_out(model, objective, [example], limit=1, pad_id=chat.pad_id)["loss"] for example in examples]
    counts = [objective.count(example) for example in examples]
    mean = sum(loss * count for loss, count in zip(alone, counts, strict=True)) / sum(counts)
    assert whole["loss"] == pytest.approx(mean, abs=1e-10)


def test_demonstrations_are_learnt(tmp_path):
    model, chat = language_model(dtype=torch.float32)
    objective = Imitation(chat)
    rows = train(tmp_path, objective, model, examples_of(objective, DEMONSTRATIONS), pad_id=chat.pad_id, epochs=8)
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"]


# ---- what stops it


@dataclass
class Poisoned:
    """An objective whose loss is no number from one step on."""

    inner: Imitation
    from_step: int
    steps: int = 0

    def example(self, record):
        return self.inner.example(record)

    def count(self, example):
        return self.inner.count(example)

    def evaluate(self, model, batch):
        self.steps += 1
        found = self.inner.evaluate(model, batch)
        return Evaluated(found.losses * (math.nan if self.steps >= self.from_step else 1.0), found.count, {})


def test_a_loss_that_is_no_number_names_its_step_and_moves_nothing(tmp_path):
    model, chat = language_model()
    objective = Poisoned(Imitation(chat), from_step=6)
    examples = examples_of(objective, DEMONSTRATIONS)
    with pytest.raises(TrainingError, match=r"The loss is nan at step 6, whose first example is row \d+ of the data"):
        train(tmp_path / "one", objective, model, examples, pad_id=chat.pad_id, epochs=4)
    assert all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())
    assert Checkpoints(tmp_path / "one" / "checkpoints").latest().step == 4  # the last before, and whole
    # Mended, the same loop goes on from there and equals the run that never failed.
    mended, _ = language_model()
    rows = train(tmp_path / "one", Imitation(chat), mended, examples, pad_id=chat.pad_id, epochs=4)
    uncut, _ = language_model()
    assert rows == train(tmp_path / "two", Imitation(chat), uncut, examples, pad_id=chat.pad_id, epochs=4)
    assert weight_hash(mended) == weight_hash(uncut)


# ---- resuming


@pytest.mark.parametrize("kind", ["imitation", "preference"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.55, 0.9])
def test_stopped_inside_any_epoch_it_goes_on_to_the_bit(tmp_path, kind, share):
    def make():
        model, chat = (language_model if kind == "imitation" else reward_model)(dtype=torch.float32)
        return (Imitation(chat) if kind == "imitation" else Preference(chat)), model, chat.pad_id

    settings = {"epochs": 3, "optimiser": Optimiser(schedule="cosine", warmup=3, weight_decay=0.1)}
    objective, uncut, pad_id = make()
    examples = examples_of(objective, DEMONSTRATIONS if kind == "imitation" else PAIRS)
    expected = train(tmp_path / "uncut", objective, uncut, examples, pad_id=pad_id, **settings)
    last = int(share * len(expected))
    _, model, _ = make()
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", objective, model, examples, Silent(last), pad_id=pad_id, **settings)
    onlooker, (_, model, _) = Silent(), make()
    assert train(tmp_path / "cut", objective, model, examples, onlooker, pad_id=pad_id, **settings) == expected
    assert onlooker.begun == last
    assert weight_hash(model) == weight_hash(uncut)


# ---- pooling


def test_last_token_and_mean_pooling_on_a_task_that_both_can_learn(tmp_path, capsys):
    # One word, anywhere among others, makes a reply the better one; replies differ in nothing else.
    draw = torch.Generator().manual_seed(0)

    def pair(number):
        fill = [WORDS[int(index)] for index in torch.randint(0, 8, (5,), generator=draw)]
        at = int(torch.randint(0, 6, (), generator=draw))
        chosen, rejected = ([*fill[:at], word, *fill[at:]] for word in ("rain", "wind"))
        return PreferencePair(Prompt.of(f"Weather {number}?"), " ".join(chosen), " ".join(rejected))

    pairs = [pair(number) for number in range(240)]
    accuracy = {}
    for pooling in ("last", "mean"):
        model, chat = reward_model(pooling, dtype=torch.float32, hidden=32)
        objective = Preference(chat)
        examples = examples_of(objective, pairs)
        train(
            tmp_path / pooling,
            objective,
            model,
            examples[:200],
            pad_id=chat.pad_id,
            epochs=2,
            batch_tokens=1000,
            checkpoint_every=1000,
        )
        figures = held_out(model, objective, examples[200:], limit=4000, pad_id=chat.pad_id)
        accuracy[pooling] = figures["accuracy"]
    better = max(accuracy, key=accuracy.get)
    ahead = abs(accuracy["last"] - accuracy["mean"])
    with capsys.disabled():
        print(f"\n  pooling: last {accuracy['last']:.3f}, mean {accuracy['mean']:.3f}: {better} by {ahead:.3f}")
    # 40 held-out pairs: a coin reaches 30 of them in one of 900 tries.
    assert min(accuracy.values()) > 0.75
