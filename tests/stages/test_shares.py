"""What stages keep apart and do not overlook: shares of the pairs, a tokenizer's files, programs, references."""

import math
from types import SimpleNamespace
from typing import Any

import pytest

from palate.collect.judgements import Candidate, Item
from palate.errors import DataError
from palate.recipe import load_recipe
from palate.records import PreferencePair, Prompt
from palate.stages.calls import Quiet
from palate.stages.people.answering import program
from palate.stages.reward import divided
from palate.stages.run import _content, execute


def context_of(judge: str | None) -> Any:
    reward = SimpleNamespace(heldout=None, data="pairs.jsonl", heldout_fraction=0.2)
    evaluate = None if judge is None else SimpleNamespace(judge=judge)
    return SimpleNamespace(recipe=SimpleNamespace(reward=reward, evaluate=evaluate), seed=0, data={}, reward=reward)


def test_reward_model_judge_and_test_share_no_prompt():
    # Four pairs of each of fifty prompts, shuffled: split by row, every share would hold nearly every prompt.
    pairs = [PreferencePair(Prompt.of(f"q{row * 7 % 50}"), f"good {row}", f"bad {row}") for row in range(200)]
    shares = divided(context_of("heldout-reward"), pairs)
    prompts = [{pair.prompt.text for pair in share} for share in shares]
    assert all(prompts) and sum(map(len, prompts)) == len(set.union(*prompts)) == 50
    assert sorted(map(id, (pair for share in shares for pair in share))) == sorted(map(id, pairs))


@pytest.mark.parametrize("judge", [None, "reward"])
def test_without_a_judge_of_its_own_the_evaluation_takes_no_pairs(judge):
    pairs = [PreferencePair(Prompt.of(f"q{row}"), "good", "bad") for row in range(50)]
    train, judged, heldout = divided(context_of(judge), pairs)
    assert not judged and len(train) + len(heldout) == 50


@pytest.mark.parametrize(
    "name",
    ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "tokenizer.model", "merges.txt", "vocab.txt"],
)
def test_a_model_whose_tokenizer_or_template_changed_is_another_one(tmp_path, name):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / name).write_text("before")
    before = _content(str(tmp_path))
    assert _content(str(tmp_path)) == before
    (tmp_path / name).write_text("after")
    assert _content(str(tmp_path)) != before


def test_a_program_that_raises_is_named(tmp_path):
    code = tmp_path / "mine.py"
    code.write_text("def prefer(prompts, completions):\n    return [len(one) - None for one in prompts]\n")
    item = Item(Prompt.of("q"), (Candidate("a"), Candidate("b")), "pair", "random", 1.0)
    with pytest.raises(
        DataError, match=r"mine\.py:prefer raised TypeError: .* when it was given 1 pair, .*'q'.*mend it"
    ):
        program(f"{code}:prefer")([item])


DIRECT = """
[run]
name = "direct"
threads = 1
device = "cpu"
[model]
path = "{run}/sft/model"
[align]
data = "{run}/../../pairs.jsonl"
algorithm = "dpo"
reference = "{reference}"
reference_samples = 8
max_new_tokens = 4
[align.dpo]
batch_tokens = 100000
"""


@pytest.mark.parametrize("reference", ["start", "another"])
def test_a_direct_method_compares_with_the_reference_that_is_named(finished, tmp_path, rows, reference):
    # In the only step the policy is still what it was: its own reference gives ln 2 and no reward; another model, the
    # one that alignment made of it, does not.
    named = "start" if reference == "start" else str(finished.run / "align" / "model")
    recipe = tmp_path / "direct.toml"
    recipe.write_text(DIRECT.format(run=finished.run, reference=named))
    run = execute(load_recipe(recipe), watch=lambda _: Quiet(), say=lambda _: None, root=tmp_path, force=True)
    (row,) = rows(run / "align" / "metrics.jsonl")
    assert (abs(row["loss"] - math.log(2)) < 1e-5) == (reference == "start")
    assert (abs(row["rewards/chosen"]) < 1e-4) == (reference == "start")
