"""Single questions to saved models: what `generate`, `logprobs`, `score`, `winrate` and their kin answer."""

import json
import shutil

import pytest
import torch

import palate
from palate import testbed
from palate.data.layout import completions
from palate.engine.files import file_sha256
from palate.engine.interfaces import Completions
from palate.records import Prompt


def rows(text):
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def ask(palate_command):
    """`ask(*arguments)`: the rows that a command writes."""

    def ask(*arguments):
        result = palate_command(*arguments)
        assert result.code == 0, result.err
        assert result.err == ""
        return rows(result.out)

    return ask


@pytest.fixture(scope="module")
def data(finished):
    return finished.recipe.parent


# ---- generate


def test_generation_is_fixed_by_its_seed(finished, data, ask):
    arguments = ("generate", finished.run / "sft/model", "--prompts", data / "heldout.jsonl", "--max-new-tokens", 6)
    once = ask(*arguments)
    assert once == ask(*arguments)
    assert once != ask(*arguments, "--seed", 1)
    assert [row["prompt"] for row in once] == [json.loads(line)["prompt"] for line in open_lines(data, "heldout.jsonl")]
    for row in once:
        assert {"prompt", "sample", "completion", "finish", "prompt_ids", "ids", "logprobs"} == set(row)
        assert len(row["ids"]) == len(row["logprobs"]) <= 6
        assert all(value <= 0 for value in row["logprobs"])
        assert row["finish"] == ("eos" if len(row["ids"]) < 6 else row["finish"])


def open_lines(data, name):
    return (data / name).read_text().splitlines()


def test_samples_of_one_prompt_differ_and_do_not_depend_on_their_number(finished, data, ask):
    arguments = ("generate", finished.run / "sft/model", "--prompts", data / "heldout.jsonl", "--max-new-tokens", 6)
    found = ask(*arguments, "--samples", 4)
    assert [row["sample"] for row in found[:4]] == [0, 1, 2, 3]
    assert len({tuple(row["ids"]) for row in found[:4]}) > 1
    # The first sample of a prompt is the one that was drawn alone.
    assert [row["ids"] for row in found[::4]] == [row["ids"] for row in ask(*arguments)]


def test_the_best_of_n_is_the_sample_that_scores_best(finished, data, ask):
    model, judge = finished.run / "sft/model", finished.run / "reward/model"
    arguments = ("generate", model, "--prompts", data / "heldout.jsonl", "--max-new-tokens", 6)
    drawn = ask(*arguments, "--samples", 4)
    kept = ask(*arguments, "--best-of", 4, "--reward", judge)
    ids, mask = completions([row["ids"] for row in drawn], 0)
    prompts = tuple(Prompt.of(row["prompt"]) for row in drawn)
    texts = tuple(row["completion"] for row in drawn)
    scores = palate.load_reward_model(judge).score(
        Completions(prompts, tuple(tuple(row["prompt_ids"]) for row in drawn), ids, mask, texts)
    )
    assert [row["prompt"] for row in kept] == [row["prompt"] for row in drawn[::4]]
    for row, start in zip(kept, range(0, len(drawn), 4), strict=True):
        assert row["score"] == pytest.approx(float(scores[start : start + 4].max()), abs=1e-5)
        assert {name: row[name] for name in drawn[0]} == drawn[start + int(scores[start : start + 4].argmax())]
    assert len({row["sample"] for row in kept}) > 1


@pytest.mark.parametrize(
    "options", [("--best-of", 4), ("--reward", "there"), ("--best-of", 4, "--reward", "there", "--temperature", 0)]
)
def test_best_of_n_asks_for_a_number_a_judge_and_chance(finished, data, palate_command, options):
    result = palate_command("generate", finished.run / "sft/model", "--prompts", data / "heldout.jsonl", *options)
    assert result.code == 2
    assert "--best-of" in result.err


def test_temperature_nought_takes_the_likeliest_token(finished, data, ask):
    arguments = ("generate", finished.run / "sft/model", "--prompts", data / "heldout.jsonl", "--temperature", 0)
    assert [row["ids"] for row in ask(*arguments)] == [row["ids"] for row in ask(*arguments, "--seed", 9)]
    one = ask("generate", finished.run / "sft/model", "--prompts", data / "heldout.jsonl", "--top-k", 1)
    assert [row["ids"] for row in one] == [row["ids"] for row in ask(*arguments)]


def test_generation_agrees_with_logprobs(finished, data, ask, tmp_path):
    sft = finished.run / "sft/model"
    chat = palate.load_policy(sft).chat
    drawn = ask("generate", sft, "--prompts", data / "heldout.jsonl", "--max-new-tokens", 12, "--samples", 12)
    # Those that ended, and whose text gives their own ids again: bytes that are no whole character do not.
    whole = [row for row in drawn if row["completion"] and chat.encode_completion(row["completion"]) == row["ids"]]
    assert len(whole) > 3
    out = tmp_path / "drawn.jsonl"
    out.write_text("".join(json.dumps({name: row[name] for name in ("prompt", "completion")}) + "\n" for row in whole))
    for row, told in zip(whole, ask("logprobs", sft, "--input", out), strict=True):
        assert row["finish"] == "eos"
        assert told["ids"] == row["ids"]
        assert told["logprobs"] == pytest.approx(row["logprobs"], abs=1e-5)


def test_logprobs_are_those_of_transformers(finished, data, ask):
    found = ask("logprobs", finished.run / "align/model", "--input", data / "demonstrations.jsonl")
    policy = palate.load_policy(finished.run / "align/model")
    for row in found[:3]:
        prompt = policy.chat.encode_prompt(Prompt.of(row["prompt"]))
        ids = torch.tensor([prompt + row["ids"]])
        with torch.no_grad():
            every = policy.model.model(input_ids=ids).logits[0].log_softmax(dim=-1)
        expected = [float(every[len(prompt) - 1 + t, token]) for t, token in enumerate(row["ids"])]
        assert row["logprobs"] == pytest.approx(expected, abs=1e-5)
        assert row["ids"][-1] == policy.chat.eos_id and row["ids"].count(policy.chat.eos_id) == 1


def test_a_file_is_written_whole(finished, data, palate_command, tmp_path):
    arguments = ("generate", finished.run / "sft/model", "--prompts", data / "heldout.jsonl", "--max-new-tokens", 4)
    out = tmp_path / "out.jsonl"
    result = palate_command(*arguments, "--out", out)
    assert result.code == 0 and result.out == f"{out}\n"
    assert out.read_text() == palate_command(*arguments).out


# ---- score


def test_scores_are_the_models_own(finished, data, ask):
    reward = palate.load_reward_model(finished.run / "reward/model")
    found = ask("score", finished.run / "reward/model", "--input", data / "demonstrations.jsonl")
    for row in found[::10]:
        prompt = Prompt.of(row["prompt"])
        ids, mask = completions([reward.chat.encode_completion(row["completion"])], reward.chat.pad_id)
        alone = Completions((prompt,), (tuple(reward.chat.encode_prompt(prompt)),), ids, mask, (row["completion"],))
        assert row["score"] == pytest.approx(float(reward.score(alone)), abs=1e-5)


def test_pairs_get_two_scores_and_order_as_the_run_found(finished, data, ask):
    found = ask("score", finished.run / "reward/model", "--input", data / "pairs.jsonl")
    right = sum(row["score_chosen"] > row["score_rejected"] for row in found) / len(found)
    assert right > 0.9  # the rejected side of the tiny data is the longer, which is soon learnt
    assert {"prompt", "chosen", "rejected", "score_chosen", "score_rejected"} == set(found[0])


def test_a_mean_pooled_model_scores_too(finished, palate_command, ask, data, tmp_path):
    root = tmp_path / "runs"
    shutil.copytree(finished.run, root / "tiny")
    result = palate_command("reward", finished.recipe, "--runs", root, "--force", "--set", "reward.pooling=mean")
    assert result.code == 0, result.err
    found = ask("score", root / "tiny/reward/model", "--input", data / "pairs.jsonl")
    assert sum(row["score_chosen"] > row["score_rejected"] for row in found) / len(found) > 0.9


# ---- win rates


def test_a_model_against_itself_ties_throughout(finished, data, ask):
    model = finished.run / "sft/model"
    arguments = ("--judge", finished.run / "reward/model", "--prompts", data / "heldout.jsonl", "--max-new-tokens", 8)
    (result,) = ask("winrate", model, model, *arguments)
    count = len(open_lines(data, "heldout.jsonl"))
    assert (result["win_rate"], result["wins"], result["ties"], result["losses"]) == (0.5, 0, count, 0)
    (before,) = ask("winrate", model, finished.run / "align/model", *arguments)
    (after,) = ask("winrate", finished.run / "align/model", model, *arguments)
    assert before["win_rate"] == pytest.approx(1 - after["win_rate"])
    assert (before["wins"], before["losses"]) == (after["losses"], after["wins"])
    assert before["length_controlled"] == pytest.approx(1 - after["length_controlled"])
    assert (before["length_before"], before["score_before"]) == (after["length_after"], after["score_after"])
    for name in ("low", "bootstrap_low", "length_controlled_low"):
        estimate = before["length_controlled" if "length" in name else "win_rate"]
        assert before[name] <= estimate <= before[name.replace("low", "high")]


def test_several_answers_a_prompt_are_averaged_within_it(finished, data, ask):
    models = (finished.run / "sft/model", finished.run / "align/model")
    arguments = ("--judge", finished.run / "reward/model", "--prompts", data / "heldout.jsonl", "--max-new-tokens", 8)
    (once,) = ask("winrate", *models, *arguments)
    (often,) = ask("winrate", *models, *arguments, "--samples", 5)
    count = len(open_lines(data, "heldout.jsonl"))
    assert (once["samples"], often["samples"]) == (1, 5)
    assert once["prompts"] == often["prompts"] == count
    assert often["wins"] + often["ties"] + often["losses"] == 5 * count
    assert often["win_rate"] == pytest.approx((often["wins"] + often["ties"] / 2) / (5 * count))


def test_gold_judges_the_testbeds_questions(ask, palate_command, data):
    base = testbed.base_model()
    (result,) = ask("winrate", base, base, "--judge", "gold", "--prompts", "testbed", "--max-new-tokens", 4)
    assert result["prompts"] == result["ties"] == len(testbed.prompts("heldout"))
    assert result["score_before"] == result["score_after"] < 1
    refused = palate_command("winrate", base, base, "--judge", "gold", "--prompts", data / "heldout.jsonl")
    assert refused.code == 2 and "Gold knows the testbed's questions only" in refused.err


# ---- looking before doing


def test_data_inspect_shows_format_examples_and_counts(data, palate_command):
    result = palate_command("data", "inspect", data / "pairs.jsonl")
    assert result.code == 0
    for word in ("pairs", "prompt", "chosen", "rejected", "Say apple and bread."):
        assert word in result.out


def test_data_inspect_shows_a_models_tokens(finished, data, palate_command):
    result = palate_command("data", "inspect", data / "demonstrations.jsonl", "--model", finished.run / "sft/model")
    assert result.code == 0 and "token" in result.out


def test_a_dry_run_prints_a_plan_and_writes_nothing(data, finished, palate_command, tmp_path):
    before = sorted(path.name for path in data.iterdir())
    result = palate_command("run", finished.recipe, "--runs", tmp_path / "runs", "--dry-run")
    assert result.code == 0
    for word in ("nothing was done", "sft", "reward", "align", "evaluate", "MB", "4 iterations of 8 completions"):
        assert word in result.out
    assert list(tmp_path.iterdir()) == []
    assert sorted(path.name for path in data.iterdir()) == before


def test_a_dry_run_of_one_stage_needs_and_names_that_stage_alone(tiny_recipe, palate_command, tmp_path):
    recipe = tiny_recipe(tmp_path)
    (tmp_path / "prompts.jsonl").unlink()
    result = palate_command("sft", recipe, "--dry-run")
    assert result.code == 0, result.err
    assert "sft" in result.out and "align" not in result.out and "reward" not in result.out


def test_a_dry_run_refuses_what_the_run_would_refuse(finished, palate_command):
    result = palate_command("run", finished.recipe, "--dry-run", "--set", "sft.epochs=0")
    assert result.code == 2 and "sft.epochs = 0" in result.err


def test_the_report_is_a_function_of_the_run_directory(finished, palate_command, tmp_path):
    run = tmp_path / "tiny"
    shutil.copytree(finished.run, run)
    before = file_sha256(run / "report.html")
    (run / "report.html").unlink()
    result = palate_command("report", run)
    assert result.code == 0 and result.out == f"{run / 'report.html'}\n"
    assert file_sha256(run / "report.html") == before


# ---- what cannot be asked


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("generate", "{run}/sft/model", "--prompts", "nowhere.jsonl"), "nowhere.jsonl: there is no such file"),
        (("generate", "{run}/reward/model", "--prompts", "{data}/heldout.jsonl"), "A policy must be able to write"),
        (("generate", "{run}/sft/model", "--prompts", "{data}/long.jsonl"), "long.jsonl, line 2: a prompt has"),
        (("logprobs", "{run}/sft/model", "--input", "{data}/prompts.jsonl"), "demonstrations are wanted"),
        (
            ("logprobs", "{run}/sft/model", "--input", "{data}/longer.jsonl"),
            "longer.jsonl, line 1: prompt and completion",
        ),
        (("score", "{run}/reward/model", "--input", "{data}/prompts.jsonl"), "holds prompts alone"),
        (
            ("score", "{run}/reward/model", "--input", "{data}/longer.jsonl"),
            "longer.jsonl, line 1: prompt and completion",
        ),
        (("score", "{run}/sft/model", "--input", "{data}/pairs.jsonl"), "not a reward model"),
        (("data", "inspect", "nowhere.jsonl"), "nowhere.jsonl: there is no such file"),
        (("report", "{data}"), "is no run: it has no run.json"),
        (("report", "{data}/nowhere"), "is no run: it has no run.json"),
    ],
)
def test_what_cannot_be_answered_is_refused(finished, tiny_recipe, palate_command, tmp_path, arguments, said):
    tiny_recipe(tmp_path)
    (tmp_path / "long.jsonl").write_text('{"prompt": "a"}\n' + json.dumps({"prompt": "word " * 60}) + "\n")
    (tmp_path / "longer.jsonl").write_text(json.dumps({"prompt": "a", "completion": "word " * 60}) + "\n")
    result = palate_command(*(word.format(run=finished.run, data=tmp_path) for word in arguments))
    assert result.code == 2, result
    message = result.err.strip()
    assert said in message
    assert message.startswith("palate: ") and "Traceback" not in message and "\n" not in message
    assert result.out == ""


def test_where_a_result_goes_is_looked_at_before_the_work(finished, palate_command, data):
    arguments = ("generate", finished.run / "sft/model", "--prompts", data / "heldout.jsonl")
    result = palate_command(*arguments, "--out", data / "no/where.jsonl")
    assert result.code == 2 and f"There is no directory {data / 'no'} for where.jsonl" in result.err.replace("\n", " ")
