"""The supervised loop: what is trained, that batching changes nothing, and that resuming inside an epoch is exact."""

import copy

import pytest
import torch

from palate.algorithms.objectives import Imitation, Preference, examples_of
from palate.algorithms.supervised import Plan, SupervisedLoop, Supervision, collate, held_out, micro_batches
from palate.engine.checkpoint import Checkpoints
from palate.engine.metrics import JsonLines
from palate.errors import TrainingError
from palate.models import RewardModel, scratch_model
from palate.records import Demonstration, PreferencePair, Prompt
from palate.stages.calls import Quiet

WORDS = ("red", "green", "blue", "one", "two", "three")
DEMONSTRATIONS = tuple(
    Demonstration(Prompt.of(f"say {word} {count}"), " ".join([word] * count)) for word in WORDS for count in (1, 2, 5)
)
PAIRS = tuple(
    PreferencePair(Prompt.of(f"say {word}"), word, f"not {word}", margin=margin)
    for word, margin in zip(WORDS, (None, 0.5, 1.0, None, 2.0, None), strict=True)
)


@pytest.fixture(scope="module")
def made():
    texts = [row.prompt.text + " " + row.completion for row in DEMONSTRATIONS]
    return scratch_model(texts, hidden=16, layers=1, heads=2, vocabulary=300, context=64, seed=0)


class Stopping(Quiet):
    """Stops after some steps, everything being saved, as Ctrl-C does."""

    def __init__(self, after: int):
        self.left = after

    def advance(self, row):
        self.left -= 1

    def stopping(self) -> bool:
        return self.left <= 0

    def check(self) -> None:
        if self.left <= 0:
            raise KeyboardInterrupt


def loop_of(made, **settings) -> SupervisedLoop:
    model, chat, _ = made
    objective = Imitation(chat)
    given = Supervision(**{"epochs": 3, "batch_tokens": 40, "learning_rate": 1e-2, **settings})
    return SupervisedLoop(
        copy.deepcopy(model), objective, examples_of(objective, DEMONSTRATIONS), given, 0, chat.pad_id
    )


def train(loop: SupervisedLoop, place, onlooker=None) -> list[dict]:
    place.mkdir(exist_ok=True)
    metrics = JsonLines(place / "metrics.jsonl")
    loop.train(Checkpoints(place / "checkpoints"), metrics, onlooker or Quiet())
    return list(metrics.rows())


def test_the_completion_alone_is_trained_and_eos_exactly_once(made):
    _, chat, _ = made
    objective = Imitation(chat)
    batch = collate(examples_of(objective, DEMONSTRATIONS), pad_id=chat.pad_id, packing=False)
    for row, demonstration in enumerate(DEMONSTRATIONS):
        trained = batch.layout.labels[row][batch.layout.mask[row]].tolist()
        assert trained == chat.encode_completion(demonstration.completion)
        assert trained.count(chat.eos_id) == 1 and trained[-1] == chat.eos_id


def test_every_example_once_an_epoch(made):
    loop = loop_of(made)
    plan = Plan.of(loop.examples, loop.settings, seed=0)
    start = 0
    for count in plan.per_epoch:
        rows = [row for step in plan.steps[start : start + count] for row in step]
        assert sorted(rows) == list(range(len(DEMONSTRATIONS)))
        start += count
    assert start == len(plan.steps)


def test_micro_batches_and_packing_change_nothing(made):
    model, chat, _ = made
    objective = Imitation(chat)
    examples = examples_of(objective, DEMONSTRATIONS)
    count = sum(objective.count(example) for example in examples)
    gradients = []
    for limit, packing in ((10_000, False), (10_000, True), (20, False), (1, True)):
        trained = copy.deepcopy(model).double()
        for part in micro_batches(examples, limit):
            batch = collate(part, pad_id=chat.pad_id, packing=packing)
            (objective.evaluate(trained, batch).losses.sum() / count).backward()
        gradients.append(torch.cat([weight.grad.flatten() for weight in trained.parameters()]))
    for other in gradients[1:]:
        assert float((other - gradients[0]).norm() / gradients[0].norm()) < 1e-10


def test_training_learns(made, tmp_path):
    rows = train(loop_of(made, epochs=12), tmp_path)
    assert rows[-1]["loss"] < 0.6 * rows[0]["loss"]


@pytest.mark.parametrize("after", [2, 9])
def test_going_on_inside_an_epoch_is_exact(made, tmp_path, after):
    whole = loop_of(made)
    expected = train(whole, tmp_path / "whole")
    per_epoch = Plan.of(whole.examples, whole.settings, 0).per_epoch[0]
    assert after % per_epoch != 0 and (after > per_epoch) == (after == 9)
    with pytest.raises(KeyboardInterrupt):
        train(loop_of(made), tmp_path / "cut", Stopping(after))
    again = loop_of(made)
    rows = train(again, tmp_path / "cut")
    timed = {"time/step"}
    assert [{k: v for k, v in row.items() if k not in timed} for row in rows] == [
        {k: v for k, v in row.items() if k not in timed} for row in expected
    ]
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, again.model.state_dict()[name])


def test_a_loss_that_is_not_finite_names_its_step(made, tmp_path):
    loop = loop_of(made)
    with torch.no_grad():
        next(iter(loop.model.parameters())).fill_(torch.nan)
    with pytest.raises(TrainingError, match="at step 1"):
        train(loop, tmp_path)
    assert not (tmp_path / "checkpoints").exists()


def test_held_out_means_do_not_depend_on_batches(made):
    model, chat, _ = made
    objective = Imitation(chat)
    examples = examples_of(objective, DEMONSTRATIONS)
    double = copy.deepcopy(model).double()
    losses = [
        held_out(double, objective, some, limit=limit, pad_id=chat.pad_id)["loss"]
        for some, limit in ((examples, 10_000), (examples[::-1], 10_000), (examples, 1))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-12) == pytest.approx(losses[2], rel=1e-12)


def test_margins_reach_the_loss(made):
    model, chat, _ = made
    reward = RewardModel.on(model, pooling="last", generator=torch.Generator().manual_seed(0))
    objective = Preference(chat)
    batch = collate(examples_of(objective, PAIRS), pad_id=chat.pad_id, packing=False)
    scores = reward.scores(batch.layout).view(-1, 2)
    margins = torch.tensor([row.margin or 0.0 for row in PAIRS])
    expected = -torch.nn.functional.logsigmoid(scores[:, 0] - scores[:, 1] - margins)
    torch.testing.assert_close(objective.evaluate(reward, batch).losses, expected)


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_both_poolings_learn_what_is_preferred(made, tmp_path, pooling):
    model, chat, _ = made
    reward = RewardModel.on(model, pooling=pooling, generator=torch.Generator().manual_seed(0))
    objective = Preference(chat)
    settings = Supervision(epochs=30, batch_tokens=200, learning_rate=1e-2)
    loop = SupervisedLoop(reward, objective, examples_of(objective, PAIRS), settings, 0, chat.pad_id)
    rows = train(loop, tmp_path)
    assert rows[0]["accuracy"] < 1 == rows[-1]["accuracy"]
