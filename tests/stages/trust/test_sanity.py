"""What is asked as alignment begins: does its reward read the answers, and are its prompts of a known kind?"""

from types import SimpleNamespace

import pytest
import torch

from palate import testbed
from palate.data.layout import completions
from palate.engine.interfaces import Completions
from palate.ops import wilson_interval
from palate.recipe import TESTBED, recipe_from
from palate.records import Demonstration, Prompt
from palate.rewards import FunctionReward
from palate.stages.trust.sanity import novelty, told_apart

PROMPTS = tuple(map(Prompt.of, ("one", "two", "three", "four")))


def answers(*texts):
    """One answer a prompt; its ids do not matter to a function."""
    ids, mask = completions([[5]] * len(texts), 0)
    return Completions(PROMPTS[: len(texts)], ((1,),) * len(texts), ids, mask, texts)


def context(*models, recipe=None, data=None):
    """What is read of a context: the rewards' models, the recipe's sections, the data."""
    sources = [SimpleNamespace(models=models)]
    return SimpleNamespace(align=SimpleNamespace(sources=sources), recipe=recipe, data=data or {})


def reward(scores):
    """A reward that looks (prompt, answer) up; others get 0."""
    return FunctionReward(
        "table", lambda prompts, texts, **_: [scores.get(pair, 0.0) for pair in zip(prompts, texts, strict=True)]
    )


def test_each_answer_is_held_against_the_one_half_of_the_rows_away():
    """Rows 0 to 3 are compared with the answers of rows 2, 3, 0, 1: two wins, a tie and a loss are 2½ of 4."""
    scores = {("one", "a"): 1.0, ("two", "b"): 1.0, ("four", "b"): 1.0}
    found = told_apart(context("model"), reward(scores), answers("a", "b", "c", "d"))
    low, high = wilson_interval(2.5, 4, ties=1)
    assert found == {
        "mismatched_accuracy": 0.625,
        "mismatched_accuracy_low": low,
        "mismatched_accuracy_high": high,
    }


def test_equal_answers_tell_nothing():
    """Rows 0 and 2 have the same text and are left out: of the other two, both win."""
    scores = {("two", "b"): 1.0, ("four", "d"): 1.0}
    found = told_apart(context("model"), reward(scores), answers("a", "b", "a", "d"))
    assert found["mismatched_accuracy"] == 1.0
    assert found["mismatched_accuracy_low"] == wilson_interval(2, 2)[0]
    assert told_apart(context("model"), reward({}), answers("a", "a")) == {}


def test_a_rule_need_not_read_the_prompt():
    assert told_apart(context(), reward({}), answers("a", "b")) == {}


def test_ids_go_with_their_texts():
    """A reward model that shares the policy's tokenizer reads ids, not texts."""
    seen = []

    class Reader:
        name = "reader"

        def score(self, given):
            seen.append([(prompt.text, ids.tolist()) for prompt, ids in zip(given.prompts, given.ids, strict=True)])
            return torch.zeros(len(given.texts))

    ids, mask = completions([[5], [6]], 0)
    told_apart(context("model"), Reader(), Completions(PROMPTS[:2], ((1,), (2,)), ids, mask, ("a", "b")))
    assert seen == [[("one", [5]), ("two", [6])], [("one", [6]), ("two", [5])]]


def recipe(**sections):
    """A recipe of which only the presence of sections counts."""
    return SimpleNamespace(**{"sft": None, "reward": None} | sections)


def files(*texts):
    """A section's data: demonstrations on these prompts."""
    return (SimpleNamespace(records=tuple(Demonstration(Prompt.of(text), "yes") for text in texts)),)


def test_novelty_counts_the_runs_of_four_that_no_prompt_had():
    """The first of ten prompts is set aside: "xbcd" is unknown. "abcde" has the runs abcd and bcde, of which the first
    is known; "yz" is a run of its own, and unknown."""
    given = context(recipe=recipe(sft=True), data={"sft": files("xbcd", "abcd", "abcd?")})
    found = novelty(given, [Prompt.of("abcde"), Prompt.of("yz")])
    assert found == {"prompt_novelty": pytest.approx((0.5 + 1.0) / 2), "prompt_novelty_usual": 1.0}


def test_prompts_of_either_stage_are_known():
    given = context(
        recipe=recipe(sft=True, reward=True), data={"sft": files("aside", "abcd"), "reward": files("efgh", "abcd")}
    )
    assert novelty(given, [Prompt.of("abcd"), Prompt.of("efgh")])["prompt_novelty"] == 0.0


def test_a_section_that_was_not_read_is_not_taken_for_the_embedded_world(tmp_path):
    """`palate align` alone does not read the pairs of [reward] where its reward is a rule."""
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"prompt": "abcd", "chosen": "yes", "rejected": "no"}\n' * 2)
    section = recipe_from({"reward": {"data": str(pairs)}, "model": {"path": "testbed"}}).reward
    given = context(recipe=recipe(sft=True, reward=section), data={"sft": files("aside", "wxyz")})
    assert novelty(given, [Prompt.of("abcd")])["prompt_novelty"] == 0.0
    assert novelty(given, [testbed.prompts("known")[0]])["prompt_novelty"] == 1.0


def test_the_embedded_world_knows_its_own_prompts_and_no_german():
    given = context(recipe=recipe(sft=SimpleNamespace(data=TESTBED)))
    known = novelty(given, testbed.prompts("known"))
    assert known["prompt_novelty"] < 0.01 and known["prompt_novelty_usual"] < 0.05
    assert novelty(given, [Prompt.of("Warum fliegt gestern das Schiff durch zwölf Wolken?")])["prompt_novelty"] > 0.9


def test_without_stages_before_there_is_nothing_to_compare_with():
    assert novelty(context(recipe=recipe()), [Prompt.of("abcd")]) == {}
