"""Published preferences, judgements and rankings are read, go through their objectives, and are learnt from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from palate.algorithms.direct import DPO, KTO, with_reference
from palate.algorithms.objectives import Order, examples_of
from palate.algorithms.supervised import SupervisedLoop, Supervision, held_out
from palate.data.recognition import read
from palate.engine.checkpoint import Checkpoints
from palate.engine.metrics import JsonLines
from palate.models import RewardModel
from palate.models.scratch import scratch_model

DATA = Path(os.environ.get("PALATE_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
ROWS = 24

pytestmark = pytest.mark.skipif(
    not DATA.is_dir(), reason="no published data files; name their directory in PALATE_DATA"
)


class Silent:
    """An onlooker without a wish."""

    def begin(self, total, done):
        """Nothing to show."""

    def advance(self, row):
        """Nothing to show."""

    def say(self, sentence):
        """Nothing to show."""

    def stopping(self):
        """Never."""
        return False

    def check(self):
        """Never."""


def texts(records):
    """What a tokenizer can be trained on."""
    return [message.content for record in records for message in record.prompt.messages]


def shortest(records):
    """The records of least text, so that a test takes seconds."""
    return sorted(records, key=lambda record: len(repr(record)))[:ROWS]


def fitted(place, objective, model, examples, pad_id):
    """The loss before and after four passes over the examples."""
    before = held_out(model, objective, examples, limit=8192, pad_id=pad_id)
    settings = Supervision(epochs=4, learning_rate=3e-3, batch_tokens=4096)
    loop = SupervisedLoop(model, objective, examples, settings, 0, pad_id)
    loop.train(Checkpoints(place / "checkpoints"), JsonLines(place / "metrics.jsonl"), Silent())
    return before, held_out(model, objective, examples, limit=8192, pad_id=pad_id)


@pytest.mark.parametrize(("method", "kind"), [(DPO(), "pairs"), (KTO(), "feedback")], ids=["dpo", "kto"])
def test_transcripts_of_people(tmp_path, method, kind):
    records = shortest(read(DATA / "hh" / "helpful-base" / "test.jsonl.gz", kind, on_bad="skip").records)
    model, chat, _ = scratch_model(texts(records), hidden=32, layers=1, heads=2, vocabulary=300, context=2048, seed=0)
    objective = method.objective(chat)
    examples = with_reference(objective, examples_of(objective, records), model, limit=8192, pad_id=chat.pad_id)
    before, after = fitted(tmp_path, objective, model, examples, chat.pad_id)
    assert before["rewards/chosen"] == pytest.approx(0, abs=1e-4)
    assert after["loss"] < 0.9 * before["loss"]
    assert after["rewards/chosen"] > after["rewards/rejected"]


def test_four_ranked_answers_a_prompt(tmp_path):
    records = shortest(read(DATA / "ranked" / "alpaca_eval_k4.jsonl.gz", "rankings", on_bad="skip").records)
    assert {len(record.completions) for record in records} == {4}
    model, chat, _ = scratch_model(texts(records), hidden=32, layers=1, heads=2, vocabulary=300, context=4096, seed=0)
    reward = RewardModel.on(model, pooling="last", generator=torch.Generator().manual_seed(0))
    objective = Order(chat)
    before, after = fitted(tmp_path, objective, reward, examples_of(objective, records), chat.pad_id)
    assert after["loss"] < 0.9 * before["loss"]
    assert after["accuracy"] > 0.7
