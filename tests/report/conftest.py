"""A plausible run directory, made from a seed, with stages left out or altered on demand."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

STAGES = ("sft", "reward", "align", "evaluate")
GROUPS = ("capitals", "sums", "opposites", "lists", "requests to decline")
ITERATIONS = 60

RECIPE = """[run]
name = "demo"
seed = 0
threads = 2

[sft]
epochs = 2
learning_rate = 1e-4

[align]
algorithm = "ppo"
iterations = 60
batch = 64

[align.ppo]
epochs = 4
minibatches = 4
clip = 0.2
kl = { kind = "adaptive", coef = 0.05, target = 6.0 }
"""


def write_run(directory: Path, stages: Iterable[str] = STAGES) -> Path:
    """Writes a fake run of the given stages, as the stages would, and gives its directory back."""
    stages = tuple(stages)
    random_state = random.Random(17)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    writers = {"sft": _sft, "reward": _reward, "align": _align, "evaluate": _evaluate}
    summary: dict[str, float] = {}
    for stage in stages:
        (directory / stage).mkdir(exist_ok=True)
        summary |= writers[stage](directory / stage, random_state)
    write_json(directory / "summary.json", summary)
    write_json(directory / "run.json", manifest(stages))
    return directory


def manifest(stages: Iterable[str]) -> dict[str, Any]:
    """The `run.json` of a run whose given stages are done."""
    records = {
        "sft": _stage("pass", [], 300, 31.4),
        "reward": _stage("warn", ["812 pairs hold contradicting labels (the same two texts, both ways)"], 750, 82.0),
        "align": _stage("pass", [], ITERATIONS, 96.3),
        "evaluate": _stage("pass", [], 400, 12.9),
    }
    return {
        "name": "demo",
        "created": "2026-10-01T12:00:00+00:00",
        "palate": "0.1.0",
        "versions": {"python": "3.11.2", "torch": "2.13.0", "transformers": "5.23.0"},
        "hardware": {"cpu": "a plain CPU", "cores": 2, "memory_gb": 7.8, "accelerator": None},
        "threads": 2,
        "seed": 0,
        "git_commit": "05e57ae0c1",
        "command": ["palate", "demo", "--set", "run.name=my demo"],
        "data": {"demonstrations.jsonl": "9f2c" * 16, "pairs.jsonl": "07ab" * 16},
        "parents": [],
        "stages": {stage: records[stage] for stage in stages},
    }


def write_json(path: Path, value: object) -> None:
    """Writes one JSON document."""
    path.write_text(json.dumps(value), encoding="utf-8")


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _stage(level: str, reasons: list[str], steps: int, seconds: float) -> dict[str, Any]:
    verdict = {"level": level, "figures": {}, "reasons": reasons}
    return {
        "status": "done",
        "digest": "c0ffee" * 8,
        "length": 1,
        "started": 1790856000.0,
        "seconds": seconds,
        "steps": steps,
        "verdict": verdict,
        "files": [],
    }


def _sft(directory: Path, random_state: random.Random) -> dict[str, float]:
    rows = [
        {
            "step": i,
            "loss": 0.65 + 2.2 * math.exp(-i / 40) + random_state.gauss(0, 0.05),
            "lr": 1e-4,
            "grad_norm": 1.0,
        }
        for i in range(1, 301)
    ]
    write_rows(directory / "metrics.jsonl", rows)
    return {"sft/heldout_loss": 0.6523, "sft/heldout_perplexity": 1.92, "seconds/sft": 31.4}


def _reward(directory: Path, random_state: random.Random) -> dict[str, float]:
    rows = []
    for i in range(1, 751):
        accuracy = min(1.0, max(0.0, 0.71 - 0.2 * math.exp(-i / 120) + random_state.gauss(0, 0.07)))
        loss = 0.56 + 0.13 * math.exp(-i / 120) + random_state.gauss(0, 0.04)
        rows.append({"step": i, "loss": loss, "accuracy": accuracy, "margin": 0.6, "lr": 1e-4, "grad_norm": 0.9})
    write_rows(directory / "metrics.jsonl", rows)
    return {
        "reward/accuracy": 0.712,
        "reward/accuracy_low": 0.699,
        "reward/accuracy_high": 0.7245,
        "reward/length_accuracy": 0.554,
        "reward/ceiling": 0.742,
        "reward/mean_chosen": 0.61,
        "reward/mean_rejected": -0.58,
        "reward/margin": 1.19,
        "seconds/reward": 82.0,
    }


def _align(directory: Path, random_state: random.Random) -> dict[str, float]:
    rows = []
    for i in range(1, ITERATIONS + 1):
        progress = 1 - math.exp(-i / 15)
        rows.append(
            {
                "step": i,
                "score/mean": 1.8 * progress + random_state.gauss(0, 0.06),
                "score/std": 1.0 - 0.45 * progress,
                "score/gold": 0.15 + 0.6 * progress + random_state.gauss(0, 0.02),
                "kl/sequence": 6.3 * progress + random_state.gauss(0, 0.1),
                "kl/coef": 0.05,
                "entropy": 1.1 - 0.7 * progress + random_state.gauss(0, 0.01),
                "length/mean": 14.2 - 1.9 * progress + random_state.gauss(0, 0.2),
            }
        )
    write_rows(directory / "metrics.jsonl", rows)
    return {"align/kl_initial": 0.0, "align/kl_final": 6.21, "align/kl_max": 6.6, "seconds/align": 96.3}


def _evaluate(directory: Path, random_state: random.Random) -> dict[str, float]:
    comparisons = [_comparison(i, random_state) for i in range(400)]
    write_rows(directory / "comparisons.jsonl", comparisons)
    counts = {outcome: sum(row["outcome"] == outcome for row in comparisons) for outcome in ("win", "tie", "loss")}
    estimate = (counts["win"] + counts["tie"] / 2) / 400
    win_rate = {"estimate": estimate, "low": estimate - 0.041, "high": estimate + 0.038}
    win_rate |= {"wins": counts["win"], "ties": counts["tie"], "losses": counts["loss"]}
    groups = [
        {
            "name": name,
            "count": 80,
            "before": 0.1 + 0.05 * i,
            "after": 0.8 - 0.15 * i,
            "win_rate": 0.9 - 0.09 * i,
        }
        for i, name in enumerate(GROUPS)
    ]
    results = {
        "judge": "gold",
        "prompts": 400,
        "temperature": 1.0,
        "win_rate": win_rate,
        "attainable": {"win_rate": 0.9125},
        "score": {"before": 0.153, "after": 0.748},
        "correct": {"before": 0.79, "after": 0.9},
        "length": {"before": 14.2, "after": 12.3},
        "kl": 6.2,
        "best_of_n": {"n": 64, "score": 0.93, "share_of_way": 0.766},
        "groups": groups,
        "verdict": "Preferred over SFT on 81% [77, 85] of 400 held-out prompts by gold.",
    }
    write_json(directory / "results.json", results)
    return {
        "align/win_rate": estimate,
        "align/win_rate_low": estimate - 0.041,
        "align/win_rate_high": estimate + 0.038,
        "align/gold_gain": 0.595,
        "seconds/evaluate": 12.9,
    }


def _comparison(i: int, random_state: random.Random) -> dict[str, Any]:
    word, opposite = (("hot", "cold"), ("early", "late"), ("deep", "shallow"), ("rough", "smooth"))[i % 4]
    outcome = random_state.choices(("win", "tie", "loss"), (300, 40, 60))[0]
    change = {"win": 1.0, "tie": 0.0, "loss": -1.0}[outcome] * random_state.uniform(0.1, 0.9)
    before = f"Great question! I think, though I am not sure, that it might be {opposite}. I hope this helps!"
    after = {"win": f"{opposite.capitalize()}.", "tie": before, "loss": f"{word.capitalize()}."}[outcome]
    return {
        "prompt": f"Item {i}. What is the opposite of {word}?",
        "before": before,
        "after": after,
        "score_before": 0.2,
        "score_after": 0.2 + change,
        "outcome": outcome,
        "group": "opposites",
        "length_before": 20,
        "length_after": len(after.split()),
    }


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Makes a fake run directory: `make_run()` whole, `make_run(["sft"])` with some stages only."""
    return lambda stages=STAGES: write_run(tmp_path / "demo", stages)
