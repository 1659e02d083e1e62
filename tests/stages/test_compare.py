"""palate compare: one SFT model a seed, equal budgets, what is reused, what the page is made of."""

import json
from dataclasses import replace

import pytest

from palate.errors import RecipeError
from palate.recipe import load_recipe
from palate.stages.compare import planned, with_method

METHODS = "rloo,dpo,rejection,spin"


@pytest.fixture(scope="module")
def compared(finished, tmp_path_factory, palate_command_once):
    root = tmp_path_factory.mktemp("compared")
    result = palate_command_once(
        "compare", finished.recipe, "--methods", METHODS, "--seeds", "0,1", "--runs", root,
        "--set", "evaluate.judge=reward", "--set", "sft.epochs=1", "--set", "align.rejection.rounds=2",
        "--set", "align.spin.rounds=1",
    )  # fmt: skip
    assert result.code == 0, result.err
    return root / "tiny-comparison", result


def test_every_method_begins_with_the_same_models(compared):
    place, _ = compared
    for seed in (0, 1):
        models = {(place / f"{name}-{seed}" / "sft/model/model.safetensors").read_bytes()
                  for name in (*METHODS.split(","), "base")}  # fmt: skip
        assert len(models) == 1
        record = json.loads((place / f"dpo-{seed}" / "run.json").read_bytes())
        assert record["name"] == f"dpo-{seed}"
        assert record["seed"] == seed
    zero, one = ((place / f"base-{seed}/sft/model/model.safetensors").read_bytes() for seed in (0, 1))
    assert zero != one


def test_the_table_holds_every_method_and_seed(compared):
    place, result = compared
    table = json.loads((place / "comparison.json").read_bytes())
    found = {(one["method"], one["seed"]) for one in table["results"]}
    assert found == {(method, seed) for method in METHODS.split(",") for seed in (0, 1)}
    assert table["equal"] == "samples"
    # The recipe's own alignment: 4 iterations of 8 completions.
    assert set(table["budgets"].values()) == {32}
    assert all(one["completions"] == 32 for one in table["results"])
    assert all(one["seconds"] > 0 and one["tokens"] > 0 for one in table["results"])
    page = (place / "comparison.html").read_text()
    assert all(method in page for method in METHODS.split(","))
    assert "http://" not in page.replace("http://www.w3.org", "") and "<script" not in page
    assert str(place / "comparison.html") in result.out


def test_a_second_call_reuses_all_that_is_done(compared, finished, palate_command):
    place, _ = compared
    before = (place / "rloo-0/align/model/model.safetensors").stat().st_mtime_ns
    result = palate_command(
        "compare", finished.recipe, "--methods", "rloo", "--seeds", "0", "--runs", place.parent,
        "--set", "evaluate.judge=reward", "--set", "sft.epochs=1", "--set", "align.rejection.rounds=2",
        "--set", "align.spin.rounds=1",
    )  # fmt: skip
    assert result.code == 0, result.err
    assert "align: done before, and reused." in result.out
    assert (place / "rloo-0/align/model/model.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize("method", ["ppo", "grpo", "dpo", "kto", "rejection", "online_dpo"])
def test_budgets_come_out_equal(method, finished):
    recipe = with_method(load_recipe(finished.recipe), method, 512)
    assert planned(recipe.align) == 512
    assert recipe.align.algorithm == method
    assert recipe.align.files  # exactly what the method learns from


def test_what_a_method_cannot_have_is_said(finished):
    recipe = load_recipe(finished.recipe)
    with pytest.raises(RecipeError, match="'pppo' was asked for"):
        with_method(recipe, "pppo", 8)
    with pytest.raises(RecipeError, match="dpo learns from pairs, and the recipe names none"):
        with_method(replace(recipe, reward=None), "dpo", 8)
