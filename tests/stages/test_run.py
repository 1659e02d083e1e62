"""A whole run from data files to the report: what it writes, what may be relied on, and what it reuses."""

import json
import math
import shutil
import time
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

import palate
from palate.algorithms.online import OnlineLoop
from palate.data.layout import completions, padded
from palate.engine.files import file_sha256
from palate.errors import TrainingError
from palate.evaluation import likeliest_gain, preference_loss
from palate.recipe import load_recipe
from palate.records import Prompt
from palate.stages import align
from palate.stages.calls import Quiet
from palate.stages.context import Context
from palate.stages.directory import RunDirectory
from palate.stages.material import read_data, sample
from palate.stages.reward import score_pairs
from palate.stages.run import STAGES as STAGE_TABLE
from palate.stages.run import execute, plan

STAGES = ("sft", "reward", "align", "evaluate")


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def hashes(run, *patterns):
    """SHA-256 of the files below `run`, but for the lock, which names whoever holds it."""
    return {
        str(file.relative_to(run)): file_sha256(file)
        for pattern in patterns or ("*",)
        for file in sorted(run.rglob(pattern))
        if file.is_file() and file.name != ".lock"
    }


@dataclass(frozen=True)
class Copied:
    """The finished run with its data, in a place where it may be changed."""

    root: Path
    run: Path
    recipe: Path


@pytest.fixture
def copied(finished, tmp_path) -> Copied:
    root = tmp_path / "copied"
    shutil.copytree(finished.recipe.parent, root)
    shutil.copytree(finished.run, root / "tiny")
    return Copied(root, root / "tiny", root / finished.recipe.name)


def run_quietly(recipe, root, overrides=(), **options):
    """The recipe's run, past every verdict, with everything it said."""
    said = []
    options = {"force": True, **options}
    place = execute(load_recipe(recipe, overrides), watch=lambda _: Quiet(), say=said.append, root=root, **options)
    return place, said


def plan_of(copied, overrides=()):
    """What would be done to every stage."""
    data, recipe = read_data(load_recipe(copied.recipe, overrides))
    with RunDirectory.open(copied.root, name="tiny", seed=0, threads=1, command=()) as directory:
        context = Context(recipe, data, directory, torch.device("cpu"), lambda _: Quiet(), print)
        return [step.action for step in plan(context)]


# ---- what a run leaves


def test_the_run_directory_holds_what_is_promised(finished):
    run = finished.run
    for name in ("recipe.toml", "run.json", "summary.json", "report.html"):
        assert (run / name).is_file(), name
    for stage in ("sft", "reward", "align"):
        for name in ("model/config.json", "model/model.safetensors", "model/tokenizer.json", "metrics.jsonl"):
            assert (run / stage / name).is_file(), f"{stage}/{name}"
        assert list((run / stage / "checkpoints").iterdir())
    for name in ("align/samples.jsonl", "reward/judge/model/model.safetensors"):
        assert (run / name).is_file()
    for name in ("evaluate/results.json", "evaluate/comparisons.jsonl"):
        assert (run / name).is_file()
    assert not [path for path in run.rglob("*") if path.name.endswith((".partial", ".replaced"))]


def test_the_command_ends_with_the_verdict_the_files_and_what_comes_next(finished):
    out = finished.result.out
    assert "Preferred over SFT on" in out
    assert "Written: " in out and "report.html" in out
    assert out.rstrip().splitlines()[-1] == f"Next: open {finished.run / 'report.html'}"
    assert finished.result.err == ""


def test_the_recipe_in_the_run_gives_every_value_and_reads_back(finished):
    written = tomllib.loads((finished.run / "recipe.toml").read_text())
    assert written["align"]["ppo"]["clip"] == 0.2  # a default
    assert written["sft"]["mapping"]["format"] == "trl-completions"  # what was found, pinned
    again = load_recipe(finished.run / "recipe.toml")
    assert again.align.loop.iterations == 4


def test_run_json_says_how_it_was_done(finished):
    record = json.loads((finished.run / "run.json").read_text())
    assert record["seed"] == 0 and record["threads"] == 1
    assert {"torch", "transformers", "python"} <= set(record["versions"])
    assert len(record["data"]) == 4 and all(len(value) == 64 for value in record["data"].values())
    assert {stage: record["stages"][stage]["status"] for stage in STAGES} == dict.fromkeys(STAGES, "done")
    for stage in STAGES:
        verdict = record["stages"][stage]["verdict"]
        levels = {check["level"] for check in verdict["checks"]}
        assert verdict["level"] in ("pass", "warn", "stop") and ("stop" in levels) == (verdict["level"] == "stop")
        assert record["stages"][stage].get("forced", False) == (verdict["level"] == "stop")


def test_the_summary_has_the_promised_names(finished):
    summary = json.loads((finished.run / "summary.json").read_text())
    promised = {
        *("sft/heldout_loss", "sft/base_loss", "reward/accuracy", "reward/accuracy_low", "reward/accuracy_high"),
        *("align/win_rate", "align/win_rate_low", "align/win_rate_high"),
        *("align/kl_initial", "align/kl_final", "align/kl_max"),
        *(f"seconds/{stage}" for stage in STAGES),
    }
    assert promised <= set(summary)
    assert all(isinstance(value, int | float) and math.isfinite(value) for value in summary.values())
    # Gold is known on the testbed alone, and the ceiling with it.
    assert not {"align/gold_gain", "reward/ceiling"} & set(summary)
    assert summary["reward/accuracy_low"] <= summary["reward/accuracy"] <= summary["reward/accuracy_high"]


SUPERVISED = {"step", "loss", "lr", "grad_norm", "tokens/useful", "tokens/padded", "time/step"}
PAIRWISE = {"accuracy", "chosen", "rejected", "margin"}
ONLINE = {
    *("step", "score/mean", "score/std", "score/p10", "score/p90", "score/reward_model", "reward/mean"),
    *("kl/sequence", "kl/token", "kl/coef", "entropy", "length/mean", "length/std", "length/p90", "length/eos_rate"),
    *("ratio/first", "ratio/mean", "clip_fraction", "approx_kl", "advantage/std", "value/explained_variance"),
    *("loss/policy", "loss/value", "perplexity", "sampler/gap_max", "grad_norm", "lr", "updates"),
    *("tokens/useful", "tokens/padded", "time/rollout", "time/score", "time/update"),
}


@pytest.mark.parametrize(
    ("file", "names"),
    [
        ("sft", SUPERVISED),
        ("reward", SUPERVISED | PAIRWISE),
        ("reward/judge", SUPERVISED | PAIRWISE),
        ("align", ONLINE),
    ],
)
def test_metrics_have_the_promised_names_and_no_others(finished, file, names):
    found = rows(finished.run / file / "metrics.jsonl")
    assert [row["step"] for row in found] == list(range(1, len(found) + 1))
    for row in found:
        assert set(row) == names
        assert all(math.isfinite(value) for value in row.values())


def test_samples_say_what_was_written_and_what_it_was_worth(finished):
    found = rows(finished.run / "align" / "samples.jsonl")
    assert {row["step"] for row in found} == {1, 2, 3, 4}
    assert all({"prompt", "completion", "score", "kl", "finish"} <= set(row) for row in found)
    assert all(row["finish"] in ("eos", "length") for row in found)


def test_results_and_comparisons_agree(finished):
    results = json.loads((finished.run / "evaluate" / "results.json").read_text())
    compared = rows(finished.run / "evaluate" / "comparisons.jsonl")
    assert len(compared) == results["prompts"] == 10
    points = sum({"win": 1.0, "tie": 0.5, "loss": 0.0}[row["outcome"]] for row in compared)
    assert results["win_rate"]["estimate"] == pytest.approx(points / 10)
    assert results["score"]["after"] == pytest.approx(sum(row["score_after"] for row in compared) / 10)
    for row in compared:
        better = (row["score_after"] > row["score_before"]) - (row["score_after"] < row["score_before"])
        assert row["outcome"] == ("tie", "win", "loss")[better]


def test_the_report_is_written_and_names_the_run(finished):
    page = (finished.run / "report.html").read_text()
    assert "tiny" in page and "<svg" in page


# ---- models for others


def test_the_policy_loads_in_transformers_and_says_the_same(finished):
    place = finished.run / "align" / "model"
    theirs, report = AutoModelForCausalLM.from_pretrained(place, output_loading_info=True)
    assert not any(report.values())
    tokenizer = AutoTokenizer.from_pretrained(place)
    ours = palate.load_policy(place)
    prompt = ours.chat.encode_prompt(Prompt.of("Say moon and fire."))
    assert (
        list(
            tokenizer.apply_chat_template(
                [{"role": "user", "content": "Say moon and fire."}], add_generation_prompt=True
            )["input_ids"]
        )
        == prompt
    )
    with torch.no_grad():
        logits = theirs(torch.tensor([prompt])).logits[0, -1]
    torch.testing.assert_close(logits, ours.model.decoder([prompt]).logits[0].detach(), atol=1e-5, rtol=0)
    # A user's generate() draws from the whole distribution, as training did.
    assert theirs.generation_config.top_k == 0 and theirs.generation_config.do_sample


def test_the_reward_model_loads_in_transformers_and_scores_the_same(finished):
    place = finished.run / "reward" / "model"
    theirs, report = AutoModelForSequenceClassification.from_pretrained(place, output_loading_info=True)
    assert not any(report.values())
    ours = palate.load_reward_model(place)
    prompt, reply = ours.chat.encode_prompt(Prompt.of("Say moon and fire.")), ours.chat.encode_completion("moon fire")
    layout = padded([prompt], *completions([reply], 0), pad_id=ours.chat.pad_id)
    bias = json.loads((place / "palate.json").read_text())["bias"]
    with torch.no_grad():
        score = float(theirs(torch.tensor([prompt + reply])).logits[0, 0]) + bias
        assert score == pytest.approx(float(ours.model.scores(layout)), abs=1e-5)


def test_the_references_own_completions_score_zero_on_average(copied, monkeypatch):
    # What the stage centres on is caught on its way, and scored anew by the model that was saved.
    seen = []

    def caught(*arguments, **settings):
        written = sample(*arguments, **settings)
        seen.append(written[0])
        return written

    monkeypatch.setattr("palate.stages.reward.sample", caught)
    run, _ = run_quietly(copied.recipe, copied.root, ["reward.learning_rate=2e-2"], only="reward")
    judge, reward = seen  # the evaluation's judge is trained, and centred, first
    for place, judged in (("reward/judge/model", judge), ("reward/model", reward)):
        assert len(judged.texts) == 16
        scores = palate.load_reward_model(run / place).score(judged).double()
        assert float(scores.mean()) == pytest.approx(0, abs=1e-4)


def test_saved_scores_are_log_odds_of_the_held_out_pairs(copied, monkeypatch):
    # Scored again by the model on disk, the held-out pairs ask for no other gain than 1.
    seen = []

    def caught(context, reward, pairs):
        seen.append((context, reward, pairs))
        return score_pairs(context, reward, pairs)

    monkeypatch.setattr("palate.stages.reward.score_pairs", caught)
    run, _ = run_quietly(copied.recipe, copied.root, ["reward.learning_rate=2e-2"], only="reward")
    context, trained, heldout = seen[-1]
    before = likeliest_gain(*score_pairs(context, trained, heldout)[0])
    assert abs(before - 1) > 0.05  # else there was nothing to set
    loaded = palate.load_reward_model(run / "reward" / "model")
    ((chosen, rejected),) = score_pairs(context, replace(trained, model=loaded.model), heldout)
    assert likeliest_gain(chosen, rejected) == pytest.approx(1, rel=1e-3)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["reward/heldout_loss"] == pytest.approx(preference_loss(chosen, rejected), abs=1e-5)
    assert summary["reward/mean_chosen"] == pytest.approx(sum(chosen) / len(chosen), abs=1e-4)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("align.batch=4", "none"),
        ("align.reward={root}/rewards.py:brevity", "reference"),
        ("align.shaping.normalise=batch", "batch"),
    ],
)
def test_a_reward_model_keeps_its_unit_and_other_judges_are_normalised(copied, monkeypatch, setting, expected):
    (copied.root / "rewards.py").write_text(
        "def brevity(prompts, completions, **fields):\n    return [-float(len(text)) for text in completions]\n"
    )
    seen = []
    plain = OnlineLoop.start
    monkeypatch.setattr(OnlineLoop, "start", lambda loop, scores: seen.append(loop) or plain(loop, scores))
    run_quietly(copied.recipe, copied.root, [setting.format(root=copied.root)], only="align")
    assert {loop.settings.shaping.normalise for loop in seen} == {expected}


# ---- what holds in every iteration


def test_the_first_ratio_is_exactly_one_in_every_iteration(finished):
    found = rows(finished.run / "align" / "metrics.jsonl")
    assert [row["ratio/first"] for row in found] == [1.0] * 4
    assert all(row["ratio/mean"] != 1.0 for row in found)  # two passes of two minibatches must move it
    assert all(0 <= row["clip_fraction"] <= 1 for row in found)
    assert all(row["sampler/gap_max"] < 1e-5 for row in found)
    assert found[0]["kl/sequence"] == 0.0  # the policy begins as its reference


ALIGN_ALONE = """
[run]
name = "alone"
threads = 1
[model]
path = "{root}/with-dropout"
[align]
prompts = "{root}/prompts.jsonl"
reward = "{root}/tiny/reward/model"
iterations = 2
batch = 8
max_new_tokens = 8
reference_samples = 8
learning_rate = 1e-2
sampling = {{ temperature = {temperature} }}
"""


@pytest.mark.parametrize("temperature", ["1.0", "0.7"])
def test_neither_temperature_nor_dropout_moves_the_first_ratio(copied, temperature):
    # The same model, but as one trained with dropout: alignment must switch it off.
    base = copied.run / "sft" / "model"
    place = copied.root / "with-dropout"
    shutil.copytree(base, place)
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps(config | {"attention_dropout": 0.1}))
    recipe = copied.root / "align.toml"
    recipe.write_text(ALIGN_ALONE.format(root=copied.root, temperature=temperature))
    run, _ = run_quietly(recipe, copied.root)
    for row in rows(run / "align" / "metrics.jsonl"):
        assert row["ratio/first"] == 1.0
        assert row["sampler/gap_max"] < 1e-5


def test_one_pass_of_one_minibatch_cannot_clip(copied):
    run, _ = run_quietly(copied.recipe, copied.root, ["align.ppo.epochs=1", "align.ppo.minibatches=1"], only="align")
    assert {row["clip_fraction"] for row in rows(run / "align" / "metrics.jsonl")} == {0.0}
    large = ["align.learning_rate=0.3", "align.ppo.minibatches=4", "align.ppo.kl.kind=fixed", "align.ppo.kl.coef=0"]
    run, _ = run_quietly(copied.recipe, copied.root, large, only="align")
    assert max(row["clip_fraction"] for row in rows(run / "align" / "metrics.jsonl")) > 0


def test_the_reference_stays_what_it_was(copied, monkeypatch):
    before = hashes(copied.run / "sft" / "model")
    run_quietly(copied.recipe, copied.root, ["align.iterations=5"], only="align")
    assert hashes(copied.run / "sft" / "model") == before

    # A reference that shares the policy's weights moves with it, and the stage must not end as if all were well.
    policy = palate.load_policy(copied.run / "sft" / "model")
    monkeypatch.setattr(align, "load_policy", lambda _: policy)
    monkeypatch.setattr(align, "reference_of", lambda _: policy)
    with pytest.raises(TrainingError, match="reference model's weights changed"):
        run_quietly(copied.recipe, copied.root, ["align.iterations=6"], only="align")


# ---- reuse


def test_a_second_call_does_nothing_and_is_quick(copied, palate_command):
    before = hashes(copied.run, "*.safetensors", "*.jsonl", "results.json")
    began = time.process_time()
    result = palate_command("run", copied.recipe, "--runs", copied.root, "--force")
    assert time.process_time() - began < 2  # of the processor: a busy machine must not fail a test
    assert result.code == 0
    assert result.out.count("done before, and reused") == 4
    assert hashes(copied.run, "*.safetensors", "*.jsonl", "results.json") == before


@pytest.mark.parametrize(
    ("overrides", "actions"),
    [
        (["sft.learning_rate=2e-2"], ["redo"] * 4),
        (["reward.learning_rate=2e-2"], ["reuse", "redo", "redo", "redo"]),
        (["align.ppo.clip=0.1"], ["reuse", "reuse", "redo", "redo"]),
        (["evaluate.count=5"], ["reuse", "reuse", "reuse", "redo"]),
        (["align.iterations=5"], ["reuse", "reuse", "continue", "redo"]),
        (["align.iterations=3"], ["reuse", "reuse", "redo", "redo"]),
        (["sft.epochs=3"], ["continue", "redo", "redo", "redo"]),
        (["align.iterations=5", "align.optimiser.schedule=cosine"], ["reuse", "reuse", "redo", "redo"]),
        (["run.seed=1"], ["redo"] * 4),
        (["run.device=auto"], ["reuse"] * 4),
    ],
)
def test_the_plan_follows_from_what_changed(copied, overrides, actions):
    assert plan_of(copied, overrides) == actions


def test_edited_data_is_noticed_and_moved_data_is_not(copied):
    assert plan_of(copied) == ["reuse"] * 4  # the copy stands elsewhere than the run was made
    with (copied.root / "prompts.jsonl").open("a") as file:
        file.write('{"prompt": "Say nest."}\n')
    assert plan_of(copied) == ["reuse", "reuse", "redo", "redo"]


def test_edited_reward_code_is_noticed(copied):
    code = copied.root / "mine.py"
    code.write_text(
        "def length(prompts, completions, **fields):\n    return [float(len(text)) for text in completions]\n"
    )
    overrides = [f"align.reward={code}:length"]
    run_quietly(copied.recipe, copied.root, overrides)
    assert plan_of(copied, overrides) == ["reuse"] * 4
    code.write_text(
        "def length(prompts, completions, **fields):\n    return [-float(len(text)) for text in completions]\n"
    )
    assert plan_of(copied, overrides) == ["reuse", "reuse", "redo", "redo"]
    # The alignment does not rest on the run's reward model now; only the evaluation does, whose judge it trains.
    assert plan_of(copied, [*overrides, "reward.epochs=2"])[:3] == ["reuse", "continue", "redo"]


def test_what_is_done_again_is_told_and_the_old_moved_aside(copied):
    before = hashes(copied.run / "align")
    old = json.loads((copied.run / "summary.json").read_text())
    _, said = run_quietly(copied.recipe, copied.root, ["align.ppo.clip=0.1"])
    told = said.index("  align: to do again: its settings, its data or what it rests on changed.")
    moved = said.index(f"  What align had done is now {copied.run}/align.1.")
    assert told < moved < said.index(next(line for line in said if line.startswith("align done")))
    assert hashes(copied.run / "align.1") == before
    new = json.loads((copied.run / "summary.json").read_text())
    assert new["sft/heldout_loss"] == old["sft/heldout_loss"] and new["align/kl_final"] != old["align/kl_final"]


def test_what_was_stopped_before_it_was_done_again_leaves_no_old_figures(copied, monkeypatch):
    def broken(context):
        raise TrainingError("stopped here on purpose")

    monkeypatch.setitem(STAGE_TABLE, "evaluate", broken)
    with pytest.raises(TrainingError):
        run_quietly(copied.recipe, copied.root, ["evaluate.count=5"])
    summary = json.loads((copied.run / "summary.json").read_text())
    assert "align/win_rate" not in summary and "align/kl_final" in summary


def test_a_fresh_run_moves_the_old_one_aside(copied, palate_command):
    before = hashes(copied.run)
    result = palate_command("run", copied.recipe, "--runs", copied.root, "--fresh", "--force")
    assert result.code == 0
    assert f"The run that was there is now {copied.root / 'tiny.1'}." in result.out
    assert hashes(copied.root / "tiny.1") == before
    names = ("*.safetensors", "comparisons.jsonl")
    assert hashes(copied.run, *names) == hashes(copied.root / "tiny.1", *names)  # the same seed, the same bits


# ---- single stages


def test_stages_done_one_by_one_equal_the_whole_run(copied, palate_command):
    for stage in STAGES:
        result = palate_command(stage, copied.recipe, "--runs", copied.root / "single", "--force")
        assert result.code == 0, result.err
        following = STAGES[STAGES.index(stage) + 1] if stage != "evaluate" else None
        last = result.out.rstrip().splitlines()[-1]
        again = f"Next: palate {following} {copied.recipe} --runs {copied.root / 'single'} --force"
        assert last == (again if following else f"Next: open {copied.root / 'single' / 'tiny' / 'report.html'}")
    names = ("*.safetensors", "comparisons.jsonl", "samples.jsonl")
    assert hashes(copied.root / "single" / "tiny", *names) == hashes(copied.run, *names)


@pytest.mark.parametrize("stage", ["reward", "align", "evaluate"])
def test_a_stage_whose_forerunner_is_missing_says_which(copied, palate_command, stage):
    result = palate_command(stage, copied.recipe, "--runs", copied.root / "single")
    assert result.code == 2
    assert "Run `palate sft RECIPE` first" in result.err
    assert not (copied.root / "single" / "tiny").exists()


def test_a_stage_is_not_done_on_what_no_longer_fits_the_recipe(copied, palate_command):
    before = hashes(copied.run, "*.safetensors")
    result = palate_command("reward", copied.recipe, "--runs", copied.root, "--set", "sft.learning_rate=2e-2")
    assert result.code == 2 and "Run `palate sft RECIPE` first" in result.err
    assert hashes(copied.run, "*.safetensors") == before


def test_a_stage_needs_its_own_data_alone(copied, palate_command):
    for name in ("prompts.jsonl", "heldout.jsonl", "pairs.jsonl"):
        (copied.root / name).unlink()
    assert palate_command("sft", copied.recipe, "--runs", copied.root / "single", "--force").code == 0


def test_a_stage_that_the_recipe_lacks_is_refused(copied, palate_command):
    recipe = copied.root / "short.toml"
    recipe.write_text(copied.recipe.read_text().partition("[evaluate]")[0])
    result = palate_command("evaluate", recipe, "--runs", copied.root)
    assert result.code == 2 and "no section [evaluate]" in result.err
