"""palate compare: one SFT model a seed, equal budgets, what is reused, what the page is made of."""

import json
import tomllib
from dataclasses import replace

import pytest
import tomli_w

from palate.algorithms.auxiliary import Mix
from palate.errors import RecipeError
from palate.recipe import checked, load_recipe, recipe_from
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


# What a recipe's own alignment may be, beside the settings of the tiny recipe's that hold for all.
OWN = {
    "dpo": {"data": "pairs.jsonl"},
    "kto": {"data": "pairs.jsonl", "rows": 40},
    "spin": {"data": "demonstrations.jsonl"},
    "rejection": {"prompts": "prompts.jsonl"},
    "grpo": {"prompts": "prompts.jsonl", "batch": 8, "samples": 2},
}


def owned(algorithm):
    return recipe_from(
        {
            "model": {"path": "m"},
            "sft": {"data": "demonstrations.jsonl"},
            "reward": {"data": "pairs.jsonl"},
            "align": {"algorithm": algorithm, "max_new_tokens": 7, **OWN[algorithm]},
        }
    )


@pytest.mark.parametrize("own", OWN)
@pytest.mark.parametrize("method", ["ppo", "dapo", "dpo", "kto", "online_dpo", "spin"])
def test_any_algorithm_takes_the_place_of_any(own, method):
    recipe = with_method(owned(own), method, 1536)
    assert planned(recipe.align) == 1536
    assert recipe.align.loop.max_new_tokens == 7
    assert checked(recipe) == recipe


def test_a_direct_recipe_has_pairs_and_prompts_of_its_own():
    recipe = replace(owned("dpo"), reward=None)
    assert with_method(recipe, "ipo", 8).align.data == "pairs.jsonl"
    assert with_method(recipe, "ppo", 8).align.prompts == "pairs.jsonl"


def test_a_budget_below_one_batch_is_one_smaller_batch():
    loop = with_method(owned("grpo"), "ppo", 6).align.loop  # its own iteration has 8·2 completions
    assert (loop.iterations, loop.batch) == (1, 6)


@pytest.mark.parametrize(("own", "budget"), [("dpo", None), ("kto", 40), ("spin", None), ("rejection", 4 * 512 * 8)])
def test_the_budget_of_a_recipe_off_the_online_loop(own, budget):
    assert planned(owned(own).align) == budget


def test_a_method_leaves_out_what_it_cannot_use(finished):
    recipe = load_recipe(finished.recipe, ["align.anchor=4", "align.anchor_limit=0.1", "align.asynchronous=true"])
    recipe = checked(replace(recipe, align=replace(recipe.align, mix=Mix())))
    for method in ("dpo", "rejection"):
        align = with_method(recipe, method, 64).align
        assert (align.mix, align.anchor, align.anchor_limit, align.loop.asynchronous) == (None, 0, None, False)
    dapo = with_method(recipe, "dapo", 64).align
    assert not dapo.loop.asynchronous and dapo.mix == Mix() and dapo.anchor == 4
    assert with_method(recipe, "grpo", 64).align.loop.asynchronous


def test_rules_between_settings_hold_for_the_method_that_is_swapped_in():
    recipe = owned("grpo")
    ppo = replace(recipe.align.ppo, kl=replace(recipe.align.ppo.kl, horizon=3))
    recipe = checked(replace(recipe, align=replace(recipe.align, ppo=ppo)))
    with pytest.raises(RecipeError, match=r"align.ppo.kl.horizon = 3 .* 16 completions"):
        with_method(recipe, "ppo", 64)


def test_models_that_no_stage_of_the_recipe_makes_are_compared_too(finished, tmp_path, palate_command):
    table = tomllib.loads(finished.recipe.read_text())
    del table["sft"], table["reward"]
    table["model"] = {"path": str(finished.run / "sft" / "model")}
    table["align"] = {
        "algorithm": "dpo",
        "data": str(finished.recipe.parent / "pairs.jsonl"),
        "rewards": [{"source": "repetition"}],
        "max_new_tokens": 8,
    }
    table["evaluate"] |= {"prompts": str(finished.recipe.parent / "heldout.jsonl"), "judge": "reward"}
    recipe = tmp_path / "alone.toml"
    recipe.write_text(tomli_w.dumps(table))
    arguments = ("compare", recipe, "--methods", "rloo,dpo", "--seeds", "0", "--runs", tmp_path)
    refused = palate_command(*arguments)
    assert refused.code == 2 and "--completions 10240" in refused.err, refused.err
    assert not (tmp_path / "tiny-comparison").exists()
    result = palate_command(*arguments, "--completions", "16")
    assert result.code == 0, result.err
    done = json.loads((tmp_path / "tiny-comparison/comparison.json").read_bytes())
    assert [one["completions"] for one in done["results"]] == [16, 16]


# ---- what a recipe may say


@pytest.mark.parametrize(
    ("align", "said"),
    [
        ({"algorithm": "dpo", "data": "d", "mix": {}}, r"\[align.mix\] was given .*dpo.* not on the online loop"),
        ({"algorithm": "rejection", "prompts": "p", "mix": {}}, r"\[align.mix\] was given .*rejection"),
        ({"algorithm": "ppo", "prompts": "p", "rows": 9}, "align.rows = 9 was given .*ppo"),
        ({"algorithm": "spin", "data": "d", "rows": 9}, "align.rows = 9 was given .*spin"),
        ({"prompts": "p", "ppo": {"kl": {"coef": 0}}}, r"align.ppo.kl has coef = 0 .* \"dual\""),
        # 1 − 0.2·64/12 < 0: one iteration below the target would take the price below 0; 64/5 is 12.8.
        ({"prompts": "p", "ppo": {"kl": {"horizon": 12}}}, "horizon = 12 .* 64 completions .* above 12;"),
        ({"prompts": "p", "samples": 2, "ppo": {"kl": {"horizon": 13}}}, "horizon = 13 .* 128 completions"),
    ],
)
def test_what_would_be_ignored_or_cannot_be_is_refused(align, said):
    with pytest.raises(RecipeError, match=said):
        recipe_from({"model": {"path": "m"}, "align": align})


def test_the_smallest_horizon_keeps_the_price_above_zero():
    kl = recipe_from({"model": {"path": "m"}, "align": {"prompts": "p", "ppo": {"kl": {"horizon": 13}}}}).align.ppo.kl
    assert kl.controller().update(0.0, 64).coef > 0
    for kind in ("fixed", "dual", "budget"):  # none of these multiplies
        leash = {"kind": kind, "coef": 0, "horizon": 1}
        recipe_from({"model": {"path": "m"}, "align": {"prompts": "p", "ppo": {"kl": leash}}})
