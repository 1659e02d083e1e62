"""Rewards in a recipe: several together, what they log, what they rest on, and what is said of wrong ones."""

import json
import math
import re
import shutil
import tomllib
from pathlib import Path

import pytest

from palate import testbed
from palate.engine.files import file_sha256
from palate.errors import RecipeError
from palate.recipe import load_recipe, recipe_from
from palate.stages.material import asked

BREVITY = """
def brevity(prompts, completions, **fields):
    return [-float(len(text)) for text in completions]

def steps(prompts, completions, *, worth=1.0, **fields):
    return [[(len(text) // 2, worth), (len(text), -worth)] for text in completions]
"""

TWO = """
[[align.rewards]]
source = "model"
name = "helpful"
weight = 0.7

[[align.rewards]]
source = "length"
name = "brief"
weight = 0.3
target = 4
"""


@pytest.fixture
def place(finished, tmp_path) -> Path:
    """A copy of the tiny recipe with its data and of its finished run, and a file of rewards."""
    shutil.copytree(finished.recipe.parent, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("runs"))
    shutil.copytree(finished.run, tmp_path / "runs" / "tiny")
    (tmp_path / "rewards.py").write_text(BREVITY)
    return tmp_path


@pytest.fixture
def aligned(place, palate_command):
    """`aligned(tables, *options)` runs the tiny recipe with these reward tables and returns what it said."""

    def run(tables, *options):
        recipe = place / "with.toml"
        recipe.write_text((place / "tiny.toml").read_text() + tables)
        return palate_command("run", recipe, "--runs", place / "runs", "--force", *options)

    return run


def rows(place):
    return [json.loads(line) for line in (place / "runs/tiny/align/metrics.jsonl").read_text().splitlines()]


def test_a_weighted_sum_is_normalised_once_and_logged_by_name(place, aligned):
    result = aligned(TWO)
    assert result.code == 0, result.err
    assert result.out.count("done before, and reused") == 2  # the reward model is no other than before
    frozen = json.loads((place / "runs/tiny/align/rewards.json").read_text())
    assert set(frozen) == {"helpful", "brief"}
    (_, helpful, helpful_m2), (count, brief, brief_m2) = frozen["helpful"], frozen["brief"]
    assert count == 16
    for row in rows(place):
        expected = 0.7 * (row["score/helpful"] - helpful) / math.sqrt(helpful_m2 / count)
        expected += 0.3 * (row["score/brief"] - brief) / math.sqrt(brief_m2 / count)
        assert row["score/mean"] == row["score/sum"] == pytest.approx(expected, abs=1e-5)
        # brief is −|n − 4|/4 of lengths that the row tells the mean of; it cannot be more than its distance allows
        assert row["score/brief"] <= -abs(row["length/mean"] - 4) / 4 + 1e-6


def test_every_value_of_a_table_is_written_out_and_reads_back(place, aligned):
    assert aligned(TWO).code == 0
    again = load_recipe(place / "runs/tiny/recipe.toml").align
    assert again is not None
    every = {"source": "model", "name": "helpful", "weight": 0.7, "combine": "mean", "penalty": 1.0, "weights": {}}
    assert again.rewards[0] == every
    assert [source.name for source in again.sources] == ["helpful", "brief"]
    assert again.rewards[1]["target"] == 4


def test_a_sum_resumes_with_the_moments_that_it_began_with(place, aligned):
    tables = '[[align.rewards]]\nsource = "rewards.py:brevity"\nnormalise = true\n'
    assert aligned(tables, "--set", "align.iterations=2").code == 0
    before = (place / "runs/tiny/align/rewards.json").read_text()
    first = rows(place)
    # A judge that answers otherwise from now on would give other moments: those on disk count.
    kept = json.loads(before)
    assert kept["brevity"][0] == 16
    result = aligned(tables, "--set", "align.iterations=4")
    assert result.code == 0 and "for longer than it was" in result.out
    assert (place / "runs/tiny/align/rewards.json").read_text() == before
    assert [row["score/sum"] for row in rows(place)][:2] == [row["score/sum"] for row in first]


def test_an_ensemble_of_directories_tells_its_disagreement(place, aligned):
    shutil.copytree(place / "runs/tiny/reward/judge/model", place / "other")
    result = aligned('[[align.rewards]]\nsource = ["model", "other"]\ncombine = "cautious"\n')
    assert result.code == 0, result.err
    found = rows(place)
    assert all(row["score/ensemble/std"] > 0 for row in found)
    assert all(row["score/mean"] == row["score/ensemble"] for row in found)
    record = json.loads((place / "runs/tiny/run.json").read_text())
    weights = place / "other" / "model.safetensors"
    assert record["rewards"] == {str(weights): file_sha256(weights)}
    assert record["parents"] == []


def test_a_reward_of_another_run_is_a_parent(place, aligned):
    shutil.copytree(place / "runs/tiny", place / "elsewhere")
    model = place / "elsewhere/reward/model"
    result = aligned("", "--set", f"align.reward={model}")
    assert result.code == 0, result.err
    record = json.loads((place / "runs/tiny/run.json").read_text())
    assert record["parents"] == [{"run": str(place / "elsewhere"), "model": str(model)}]


def test_a_function_that_changes_is_another_reward(place, aligned):
    tables = '[[align.rewards]]\nsource = "rewards.py:brevity"\n'
    assert aligned(tables).code == 0
    assert aligned(tables).out.count("done before, and reused") == 4
    (place / "rewards.py").write_text(BREVITY.replace("-float", "+float"))
    assert aligned(tables).out.count("done before, and reused") == 2


def test_an_answer_is_verified(place, aligned):
    prompts = [json.loads(line) for line in (place / "prompts.jsonl").read_text().splitlines()]
    (place / "questions.jsonl").write_text("".join(json.dumps({**row, "answer": "4"}) + "\n" for row in prompts))
    options = ("--set", "align.reward=answer", "--set", f"align.prompts={place}/questions.jsonl")
    result = aligned("", *options)
    assert result.code == 0, result.err
    assert all(0 <= row["score/answer"] <= 1 for row in rows(place))


def test_a_row_without_an_answer_stops_before_the_first_step(place, aligned):
    result = aligned("", "--set", "align.reward=answer")
    assert result.code == 2
    message = result.err.strip()
    assert re.search(r"prompts\.jsonl, line 1: .*column 'answer'.*Add it, or name another\.$", message), message
    assert "\n" not in message


def test_a_dense_reward_scores_with_the_sum_of_its_steps(place, aligned):
    tables = '[[align.rewards]]\nsource = "rewards.py:steps"\ndense = true\noptions = { worth = 2.0 }\n'
    result = aligned(tables, "--set", "align.shaping.normalise=none")
    assert result.code == 0, result.err
    assert all(row["score/steps"] == 0.0 for row in rows(place))


def test_a_function_that_hangs_is_named_and_loses_nothing(place, aligned):
    (place / "rewards.py").write_text("import time\n\ndef slow(prompts, completions, **fields):\n    time.sleep(60)\n")
    result = aligned('[[align.rewards]]\nsource = "rewards.py:slow"\nseconds = 0.5\n')
    assert result.code == 1
    message = result.err.strip()
    assert "The reward 'slow' did not return within 0.5 s (it was at" in message
    assert "(to the prompt 'Say " in message
    assert (place / "runs/tiny/sft/model").exists()


# ---- wrong ones

ALIGN = '[model]\npath = "m"\n[align]\nprompts = "p.jsonl"\n'


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ('reward = "lenght"', 'align.reward = "lenght" was given, which is none of model.* Did you mean length?'),
        ('reward = "length"', r"\[\[align.rewards\]\].target: missing"),
        ('[[align.rewards]]\nsource = "length"\ntaget = 3', r"align.rewards\[0\].taget = 3: no such setting.*target\?"),
        ("[[align.rewards]]\nweight = 1.0", r"align.rewards\[0\].source: missing"),
        ('[[align.rewards]]\nsource = "answer"\nmatch = "numbers"', "must be number or text. Did you mean number"),
        ('[[align.rewards]]\nsource = ["a"]', "two distinct reward models at least"),
        ('[[align.rewards]]\nsource = ["a", "length"]', "among them 'length'"),
        ('[[align.rewards]]\nsource = ["a", "b"]\ncombine = "worse"', "must be mean or worst or cautious.*worst"),
        ('[[align.rewards]]\nsource = "a"\n[[align.rewards]]\nsource = "b"', 'is called "reward_model"'),
        ('[[align.rewards]]\nsource = "a"\nname = "std"', 'is called "std"'),
        ('reward = "a"\n[[align.rewards]]\nsource = "b"', "were both given"),
        ('[[align.rewards]]\nsource = "gold"', "Gold knows the testbed's questions only"),
    ],
)
def test_a_wrong_table_is_explained(tables, said):
    with pytest.raises(RecipeError, match=said):
        recipe_from(tomllib.loads(ALIGN + tables))


def test_paths_of_tables_are_relative_to_the_recipe(tmp_path):
    (tmp_path / "rewards.py").write_text(BREVITY)
    (tmp_path / "judge").mkdir()
    path = tmp_path / "recipe.toml"
    tables = '[[align.rewards]]\nsource = "rewards.py:brevity"\n[[align.rewards]]\nsource = ["judge", "model"]\n'
    path.write_text(ALIGN + tables)
    align = load_recipe(path).align
    assert align is not None
    assert [source.places for source in align.sources] == [
        (f"{tmp_path}/rewards.py:brevity",),
        (f"{tmp_path}/judge", "model"),
    ]


def test_only_the_kinds_of_questions_that_are_named_are_asked():
    prompts = testbed.prompts("known")
    sums = asked(prompts, ["sums"])
    assert {prompt.fields["task"] for prompt in sums} == {"sums"}
    assert 0 < len(sums) < len(prompts)
    assert asked(prompts, []) == prompts
    with pytest.raises(RecipeError, match=r"names 'sum'\. The kinds of questions are .*sums"):
        asked(prompts, ["sum"])
