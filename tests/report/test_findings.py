"""What the report says of a run: that the headline is honest, and that what must be doubted is named."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.report.findings import cautions, chosen, figures, finding, over_optimised, samples, smoothed
from palate.report.reading import Comparison, Series, read

MakeRun = Callable[..., Path]
Outcome = Literal["win", "tie", "loss"]


def alter(path: Path, **changes: Any) -> None:
    """Changes top-level entries of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def set_win_rate(directory: Path, estimate: float, low: float, high: float) -> None:
    counts = {"wins": 200, "ties": 0, "losses": 200}
    rate = {"estimate": estimate, "low": low, "high": high} | counts
    alter(directory / "evaluate" / "results.json", win_rate=rate)


@pytest.mark.parametrize(
    ("low", "high", "tone", "headline"),
    [
        (0.501, 0.7, "good", "The gold judge prefers the aligned model to the SFT model."),
        (0.3, 0.499, "bad", "The gold judge prefers the SFT model to the aligned model."),
        (0.5, 0.7, "open", "The gold judge cannot tell the aligned model from the SFT model."),
        (0.3, 0.5, "open", "The gold judge cannot tell the aligned model from the SFT model."),
    ],
)
def test_only_an_interval_clear_of_a_half_decides(
    make_run: MakeRun, low: float, high: float, tone: str, headline: str
) -> None:
    directory = make_run()
    set_win_rate(directory, (low + high) / 2, low, high)
    verdict = finding(read(directory))
    assert (verdict.tone, verdict.headline) == (tone, headline)


def test_the_grounds_name_interval_prompts_kl_and_length(make_run: MakeRun) -> None:
    directory = make_run()
    set_win_rate(directory, 0.784, 0.742, 0.821)
    grounds = " ".join(finding(read(directory)).grounds)
    for words in ("78.4% of 400 held-out prompts", "74.2–82.1%", "6.20 nats", "13% shorter", "win 91.2%"):
        assert words in grounds  # (12.3 − 14.2)/14.2 = −13 %


def test_a_judge_that_is_a_model_is_named_and_doubted(make_run: MakeRun) -> None:
    directory = make_run()
    alter(directory / "evaluate" / "results.json", judge="heldout-reward", attainable=None)
    run = read(directory)
    assert finding(run).headline.startswith("A held-out reward model prefers")
    assert "truth, known" not in " ".join(finding(run).grounds)
    assert any("neither of people nor of a known truth" in sentence for sentence in cautions(run))


@pytest.mark.parametrize(("status", "verb"), [("failed", "failed"), ("stopped", "was interrupted")])
def test_an_early_end_outranks_every_result(make_run: MakeRun, status: str, verb: str) -> None:
    directory = make_run()
    stages = json.loads((directory / "run.json").read_text())["stages"]
    stages["align"] |= {"status": status, "reason": "The KL ran away."}
    alter(directory / "run.json", stages=stages)
    verdict = finding(read(directory))
    assert verdict.headline == f"The run ended early: the stage “align” {verb}."
    assert (verdict.tone, verdict.grounds) == ("bad", ("The KL ran away.",))


def test_a_stage_that_ended_without_a_reason_is_told(make_run: MakeRun) -> None:
    directory = make_run(["sft"])
    alter(directory / "run.json", stages={"sft": {"status": "stopped", "reason": ""}})
    assert finding(read(directory)).grounds == ("The run directory does not say why.",)


def test_unfinished_and_unevaluated_runs_have_no_verdict(make_run: MakeRun) -> None:
    directory = make_run(["sft", "reward"])
    assert finding(read(directory)).headline.startswith("There is no verdict yet")
    alter(directory / "run.json", stages={"sft": {"status": "running", "seconds": None, "steps": None}})
    assert "“sft” has begun and not ended" in finding(read(directory)).headline


def test_the_four_headline_figures(make_run: MakeRun) -> None:
    shown = figures(read(make_run()))
    assert [figure.value for figure in shown] == ["warned", "80.9%", "0.15\u00a0→\u00a00.75", "71.2%"]
    assert shown[0].note == "reward: a warning; 6 of 6 checks passed"  # 2 + 2 + 1 + 1 checks
    assert shown[1].note.endswith("; 79.0% at equal length")
    assert shown[2].note == "76.6% of the way to best of 64"


def test_headline_figures_that_are_absent_say_so(make_run: MakeRun) -> None:
    shown = figures(read(make_run([])))
    assert [figure.value for figure in shown] == ["—"] * 4
    assert [figure.note for figure in shown] == [
        "no stage is done",
        "not evaluated",
        "not evaluated",
        "no reward model",
    ]


STOP = {
    "name": "accuracy against chance",
    "level": "stop",
    "figure": "reward/accuracy",
    "value": 0.5,
    "rule": "its interval lies above 50 %",
    "reason": "The reward model is right on 50.1% of pairs.",
    "advice": "Look at a handful of pairs.",
}


def stop(directory: Path, stage: str, **entries: Any) -> None:
    """Lets a stage's gate say stop."""
    stages = json.loads((directory / "run.json").read_text())["stages"]
    stages[stage] |= {"verdict": {"level": "stop", "reasons": [STOP["reason"]], "checks": [STOP]}} | entries
    alter(directory / "run.json", stages=stages)


def test_a_run_that_was_stopped_says_so_first_with_the_reason_and_what_to_do(make_run: MakeRun) -> None:
    directory = make_run(["sft", "reward"])
    stop(directory, "reward")
    verdict = finding(read(directory))
    assert verdict.headline == "The run was stopped: the stage “reward” did not pass its gate."
    assert verdict.grounds == ("The reward model is right on 50.1% of pairs. Look at a handful of pairs.",)
    assert verdict.tone == "bad"
    assert figures(read(directory))[0].value == "stopped"


def test_a_stop_without_checks_gives_its_reasons(make_run: MakeRun) -> None:
    directory = make_run(["sft"])
    alter(directory / "run.json", stages={"sft": {"status": "done", "verdict": {"level": "stop", "reasons": ["Why."]}}})
    assert finding(read(directory)).grounds == ("Why.",)


def test_a_forced_run_says_so_before_it_says_who_won(make_run: MakeRun) -> None:
    directory = make_run()
    stop(directory, "reward", forced=True)
    verdict = finding(read(directory))
    assert verdict.headline == "Forced: “reward” did not pass its gate, and the run went on."
    assert (verdict.tone, verdict.grounds[0][:20]) == ("bad", "The reward model is ")
    assert "What came of it: The gold judge prefers the aligned model to the SFT model." in verdict.grounds


def test_after_the_evaluation_there_is_nothing_to_stop(make_run: MakeRun) -> None:
    directory = make_run()
    set_win_rate(directory, 0.4, 0.35, 0.45)
    stop(directory, "evaluate")
    assert finding(read(directory)).headline == "The gold judge prefers the SFT model to the aligned model."


def test_warnings_of_passed_stages_are_cautions(make_run: MakeRun) -> None:
    found = cautions(read(make_run()))
    assert found == (
        "Stage reward: 812 pairs hold contradicting labels (the same two texts, both ways)",
        "Monitor “confident wrong” alarms: 0.02 before, 0.11 after.",
        "The mean score fell on these kinds of prompt: requests to decline.",
    )


def test_a_check_that_is_doubted_is_told_once_with_its_advice(make_run: MakeRun) -> None:
    directory = make_run()
    stop(directory, "reward")
    told = [sentence for sentence in cautions(read(directory)) if sentence.startswith("Stage reward")]
    assert told == ["Stage reward: The reward model is right on 50.1% of pairs. Look at a handful of pairs."]


def test_longer_completions_and_fewer_right_ones_are_cautions(make_run: MakeRun) -> None:
    directory = make_run()
    changes = {"length": {"before": 10, "after": 12}, "correct": {"before": 0.8, "after": 0.7}}
    alter(directory / "evaluate" / "results.json", **changes)
    found = " ".join(cautions(read(directory)))
    assert "Completions became 20% longer" in found
    assert "Fewer answers are correct: 80.0% before, 70.0% after." in found


def series(values: list[float]) -> Series:
    return Series(tuple(map(float, range(len(values)))), tuple(values))


def test_over_optimisation_is_a_fall_of_the_truth_under_a_rising_proxy() -> None:
    # 19 rows: no smoothing (19 // 20 = 0). The truth gains 9 and gives back 3 (over a quarter) or 1.8.
    rising = [float(i) for i in range(10)]
    proxy = series([float(i) for i in range(19)])
    fell_a_third = series(rising + [9 - i / 3 for i in range(1, 10)])
    fell_a_fifth = series(rising + [9 - i / 5 for i in range(1, 10)])
    falling_proxy = series(rising + [9 - i / 3 for i in range(1, 10)])
    assert over_optimised(proxy, fell_a_third)
    assert not over_optimised(proxy, fell_a_fifth)
    assert not over_optimised(falling_proxy, fell_a_third)
    assert not over_optimised(proxy, series([9.0] * 19))
    assert not over_optimised(proxy, series([0.0, 9.0, 0.0, 0.0]))


def test_over_optimisation_is_seen_where_the_truth_is_measured_now_and_then() -> None:
    proxy = series([float(i) for i in range(50)])
    assert over_optimised(proxy, Series((0.0, 10.0, 20.0, 30.0, 40.0), (0.0, 5.0, 9.0, 7.0, 5.0)))


def test_over_optimisation_reaches_the_page(make_run: MakeRun) -> None:
    directory = make_run()
    rows = [{"step": i, "score/mean": i, "score/gold": min(i, 60 - i)} for i in range(60)]
    (directory / "align" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert not any("gave back" in sentence for sentence in cautions(read(directory)))  # the looks decide
    (directory / "align" / "points.jsonl").unlink()
    assert any("the gold score gave back" in sentence for sentence in cautions(read(directory)))


def test_smoothing_is_a_centred_mean_that_keeps_constants_and_shrinks_at_the_ends() -> None:
    # 40 rows: reach 2, windows of five inside and of three at the ends.
    values = [float(i * i) for i in range(40)]
    mean = smoothed(series(values)).y
    assert mean[0] == pytest.approx((0 + 1 + 4) / 3)
    assert mean[10] == pytest.approx((64 + 81 + 100 + 121 + 144) / 5)
    assert mean[39] == pytest.approx((37**2 + 38**2 + 39**2) / 3)
    assert smoothed(series([3.0] * 40)).y == (3.0,) * 40


def comparison(number: int, outcome: Outcome, change: float) -> Comparison:
    return Comparison(
        prompt=f"p{number:04}", before="b", after="a", score_before=0.0, score_after=change, outcome=outcome
    )


outcomes: st.SearchStrategy[list[tuple[Outcome, float]]] = st.lists(
    st.tuples(st.sampled_from(["win", "tie", "loss"]), st.floats(-1, 1)), max_size=60
)


@given(outcomes, st.randoms(use_true_random=False))
def test_samples_do_not_depend_on_order_and_show_the_ends(
    rows: list[tuple[Outcome, float]], shuffler: random.Random
) -> None:
    comparisons = [comparison(i, outcome, change) for i, (outcome, change) in enumerate(rows)]
    shown = chosen(comparisons)
    assert len(shown) == len({one.prompt for _, one in shown}) == min(5, len(rows))
    changes = [one.score_after for _, one in shown]
    if rows:
        assert changes[0] == max(change for _, change in rows)
        assert min(changes) == min(change for _, change in rows)
    shuffled = list(comparisons)
    shuffler.shuffle(shuffled)
    assert chosen(shuffled) == shown


def test_samples_are_the_best_two_at_random_and_the_two_worst() -> None:
    comparisons = [comparison(i, "win", 1 - i / 50) for i in range(50)]
    shown = chosen(comparisons)
    assert [kind for kind, _ in shown] == ["best", "random", "random", "worst", "worst"]
    assert [one.prompt for kind, one in shown if kind != "random"] == ["p0000", "p0048", "p0049"]


def test_what_is_drawn_at_random_is_drawn_by_the_prompt_alone() -> None:
    drawn = {one.prompt for kind, one in chosen([comparison(i, "win", i / 50) for i in range(50)]) if kind == "random"}
    others = {
        one.prompt for kind, one in chosen([comparison(i, "win", -i / 50) for i in range(50)]) if kind == "random"
    }
    assert drawn == others


def test_an_alarm_shows_what_it_names_beside_the_answer_before(make_run: MakeRun) -> None:
    directory = make_run()
    named = samples(read(directory))[-1]
    assert (named.kind, named.before, named.monitors) == ("flagged", "Smooth.", ("confident_wrong",))
    monitors = json.loads((directory / "align" / "monitors.json").read_text())
    row = json.loads((directory / "evaluate" / "comparisons.jsonl").read_text().splitlines()[3])
    monitors[1]["samples"] = [{"prompt": row["prompt"], "completion": row["after"]}]
    (directory / "align" / "monitors.json").write_text(json.dumps(monitors))
    named = samples(read(directory))[-1]
    assert (named.before, named.outcome, named.score_after) == (row["before"], row["outcome"], row["score_after"])


def test_a_quiet_monitor_names_nothing(make_run: MakeRun) -> None:
    directory = make_run()
    monitors = json.loads((directory / "align" / "monitors.json").read_text())
    monitors[1]["alarm"] = False
    (directory / "align" / "monitors.json").write_text(json.dumps(monitors))
    assert {shown.kind for shown in samples(read(directory))} == {"best", "random", "worst"}
