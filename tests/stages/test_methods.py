"""Alignment off the online loop: direct methods, and methods that make their own data, killed and gone on with."""

import itertools
import json
import math
import multiprocessing
import signal

import pytest

from palate.algorithms.direct import DIRECT
from palate.algorithms.makers import MAKERS, best
from palate.data.recognition import read
from palate.engine.files import file_sha256
from palate.errors import DataError, RecipeError
from palate.models import load_causal, weight_hash
from palate.recipe import recipe_from
from palate.stages.calls import Quiet
from palate.stages.run import execute

LOOP = {"learning_rate": 1e-2, "batch_tokens": 400, "checkpoint_every": 2}
OWN = {
    **dict.fromkeys(DIRECT, LOOP),
    "rejection": {**LOOP, "rounds": 2, "prompts": 20, "samples": 4, "keep": 2},
    "online_dpo": {**LOOP, "rounds": 2, "prompts": 20, "samples": 4},
    "spin": {**LOOP, "rounds": 2, "prompts": 20},
}


def table(finished, algorithm, **changes):
    """A recipe of alignment alone, from the finished run's SFT model."""
    data = finished.recipe.parent
    material = {"prompts": "prompts", "pairs": "pairs", "feedback": "pairs", "demonstrations": "demonstrations"}
    asked = (DIRECT | MAKERS)[algorithm].data
    align = {
        "algorithm": algorithm,
        "prompts" if asked == "prompts" else "data": str(data / f"{material[asked]}.jsonl"),
        "max_new_tokens": 8,
        "reference_samples": 16,
        algorithm: OWN[algorithm],
    }
    if asked == "prompts":
        align["reward"] = str(finished.run / "reward" / "model")
    return {
        "run": {"name": algorithm, "threads": 1, "device": "cpu"},
        "model": {"path": str(finished.run / "sft" / "model")},
        "align": align | changes,
    }


def run(recipe, root):
    said = []
    place = execute(recipe_from(recipe), watch=lambda _: Quiet(), say=said.append, root=root, force=True)
    return place, said


def summary(place):
    found = json.loads((place / "summary.json").read_text())
    return {name.removeprefix("align/"): value for name, value in found.items() if name.startswith("align/")}


@pytest.fixture
def same(timeless):
    """Asserts that two runs' alignments are equal to the bit in all that is not time."""

    def check(one, other):
        files = [
            {str(path.relative_to(place)) for path in (place / "align").rglob("*") if path.is_file()}
            for place in (one, other)
        ]
        assert files[0] == files[1]
        for name in sorted(files[0]):
            if name.endswith("metrics.jsonl"):
                assert timeless(one / name) == timeless(other / name), name
            elif name.endswith((".jsonl", "model.safetensors")):
                assert file_sha256(one / name) == file_sha256(other / name), name
        assert summary(one) == summary(other)

    return check


@pytest.fixture(scope="module")
def uncut(finished, tmp_path_factory):
    """`uncut(algorithm)`: its run, done once for all tests that only read it."""
    root = tmp_path_factory.mktemp("uncut")

    def uncut(algorithm):
        if not (root / algorithm).exists():
            run(table(finished, algorithm), root)
        return root / algorithm

    return uncut


# ---- direct methods


@pytest.mark.parametrize("algorithm", DIRECT)
def test_a_direct_method_needs_no_reward_and_is_measured_against_the_reference(finished, uncut, algorithm, rows):
    place = uncut(algorithm)
    figures = summary(place)
    own = {name for name in figures if name != "alarms" and not name.startswith("monitor/")}
    assert own == {
        *("examples", "kl_initial", "kl_final", "kl_max", "kl_token_final", "length_initial", "length_final"),
        *("entropy_initial", "entropy_final", "eos_rate_initial", "eos_rate_final", "perplexity_final", "prompt_loss"),
    }
    assert "alarms" in figures
    assert figures["kl_initial"] == 0 and figures["kl_final"] != 0
    assert all(math.isfinite(value) for value in figures.values())
    metrics = rows(place / "align" / "metrics.jsonl")
    assert [row["step"] for row in metrics] == list(range(1, len(metrics) + 1))
    trained, start = (load_causal(path)[0] for path in (place / "align/model", finished.run / "sft/model"))
    assert weight_hash(trained) != weight_hash(start)
    samples = rows(place / "align" / "samples.jsonl")
    assert {row["step"] for row in samples} == {0, len(metrics)}
    assert {"prompt", "completion", "kl", "finish", "scores", "step"} == set(samples[0])


def test_dpo_raises_the_margin_of_its_pairs(uncut, rows):
    metrics = rows(uncut("dpo") / "align" / "metrics.jsonl")
    assert metrics[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert metrics[-1]["margin"] > metrics[0]["margin"] and metrics[-1]["accuracy"] > 0.9


def test_a_longer_direct_run_goes_on(finished, tmp_path, same):
    short, long = (table(finished, "dpo", dpo={**LOOP, "epochs": epochs}) for epochs in (1, 2))
    run(short, tmp_path / "grown")
    place, said = run(long, tmp_path / "grown")
    assert "  align: to go on with, for longer than it was." in said
    whole, _ = run(long, tmp_path / "whole")
    same(place, whole)


def weighed(finished, place, weights, **changes):
    """A recipe of DPO on the pairs with these weights, one after the other and over again."""
    pairs = [json.loads(line) for line in (finished.recipe.parent / "pairs.jsonl").read_text().splitlines()]
    given = zip(pairs, itertools.cycle(weights), strict=False)
    place.write_text("".join(json.dumps(pair | {"weight": weight}) + "\n" for pair, weight in given))
    return table(finished, "dpo", data=str(place), **changes)


def test_pairs_of_no_weight_are_not_there_and_the_others_count_by_theirs(finished, tmp_path, rows):
    place, _ = run(weighed(finished, tmp_path / "pairs.jsonl", (3.0, 0.0)), tmp_path / "runs")
    kept = [line for line in (tmp_path / "pairs.jsonl").read_text().splitlines() if json.loads(line)["weight"]]
    (tmp_path / "kept.jsonl").write_text("\n".join(kept).replace("3.0", "1.0"))
    other, _ = run(table(finished, "dpo", data=str(tmp_path / "kept.jsonl")), tmp_path / "other")
    assert weight_hash(load_causal(place / "align/model")[0]) == weight_hash(load_causal(other / "align/model")[0])
    assert summary(place)["examples"] == len(kept)
    mixed, _ = run(weighed(finished, tmp_path / "mixed.jsonl", (3.0, 0.5)), tmp_path / "mixed")
    plain, _ = run(weighed(finished, tmp_path / "plain.jsonl", (1.0, 1.0)), tmp_path / "plain")
    first, second = (rows(one / "align/metrics.jsonl") for one in (mixed, plain))
    assert len(first) == len(second) and first[-1]["margin"] != second[-1]["margin"]


def test_pairs_of_no_weight_alone_are_refused(finished, tmp_path):
    with pytest.raises(DataError, match="all pairs have the weight 0"):
        run(weighed(finished, tmp_path / "pairs.jsonl", (0.0,)), tmp_path / "runs")


def test_kto_refuses_pairs_whose_weight_it_would_lose(finished, tmp_path):
    recipe = weighed(finished, tmp_path / "pairs.jsonl", (1.0, 0.5))
    recipe["align"] = {name: value for name, value in recipe["align"].items() if name != "dpo"} | {"algorithm": "kto"}
    with pytest.raises(DataError, match=r"line 2: 'weight' is 0\.5, and pairs are read as feedback") as refused:
        run(recipe, tmp_path / "runs")
    assert "Remove the column" in str(refused.value)


# ---- methods that make their own data


@pytest.mark.parametrize(("algorithm", "kind"), [("rejection", "demonstrations"), ("online_dpo", "pairs")])
def test_a_round_learns_from_the_best_of_what_it_sampled(finished, uncut, algorithm, kind, rows):
    place = uncut(algorithm) / "align"
    for number in (1, 2):
        written = rows(place / "rounds" / str(number) / "samples.jsonl")
        assert len(written) == 20 * 4
        data = iter(read(place / "rounds" / str(number) / "data.jsonl", kind).records)
        for start in range(0, 80, 4):
            group = written[start : start + 4]
            assert len({row["prompt"] for row in group}) == 1
            scores = [row["score"] - (row["finish"] == "length") for row in group]
            kept = best(scores, [row["ids"] for row in group])
            if kind == "demonstrations":
                found = [next(data).completion for _ in kept[:2]]
                assert found == [group[one]["completion"] for one in kept[:2]]
            elif max(scores) > min(scores):
                assert next(data).chosen == group[kept[0]]["completion"]
        assert next(data, None) is None


def test_a_cut_completion_is_kept_only_where_all_are_cut(finished, tmp_path, rows):
    settings = {**OWN["rejection"], "rounds": 1, "prompts": 26, "samples": 8, "keep": 1}
    place, _ = run(table(finished, "rejection", rejection=settings, shaping={"missing_eos_penalty": 1e3}), tmp_path)
    written = rows(place / "align/rounds/1/samples.jsonl")
    data = [row["completion"][0]["content"] for row in rows(place / "align/rounds/1/data.jsonl")]
    mixed = 0
    for start, kept in zip(range(0, len(written), 8), data, strict=True):
        group = written[start : start + 8]
        ended = {row["completion"] for row in group if row["finish"] == "eos"}
        mixed += bool(ended) and any(row["finish"] == "length" for row in group)
        assert not ended or kept in ended
    assert mixed > 3


def test_spin_prefers_demonstrations_and_measures_every_round(finished, uncut, rows):
    place = uncut("spin")
    demonstrations = {record.completion for record in read(finished.recipe.parent / "demonstrations.jsonl").records}
    pairs = read(place / "align/rounds/1/data.jsonl", "pairs").records
    assert pairs and {pair.chosen for pair in pairs} <= demonstrations
    metrics = rows(place / "align" / "metrics.jsonl")
    assert [row["step"] for row in metrics] == [1, 2, 3]
    assert metrics[0]["kl/sequence"] == 0 and metrics[1]["kl/sequence"] != 0
    assert not any(name.startswith("score/") for row in metrics for name in row)
    # A round's reference is the policy that it begins with, where DPO's loss is ln 2.
    for number in ("1", "2"):
        first = rows(place / "align/rounds" / number / "metrics.jsonl")[0]
        assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)


def test_every_prompt_comes_once_before_any_comes_again(uncut, rows):
    asked = [
        row["prompt"] for number in "12" for row in rows(uncut("rejection") / f"align/rounds/{number}/samples.jsonl")
    ]
    prompts = asked[::4]
    assert len(set(prompts[:26])) == 26  # there are 26 prompts, and a round takes 20


def test_a_prompt_that_comes_twice_in_a_round_gets_other_samples(finished, tmp_path, rows):
    settings = {**OWN["rejection"], "rounds": 1, "prompts": 52}
    place, _ = run(table(finished, "rejection", rejection=settings), tmp_path)
    written = rows(place / "align/rounds/1/samples.jsonl")
    by_prompt = {}
    for row in written:
        by_prompt.setdefault(row["prompt"], []).append(tuple(row["ids"]))
    assert all(len(found) == 8 for found in by_prompt.values())
    assert any(len(set(found)) > 4 for found in by_prompt.values())


def test_a_few_samples_of_every_round_and_of_the_end_are_kept(uncut, rows):
    found = rows(uncut("rejection") / "align/samples.jsonl")
    assert [row["step"] for row in found] == [1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3]
    assert {"step", "prompt", "completion", "score", "scores", "kl", "finish"} == set(found[0])


def test_the_summary_runs_from_the_first_policy_to_the_last(uncut, rows):
    place = uncut("rejection")
    figures, metrics = summary(place), rows(place / "align/metrics.jsonl")
    assert figures["rounds"] == 2 and figures["kl_initial"] == 0
    assert figures["score_initial"] == metrics[0]["score/mean"] and figures["score_final"] == metrics[-1]["score/mean"]
    assert figures["kl_final"] == metrics[-1]["kl/sequence"]
    assert figures["examples"] == sum(len(rows(place / f"align/rounds/{number}/data.jsonl")) for number in "12")
    last, final = (weight_hash(load_causal(place / part)[0]) for part in ("align/rounds/2/model", "align/model"))
    assert last == final


def test_more_rounds_go_on_from_the_last(finished, tmp_path, uncut, same):
    one = {**OWN["rejection"], "rounds": 1}
    run(table(finished, "rejection", rejection=one), tmp_path)
    place, said = run(table(finished, "rejection"), tmp_path)
    assert "  align: to go on with, for longer than it was." in said
    same(place, uncut("rejection"))


def test_scores_without_a_difference_teach_nothing_and_say_so(finished, tmp_path):
    (tmp_path / "level.py").write_text("def level(prompts, completions, **fields):\n    return [1.0] * len(prompts)\n")
    shaping = {"missing_eos_penalty": 0.0}
    recipe = table(finished, "online_dpo", reward=f"{tmp_path / 'level.py'}:level", shaping=shaping)
    place, said = run(recipe, tmp_path)
    assert any("round 1 has nothing to learn from" in sentence for sentence in said)
    last, start = (weight_hash(load_causal(path)[0]) for path in (place / "align/model", finished.run / "sft/model"))
    assert last == start


# ---- killed

CHILD = """
import os, signal, json
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
from palate.stages.calls import Quiet
from palate.stages.run import execute

execute(recipe_from(json.loads({recipe!r})), watch=lambda _: Quiet(), say=lambda _: None, root={root!r}, force=True)
"""


@pytest.fixture(scope="module")
def live():
    """`live(recipe, root, last)` runs a recipe in a process that dies before its n-th operation on the disk."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["palate.stages.run"])

    def live(recipe, root, last):
        source = CHILD.format(last=last, recipe=json.dumps(recipe), root=str(root))
        process = context.Process(target=exec, args=(source, {}))
        process.start()
        process.join(300)
        code = process.exitcode
        process.close()
        return code

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield live


@pytest.mark.parametrize("algorithm", ["dpo", "kto", "rejection", "spin"])
def test_killed_again_and_again_it_comes_to_the_same(finished, uncut, live, tmp_path, algorithm, same):
    recipe = table(finished, algorithm)
    killed = 0
    for last in (23, 61, 48, 83, 54, 97, 60, 88, 76, 92, 67, 85, 120, 101, 110, 0):
        code = live(recipe, tmp_path, last)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        killed += 1
    assert code == 0 and killed >= 2
    same(tmp_path / algorithm, uncut(algorithm))


@pytest.mark.slow
@pytest.mark.parametrize("last", range(5, 205, 10))
def test_killed_at_any_operation_a_round_goes_on(finished, uncut, live, tmp_path, last, same):
    recipe = table(finished, "rejection")
    assert live(recipe, tmp_path, last) in (-signal.SIGKILL, 0)
    assert live(recipe, tmp_path, 0) == 0
    same(tmp_path / "rejection", uncut("rejection"))


# ---- what a recipe may say


@pytest.mark.parametrize(
    ("algorithm", "changes", "said"),
    [
        ("dpo", {"data": None}, 'no data, with algorithm = "dpo".*learns from pairs'),
        ("dpo", {"prompts": "more.jsonl"}, "both prompts and data.*Remove prompts"),
        ("kto", {"data": None}, "learns from feedback"),
        ("spin", {"data": None, "prompts": "prompts.jsonl"}, "no data.*learns from demonstrations"),
        ("rejection", {"prompts": None, "data": "pairs.jsonl"}, "no prompts.*learns from prompts"),
        ("dpo", {"iterations": 7}, r"align.iterations = 7 .*\[align.dpo\]"),
        ("rejection", {"learning_rate": 1e-3}, r"align.learning_rate = 0.001 .*\[align.rejection\]"),
        ("rejection", {"rejection": {"samples": 2, "keep": 3}}, "at most as many"),
        ("dop", {}, "must be one of"),
    ],
)
def test_a_recipe_that_asks_for_what_cannot_be_is_refused(finished, algorithm, changes, said):
    recipe = table(finished, algorithm if algorithm in OWN else "dpo")
    align = recipe["align"] | changes | {"algorithm": algorithm}
    recipe["align"] = {name: value for name, value in align.items() if value is not None}
    with pytest.raises(RecipeError, match=said):
        recipe_from(recipe)


@pytest.mark.parametrize("algorithm", ["dpo", "kto", "spin", "rejection"])
def test_the_testbed_serves_every_method(algorithm):
    asked = (DIRECT | MAKERS)[algorithm].data
    align = {"algorithm": algorithm, "prompts" if asked == "prompts" else "data": "testbed"}
    recipe = recipe_from(
        {"model": {"path": "testbed"}, "align": align | ({"reward": "gold"} if asked == "prompts" else {})}
    )
    assert recipe.align.files == "testbed" and recipe.align.asks == asked


def test_a_dry_run_tells_the_cost(finished, palate_command, tmp_path):
    import tomli_w

    for algorithm in ("dpo", "rejection"):
        place = tmp_path / f"{algorithm}.toml"
        place.write_text(tomli_w.dumps(table(finished, algorithm)))
        result = palate_command("align", place, "--dry-run")
        assert result.code == 0, result.err
        assert {"dpo": "72 rows, 1 epoch", "rejection": "2 rounds, 160 completions"}[algorithm] in result.out
