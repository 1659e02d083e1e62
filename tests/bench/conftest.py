"""`bench` stands beside the package, not in it: tests find it from the repository's root."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from bench import inputs, models  # noqa: E402
from bench.shapes import Shape  # noqa: E402
from bench.side import Job  # noqa: E402

TINY = Shape("llama", hidden=16, layers=2, heads=2, key_heads=1, intermediate=24, vocabulary=64, context=128)


@pytest.fixture(scope="session")
def tiny() -> Shape:
    """A model small enough for milliseconds."""
    return TINY


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its directories `policy`, whose completions end at one token in 32, and `reward`. Nothing may write to them."""
    place = tmp_path_factory.mktemp("models")
    models.make(TINY, models.ENDINGS["early"], 0, place, "cpu")
    return place


@pytest.fixture
def job(tiny_models: Path, tmp_path: Path) -> Callable[..., Job]:
    """`job("sft", batch=4)` writes the task's inputs and returns the job: a warm-up and two iterations."""

    def make(task: str, **changes: Any) -> Job:
        batch = changes.get("batch", 4)
        rows = {
            "ppo": lambda: inputs.prompts(batch, TINY.vocabulary, 0),
            "rollout": lambda: inputs.prompts(3 * batch, TINY.vocabulary, 0),
            "sft": lambda: inputs.demonstrations(3 * batch, TINY.vocabulary, 0),
            "reward": lambda: inputs.pairs(3 * batch, TINY.vocabulary, 0),
            "dpo": lambda: inputs.pairs(3 * batch, TINY.vocabulary, 0),
        }[task]()
        inputs.write(rows, tmp_path / f"{task}.jsonl")
        base = {
            "policy": str(tiny_models / "policy"),
            "reward": str(tiny_models / "reward"),
            "inputs": str(tmp_path / f"{task}.jsonl"),
            "device": "cpu",
            "threads": 1,
            "seed": 0,
            "warm_up": 1,
            "iterations": 2,
            "batch": batch,
            "new_tokens": 8,
            "greedy": str(tmp_path / "greedy.json"),
        }
        return Job(**{**base, **changes})

    return make
