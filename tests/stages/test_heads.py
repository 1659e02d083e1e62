"""Reward models of several heads through the stages: an ensemble on one trunk, and scores learnt from ratings."""

import json

import pytest

from palate.errors import DataError, RecipeError
from palate.evaluation import RewardReport
from palate.models import load_reward_model
from palate.recipe import recipe_from
from palate.stages.calls import Quiet
from palate.stages.run import execute
from palate.stages.trust.probing import probe

LOOP = {"learning_rate": 1e-2, "batch_tokens": 2000}


def recipe(finished, reward, **align):
    """Reward model and a short alignment from the finished run's SFT model."""
    return recipe_from(
        {
            "run": {"name": "heads", "threads": 1, "device": "cpu"},
            "model": {"path": str(finished.run / "sft" / "model")},
            "sft": {"data": str(finished.recipe.parent / "demonstrations.jsonl"), "epochs": 1},
            "reward": LOOP | {"reference_samples": 16} | reward,
            "align": {
                "prompts": str(finished.recipe.parent / "prompts.jsonl"),
                "algorithm": "rloo",
                "iterations": 2,
                "batch": 4,
                "max_new_tokens": 8,
                "reference_samples": 16,
                "watch": {"prompts": 4},
            }
            | align,
        }
    )


def run(recipe, root):
    place = execute(recipe, watch=lambda _: Quiet(), say=lambda _: None, root=root, force=True)
    return place, json.loads((place / "summary.json").read_text())


def metrics(place):
    return json.loads((place / "align" / "metrics.jsonl").read_text().splitlines()[0])


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_an_ensemble_on_one_trunk(pooling, finished, tmp_path):
    pairs = {"data": str(finished.recipe.parent / "pairs.jsonl"), "heads": 3, "pooling": pooling}
    place, summary = run(
        recipe(finished, pairs, rewards=[{"source": "model", "name": "team", "combine": "worst"}]), tmp_path
    )
    model, _, _ = load_reward_model(place / "reward" / "model")
    assert model.members == 3
    assert 0 <= summary["reward/accuracy"] <= 1
    assert len(json.loads((place / "reward" / "report.json").read_text())["agreement"]) > 0
    row = metrics(place)
    assert row["score/team/std"] > 0
    assert row["score/team"] == row["score/mean"]


def ratings(finished, tmp_path):
    """Every pair's replies, rated: the chosen one is more helpful, the longer one wordier."""
    lines = [json.loads(line) for line in (finished.recipe.parent / "pairs.jsonl").read_text().splitlines()]
    path = tmp_path / "ratings.jsonl"
    rows = [
        {"prompt": line["prompt"], "response": line[side], "helpfulness": good, "verbosity": len(line[side]) / 10}
        for line in lines
        for side, good in (("chosen", 4), ("rejected", 1))
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_ratings_are_learnt_and_weighed(finished, tmp_path):
    rated = {
        "data": str(ratings(finished, tmp_path)),
        "objective": "regression",
        "attributes": ["helpfulness", "verbosity"],
        "epochs": 3,
    }
    weights = {"helpfulness": 0.7, "verbosity": 0.3}
    place, summary = run(
        recipe(finished, rated, rewards=[{"source": "model", "name": "r", "weights": weights}]), tmp_path
    )
    model, _, _ = load_reward_model(place / "reward" / "model")
    assert (model.attributes, model.gain) == (("helpfulness", "verbosity"), 1.0)
    assert "reward/ece" not in summary
    assert summary["reward/explained/helpfulness"] <= 1
    assert summary["reward/explained/verbosity"] <= 1
    probed, _ = probe(place / "reward" / "model", finished.recipe.parent / "pairs.jsonl")
    assert isinstance(probed, RewardReport) and probed.agreement is None, "attributes are no members of an ensemble"
    row = metrics(place)
    assert row["score/r"] == pytest.approx(0.7 * row["score/r/helpfulness"] + 0.3 * row["score/r/verbosity"], abs=1e-5)


def test_attributes_that_no_row_scores_are_refused(finished, tmp_path):
    rated = {"data": str(ratings(finished, tmp_path)), "objective": "regression", "attributes": ["wit"]}
    with pytest.raises(DataError, match="no row scores 'wit'"):
        run(recipe(finished, rated), tmp_path)


def test_weights_of_attributes_that_are_not_there_are_refused(finished, tmp_path):
    pairs = {"data": str(finished.recipe.parent / "pairs.jsonl")}
    with pytest.raises(RecipeError, match=r"gives weights for \['wit'\]"):
        run(recipe(finished, pairs, rewards=[{"source": "model", "name": "r", "weights": {"wit": 1.0}}]), tmp_path)


@pytest.mark.parametrize(
    ("reward", "words"),
    [
        ({"heads": 2, "objective": "all-pairs"}, "reward.heads = 2"),
        ({"objective": "regression"}, "attributes = \\[\\]"),
        ({"attributes": ["a"]}, "Regression, and nothing else"),
        ({"objective": "regression", "attributes": ["a", "a"]}, "names one twice"),
        ({"objective": "regression", "attributes": ["a"], "data": "testbed"}, "compare and do not rate"),
    ],
)
def test_heads_without_work_are_refused(reward, words, finished):
    with pytest.raises(RecipeError, match=words):
        recipe(finished, {"data": str(finished.recipe.parent / "pairs.jsonl")} | reward)
