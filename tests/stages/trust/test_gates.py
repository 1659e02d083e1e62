"""Every gate at, above and below its threshold; and what a verdict of stop does to a run."""

import json
import re
import shutil
import tomllib
from pathlib import Path

import pytest

import palate
from palate import recipe as sections
from palate.engine.files import file_sha256
from palate.errors import StageStopped
from palate.settings import describe
from palate.stages import run
from palate.stages.run import STAGES
from palate.stages.trust import gates
from palate.stages.trust.gates import GATES, checks, verdict

RATE = ("", "_low", "_high")


def interval(name, *values):
    return dict(zip((f"{name}{end}" for end in RATE), values, strict=True))


def accuracy(*values, pairs=1000):
    return interval("reward/accuracy", *values) | {"reward/heldout": pairs}


def pair(first, second):
    """Figures of two names from two values."""
    return lambda one, other: {first: one, second: other}


BASE = pair("sft/heldout_loss", "sft/base_loss")
UNIGRAM = pair("sft/heldout_loss", "sft/unigram_loss")
SEEN = pair("sft/heldout_loss", "sft/train_loss")
SLOPE = pair("sft/loss_slope", "sft/loss_slope_low")
CEILING = pair("reward/accuracy", "reward/ceiling")
SCORE = pair("align/score_final", "align/score_initial")
KL = pair("align/kl_final", "align/length_final")
ENTROPY = pair("align/entropy_final", "align/entropy_initial")
LENGTH = pair("align/length_final", "align/length_initial")
EOS = pair("align/eos_rate_final", "align/eos_rate_initial")
GOLD = pair("align/gold_final", "align/gold_initial")
PROMPTS = pair("align/prompt_loss", "sft/prompt_loss")
PERPLEXITY = pair("align/perplexity_after", "align/perplexity_before")
CAPABILITY = pair("align/capability_after", "align/capability_before")
DEGENERATE = pair("align/degenerate_after", "align/degenerate_before")


def lengths(low, length):
    return {"reward/accuracy_low": low, "reward/accuracy": low + 0.02, "reward/length_accuracy": length}


def gap(*values):
    return interval("reward/gap", *values) | {"reward/train_accuracy": 0.9}


def noisy(error, noise):
    return {"reward/ece": error, "reward/ece_noise": noise}


def heldout(initial, best, final):
    return {"align/heldout_initial": initial, "align/heldout_best": best, "align/heldout_final": final}


def rising(figures, **more):
    return figures | {"align/score_initial": 0.0, "align/score_final": 1.0} | more


BY_LENGTH = "reward/length_correlation"
RATE_AT_LENGTH = "align/win_rate_length_controlled"

CASES = [
    ("sft", "held-out loss against base", BASE(1.0, 1.5), "pass"),
    ("sft", "held-out loss against base", BASE(1.5, 1.5), "warn"),
    ("sft", "held-out loss against base", BASE(1.5 + gates.CLEAR_RISE, 1.5), "warn"),
    ("sft", "held-out loss against base", BASE(1.51 + gates.CLEAR_RISE, 1.5), "stop"),
    ("sft", "held-out loss against word counts", UNIGRAM(3.99, 4.0), "pass"),
    ("sft", "held-out loss against word counts", UNIGRAM(4.0, 4.0), "stop"),
    ("sft", "answers that end", {"sft/eos_rate": 0.8}, "pass"),
    ("sft", "answers that end", {"sft/eos_rate": 0.79}, "warn"),
    ("sft", "answers that end", {"sft/eos_rate": 0.3}, "warn"),
    ("sft", "answers that end", {"sft/eos_rate": 0.29}, "stop"),
    ("sft", "overfitting", SEEN(1.25, 1.0), "pass"),
    ("sft", "overfitting", SEEN(1.26, 1.0), "warn"),
    ("sft", "overfitting", SEEN(0.9, 1.0), "pass"),
    ("sft", "template same in training and generation", {"sft/template_same": 1.0}, "pass"),
    ("sft", "template same in training and generation", {"sft/template_same": 0.98}, "stop"),
    ("sft", "training near its end", SLOPE(0.3, 0.1), "pass"),
    ("sft", "training near its end", SLOPE(0.3, 0.11), "warn"),
    ("sft", "training near its end", SLOPE(-0.3, -0.4), "pass"),
    ("reward", "accuracy against chance", accuracy(0.7, 0.67, 0.73), "pass"),
    ("reward", "accuracy against chance", accuracy(0.53, 0.501, 0.559), "pass"),
    ("reward", "accuracy against chance", accuracy(0.5, 0.47, 0.53), "stop"),
    ("reward", "accuracy against chance", accuracy(0.3, 0.27, 0.33), "stop"),
    ("reward", "accuracy against chance", accuracy(0.55, 0.5, 0.599), "stop"),
    ("reward", "accuracy against chance", accuracy(0.6, 0.45, 0.73, pairs=40), "warn"),
    ("reward", "labels the right way round", interval("reward/mismatched_accuracy", 0.9, 0.8, 0.95), "pass"),
    ("reward", "labels the right way round", interval("reward/mismatched_accuracy", 0.45, 0.4, 0.5), "pass"),
    ("reward", "labels the right way round", interval("reward/mismatched_accuracy", 0.4, 0.35, 0.49), "stop"),
    ("reward", "agreement with gold", {"reward/gold_accuracy": 0.51}, "pass"),
    ("reward", "agreement with gold", {"reward/gold_accuracy": 0.49}, "stop"),
    ("reward", "agreement with gold", interval("reward/gold_accuracy", 0.49, 0.4, 0.6), "warn"),
    ("reward", "agreement with gold", interval("reward/gold_accuracy", 0.4, 0.35, 0.45), "stop"),
    ("reward", "accuracy against length alone", lengths(0.6, 0.59), "pass"),
    ("reward", "accuracy against length alone", lengths(0.6, 0.6), "warn"),
    ("reward", "accuracy against the ceiling", CEILING(0.726, 0.8), "pass"),
    ("reward", "accuracy against the ceiling", CEILING(0.72, 0.8), "warn"),
    ("reward", "accuracy against the ceiling", CEILING(0.5, 0.5), "warn"),
    ("reward", "calibration", {"reward/ece": 0.05}, "pass"),
    ("reward", "calibration", {"reward/ece": 0.06}, "warn"),
    ("reward", "calibration", noisy(0.079, 0.03), "pass"),
    ("reward", "calibration", noisy(0.081, 0.03), "warn"),
    ("reward", "score against length", interval(BY_LENGTH, 0.6, 0.5, 0.7), "pass"),
    ("reward", "score against length", interval(BY_LENGTH, 0.6, 0.51, 0.7), "warn"),
    ("reward", "score against length", interval(BY_LENGTH, -0.6, -0.7, -0.51), "warn"),
    ("reward", "score against length", interval(BY_LENGTH, -0.6, -0.7, -0.5), "pass"),
    ("reward", "training against held-out pairs", gap(0.1, 0.05, 0.15), "pass"),
    ("reward", "training against held-out pairs", gap(0.1, 0.06, 0.14), "warn"),
    ("reward", "training against held-out pairs", gap(-0.1, -0.2, 0.0), "pass"),
    ("reward", "probe: padding added", {"reward/fooled/padding_added": 0.5}, "pass"),
    ("reward", "probe: padding added", {"reward/fooled/padding_added": 0.51}, "warn"),
    ("reward", "probe: padding added", interval("reward/fooled/padding_added", 0.6, 0.5, 0.7), "pass"),
    ("reward", "probe: padding added", interval("reward/fooled/padding_added", 0.6, 0.51, 0.7), "warn"),
    ("align", "score up", SCORE(0.1, 0.0), "pass"),
    ("align", "score up", SCORE(0.0, 0.0), "warn"),
    ("align", "KL within budget", KL(10.0, 20.0), "pass"),
    ("align", "KL within budget", KL(10.1, 20.0), "warn"),
    ("align", "KL within budget", KL(50.0, 20.0), "warn"),
    ("align", "KL within budget", KL(50.1, 20.0), "stop"),
    ("align", "KL within budget", KL(40.0, 200.0), "pass"),
    ("align", "KL within budget", KL(40.1, 200.0), "warn"),
    ("align", "entropy", ENTROPY(0.1, 1.0), "pass"),
    ("align", "entropy", ENTROPY(0.09, 1.0), "warn"),
    ("align", "entropy", ENTROPY(0.05, 0.4), "pass"),  # a share of the start, which few models begin at 1
    ("align", "length", LENGTH(20.0, 10.0), "pass"),
    ("align", "length", LENGTH(20.1, 10.0), "warn"),
    ("align", "length", LENGTH(3.0, 9.0), "pass"),
    ("align", "length", LENGTH(2.9, 9.0), "warn"),
    ("align", "answers that end", EOS(0.9, 0.95), "pass"),
    ("align", "answers that end", EOS(0.8, 0.95), "warn"),
    ("align", "answers that end", EOS(0.3, 0.95), "warn"),
    ("align", "answers that end", EOS(0.29, 0.95), "stop"),
    ("align", "answers that end", EOS(0.0, 0.0), "pass"),
    ("align", "answers that end", EOS(0.2, 0.31), "warn"),
    ("align", "critic", {"align/explained_variance_final": 0.1}, "pass"),
    ("align", "critic", {"align/explained_variance_final": 0.09}, "warn"),
    ("align", "held-out judge against its best", heldout(0.0, 1.0, 0.8), "pass"),
    ("align", "held-out judge against its best", heldout(0.0, 1.0, 0.79), "warn"),
    ("align", "held-out judge against its best", heldout(4.0, 5.0, 4.7), "warn"),  # of the gain, not of the score
    ("align", "held-out judge against its best", heldout(0.5, 0.5, 0.5), "pass"),
    ("align", "held-out judge against its best", heldout(0.5, 0.5, 0.49), "warn"),
    ("align", "score against gold", rising(GOLD(0.5, 0.5)), "pass"),
    ("align", "score against gold", rising(GOLD(0.45, 0.5)), "warn"),
    ("align", "score against gold", rising(GOLD(0.3, 0.5)), "stop"),
    ("align", "score against gold", rising(GOLD(0.3, 0.5), **{"align/stopped_past_peak": 0.0}), "stop"),
    ("align", "score against gold", rising(GOLD(0.3, 0.5), **{"align/stopped_past_peak": 1.0}), "warn"),
    ("align", "score against gold", GOLD(0.3, 0.5), "warn"),
    ("align", "monitors", {"align/alarms": 0.0}, "pass"),
    ("align", "monitors", {"align/alarms": 1.0}, "warn"),
    ("align", "prompts like those of SFT", PROMPTS(3.0, 2.0), "pass"),
    ("align", "prompts like those of SFT", PROMPTS(3.1, 2.0), "warn"),
    ("evaluate", "win rate", interval("align/win_rate", 0.6, 0.51, 0.7), "pass"),
    ("evaluate", "win rate", interval("align/win_rate", 0.6, 0.5, 0.7), "warn"),
    ("evaluate", "win rate", interval("align/win_rate", 0.4, 0.3, 0.5), "warn"),
    ("evaluate", "win rate", interval("align/win_rate", 0.4, 0.3, 0.49), "stop"),
    ("evaluate", "win rate at equal length", interval(RATE_AT_LENGTH, 0.6, 0.51, 0.7), "pass"),
    ("evaluate", "win rate at equal length", interval(RATE_AT_LENGTH, 0.5, 0.4, 0.6), "warn"),
    ("evaluate", "win rate at equal length", interval(RATE_AT_LENGTH, 0.4, 0.3, 0.49), "stop"),
    ("evaluate", "perplexity of held-out text", PERPLEXITY(12.5, 10.0), "pass"),
    ("evaluate", "perplexity of held-out text", PERPLEXITY(12.6, 10.0), "warn"),
    ("evaluate", "perplexity of held-out text", PERPLEXITY(12.6, 10.0) | CAPABILITY(0.80, 0.80), "pass"),
    ("evaluate", "perplexity of held-out text", PERPLEXITY(12.6, 10.0) | CAPABILITY(0.79, 0.80), "warn"),
    ("evaluate", "capability", CAPABILITY(0.75, 0.8), "pass"),
    ("evaluate", "capability", CAPABILITY(0.74, 0.8), "warn"),
    ("evaluate", "unusual prompts", DEGENERATE(0.15, 0.1), "pass"),
    ("evaluate", "unusual prompts", DEGENERATE(0.16, 0.1), "warn"),
]


def found(stage, name, figures):
    return next(check for check in checks(stage, figures) if check.name == name)


@pytest.mark.parametrize(("stage", "name", "figures", "level"), CASES)
def test_at_above_and_below_the_threshold(stage, name, figures, level):
    assert found(stage, name, figures).level == level


def test_every_gate_is_tried_and_each_that_can_fail_does():
    tried = {(stage, name) for stage, name, *_ in CASES}
    assert {(stage, gate.name) for stage, asked in GATES.items() for gate in asked} <= tried
    failing = {(stage, name) for stage, name, _, level in CASES if level != "pass"}
    passing = {(stage, name) for stage, name, _, level in CASES if level == "pass"}
    assert failing == passing == tried


@pytest.mark.parametrize(("stage", "name", "figures", "level"), CASES)
def test_a_check_reads_well(stage, name, figures, level):
    check = found(stage, name, figures)
    assert check.figure in figures and check.value == figures[check.figure]
    assert check.reason[0].isupper() or check.reason[0].isdigit()
    assert check.reason.endswith(".") and ". " not in check.reason  # one sentence
    assert any(sign.isdigit() for sign in check.reason) or check.value in (0, 1)  # which says the figures
    assert bool(check.advice) == (level != "pass")
    assert (not check.rule.endswith(".") and check.rule[0].islower()) or check.rule[0].isdigit()


def test_the_pages_table_names_every_gate_and_no_other():
    page = (Path(__file__).parents[3] / "docs" / "runs.md").read_text()
    told = re.findall(r"^\| (sft|reward|align|evaluate) \| ([^|]+) \|", page, flags=re.MULTILINE)
    gates_there = [(stage, gate.name) for stage, asked in GATES.items() for gate in asked]
    assert sorted(told) == sorted([*gates_there, ("reward", "probe: NAME")])


def test_what_is_absent_is_not_asked():
    for stage, asked in GATES.items():
        assert checks(stage, {}) == ()
        for gate in asked:
            for missing in gate.figures:
                figures = dict.fromkeys(gate.figures, 1.0)
                del figures[missing]
                assert gate.check(figures) is None


def test_the_gates_of_a_stage_read_no_figure_of_a_later_one():
    # Figures of an old evaluation may stand in summary.json while the alignment below it is judged.
    evaluated = {name for gate in GATES["evaluate"] for name in gate.figures}
    for index, stage in enumerate(("sft", "reward", "align")):
        later = tuple(f"{name}/" for name in ("sft", "reward", "align")[index + 1 :])
        for gate in GATES[stage]:
            for name in (*gate.figures, *gate.optional):
                assert not name.startswith(later or ("evaluate/",)) and name not in evaluated


def test_the_settings_that_advice_names_exist():
    known = {
        f"{section.__name__.lower()}.{setting.name}"
        for section in (sections.SFT, sections.Reward, sections.Align, sections.Evaluate, sections.Testbed)
        for setting in describe(section)
    }
    advice = " ".join(gate.advice for asked in GATES.values() for gate in asked)
    named = set(re.findall(r"\b(?:sft|reward|align|evaluate|testbed)\.[a-z_.]*[a-z]", advice))
    assert len(named) > 10 and named <= known


def test_a_verdict_holds_a_stages_own_concerns_too():
    figures = {"sft/eos_rate": 0.5}
    assert verdict("sft", {"sft/eos_rate": 0.9}, {}, ())["level"] == "pass"
    own = verdict("sft", {"sft/eos_rate": 0.9}, {"eos_rate": 0.9}, ["the data is odd"])
    assert (own["level"], own["reasons"], own["figures"]) == ("warn", ["the data is odd"], {"eos_rate": 0.9})
    both = verdict("sft", figures, {}, ["the data is odd"])
    assert both["reasons"] == ["the data is odd", both["checks"][0]["reason"]]
    assert both["checks"][0]["level"] == "warn"
    assert verdict("sft", {"sft/eos_rate": 0.1}, {}, ["the data is odd"])["level"] == "stop"


# ---- a run that is stopped

RECIPE = """
[run]
name = "flipped"
threads = 1
device = "cpu"
[model]
path = "{run}/sft/model"
[reward]
data = "{root}/pairs.jsonl"
heldout = "{root}/flipped.jsonl"
learning_rate = 1e-2
batch_tokens = 600
reference_samples = 8
[align]
prompts = "{root}/prompts.jsonl"
iterations = 3
batch = 4
max_new_tokens = 8
reference_samples = 8
"""


@pytest.fixture
def flipped(finished, tmp_path):
    """A recipe whose reward model learns the opposite of what its held-out pairs say."""
    root = tmp_path / "data"
    shutil.copytree(finished.recipe.parent, root, ignore=shutil.ignore_patterns("runs"))
    pairs = [json.loads(line) for line in (root / "pairs.jsonl").read_text().splitlines()]
    rows = [{"prompt": one["prompt"], "chosen": one["rejected"], "rejected": one["chosen"]} for one in pairs]
    (root / "flipped.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = root / "flipped.toml"
    recipe.write_text(RECIPE.format(run=finished.run, root=root))
    return recipe


def entries(run):
    return json.loads((run / "run.json").read_text())["stages"]


def test_a_stop_ends_the_run_and_force_goes_on(flipped, palate_command, tmp_path, monkeypatch):
    run = tmp_path / "runs" / "flipped"
    command = ("run", flipped, "--runs", tmp_path / "runs")
    result = palate_command(*command)
    assert result.code == 3
    assert "fewer than a coin: it learnt the opposite of these labels." in result.err
    assert "Traceback" not in result.err
    for said in ("the verdict on reward is stop", "chosen and rejected the right way round", "--force"):
        assert said in result.err
    assert "  stop: The reward model is right on 0.0%" in result.out
    stages = entries(run)
    assert set(stages) == {"reward"}
    assert (stages["reward"]["status"], stages["reward"]["verdict"]["level"]) == ("done", "stop")
    assert not stages["reward"].get("forced", False)
    page = run / "report.html"
    assert f"{page} shows it" in result.err and page.exists()

    # Nothing is lost, nothing is done again, and the next stage is not begun.
    weights = file_sha256(run / "reward/model/model.safetensors")
    again = palate_command(*command)
    assert again.code == 3 and "reward: done before, and reused" in again.out
    assert "reward done in" not in again.out and set(entries(run)) == {"reward"}
    assert palate_command("align", *command[1:]).code == 3

    forced = palate_command(*command, "--force")
    assert forced.code == 0, forced.err
    assert "reward: done before, and reused" in forced.out
    assert "reward: its verdict is stop, and the run goes on because of --force." in forced.out
    stages = entries(run)
    assert stages["reward"]["forced"] is True and stages["align"]["status"] == "done"
    assert file_sha256(run / "reward/model/model.safetensors") == weights
    assert "Forced: “reward” did not pass its gate, and the run went on." in page.read_text()

    # Without it the run stops as before, though all is done.
    assert palate_command(*command).code == 3
    assert entries(run)["reward"]["forced"] is True

    # The verdict is read from the figures on disk: other gates, another verdict, and no training.
    monkeypatch.setattr(gates, "GATES", dict.fromkeys(STAGES, ()))
    monkeypatch.setattr(gates, "_named", lambda stage, figures: ())
    told = palate_command(*command)
    assert told.code == 0 and told.out.count("done before, and reused") == 2
    assert entries(run)["reward"]["verdict"]["checks"] == [] and entries(run)["reward"]["forced"] is False
    assert file_sha256(run / "reward/model/model.safetensors") == weights


def test_what_a_stop_stands_before_is_not_moved_aside(flipped, palate_command, tmp_path):
    command = ("run", flipped, "--runs", tmp_path / "runs")
    assert palate_command(*command, "--force").code == 0
    result = palate_command(*command, "--set", "align.ppo.clip=0.1")
    assert result.code == 3 and "align: to do again" in result.out
    assert not (tmp_path / "runs/flipped/align.1").exists()
    assert entries(tmp_path / "runs/flipped")["align"]["status"] == "done"


def test_a_call_from_python_raises(flipped, tmp_path):
    recipe = tomllib.loads(flipped.read_text())
    with pytest.raises(StageStopped, match="add --force \\(in Python force=True\\)"):
        palate.run(recipe, root=tmp_path / "runs")
    with pytest.raises(StageStopped):
        palate.align(recipe, root=tmp_path / "runs")
    assert palate.run(recipe, root=tmp_path / "runs", force=True) == tmp_path / "runs" / "flipped"


def test_coin_tossing_annotators_stop_the_run(palate_command, tmp_path):
    recipe = tmp_path / "coins.toml"
    recipe.write_text(
        """
        [run]
        name = "coins"
        threads = 1
        device = "cpu"
        [model]
        path = "testbed"
        [testbed]
        pairs = 60
        heldout_pairs = 400
        random_labels = true
        [reward]
        data = "testbed"
        reference_samples = 4
        """
    )
    result = palate_command("run", recipe, "--runs", tmp_path / "runs")
    assert result.code == 3
    assert "no more than a coin: it learnt nothing that alignment could use." in result.err


def test_a_figure_that_rounds_to_zero_has_no_sign():
    figures = {"kl_final": -0.0004, "score_initial": -0.004, "score_final": 0.0, "length_initial": 9, "length_final": 9}
    told = gates._kl(-0.0004, 10.0)[1] + gates._score(-0.0001, 0.0)[1] + run._TOLD["align"](figures)
    assert "0.00 nats" in told and "-0.0" not in told
    assert "-0.01" in run._TOLD["align"](figures | {"kl_final": -0.01})
