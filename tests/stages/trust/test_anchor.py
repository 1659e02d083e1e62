"""The capability anchor: what it measures, when it ends the stage, and what it needs."""

import json
import shutil
import tomllib
from pathlib import Path

import pytest

from palate.errors import RecipeError
from palate.recipe import recipe_from


@pytest.fixture
def aligned(finished, palate_command, tmp_path):
    """`aligned(*settings)` aligns the tiny recipe's SFT model again; returns its metrics and the run directory."""

    def run(*settings: str) -> tuple[list[dict[str, float]], Path]:
        place = tmp_path / "runs" / "tiny"
        if not place.exists():
            shutil.copytree(finished.run, place)
        options = [word for setting in settings for word in ("--set", setting)]
        result = palate_command("run", finished.recipe, "--runs", tmp_path / "runs", "--force", *options)
        assert result.code == 0, result.err
        return [json.loads(line) for line in (place / "align/metrics.jsonl").read_text().splitlines()], place

    return run


def test_the_anchor_is_the_held_out_loss_of_sft_and_what_became_of_it(aligned):
    rows, place = aligned("align.anchor=1000")
    summary = json.loads((place / "summary.json").read_text())
    for row in rows:
        assert row["anchor/loss"] - row["anchor/rise"] == pytest.approx(summary["sft/heldout_loss"], abs=1e-6)
    assert len({row["anchor/loss"] for row in rows}) == 4  # it follows the policy
    assert summary["align/anchor_rise"] == rows[-1]["anchor/rise"]


def test_looking_on_changes_nothing(aligned, finished):
    rows, _ = aligned("align.anchor=3")
    before = [json.loads(line) for line in (finished.run / "align/metrics.jsonl").read_text().splitlines()]
    timeless = [{name: row[name] for name in row if not name.startswith("time/")} for row in before]
    assert [{name: row[name] for name in known} for row, known in zip(rows, timeless, strict=True)] == timeless


def test_the_stage_ends_where_the_loss_has_risen_too_far(aligned):
    rows, _ = aligned("align.anchor=1000")
    first = next(index for index, row in enumerate(rows) if row["anchor/rise"] > 0)
    stopped, place = aligned("align.anchor=1000", f"align.anchor_limit={rows[first]['anchor/rise'] / 2}")
    assert len(stopped) == first + 1
    reasons = json.loads((place / "run.json").read_text())["stages"]["align"]["verdict"]["reasons"]
    assert any("stopped early: the loss of held-out demonstrations rose by" in reason for reason in reasons)


HEAD = '[model]\npath = "m"\n'
SFT = '[sft]\ndata = "d.jsonl"\n'
ALIGN = '[align]\nprompts = "p.jsonl"\nreward = "a"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HEAD + ALIGN + "anchor = 8", r"align.anchor = 8 was given without \[sft\]"),
        (HEAD + SFT + ALIGN + "anchor_limit = 0.1", "was given without align.anchor"),
        (
            HEAD + SFT + '[align]\ndata = "pairs.jsonl"\nalgorithm = "dpo"\nanchor = 8',
            "align.anchor = 8 was given off the online loop",
        ),
    ],
)
def test_what_the_anchor_needs(text, said):
    with pytest.raises(RecipeError, match=said):
        recipe_from(tomllib.loads(text))
