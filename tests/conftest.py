"""Settings that every test shares, a tiny recipe with its data, the command line in this process, one finished run."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import settings

# The same examples on every run, and no time limit on one: a busy machine must not fail a test.
settings.register_profile("palate", derandomize=True, deadline=None, database=None)
settings.load_profile("palate")

# Tensors in tests are tiny: two threads that wait for one another are slower than one, much slower on a busy machine.
torch.set_num_threads(1)

WORDS = ("apple", "bread", "cloud", "door", "eagle", "fire", "grass", "house", "iron", "juice", "kite", "lamp", "moon")

RECIPE = """
[run]
name = "tiny"
threads = 1
device = "cpu"

[model.scratch]
hidden = 16
layers = 1
heads = 2
vocabulary = 300
context = 64

[sft]
data = "demonstrations.jsonl"
heldout_fraction = 0.1
epochs = 2
learning_rate = 1e-2
batch_tokens = 400
checkpoint_every = 3

[reward]
data = "pairs.jsonl"
learning_rate = 1e-2
batch_tokens = 600
reference_samples = 16
checkpoint_every = 3

[align]
prompts = "prompts.jsonl"
iterations = 4
batch = 8
max_new_tokens = 8
learning_rate = 1e-2
reference_samples = 16
checkpoint_every = 2

[align.ppo]
epochs = 2
minibatches = 2

[evaluate]
prompts = "heldout.jsonl"
count = 10
"""


@dataclass(frozen=True)
class Result:
    """How a command ended and what it wrote."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Finished:
    """A run that is done: its directory, its recipe, and what the command wrote. Nothing may be written to it."""

    run: Path
    recipe: Path
    result: Result


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def ask(first: str, second: str) -> str:
    return f"Say {first} and {second}."


def tiny(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    write_rows(
        directory / "demonstrations.jsonl",
        ({"prompt": ask(a, b), "completion": f"{a} {b}"} for a in WORDS for b in WORDS[:4]),
    )
    write_rows(
        directory / "pairs.jsonl",
        (
            {"prompt": ask(a, b), "chosen": f"{a} {b}", "rejected": f"{b} {b} {b} {a}"}
            for a in WORDS
            for b in WORDS[:6]
            if a != b
        ),
    )
    write_rows(directory / "prompts.jsonl", ({"prompt": ask(a, b)} for a in WORDS for b in WORDS[:2]))
    write_rows(directory / "heldout.jsonl", ({"prompt": ask(a, b)} for a in WORDS for b in WORDS[9:11]))
    recipe = directory / "tiny.toml"
    recipe.write_text(RECIPE)
    return recipe


def command(*arguments: object) -> Result:
    from palate.cli.main import main

    out, err = io.StringIO(), io.StringIO()
    argv = ["palate", *map(str, arguments)]
    with mock.patch.object(sys, "argv", argv), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code
    return Result(int(code or 0), out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def tiny_recipe() -> Callable[[Path], Path]:
    """`tiny_recipe(directory)` writes a recipe of the whole pipeline with its data; it takes a second to run."""
    return tiny


@pytest.fixture(scope="session")
def palate_command() -> Callable[..., Result]:
    """`palate_command(*arguments)` runs the command line in this process, as a user would call it."""
    return command


@pytest.fixture(scope="session")
def palate_command_once() -> Callable[..., Result]:
    """The same, for what is done once for several tests."""
    return command


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The tiny recipe's run, done once for all tests that only read it."""
    directory = tmp_path_factory.mktemp("finished")
    recipe = tiny(directory)
    # So small a model learns so little that its verdict is stop.
    result = command("run", recipe, "--runs", directory / "runs", "--force")
    assert result.code == 0, result.err
    return Finished(directory / "runs" / "tiny", recipe, result)
