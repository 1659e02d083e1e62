"""What the stages' pages say of files, metrics and figures is compared with what two tiny runs leave behind."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

import palate
from palate import testbed
from palate.engine.generation import Sampling
from palate.recipe import load_recipe, recipe_from
from palate.stages import tools

DOCS = Path(__file__).parent.parent / "docs"
STAGES = ("sft", "reward", "align", "evaluate")
KINDS = re.compile("_(manner|correctness|both)$")

TINY: dict[str, Any] = {
    "model": {"scratch": {"hidden": 16, "layers": 1, "heads": 2, "vocabulary": 300, "context": 128}},
    # Enough steps for the slope of its loss.
    "sft": {"data": "demonstrations.jsonl", "epochs": 1, "heldout_fraction": 0.2, "batch_tokens": 400},
    "reward": {"data": "pairs.jsonl", "heldout_fraction": 0.3, "reference_samples": 4},
    "align": {"prompts": "prompts.jsonl", "iterations": 2, "batch": 4, "max_new_tokens": 8, "reference_samples": 4},
    "evaluate": {"prompts": "prompts.jsonl", "count": 4, "best_of": 2, "best_of_prompts": 2},
}


def page(name: str) -> str:
    """A page of docs/."""
    return (DOCS / f"{name}.md").read_text(encoding="utf-8")


def tabulated(name: str, heading: str) -> set[str]:
    """The names in the first column of every table under a heading."""
    section = re.split(r"^## ", page(name).partition(f"\n## {heading}\n")[2], flags=re.MULTILINE)[0]
    cells = re.findall(r"^\| (`.*?) \|", section, flags=re.MULTILINE)
    return {word for cell in cells for word in re.findall(r"`([^`]+)`", cell)}


def keys_of(path: Path) -> set[str]:
    """The names in all rows of a file of JSON lines."""
    return {name for line in path.read_text(encoding="utf-8").splitlines() for name in json.loads(line)}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run on files of one's own with a held-out judge, and one on the testbed with gold."""
    place = tmp_path_factory.mktemp("pages")
    pairs = testbed.pairs(60, 0, testbed.Annotator())
    rows = {
        "demonstrations": [{"prompt": one.prompt.text, "completion": one.chosen} for one in pairs],
        "pairs": [
            # Some were judged twice, and not always alike: the noise ceiling needs such.
            {"prompt": one.prompt.text, "chosen": chosen, "rejected": rejected, "annotator": row // len(pairs)}
            for row, one in enumerate([*pairs, *pairs[:24]])
            for chosen, rejected in [(one.chosen, one.rejected) if row % 8 else (one.rejected, one.chosen)]
        ],
        "prompts": [{"prompt": one.prompt.text} for one in pairs],
    }
    for name, lines in rows.items():
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (place / f"{name}.jsonl").write_text(text, encoding="utf-8")
    own = {
        section: {
            key: str(place / value) if str(value).endswith(".jsonl") else value for key, value in settings.items()
        }
        for section, settings in TINY.items()
    }
    own["align"]["anchor"] = 4
    world = {
        section: {key: "testbed" if str(value).endswith(".jsonl") else value for key, value in settings.items()}
        for section, settings in TINY.items()
    }
    world["testbed"] = {"demonstrations": 40, "pairs": 40, "heldout_pairs": 40}
    world["evaluate"]["judge"] = "gold"
    first, second = (
        palate.run({**recipe, "run": {"name": name, "threads": 1}}, root=place / "runs", force=True)
        for name, recipe in (("own", own), ("world", world))
    )
    return first, second


@pytest.mark.parametrize("stage", ["sft", "reward", "align"])
def test_every_metric_is_explained_and_every_metric_explained_is_there(runs: tuple[Path, Path], stage: str) -> None:
    written = set().union(*(keys_of(run / stage / "metrics.jsonl") for run in runs))
    judges = {"score/reward_model", "score/gold"} & written
    expected = written - judges | ({"score/NAME"} if judges else set())
    assert tabulated(stage, "`metrics.jsonl`") == expected


def test_every_figure_is_explained_and_every_figure_explained_is_there(runs: tuple[Path, Path]) -> None:
    written = {KINDS.sub("", name) for run in runs for name in json.loads((run / "summary.json").read_text())}
    assert set().union(*(tabulated(stage, "Figures in `summary.json`") for stage in STAGES)) == written


def test_only_gold_has_the_figures_of_gold(runs: tuple[Path, Path]) -> None:
    own, world = (set(json.loads((run / "summary.json").read_text())) for run in runs)
    after = page("evaluate").partition("With the judge `gold`:")[2]
    gold = set(re.findall(r"`(align/\w+)`", after))
    assert gold <= world and not gold & own


def test_on_the_testbed_capability_is_the_share_of_right_answers(runs: tuple[Path, Path]) -> None:
    results = json.loads((runs[1] / "evaluate" / "results.json").read_text())
    assert results["capability"]["questions"] == results["prompts"]
    assert {side: results["capability"][side] for side in ("before", "after")} == results["correct"]


def test_the_run_directory_is_as_drawn(runs: tuple[Path, Path]) -> None:
    tree = page("runs").partition("    runs/NAME/\n")[2].partition("\n\n")[0]
    for line in tree.splitlines():
        first, *others = line.split()
        names = [f"{first}{other}" for other in others] if first.endswith("/") else [first]
        assert all((runs[0] / name).exists() for name in names), line


def test_the_recipe_in_the_run_is_a_recipe(runs: tuple[Path, Path]) -> None:
    path = runs[0] / "recipe.toml"
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    assert "mapping" in table["sft"]
    assert load_recipe(path) == recipe_from(table)


def test_single_questions_write_what_is_said(runs: tuple[Path, Path]) -> None:
    run, place = runs[0], runs[0].parent.parent
    policy, judge = str(run / "align" / "model"), str(run / "reward" / "model")
    prompts, sampling = place / "prompts.jsonl", Sampling()
    rows = {
        "generate": next(tools.generate(policy, prompts, sampling=sampling, length=2, samples=1, seed=0)),
        "logprobs": next(tools.logprobs(policy, place / "demonstrations.jsonl")),
        "score": next(tools.score(judge, place / "demonstrations.jsonl"))
        | next(tools.score(judge, place / "pairs.jsonl")),
        "winrate": tools.winrate(policy, policy, judge=judge, prompts=prompts, sampling=sampling, length=2, seed=0),
    }
    for command, row in rows.items():
        line = next(line for line in page("runs").splitlines() if line.startswith(f"| `palate {command} "))
        said = set(re.findall(r"`(\w+)`", line.split("|")[3])) - {"eos", "length"}
        texts = {"prompt", "completion", "chosen", "rejected"} if command == "score" else set()
        assert said == set(row) - texts, command
