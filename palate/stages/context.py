"""What every stage is handed: the recipe, the run directory, the device, and someone to tell."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from palate.data.recognition import Dataset
from palate.engine.checkpoint import Checkpoints
from palate.engine.interfaces import Onlooker
from palate.engine.metrics import JsonLines
from palate.errors import RecipeError
from palate.recipe import SFT, Align, Evaluate, Recipe, Reward, Run
from palate.stages.directory import RunDirectory

Section = TypeVar("Section")


@dataclass(frozen=True)
class Context:
    """One run in progress. `data` holds what each section's files hold (sections on the testbed have none);
    `watch(phase)` gives the onlooker of a phase; `say` prints a sentence."""

    recipe: Recipe
    data: Mapping[str, tuple[Dataset, ...]]
    directory: RunDirectory
    device: torch.device
    watch: Callable[[str], Onlooker]
    say: Callable[[str], None]

    @property
    def sft(self) -> SFT:
        """The recipe's section [sft]; RecipeError where it has none."""
        return present(self.recipe.sft, "sft")

    @property
    def reward(self) -> Reward:
        """The recipe's section [reward]; RecipeError where it has none."""
        return present(self.recipe.reward, "reward")

    @property
    def align(self) -> Align:
        """The recipe's section [align]; RecipeError where it has none."""
        return present(self.recipe.align, "align")

    @property
    def evaluate(self) -> Evaluate:
        """The recipe's section [evaluate]; RecipeError where it has none."""
        return present(self.recipe.evaluate, "evaluate")

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.recipe.run.seed

    def place(self, *parts: str) -> Path:
        """A path inside the run directory."""
        return self.directory.path.joinpath(*parts)

    def checkpoints(self, *parts: str) -> Checkpoints:
        """The checkpoints of a training inside the run directory."""
        return Checkpoints(self.place(*parts, "checkpoints"))

    def metrics(self, *parts: str) -> JsonLines:
        """The metrics of a training inside the run directory."""
        return JsonLines(self.place(*parts, "metrics.jsonl"))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a stage leaves besides its files: figures for `summary.json`, reasons for concern, how far it trained."""

    figures: dict[str, float]
    concerns: tuple[str, ...] = ()
    steps: int = 0


def present(section: Section | None, name: str) -> Section:
    """The section; RecipeError where the recipe has none of the name."""
    if section is None:
        raise RecipeError(
            f"The recipe has no section [{name}], and the stage {name} needs one. Add it, or leave out the stage."
        )
    return section


def device_of(run: Run) -> torch.device:
    """The device asked for; auto takes CUDA, then MPS, then the CPU. RecipeError where it is not there."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if not there.get(run.device, True):
        raise RecipeError(
            f'run.device = "{run.device}" was given, and this machine with this torch has '
            f'{" and ".join(name for name, found in there.items() if found)} only. Take one of them, or "auto".'
        )
    return torch.device(next(name for name, found in there.items() if found) if run.device == "auto" else run.device)


def use_threads(run: Run) -> int:
    """Sets and returns the number of CPU threads."""
    threads = (
        len(os.sched_getaffinity(0)) if run.threads == "auto" and hasattr(os, "sched_getaffinity") else run.threads
    )
    threads = (os.cpu_count() or 1) if threads == "auto" else int(threads)
    torch.set_num_threads(threads)
    return threads
