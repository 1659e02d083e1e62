"""What alignment cost elsewhere: perplexity, capability, unusual prompts, and what the evaluation says of them."""

import json
import math
import shutil
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

import palate
from palate.data.recognition import read
from palate.evaluation import degenerate, unusual_prompts
from palate.ops import wilson_interval
from palate.records import Prompt
from palate.stages.context import Context
from palate.stages.material import CAPABILITY
from palate.stages.trust.regression import changed, questions, shortened


def write(path, questions):
    path.write_text("".join(json.dumps(row) + "\n" for row in questions))


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def results(finished):
    return json.loads((finished.run / "evaluate/results.json").read_text())


@pytest.fixture
def again(finished, palate_command, tmp_path):
    """`again(*settings)`: the tiny recipe's run, copied, gone on with under other settings."""

    def run(*settings):
        root = tmp_path / "runs"
        if not root.exists():
            shutil.copytree(finished.run, root / "tiny")
        options = [word for setting in settings for word in ("--set", setting)]
        return root / "tiny", palate_command("run", finished.recipe, "--runs", root, "--force", *options)

    return run


# ---- held-out text


def test_the_perplexity_before_is_that_of_sft_and_alignment_moves_it(finished, results):
    summary = json.loads((finished.run / "summary.json").read_text())
    assert results["perplexity"]["before"] == pytest.approx(math.exp(summary["sft/heldout_loss"]), rel=1e-5)
    assert results["perplexity"]["after"] != results["perplexity"]["before"]
    for side in ("before", "after"):
        assert summary[f"align/perplexity_{side}"] == results["perplexity"][side]


# ---- capability


QUESTIONS = [
    {"prompt": "Say moon and fire.", "answer": "moon fire"},
    {"prompt": "Say 7 and fire.", "answer": "seven"},
]


def test_nothing_is_said_of_capability_without_questions(finished, results):
    assert results["capability"] is None
    assert not any("capability" in name for name in json.loads((finished.run / "summary.json").read_text()))


def test_the_likeliest_answers_are_judged(finished, again, palate_command, tmp_path):
    def likeliest(model):
        command = ("generate", finished.run / model, "--prompts", file, "--temperature", 0, "--max-new-tokens", 8)
        return [json.loads(line)["completion"] for line in palate_command(*command).out.splitlines()]

    file = tmp_path / "questions.jsonl"
    write(file, QUESTIONS)
    before, after = likeliest("sft/model"), likeliest("align/model")
    assert before[0] != after[0] and before[0].strip(" .,;:!?\"'`*$")
    write(file, [QUESTIONS[0] | {"answer": before[0]}, QUESTIONS[1]])
    place, result = again(f"evaluate.capability={file}")
    assert result.code == 0, result.err
    found = json.loads((place / "evaluate/results.json").read_text())["capability"]
    assert {name: found[name] for name in ("questions", "before", "after", "difference")} == {
        "questions": 2,
        "before": 0.5,
        "after": 0.0,
        "difference": -0.5,
    }
    summary = json.loads((place / "summary.json").read_text())
    assert (summary["align/capability_before"], summary["align/capability_after"]) == (0.5, 0.0)


@pytest.mark.parametrize(
    ("answers", "match"),
    [
        (["12", "$7.00"], "number"),
        (["12", "seven"], "text"),
        (["12", "Apollo 11"], "text"),
        (["work\n#### 1,200", "3/4"], "number"),
    ],
)
def test_answers_are_compared_as_numbers_where_all_of_them_are(tmp_path, answers, match):
    file = tmp_path / "questions.jsonl"
    write(file, [{"question": "How many?", "answer": answer} for answer in answers])
    found = questions(cast(Context, SimpleNamespace(data={CAPABILITY: (read(file, "prompts"),)})))
    assert found is not None
    asked, verifier = found
    assert verifier.match == match and [prompt.text for prompt in asked] == ["How many?"] * 2


def test_another_file_of_questions_means_another_evaluation_and_nothing_else(again, tmp_path):
    file = tmp_path / "questions.jsonl"
    write(file, QUESTIONS)
    _, first = again(f"evaluate.capability={file}")
    assert "align: done before, and reused" in first.out and "evaluate: to do again" in first.out
    _, second = again(f"evaluate.capability={file}")
    assert "evaluate: done before, and reused" in second.out
    write(file, QUESTIONS[:1])
    _, third = again(f"evaluate.capability={file}")
    assert "align: done before, and reused" in third.out and "evaluate: to do again" in third.out


def test_a_question_without_an_answer_is_refused_before_anything_is_done(tiny_recipe, palate_command, tmp_path):
    recipe = tiny_recipe(tmp_path)
    file = tmp_path / "questions.jsonl"
    write(file, [QUESTIONS[0], {"prompt": "Say moon."}])
    result = palate_command("run", recipe, "--runs", tmp_path / "runs", "--set", f"evaluate.capability={file}")
    assert result.code == 2
    assert "questions.jsonl, line 2" in result.err and "answer" in result.err
    assert not (tmp_path / "runs/tiny").exists()


def test_questions_that_leave_no_room_are_left_out_and_counted(again, tmp_path):
    file = tmp_path / "questions.jsonl"
    write(file, [*QUESTIONS, {"prompt": "a " * 200, "answer": "b"}])
    place, result = again(f"evaluate.capability={file}")
    assert result.code == 0, result.err
    assert "1 of 3 capability questions" in result.out
    assert json.loads((place / "evaluate/results.json").read_text())["capability"]["questions"] == 2


def test_the_difference_is_taken_question_by_question():
    found = changed([1.0, 0.0, 1.0, 0.0], [1.0, 1.0, 1.0, 0.0])
    # One gained, none lost, three alike: ¼, and a win rate of (1 + 3/2)/4 = 5/8.
    low, high = wilson_interval(2.5, 4, ties=3)
    expected = {
        "questions": 4,
        "before": 0.5,
        "after": 0.75,
        "difference": 0.25,
        "low": 2 * low - 1,
        "high": 2 * high - 1,
    }
    assert found == pytest.approx(expected)
    assert found["low"] < 0 < found["high"]


@pytest.mark.parametrize(("gained", "lost"), [(0.1, 0.05), (0.02, 0.2), (0.05, 0.05)])
def test_the_interval_of_the_difference_holds_the_truth_in_95_of_100_cases(gained, lost):
    random = np.random.default_rng(0)
    held = 0
    for _ in range(1000):
        drawn = random.random(200)
        before = (drawn < 0.6).astype(float)  # of which those below `lost` are lost, and those above 1 − gained gained
        after = np.where(drawn < lost, 0.0, np.where(drawn > 1 - gained, 1.0, before))
        found = changed(before.tolist(), after.tolist())
        held += found["low"] <= gained - lost <= found["high"]
    assert 920 <= held <= 980


# ---- unusual prompts


def test_the_shares_are_those_of_the_answers_that_are_kept(finished, results):
    found, answers = results["unusual"], rows(finished.run / "evaluate/unusual.jsonl")
    assert found["prompts"] == len(answers) == len(unusual_prompts()) - found["left_out"]
    assert found["shortened"] > 0  # the tiny model's context is
    summary = json.loads((finished.run / "summary.json").read_text())
    for side in ("before", "after"):
        flaws = [row[f"flaw_{side}"] for row in answers]
        flawed = sum(flaw is not None for flaw in flaws)
        assert found[side] == summary[f"align/degenerate_{side}"] == flawed / len(answers)
        assert (found[f"{side}_low"], found[f"{side}_high"]) == pytest.approx(wilson_interval(flawed, len(answers)))
        assert sum(kind[side] * kind["count"] for kind in found["kinds"]) == pytest.approx(flawed)
        for row in answers:  # whether an answer was cut cannot be seen from its text
            assert row[f"flaw_{side}"] == degenerate(row[side], "eos") or row[f"flaw_{side}"] == "cut"
    assert any(row["before"] != row["after"] for row in answers)


def test_a_prompt_keeps_the_longest_end_that_fits(finished):
    chat = palate.load_policy(finished.run / "sft/model").chat
    prompt = Prompt.of("Say moon and fire and then say bread.", kind="long")
    whole = len(chat.encode_prompt(prompt))
    assert shortened(chat, prompt, whole) is prompt
    assert shortened(chat, prompt, math.inf) is prompt
    cut = shortened(chat, prompt, whole - 3)
    assert cut is not None and cut.text != prompt.text and prompt.text.endswith(cut.text)
    assert cut.fields == prompt.fields
    assert len(chat.encode_prompt(cut)) <= whole - 3
    longer = Prompt.of(prompt.text[-len(cut.text) - 1 :])
    assert len(chat.encode_prompt(longer)) > whole - 3
    assert shortened(chat, prompt, 1) is None
