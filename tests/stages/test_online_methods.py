"""Every algorithm of the online loop as a stage: it runs, it resumes to the bit, and demonstrations mix in."""

import json

import pytest
import torch

from palate.algorithms.policies import ALGORITHMS
from palate.engine.files import file_sha256
from palate.errors import RecipeError
from palate.recipe import recipe_from
from palate.stages.calls import Quiet
from palate.stages.run import execute


def table(finished, algorithm, **changes):
    """A recipe of alignment alone, from the finished run's models."""
    samples = {"samples": 4} if ALGORITHMS[algorithm].samples > 1 else {}
    align = {
        "algorithm": algorithm,
        "prompts": str(finished.recipe.parent / "prompts.jsonl"),
        "reward": str(finished.run / "reward" / "model"),
        "iterations": 4,
        "batch": 4,
        "max_new_tokens": 8,
        "learning_rate": 1e-3,
        "reference_samples": 16,
        "checkpoint_every": 2,
        **samples,
    }
    return {
        "run": {"name": algorithm, "threads": 1, "device": "cpu"},
        "model": {"path": str(finished.run / "sft" / "model")},
        "align": align | changes,
    }


def rows(place):
    found = (place / "align" / "metrics.jsonl").read_text().splitlines()
    return [{name: value for name, value in json.loads(row).items() if "time/" not in name} for row in found]


class Stopper(Quiet):
    """Asks to stop after its second step, as Ctrl-C does."""

    def __init__(self):
        self.steps = 0

    def advance(self, row):
        self.steps += 1

    def stopping(self):
        return self.steps == 2

    def check(self):
        if self.steps == 2:
            raise KeyboardInterrupt


def aligned(recipe, root, watcher=Quiet):
    return execute(recipe_from(recipe), watch=lambda _: watcher(), say=lambda _: None, root=root, force=True)


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_a_stopped_run_goes_on_to_the_bit(algorithm, finished, tmp_path):
    whole = aligned(table(finished, algorithm), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        aligned(table(finished, algorithm), tmp_path / "cut", Stopper)
    cut = aligned(table(finished, algorithm), tmp_path / "cut")
    assert rows(cut) == rows(whole)
    for name in ("model/model.safetensors", "samples.jsonl"):
        assert file_sha256(cut / "align" / name) == file_sha256(whole / "align" / name)
    assert all(row["ratio/first"] == 1.0 for row in rows(whole) if row.get("updates", 1))
    assert torch.isfinite(torch.tensor([row["kl/sequence"] for row in rows(whole)])).all()


def test_an_asynchronous_run_goes_on_to_the_bit(finished, tmp_path):
    recipe = table(finished, "ppo", asynchronous=True)
    whole = aligned(recipe, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        aligned(recipe, tmp_path / "cut", Stopper)
    assert rows(aligned(recipe, tmp_path / "cut")) == rows(whole)


def test_no_group_is_refilled_from_a_newer_policy(finished):
    recipe = table(finished, "dapo", asynchronous=True)
    with pytest.raises(RecipeError, match="would come from a newer policy"):
        recipe_from(recipe)
    recipe_from(table(finished, "dapo", asynchronous=True, dapo={"refills": 0}))


def test_demonstrations_are_mixed_into_every_update(finished, tmp_path):
    demonstrations = str(finished.recipe.parent / "demonstrations.jsonl")
    plain = aligned(table(finished, "ppo"), tmp_path / "plain")
    mixed = aligned(table(finished, "ppo", mix={"data": demonstrations, "weight": 10.0}), tmp_path / "mixed")
    assert "loss/auxiliary" not in rows(plain)[0]
    losses = [row["loss/auxiliary"] for row in rows(mixed)]
    assert losses[-1] < losses[0]


def test_gradient_checkpointing_changes_nothing(finished, tmp_path):
    recipe = table(finished, "ppo")
    plain = aligned(recipe, tmp_path / "plain")
    recipe["model"]["gradient_checkpointing"] = True
    again = aligned(recipe, tmp_path / "again")
    assert rows(again) == rows(plain)
