"""What is said of the comparisons, from their outcomes alone."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from palate.data.layout import completions
from palate.engine.interfaces import Completions
from palate.evaluation import win_rate
from palate.recipe import recipe_from
from palate.records import Prompt
from palate.stages import closing, evaluate


def given(prompts, scores) -> evaluate.Answers:
    """Answers of one token to the prompts, with these scores."""
    ids, mask = completions([[5]] * len(prompts), 0)
    seen = Completions(tuple(prompts), ((1,),) * len(prompts), ids, mask, ("a",) * len(prompts))
    generated: Any = SimpleNamespace(mask=torch.ones(len(prompts), 1, dtype=torch.bool))
    return evaluate.Answers(seen, generated, scores)


def test_a_prompt_that_stands_twice_is_one_prompt():
    """Of two prompts, each there five times, one is always won: a half, and no narrower than two prompts allow."""
    prompts = [Prompt.of(text, line=line) for line in range(5) for text in ("one", "two")]
    before, after = given(prompts, [0.0] * 10), given(prompts, [1.0, -1.0] * 5)
    context: Any = SimpleNamespace(evaluate=SimpleNamespace(judge="reward", sampling=SimpleNamespace(temperature=1.0)))
    compared = [evaluate._comparison(prompt, row, before, after) for row, prompt in enumerate(prompts)]
    results = evaluate._results(context, compared, before, after)
    two = win_rate(["win", "loss"])
    assert (results["win_rate"]["low"], results["win_rate"]["high"]) == pytest.approx((two.low, two.high))
    assert (results["win_rate"]["wins"], results["win_rate"]["losses"]) == (5, 5)
    assert (results["bootstrap"]["low"], results["bootstrap"]["high"]) == (0.0, 1.0)


@pytest.mark.parametrize(("asked", "told"), [("train", True), ("unseen", False)])
def test_prompts_that_were_trained_on_are_told_of(asked, told, tmp_path):
    """The rows stand in a file that the context has not read, as where the stage is done alone."""
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"prompt": "train", "chosen": "a", "rejected": "b"}\n')
    recipe = recipe_from({"model": {"path": "testbed"}, "reward": {"data": str(pairs)}, "sft": {"data": "testbed"}})
    context: Any = SimpleNamespace(recipe=recipe, data={})
    said = evaluate._trained_on(context, [Prompt.of(asked)])
    assert bool(said) == told
    assert not told or "1 of 1 held-out rows have a prompt that is trained on" in said[0]


@pytest.mark.parametrize("started", ["SFT", "the model before alignment"])
def test_the_verdict_names_what_alignment_started_from(started):
    results = {
        "win_rate": {"estimate": 0.75, "low": 0.5, "high": 0.9},
        "judge": "gold",
        "length": {"before": 10.0, "after": 5.0},
        "prompts": 8,
        "kl": 1.25,
    }
    assert evaluate.verdict(results, started) == (
        f"Preferred over {started} on 75% [50, 90] of 8 held-out prompts by gold, KL 1.2 nats, length −50%."
    )


def test_where_best_of_n_gains_nothing_there_is_no_way_to_go_a_share_of():
    # From .25 to .5 of the way to .75 is a half; backwards is below 0.
    assert evaluate.share_of_way(0.25, 0.5, 0.75) == 0.5
    assert evaluate.share_of_way(0.25, 0.0, 0.75) == -0.5
    assert evaluate.share_of_way(0.25, 0.5, 0.25) is None
    assert evaluate.share_of_way(0.25, 0.5, 0.125) is None


@pytest.mark.parametrize(
    ("share", "told"),
    [
        (0.5, "50% of that was reached, and 50% of the way from SFT to best-of-4 by gold. Right answers: 25% before"),
        (None, "50% of that was reached. Right answers: 25% before"),
    ],
)
def test_the_closing_words_tell_of_a_way_where_there_is_one(share, told):
    results = {
        "attainable": {"win_rate": 0.8},
        "win_rate": {"estimate": 0.4},
        "best_of_n": {"n": 4, "share_of_way": share},
        "correct": {"before": 0.25, "after": 0.75},
    }
    assert closing.truth(results) == f"An always perfect answerer would win 80%: {told}, 75% after."
