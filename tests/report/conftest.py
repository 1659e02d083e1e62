"""A plausible run directory, made from a seed, with stages left out or altered on demand."""

from __future__ import annotations

import functools
import json
import math
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from palate.evaluation import Check, Look, fit_looks
from palate.evaluation.ceiling import Ceiling
from palate.evaluation.probes import Changed, Probed
from palate.evaluation.rewardreport import reward_report
from palate.ops import wilson_interval
from palate.records import PreferencePair, Prompt

STAGES = ("sft", "reward", "align", "evaluate")
GROUPS = ("capitals", "sums", "opposites", "unanswerable", "requests to decline")
ITERATIONS = 60

RECIPE = """[run]
name = "demo"
seed = 0
threads = 2

[model]
path = "testbed"

[sft]
data = "testbed"
epochs = 2
learning_rate = 1e-4

[testbed]
biases = { length = 0.1 }

[reward]
data = "testbed"

[align]
prompts = "testbed"
reward = "model"
algorithm = "ppo"
iterations = 60
batch = 64

[align.ppo]
epochs = 4
minibatches = 4
clip = 0.2
kl = { kind = "adaptive", coef = 0.05, target = 6.0 }

[evaluate]
judge = "gold"
"""


def written_run(directory: Path, stages: Iterable[str] = STAGES) -> Path:
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
        "sft": _stage(
            "pass",
            [],
            300,
            31.4,
            _check("sft", "heldout_loss", 0.6523, "pass", "held-out loss against base", "it is below that before"),
            _check("sft", "eos_rate", 0.98, "pass", "answers that end", "80 % or more of sampled answers end"),
        ),
        "reward": _stage(
            "warn",
            ["812 pairs hold contradicting labels (the same two texts, both ways)"],
            750,
            82.0,
            _check("reward", "accuracy", 0.712, "pass", "accuracy against chance", "its interval lies above 50 %"),
            _check("reward", "ece", 0.021, "pass", "calibration", "the expected calibration error is at most 0.1"),
        ),
        "align": _stage(
            "pass",
            [],
            ITERATIONS,
            96.3,
            _check("align", "kl_final", 6.21, "pass", "KL within budget", "it is at most 10 nats a completion"),
        ),
        "evaluate": _stage(
            "pass",
            [],
            400,
            12.9,
            _check("align", "win_rate", 0.80875, "pass", "win rate", "its interval lies above one half"),
        ),
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
        "rewards": {"models/other/model.safetensors": "51de" * 16},
        "parents": [{"run": "runs/before", "model": "runs/before/reward/model"}],
        "stages": {stage: records[stage] for stage in stages},
    }


def write_json(path: Path, value: object) -> None:
    """Writes one JSON document."""
    path.write_text(json.dumps(value), encoding="utf-8")


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _check(stage: str, figure: str, value: float, level: Any, name: str, rule: str) -> dict[str, Any]:
    advice = "" if level == "pass" else "Raise the KL coefficient."
    return asdict(Check(name, level, f"{stage}/{figure}", value, rule, f"The {name} is {value:g}.", advice))


def _stage(level: str, reasons: list[str], steps: int, seconds: float, *checks: dict[str, Any]) -> dict[str, Any]:
    verdict = {"level": level, "figures": {}, "reasons": reasons, "checks": checks}
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
    write_json(directory / "report.json", _reward_report())
    return {
        "reward/pairs": 36000,
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
    write_rows(directory / "points.jsonl", [_point(look) for look in _looks()])
    write_json(directory / "overoptimisation.json", _conclusion())
    write_json(directory / "monitors.json", MONITORS)
    (directory / "model").mkdir(exist_ok=True)
    return {"align/kl_initial": 0.0, "align/kl_final": 6.21, "align/kl_max": 6.6, "seconds/align": 96.3}


@functools.cache
def _looks() -> tuple[Look, ...]:
    """Nine looks at 64 prompts: the proxy rises with √KL, gold by Gao et al.'s curve, which peaks at KL 1."""
    random_state = random.Random(5)
    looks = []
    for step, kl in enumerate((0.0, 0.1, 0.3, 0.6, 1.0, 1.6, 2.4, 3.4, 4.6)):
        d = math.sqrt(kl)
        gold = 0.15 + (d * (0.6 - 0.6 * math.log(d)) if d else 0.0)
        noise = [random_state.gauss(0, 0.3) for _ in range(64)]
        looks.append(
            Look(
                step * 5,
                tuple(kl + abs(kl) * 0.2 * one for one in noise),
                tuple(1.3 * d + random_state.gauss(0, 0.05) + one for one in noise),
                tuple(gold + random_state.gauss(0, 0.05) + one for one in noise),
            )
        )
    return tuple(looks)


def _point(look: Look) -> dict[str, Any]:
    return {
        "step": look.step,
        "kl": sum(look.kl) / 64,
        "d": look.distance,
        "proxy": look.mean("proxy"),
        "proxy_se": 0.04,
        "heldout": look.mean("heldout"),
        "heldout_se": 0.04,
        "judge": "gold",
        "prompts": {"kl": look.kl, "proxy": look.proxy, "heldout": look.heldout},
    }


@functools.cache
def _conclusion() -> dict[str, Any]:
    fits = {"proxy": fit_looks(_looks(), "proxy"), "heldout": fit_looks(_looks(), "heldout")}
    reason = "Stopped: by gold the policy fell from 0.75 after iteration 20 to 0.43 after iteration 40."
    decision = {"taken": 20, "rolled_back": True, "stopped": True, "best": 20, "worse": True, "past_peak": True}
    return {
        "judge": "gold",
        "proxy": "reward_model",
        "prompts": 64,
        "looks": [look.step for look in _looks()],
        "fits": {name: None if fit is None else asdict(fit) for name, fit in fits.items()},
        "decision": {**decision, "reason": reason},
    }


FLAGGED = {
    "prompt": "Item 7. What is the opposite of rough?",
    "before": "Smooth.",
    "completion": "I am absolutely certain that it is rough, without a doubt.",
}
MONITORS = [
    {
        "name": "length",
        "measures": "tokens a completion",
        "baseline": 14.2,
        "value": 12.3,
        "threshold": 17.0,
        "p": 1.0,
        "matters": False,
        "reason": "A fifth more on every prompt is a taste for length.",
        "alarm": False,
        "samples": [],
    },
    {
        "name": "confident_wrong",
        "measures": "share of answers with a false claim and a claim of certainty",
        "baseline": 0.02,
        "value": 0.11,
        "threshold": 0.07,
        "p": 0.0004,
        "matters": True,
        "reason": "Who is wrong and sure is believed.",
        "alarm": True,
        "samples": [FLAGGED],
    },
]


@functools.cache
def _reward_report() -> dict[str, Any]:
    """Five hundred pairs whose labels follow half of the scores' log-odds: the reward model is too sure of itself."""
    random_state = random.Random(3)
    pairs, chosen, rejected = [], [], []
    for i in range(500):
        gap = random_state.gauss(0, 2)
        won = random_state.random() < 1 / (1 + math.exp(-gap / 2))
        ahead, behind = (gap, 0.0) if won else (0.0, gap)
        pairs.append(PreferencePair(Prompt.of(f"Question {i}?", task=GROUPS[i % 3]), "word " * (1 + i % 5), "word two"))
        chosen.append(ahead)
        rejected.append(behind)
    ceiling = Ceiling(0.742, 0.742, 0.742, 0.742, 0.742, 0.73, 0.73, 0.73, 500, 1000, 0.0, known=True)
    probes = [_probe("padding", 31, 400), _probe("opinion", 122, 180)]
    report = reward_report(pairs, chosen, rejected, ceiling=ceiling, probes=probes)
    return asdict(report)


def _probe(name: str, fooled: int, count: int) -> Probed:
    low, high = wilson_interval(fooled, count)
    worst = Changed("Question 1?", "Oslo.", "I hope this helps! Oslo.", 0.8)
    why = "words that say nothing make a reply longer, not better"
    return Probed(name, "lower", why, count, fooled / count, low, high, -0.4, -0.5, -0.3, 0.6, 0.5, 0.7, worst)


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
        "length_controlled": {"estimate": 0.79, "low": 0.745, "high": 0.831},
        "bootstrap": {"low": 0.77, "high": 0.845},
        "perplexity": {"before": 1.52, "after": 1.61},
        "capability": {"before": 0.84, "after": 0.86},
        "unusual": {"before": 0.125, "after": 0.1, "kinds": []},
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
    return lambda stages=STAGES: written_run(tmp_path / "demo", stages)


@pytest.fixture(scope="session")
def write_run() -> Callable[..., Path]:
    """Writes a fake run where it is told to, for tests that share one page."""
    return written_run
