"""The doctor's rules on small run directories: each cause is named by its own evidence, and by no less of it."""

import json

import pytest

from palate.errors import RunDirectoryError
from palate.stages.trust.doctor import RULES, Chart, examine, told
from palate.stages.trust.gates import CHANCE, EOS_STOP, FOREIGN_PROMPTS, STEEP

# What a healthy run of all four stages says.
HEALTHY = {
    "sft/base_loss": 2.1,
    "sft/heldout_loss": 0.45,
    "sft/train_loss": 0.43,
    "sft/unigram_loss": 4.6,
    "sft/loss_slope": 0.05,
    "sft/loss_slope_low": 0.01,
    "sft/template_same": 1.0,
    "sft/eos_rate": 0.98,
    "sft/prompt_loss": 2.0,
    "reward/heldout": 1200.0,
    "reward/accuracy": 0.65,
    "reward/accuracy_low": 0.62,
    "reward/accuracy_high": 0.68,
    "reward/train_accuracy": 0.68,
    "reward/gap": 0.03,
    "reward/gap_low": 0.0,
    "reward/length_accuracy": 0.56,
    "reward/length_correlation": -0.3,
    "reward/length_correlation_low": -0.4,
    "reward/mismatched_accuracy": 0.9,
    "reward/mismatched_accuracy_low": 0.84,
    "reward/mismatched_accuracy_high": 0.94,
    "align/mismatched_accuracy": 0.85,
    "align/mismatched_accuracy_low": 0.78,
    "align/mismatched_accuracy_high": 0.9,
    "align/prompt_loss": 2.1,
    "align/prompt_novelty": 0.02,
    "align/prompt_novelty_usual": 0.03,
    "align/entropy_initial": 0.52,
    "align/eos_rate_initial": 0.99,
    "align/score_initial": 0.05,
    "align/score_final": 1.1,
    "align/length_initial": 13.0,
    "align/length_final": 8.0,
    "align/kl_max": 2.6,
    "align/kl_final": 2.5,
    "align/heldout_best": 0.75,
    "align/heldout_final": 0.75,
    "align/stopped_past_peak": 0.0,
    "align/win_rate": 0.85,
    "align/win_rate_low": 0.8,
    "align/win_rate_high": 0.9,
    "align/win_rate_length_controlled": 0.8,
    "align/win_rate_length_controlled_low": 0.74,
}
RECIPE = """
[align]
reward = "model"
algorithm = "ppo"
[align.ppo]
kl = {{ kind = "fixed", coef = {coef} }}
"""
# An iteration of a healthy alignment, by its place.
ROWS = [
    {"step": step, "kl/sequence": 0.25 * step, "clip_fraction": 0.02, "approx_kl": 0.002, "score/std": 1.0}
    for step in range(12)
]


def interval(name, value, half=0.03):
    """A share with an interval of this half-width."""
    return {name: value, f"{name}_low": value - half, f"{name}_high": value + half}


def directory(
    place, *, without=(), coef=0.1, rows=ROWS, looks=((0.0, 0.25), (1.1, 0.75)), monitors=(), stages=None, **figures
):
    """A run directory with a healthy run's figures, some left out (by beginnings of their names) and some replaced."""
    changed = {name.replace("__", "/"): value for name, value in figures.items()}
    summary = {name: value for name, value in HEALTHY.items() if not name.startswith(tuple(without))} | changed
    names = {name.partition("/")[0] for name in summary} | {"evaluate"}
    entries = {
        name: {"status": "done", "steps": 100} for name in ("sft", "reward", "align", "evaluate") if name in names
    }
    place.mkdir(exist_ok=True)
    (place / "align").mkdir(exist_ok=True)
    (place / "run.json").write_text(json.dumps({"name": "made", "stages": entries if stages is None else stages}))
    (place / "summary.json").write_text(json.dumps(summary))
    (place / "recipe.toml").write_text(RECIPE.format(coef=coef))
    (place / "align" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    points = [
        {"step": 5 * index, "kl": index, "proxy": proxy, "heldout": judged, "judge": "gold"}
        for index, (proxy, judged) in enumerate(looks)
    ]
    (place / "align" / "points.jsonl").write_text("".join(json.dumps(point) + "\n" for point in points))
    (place / "align" / "monitors.json").write_text(json.dumps(list(monitors)))
    return place


def alarm(name):
    """A monitor that alarms."""
    return {"name": name, "baseline": 0.1, "value": 0.6, "threshold": 0.2, "alarm": True}


def grown(to):
    """An alignment in which answers of 12 tokens grow."""
    return [{**row, "length/mean": 12.0 + (to - 12.0) * row["step"] / 11} for row in ROWS]


RANDOM = interval("reward/accuracy", 0.51)
FAST = [{**row, "kl/sequence": 0.0 if row["step"] == 0 else 4.0} for row in ROWS]
FLAT = [{**row, "kl/sequence": 0.001, "score/std": 0.009} for row in ROWS]

# Changes of a healthy run; the stage and words of the cause that is to be named first.
NAMED = {
    "loss still falls": ({"sft/loss_slope": 0.3, "sft/loss_slope_low": STEEP + 0.01}, "sft", "undertrained"),
    "no better than word counts": ({"sft/heldout_loss": 4.7, "sft/base_loss": 5.0}, "sft", "undertrained"),
    "few steps, and answers do not end": (
        {"sft/eos_rate": 0.5, "stages": {"sft": {"status": "done", "steps": 7}}},
        "sft",
        "undertrained",
    ),
    "answers never end": ({"sft/eos_rate": EOS_STOP - 0.01}, "sft", "EOS"),
    "answers never ended when alignment began": (
        {"without": ("sft/",), "align/eos_rate_initial": 0.1},
        "sft",
        "EOS",
    ),
    "sft made it worse": ({"sft/base_loss": 0.39}, "sft", "damaged"),
    "templates differ": ({"sft/template_same": 0.9}, "sft", "differently"),
    "preferred answers score below others'": (interval("reward/mismatched_accuracy", 0.3), "reward", "flipped"),
    "sft's answers score below others'": (interval("align/mismatched_accuracy", 0.3), "reward", "flipped"),
    "gold is ordered the other way": (interval("reward/gold_accuracy", 0.3), "reward", "flipped"),
    "held-out labels contradict": (interval("reward/accuracy", 0.4), "reward", "flipped"),
    "accuracy of a coin": (RANDOM, "reward", "random"),
    "accuracy of hardly more": (interval("reward/accuracy", 0.54), "reward", "random"),
    "an answer is like another prompt's": (interval("align/mismatched_accuracy", 0.5), "reward", "another tokenizer"),
    "an answer is hardly preferred to another prompt's, and scores begin elsewhere": (
        interval("align/mismatched_accuracy", 0.6, 0.08) | {"rows": [{**row, "score/mean": -5.0} for row in ROWS]},
        "reward",
        "another tokenizer",
    ),
    "the same, with no stage reward": (
        {"without": ("reward/",), **interval("align/mismatched_accuracy", 0.5)},
        "reward",
        "another tokenizer",
    ),
    "scores follow length": (interval("reward/length_correlation", 0.6), "reward", "length"),
    "length is as good a judge, and grows": (
        {"reward/length_correlation": 0.1, "reward/length_accuracy": 0.69, "rows": grown(18.0)},
        "reward",
        "length",
    ),
    "padding pleases, and scores rise with length": (
        interval("reward/fooled/padding", 0.4) | interval("reward/length_correlation", 0.1),
        "reward",
        "length",
    ),
    "padding pleases, and wins by length": (
        interval("reward/fooled/padding", 0.7) | {"align/win_rate_length_controlled_low": 0.45},
        "reward",
        "length",
    ),
    "flattery pleases, and is found": (
        interval("reward/fooled/flattery", 0.7) | {"monitors": [alarm("flattery")]},
        "reward",
        "manner",
    ),
    "pairs by heart": (
        {"reward/train_accuracy": 0.9, "reward/gap": 0.25, "reward/gap_low": 0.2},
        "reward",
        "by heart",
    ),
    "prompts cost more": ({"align/prompt_loss": 2.0 + FOREIGN_PROMPTS + 0.1}, "align", "out of distribution"),
    "prompts are spelt anew": ({"align/prompt_novelty": 0.7}, "align", "out of distribution"),
    "the first step is a leap": ({"rows": FAST}, "align", "learning rate"),
    "much is clipped, and the score falls": (
        {"rows": [{**row, "clip_fraction": 0.5, "score/mean": -0.1 * row["step"]} for row in ROWS]},
        "align",
        "learning rate",
    ),
    "no price for KL": ({"coef": 0.0}, "align", "leash"),
    "gold fell at once while the score rose": ({"looks": [(0, 0.25), (1, -0.1)]}, "reward", "something else"),
    "gold rose, and fell while the score rose": ({"looks": [(0, 0.25), (1, 0.5), (2, -0.1)]}, "align", "leash"),
    "past the budget, and past the best": (
        {"align/kl_max": 30.0, "align/heldout_final": 0.5},
        "align",
        "leash",
    ),
    "far away and past the peak": ({"align/kl_max": 30.0, "align/stopped_past_peak": 1.0}, "align", "leash"),
    "nothing moves": ({"rows": FLAT, "align/kl_max": 0.01}, "align", "proportion"),
}


@pytest.mark.parametrize("changes, stage, words", NAMED.values(), ids=NAMED)
def test_a_cause_is_named_by_its_evidence(tmp_path, changes, stage, words):
    first = examine(directory(tmp_path / "run", **changes))[0]
    assert (first.stage, words in first.cause) == (stage, True), first
    assert first.score >= 1 and first.evidence and first.advice


# What has other causes as well, or may be chance, accuses nobody alone.
NOT_NAMED = {
    "a slope that may be chance": {"sft/loss_slope": 0.3, "sft/loss_slope_low": STEEP - 0.01},
    "few steps alone": {"stages": {"sft": {"status": "done", "steps": 7}}},
    "some answers that do not end": {"sft/eos_rate": 0.7},
    "sft that changed nothing": {"sft/base_loss": 0.45},
    "too few pairs to tell": interval("reward/accuracy", 0.55, 0.1),
    "a low accuracy that may be more": interval("reward/accuracy", 0.58),
    "a leap of long answers": {"rows": FAST, "align/length_initial": 100.0, "align/length_final": 100.0},
    "length as good a judge, the other way": {
        "reward/length_correlation": -0.7,
        "reward/length_accuracy": 0.7,
        "rows": grown(18.0),
    },
    "longer answers alone": {"rows": grown(20.0)},
    "scores that rise with length alone": interval("reward/length_correlation", 0.4),
    "an answer is hardly preferred to another prompt's": interval("align/mismatched_accuracy", 0.6, 0.08),
    "scores that begin elsewhere": {"rows": [{**row, "score/mean": -5.0} for row in ROWS]},
    "some pairs by heart": {"reward/gap": 0.12, "reward/gap_low": 0.08},
    "padding pleases, and no more": interval("reward/fooled/padding", 0.7),
    "padding pleases now and then, and scores rise with length": (
        interval("reward/fooled/padding", 0.3) | interval("reward/length_correlation", 0.1)
    ),
    "scores rise with length, and answers do not grow": (
        interval("reward/length_correlation", 0.1) | {"rows": grown(13.0)}
    ),
    "a probe that fools and no alarm": interval("reward/fooled/flattery", 0.7),
    "an alarm and no probe that fools": {"monitors": [alarm("flattery")]},
    "prompts a little unusual": {"align/prompt_loss": 2.9, "align/prompt_novelty": 0.2},
    "unsure alone": {"align/entropy_initial": 0.9},
    "one early leap below the limit": {"rows": [{**row, "kl/sequence": 1.4 * min(1, row["step"])} for row in ROWS]},
    "no price, and hardly moved": {"coef": 0.0, "align/kl_max": 0.5},
    "stopped in time": {"align/stopped_past_peak": 1.0},
    "gold fell with the score": {"looks": [(0.0, 0.25), (-0.2, -0.1)]},
    "gold fell a little": {"looks": [(0.0, 0.25), (1.0, 0.2)]},
    "the best was on the way": {"align/heldout_best": 0.9},
    "one look": {"looks": [(0.0, 0.25)]},
}


@pytest.mark.parametrize("changes", NOT_NAMED.values(), ids=NOT_NAMED)
def test_less_than_enough_evidence_names_nobody(tmp_path, changes):
    assert examine(directory(tmp_path / "run", **changes)) == ()


def test_a_healthy_run_is_healthy_whatever_part_of_it_is_there(tmp_path):
    place = tmp_path / "run"
    for stage in ("sft/", "reward/", "align/"):
        assert examine(directory(place, without=(stage,))) == ()
    assert examine(directory(place, **interval("align/win_rate", 0.8))) == ()
    assert list(told(place, ())) == [f"{place}: no stage is found at fault."]


def test_an_empty_run_accuses_nobody(tmp_path):
    place = tmp_path / "run"
    place.mkdir()
    (place / "run.json").write_text("{}")
    assert examine(place) == ()


def test_every_rule_is_tried_here():
    assert {rule.cause for rule in RULES if not any(words in rule.cause for _, _, words in NAMED.values())} == set()


def test_what_is_upstream_comes_first(tmp_path):
    """A broken SFT explains a bad reward model, and that a bad policy, however much speaks for the policy."""
    changes = {"sft/eos_rate": 0.0, **RANDOM, "coef": 0.0, "align/heldout_final": 0.1, "align/kl_max": 40.0}
    stages = [one.stage for one in examine(directory(tmp_path / "run", **changes))]
    assert stages == ["sft", "reward", "align"]


def test_more_evidence_comes_first_within_a_stage(tmp_path):
    """Pairs learnt by heart weigh 1; scores that follow length and answers that grow, 1½."""
    changes = {"reward/gap_low": 0.2, "rows": grown(30.0), **interval("reward/length_correlation", 0.6)}
    first, second = examine(directory(tmp_path / "run", **changes))
    assert ("length" in first.cause, first.score) == (True, 1.5)
    assert ("by heart" in second.cause, second.score) == (True, 1.0)


def test_what_was_hardly_trained_need_not_end_its_answers(tmp_path):
    (only,) = examine(directory(tmp_path / "run", **{"sft/eos_rate": 0.1, "sft/loss_slope_low": 0.2}))
    assert "undertrained" in only.cause and only.score == 1.5


def test_more_of_what_does_damage_is_no_remedy(tmp_path):
    """A rate far too high leaves the model worse than counting tokens: damaged, and not undertrained."""
    changes = {"sft/heldout_loss": 33.0, "sft/base_loss": 0.4, "sft/loss_slope": 3.0, "sft/loss_slope_low": 2.0}
    assert [one.cause for one in examine(directory(tmp_path / "run", **changes))] == [
        "SFT damaged the model it began with"
    ]


def test_answers_that_had_no_room_to_end_accuse_nobody(tmp_path):
    place = directory(tmp_path / "run", without=("sft/",), **{"align/eos_rate_initial": 0.1})
    recipe = place / "recipe.toml"
    recipe.write_text(recipe.read_text().replace("[align]\n", "[align]\nmax_new_tokens = 8\n"))
    assert examine(place) == ()


def test_the_weightiest_evidence_is_told_first(tmp_path):
    """The rule finds the budget (½) before the hacked reward (1)."""
    place = directory(tmp_path / "run", looks=[(0, 0.25), (1, 0.5), (2, -0.1)], **{"align/kl_max": 30.0})
    (only,) = examine(place)
    assert "the reward was hacked" in only.evidence[0] and "above a budget of 10" in only.evidence[1]


def test_labels_of_which_most_are_flipped_say_something(tmp_path):
    """With four fifths flipped, held-out labels are hard to predict, and right answers still score below others'."""
    changes = interval("reward/accuracy", 0.56) | interval("reward/mismatched_accuracy", 0.4) | {"reward/gap": 0.2}
    (only,) = examine(directory(tmp_path / "run", **changes))
    assert "flipped" in only.cause


def test_foreign_prompts_excuse_the_reward_model(tmp_path):
    """No reward model tells answers to nonsense apart."""
    changes = interval("align/mismatched_accuracy", 0.5) | {"align/prompt_novelty": 0.8, "align/eos_rate_initial": 0.1}
    (only,) = examine(directory(tmp_path / "run", **changes))
    assert only.stage == "align" and "out of distribution" in only.cause
    assert only.score == 1.5  # spelling, and answers that do not end


def test_a_leap_past_the_peak_says_nothing_of_the_reward(tmp_path):
    (only,) = examine(directory(tmp_path / "run", rows=FAST, looks=[(0, 0.25), (1, -0.1)]))
    assert "learning rate" in only.cause


def test_labels_that_teach_nothing_explain_a_reward_that_reads_nothing(tmp_path):
    (only,) = examine(directory(tmp_path / "run", **RANDOM, **interval("align/mismatched_accuracy", 0.5)))
    assert "random" in only.cause and only.score == 1.5


def test_another_tokenizer_is_seen_where_both_are_there(tmp_path):
    place = directory(tmp_path / "run", without=("reward/",), **interval("align/mismatched_accuracy", 0.5))
    theirs = tmp_path / "theirs"
    for model, text in ((place / "align" / "model", "{}"), (theirs, '{"another": 1}')):
        model.mkdir()
        (model / "tokenizer.json").write_text(text)
    recipe = place / "recipe.toml"
    recipe.write_text(recipe.read_text().replace('"model"', f'"{theirs}"'))
    (only,) = examine(place)
    assert only.score == 1.5 and "Its tokenizer is another than the policy's." in only.evidence


def test_a_reward_that_is_no_model_needs_no_leash(tmp_path):
    """A verifier is not fooled by what a reward model has not seen."""
    place = directory(tmp_path / "run", coef=0.0)
    recipe = place / "recipe.toml"
    recipe.write_text(recipe.read_text().replace('"model"', '"answer"'))
    assert examine(place) == ()


def test_the_kl_jump_is_by_iteration(tmp_path):
    """Rows 3 iterations apart over which the KL rises by 3 nats are a rise of 1 nat an iteration."""
    rows = [{"step": 3 * index, "kl/sequence": 3.0 * index} for index in range(3)]
    place = directory(tmp_path / "run", rows=rows)
    from palate.report.reading import read

    assert Chart(read(place), place).kl_jump == pytest.approx(1.0)


def test_a_failure_is_told_with_its_reason(tmp_path):
    stages = {"sft": {"status": "done"}, "reward": {"status": "failed", "reason": "the loss was not finite"}}
    (only,) = examine(directory(tmp_path / "run", stages=stages))
    assert (only.stage, only.evidence) == ("reward", ("the loss was not finite",))


def test_a_stop_that_no_rule_explains_is_told(tmp_path):
    """An aligned model that loses, with nothing wrong on the way: the evaluation found it, alignment made it."""
    changes = interval("align/win_rate", 0.3) | {"align/win_rate_length_controlled_low": 0.2}
    (only,) = examine(directory(tmp_path / "run", **changes))
    assert only.stage == "align" and "30.0%" in only.evidence[0] and only.advice[0]


def test_a_stop_below_a_cause_is_explained_by_it(tmp_path):
    found = examine(directory(tmp_path / "run", **interval("align/win_rate", 0.3), **{"sft/eos_rate": 0.0}))
    assert [one.stage for one in found] == ["sft"]


def test_unreadable_parts_accuse_nobody(tmp_path):
    place = directory(tmp_path / "run", coef=0.0)
    (place / "recipe.toml").write_text("[align\n")
    (place / "align" / "monitors.json").write_text("no")
    assert examine(place) == ()


def test_something_else_is_no_run(tmp_path):
    with pytest.raises(RunDirectoryError, match="is no run"):
        examine(tmp_path)


def test_what_could_not_be_asked_is_no_clean_bill(tmp_path):
    place = directory(tmp_path / "run")
    (place / "summary.json").unlink()
    lines = list(told(place, examine(place)))
    assert lines[0] == f"{place}: no stage is found at fault in what could be asked."
    assert lines[1:3] == ["", "Not asked:"]
    assert "  - summary.json is missing: what it told is left out." in lines
    assert "  - sft: summary.json has none of its figures." in lines


@pytest.mark.parametrize(("status", "words"), [("running", "begun and not ended"), ("stopped", "was interrupted")])
def test_a_stage_that_has_not_ended_is_said_to_be_unasked(tmp_path, status, words):
    place = directory(tmp_path / "run")
    manifest = json.loads((place / "run.json").read_text())
    manifest["stages"]["align"]["status"] = status
    (place / "run.json").write_text(json.dumps(manifest))
    lines = list(told(place, examine(place)))
    assert "in what could be asked" in lines[0]
    assert any(line.startswith("  - align: ") and words in line for line in lines)


def test_a_damaged_list_of_rounds_is_an_error_that_names_it(tmp_path):
    place = directory(tmp_path / "run")
    (place / "rounds.json").write_text('{"rounds": [')
    with pytest.raises(RunDirectoryError, match=r"rounds\.json that could not be read"):
        examine(place)


def test_the_likeliest_cause_is_told_in_full_and_others_by_name(tmp_path):
    place = directory(tmp_path / "run", coef=0.0, **RANDOM)
    lines = list(told(place, examine(place)))
    assert "the likeliest cause is in reward: the labels say nothing" in lines[0]
    assert lines.index("Evidence:") < lines.index("What to change:") < len(lines) - 2
    assert lines[-2] == "Found as well, and perhaps its consequence:"
    assert lines[-1].startswith("  - align: nothing holds the policy")


def test_the_command_tells_and_writes_json(palate_command, tmp_path):
    place = directory(tmp_path / "run", **RANDOM)
    result = palate_command("doctor", str(place))
    assert result.code == 0 and "51% [48, 54]" in result.out
    (row,) = palate_command("doctor", str(place), "--json").out.splitlines()
    read = json.loads(row)
    assert set(read) == {"stage", "cause", "score", "evidence", "advice"} and read["stage"] == "reward"
    assert CHANCE == 0.5  # what the interval above is held against
    assert palate_command("doctor", str(tmp_path)).code == 2


@pytest.mark.parametrize(("reward", "learnt"), [('"model"', True), ('"length"', False)])
def test_where_no_reward_is_learnt_nothing_is_advised_about_pairs_and_ensembles(tmp_path, reward, learnt):
    place = directory(tmp_path / "run", looks=[(0, 0.25), (1, -0.1)])
    recipe = place / "recipe.toml"
    recipe.write_text(recipe.read_text().replace('"model"', reward))
    (only,) = examine(place)
    assert "something else" in only.cause and "Read align/samples.jsonl" in only.advice[0]
    of_models = [line for line in only.advice if "ensemble" in line or "pairs" in line]
    assert len(of_models) == (3 if learnt else 0)
