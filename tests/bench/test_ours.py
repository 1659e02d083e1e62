"""Our side of every task at a tiny size: the lines it gives, the tokens it counts, what it leaves behind."""

import json
import math
from pathlib import Path

import pytest

from bench.ours import dpo, ppo, reward, rollout, sft
from bench.side import Meter
from bench.sides import Run


def lines(side, job) -> Run:
    """The side's lines as the parent process would read them."""
    emitted: list[str] = []
    meter = Meter(job, lambda line: emitted.append(json.dumps(line)))
    side.run(job, meter)
    meter.close()
    return Run.parse("\n".join(emitted))


@pytest.mark.parametrize("critic", ["own", "shared"])
def test_ppo(job, critic):
    wanted = job("ppo", critic=critic, epochs=2, minibatches=2)
    found = lines(ppo, wanted)
    prompts = sum(len(row["prompt"]) for row in wanted.rows())
    assert [sample["warm_up"] for sample in found.samples] == [True, False, False]
    for sample in found.samples:
        assert sample["prompt_tokens"] == prompts
        assert wanted.batch <= sample["completion_tokens"] <= wanted.batch * wanted.new_tokens
        assert {"rollout", "score", "update"} <= sample["phases"].keys()
        assert sum(sample["phases"].values()) <= sample["seconds"]
    assert found.about["memory"] >= found.about["memory_before"] > 0
    assert found.about["versions"]["torch"]


def test_rollout_writes_every_row_and_the_greedy_ones(job):
    wanted = job("rollout", batch=4)
    found = lines(rollout, wanted)
    prompts = [row["prompt"] for row in wanted.rows()]
    assert all(len(prompts) <= sample["completion_tokens"] <= len(prompts) * 8 for sample in found.samples)
    counts = {sample["completion_tokens"] for sample in found.samples}
    assert len(counts) > 1  # each pass draws anew
    greedy = json.loads(Path(wanted.greedy).read_text())["ids"]
    assert len(greedy) == len(prompts)
    assert all(1 <= len(row) <= 8 for row in greedy)


@pytest.mark.parametrize(
    ("side", "task", "sides"),
    [
        (sft, "sft", ["completion"]),
        (reward, "reward", ["chosen", "rejected"]),
        (dpo, "dpo", ["chosen", "rejected"]),
    ],
)
def test_supervised_steps_take_the_rows_in_order(job, side, task, sides):
    wanted = job(task, learning_rate=1e-2)
    found = lines(side, wanted)
    rows = wanted.rows()
    assert len(found.samples) == 3
    for index, sample in enumerate(found.samples):
        step = rows[index * wanted.batch : (index + 1) * wanted.batch]
        assert sample["prompt_tokens"] == sum(len(row["prompt"]) for row in step) * len(sides)
        assert sample["completion_tokens"] == sum(len(row[name]) for row in step for name in sides)
    # Random pairs are a coin toss, ln 2 about; random tokens of 64 cost ln 64 and what the spread of the logits adds.
    loss = found.samples[0]["loss"]
    assert 3 < loss < 8 if task == "sft" else 0.2 < loss < 3
    if task == "dpo":  # the policy still is the reference
        assert loss == pytest.approx(math.log(2), abs=1e-4)
