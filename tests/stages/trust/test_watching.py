"""Looks during alignment: what they see, that training does not see them, and the way back to the best model.

The tiny recipe's policy is paid for length, and a judge beside the reward likes answers of one length best: what it
says rises and then falls while the reward rises.
"""

import json
import math
import multiprocessing
import signal
from statistics import fmean

import pytest
import torch

from palate.engine.files import file_sha256
from palate.errors import RecipeError
from palate.models import load_causal, weight_hash
from palate.recipe import load_recipe, recipe_from
from palate.records import Prompt
from palate.rewards import FunctionReward
from palate.stages import align
from palate.stages.calls import Quiet
from palate.stages.context import Context
from palate.stages.material import Loaded
from palate.stages.run import execute
from palate.stages.trust import watching
from palate.stages.trust.measuring import prompt_loss

LONG = "def long(prompts, completions, **fields):\n    return [float(len(text)) for text in completions]\n"
LIKED = 16


def middling(prompts, completions, **fields):
    return [-abs(len(text) - LIKED) for text in completions]


def table(finished, place, **changes):
    """A recipe of alignment alone, by length and without a leash."""
    (place / "rewards.py").write_text(LONG)
    align = {
        "prompts": str(finished.recipe.parent / "prompts.jsonl"),
        "reward": f"{place / 'rewards.py'}:long",
        "iterations": 14,
        "batch": 16,
        "max_new_tokens": 8,
        "learning_rate": 1e-2,
        "reference_samples": 16,
        "checkpoint_every": 3,
        "shaping": {"missing_eos_penalty": 0.0},
        "ppo": {"kl": {"kind": "fixed", "coef": 0.0}},
        "watch": {"step": 0.1},
    }
    return {
        "run": {"name": "watched", "threads": 1, "device": "cpu"},
        "model": {"path": str(finished.run / "sft" / "model")},
        "align": align | changes,
    }


def aligned(recipe, root, watcher=Quiet):
    said = []
    place = execute(recipe_from(recipe), watch=lambda _: watcher(), say=said.append, root=root, force=True)
    return place, said


def figures(place):
    found = json.loads((place / "summary.json").read_text())
    return {name.removeprefix("align/"): value for name, value in found.items() if name.startswith("align/")}


def report(place):
    return json.loads((place / "align" / "overoptimisation.json").read_text())


def weights(place):
    return weight_hash(load_causal(place)[0])


@pytest.fixture
def same(timeless):
    """`same(one, other)` asserts that two alignments are equal to the bit in all that is not time."""

    def check(one, other):
        assert timeless(one / "align/metrics.jsonl") == timeless(other / "align/metrics.jsonl")
        for name in (
            "points.jsonl",
            "samples.jsonl",
            "overoptimisation.json",
            "monitors.json",
            "model/model.safetensors",
        ):
            assert file_sha256(one / "align" / name) == file_sha256(other / "align" / name), name
        assert figures(one) == figures(other)

    return check


@pytest.fixture
def judged(monkeypatch):
    """A judge beside the reward that likes answers of one length."""
    monkeypatch.setattr(watching, "_judge", lambda *_: FunctionReward("middling", middling))


@pytest.fixture(scope="module")
def stopped(finished, tmp_path_factory):
    """The uncut run, which is stopped past the peak, with what it said and the policy's weights at every look."""
    root = tmp_path_factory.mktemp("stopped")
    seen, look = {}, watching.Watcher.look

    def looking(watcher, watched, policy, step, *rest):
        seen[step] = weight_hash(policy.model)
        return look(watcher, watched, policy, step, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watching, "_judge", lambda *_: FunctionReward("middling", middling))
        patch.setattr(watching.Watcher, "look", looking)
        place, said = aligned(table(finished, root), root)
    return place, said, seen


# ---- stopped, and gone back


def test_past_the_peak_the_stage_stops_and_goes_back_to_the_best_look(stopped, rows):
    place, said, seen = stopped
    points, decision = rows(place / "align/points.jsonl"), report(place)["decision"]
    means = [row["heldout"] for row in points]
    best = points[means.index(max(means))]
    assert 0 < best["step"] < points[-1]["step"] < 14
    assert (decision["stopped"], decision["rolled_back"], decision["past_peak"]) == (True, True, True)
    assert decision["taken"] == decision["best"] == best["step"]
    assert weights(place / "align/model") == seen[best["step"]] != seen[points[-1]["step"]]
    assert points[-1]["proxy"] > best["proxy"] + 3  # while the reward went on rising
    assert any(
        "past the peak of over-optimisation: by middling" in sentence and "stopped after" in sentence
        for sentence in said
    )
    assert f"align: went back to the model after iteration {best['step']}, the best by middling." in said


def test_the_figures_are_those_of_the_model_taken(stopped, rows):
    place, _, _ = stopped
    points, metrics, found = rows(place / "align/points.jsonl"), rows(place / "align/metrics.jsonl"), figures(place)
    best = max(points, key=lambda row: row["heldout"])
    assert found["iteration_taken"] == best["step"] and found["stopped_past_peak"] == 1
    assert found["heldout_final"] == found["heldout_best"] == best["heldout"]
    assert found["heldout_initial"] == points[0]["heldout"]
    # A row of metrics is of the policy that its iteration began with.
    following = metrics[best["step"]]
    assert found["kl_final"] == following["kl/sequence"] < found["kl_max"]
    assert found["score_final"] == following["score/mean"] and found["entropy_final"] == following["entropy"]
    assert found["eos_rate_initial"] == metrics[0]["length/eos_rate"]
    assert found["iterations"] == len(metrics)


def test_points_are_means_over_the_same_prompts(stopped, rows):
    place, _, _ = stopped
    points = rows(place / "align/points.jsonl")
    assert points[0]["step"] == 0 and points[0]["kl"] == points[0]["d"] == 0
    for row in points:
        answers = row["prompts"]
        assert len(answers["kl"]) == len(answers["proxy"]) == len(answers["heldout"]) == 26
        assert row["heldout"] == pytest.approx(fmean(answers["heldout"]))
        assert row["proxy"] == pytest.approx(fmean(answers["proxy"]))
        assert row["d"] == pytest.approx(math.sqrt(max(fmean(answers["kl"]), 0)))
        # A length l gives l to the one and −|l − 16| to the other.
        assert answers["heldout"] == [-abs(length - LIKED) for length in answers["proxy"]]
        assert row["judge"] == "middling" and row["heldout_se"] > 0


def test_a_look_comes_whenever_the_root_of_kl_has_passed_another_step(stopped, rows):
    place, _, _ = stopped
    metrics = rows(place / "align/metrics.jsonl")
    reached, due = 0.0, [0]
    for row in metrics:
        d = math.sqrt(max(row["kl/sequence"], 0))
        if math.floor(d / 0.1) > math.floor(reached / 0.1):
            reached, due = d, [*due, row["step"]]
    assert [row["step"] for row in rows(place / "align/points.jsonl")] == due


@pytest.mark.usefixtures("judged")
def test_a_look_comes_after_so_many_iterations_however_little_the_policy_moved(finished, tmp_path, rows):
    place, _ = aligned(table(finished, tmp_path, watch={"step": 100.0, "every": 5, "stop": False}), tmp_path)
    assert [row["step"] for row in rows(place / "align/points.jsonl")] == [0, 5, 10, 14]


@pytest.mark.usefixtures("judged")
def test_without_a_stop_the_last_model_is_taken_and_training_is_the_same(finished, stopped, tmp_path, rows, timeless):
    place, _ = aligned(table(finished, tmp_path, watch={"step": 0.1, "stop": False}), tmp_path)
    uncut, _, seen = stopped
    metrics, known = timeless(place / "align/metrics.jsonl"), timeless(uncut / "align/metrics.jsonl")
    assert len(metrics) == 14 and metrics[: len(known)] == known
    decision = report(place)["decision"]
    assert (decision["taken"], decision["stopped"], decision["rolled_back"]) == (14, False, False)
    assert decision["past_peak"] and "only to measure" in decision["reason"]
    assert figures(place)["stopped_past_peak"] == 0
    assert figures(place)["heldout_final"] < figures(place)["heldout_best"]
    points = rows(place / "align/points.jsonl")
    assert points[: len(seen)] == rows(uncut / "align/points.jsonl")


def test_looks_leave_training_as_it_is(finished, stopped, tmp_path, rows, timeless):
    place, _ = aligned(table(finished, tmp_path, watch={"judge": "none"}), tmp_path)
    known = timeless(stopped[0] / "align/metrics.jsonl")
    assert timeless(place / "align/metrics.jsonl")[: len(known)] == known
    points = rows(place / "align/points.jsonl")
    assert [row["step"] for row in points] == [0, 14]
    assert not {"heldout", "judge", "gold"} & set().union(*points)
    assert not {"stopped_past_peak", "heldout_best", "peak_kl", "gold_final"} & set(figures(place))
    assert figures(place)["iteration_taken"] == 14


@pytest.mark.usefixtures("judged")
def test_a_last_model_that_is_worse_is_not_taken_and_a_longer_run_goes_on_from_it(
    finished, stopped, tmp_path, rows, same
):
    uncut, _, seen = stopped
    best, worse = (report(uncut)["decision"]["best"], rows(uncut / "align/points.jsonl")[-2]["step"])
    place, said = aligned(table(finished, tmp_path, iterations=worse), tmp_path)
    decision = report(place)["decision"]
    assert (decision["stopped"], decision["rolled_back"], decision["taken"]) == (False, True, best)
    assert weights(place / "align/model") == seen[best]
    assert f"align: went back to the model after iteration {best}, the best by middling." in said
    record = json.loads((place / "run.json").read_text())["stages"]["align"]
    assert any(f"worse than that after iteration {best}" in reason for reason in record["verdict"]["reasons"])
    _, said = aligned(table(finished, tmp_path), tmp_path)
    assert "  align: to go on with, for longer than it was." in said
    same(place, uncut)


# ---- resumed


class Stopper(Quiet):
    """Asks to stop after its fourth step, as Ctrl-C does."""

    def __init__(self):
        self.steps = 0

    def advance(self, row):
        self.steps += 1

    def stopping(self):
        return self.steps == 4

    def check(self):
        if self.steps == 4:
            raise KeyboardInterrupt


@pytest.mark.usefixtures("judged")
def test_an_interrupted_run_goes_on_to_the_bit(finished, stopped, tmp_path, same):
    recipe = table(finished, tmp_path)
    while True:
        try:
            place, _ = aligned(recipe, tmp_path, Stopper)
            break
        except KeyboardInterrupt:
            pass
    same(place, stopped[0])


@pytest.mark.usefixtures("judged")
def test_a_stopped_run_stays_stopped_and_loses_nothing_on_its_last_steps(
    finished, stopped, tmp_path, monkeypatch, same
):
    def died(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(align, "closing_figures", died)
        with pytest.raises(KeyboardInterrupt):
            aligned(table(finished, tmp_path), tmp_path)
    place, _ = aligned(table(finished, tmp_path), tmp_path)
    same(place, stopped[0])


@pytest.mark.usefixtures("judged")
def test_a_longer_run_does_not_remember_the_look_at_the_end(finished, tmp_path, rows, same):
    watch = {"step": 1.0, "stop": False}
    for root, lengths in (("grown", (2, 6)), ("whole", (6,))):
        (tmp_path / root).mkdir()
        for iterations in lengths:
            aligned(table(finished, tmp_path, iterations=iterations, watch=watch), tmp_path / root)
            assert rows(tmp_path / root / "watched/align/points.jsonl")[-1]["step"] == iterations
    assert 2 not in [row["step"] for row in rows(tmp_path / "grown/watched/align/points.jsonl")]
    same(tmp_path / "grown/watched", tmp_path / "whole/watched")


CHILD = """
import json, os, signal
from palate.engine import files

done = 0

def perform(operation, *arguments):
    global done
    done += 1
    if done == {last}:
        os.kill(os.getpid(), signal.SIGKILL)
    return operation(*arguments)

files.perform = perform
from palate.recipe import recipe_from
from palate.rewards import FunctionReward
from palate.stages.trust import watching
from palate.stages.calls import Quiet
from palate.stages.run import execute

def middling(prompts, completions, **fields):
    return [-abs(len(text) - {liked}) for text in completions]

watching._judge = lambda *_: FunctionReward("middling", middling)
recipe = recipe_from(json.loads({recipe!r}))
execute(recipe, watch=lambda _: Quiet(), say=lambda _: None, root={root!r}, force=True)
"""


@pytest.fixture(scope="module")
def live():
    """`live(recipe, root, last)` runs a recipe in a process that dies before its n-th operation on the disk."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["palate.stages.run"])

    def live(recipe, root, last):
        source = CHILD.format(last=last, liked=LIKED, recipe=json.dumps(recipe), root=str(root))
        process = context.Process(target=exec, args=(source, {}))
        process.start()
        process.join(300)
        code = process.exitcode
        process.close()
        return code

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield live


def test_killed_again_and_again_it_takes_the_same_model(finished, stopped, live, tmp_path, same):
    recipe = table(finished, tmp_path)
    killed = 0
    for last in (61, 83, 74, 97, 68, 110, 90, 121, 0):
        code = live(recipe, tmp_path, last)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        killed += 1
    assert code == 0 and killed >= 2
    same(tmp_path / "watched", stopped[0])


@pytest.mark.slow
@pytest.mark.parametrize("last", range(10, 200, 4))
def test_killed_at_any_operation_it_takes_the_same_model(finished, stopped, live, tmp_path, last, same):
    recipe = table(finished, tmp_path)
    assert live(recipe, tmp_path, last) in (-signal.SIGKILL, 0)
    assert live(recipe, tmp_path, 0) == 0
    same(tmp_path / "watched", stopped[0])


# ---- the judge


def test_on_ones_own_data_the_evaluations_reward_model_looks_on(finished, rows):
    points = rows(finished.run / "align/points.jsonl")
    assert {row["judge"] for row in points} == {"heldout-reward"}
    assert points[-1]["step"] == 4
    assert report(finished.run)["proxy"] == "reward_model"


@pytest.mark.parametrize(
    ("align", "expected"),
    [
        ({"reward": "gold"}, None),
        ({"reward": "r.py:f"}, "gold"),
        ({"reward": "r.py:f", "watch": {"judge": "none"}}, None),
        ({"reward": "gold", "watch": {"judge": "gold"}}, "gold"),
    ],
)
def test_on_the_testbed_gold_looks_on_unless_it_is_the_reward(align, expected):
    recipe = recipe_from({"model": {"path": "testbed"}, "align": {"prompts": "testbed"} | align})
    context = Context(recipe, {}, None, None, None, None)  # nothing of them is asked
    judge = watching._judge(context, None, FunctionReward("reward", middling))
    assert (None if judge is None else judge.name) == expected


def test_a_reward_model_of_another_place_looks_on(finished, tmp_path, rows):
    place = str(finished.run / "reward" / "model")
    path, _ = aligned(table(finished, tmp_path, iterations=1, watch={"judge": place}), tmp_path)
    assert {row["judge"] for row in rows(path / "align/points.jsonl")} == {"model"}


def test_a_judge_is_found_beside_the_recipe(finished, tmp_path):
    (tmp_path / "judge").mkdir()
    recipe = tmp_path / "mine.toml"
    recipe.write_text('[model]\npath = "m"\n[align]\nprompts = "p.jsonl"\nreward = "r"\nwatch.judge = "judge"\n')
    assert load_recipe(recipe).align.watch.judge == str(tmp_path / "judge")
    assert load_recipe(recipe, ["align.watch.judge=none"]).align.watch.judge == "none"


@pytest.mark.parametrize(
    ("align", "said"),
    [
        ({"prompts": "p.jsonl", "reward": "r", "watch": {"judge": "gold"}}, "align.watch.judge.*prompts of your"),
        ({"data": "p.jsonl", "algorithm": "dpo", "watch": {"prompts": 8}}, r"\[align.watch\].*not on the online loop"),
        ({"prompts": "p.jsonl", "reward": "r", "watch": {"prompts": 1}}, "watch.prompts"),
        ({"prompts": "p.jsonl", "reward": "r", "watch": {"step": 0}}, "watch.step"),
    ],
)
def test_a_watch_that_cannot_be_is_refused(align, said):
    with pytest.raises(RecipeError, match=said):
        recipe_from({"model": {"path": "m"}, "align": align})


# ---- other figures


def test_the_loss_of_prompts_is_the_mean_over_their_tokens(finished):
    loaded = Loaded(*load_causal(finished.run / "sft/model"))
    prompts = [Prompt.of("Say moon and fire."), Prompt.of("Say kite.")]
    total = count = 0
    for prompt in prompts:
        ids = loaded.chat.encode_prompt(prompt)
        decoder = loaded.model.decoder([ids[:1]])
        for token in ids[1:]:
            total -= float(decoder.logits[0].log_softmax(-1)[token])
            decoder.step(torch.tensor([token]))
            count += 1
    assert prompt_loss(loaded, prompts) == pytest.approx(total / count, rel=1e-5)
    assert prompt_loss(loaded, prompts * 200) == pytest.approx(total / count, rel=1e-5)
