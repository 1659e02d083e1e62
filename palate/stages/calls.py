"""Palate from Python: the same runs as on the command line, and saved models ready to use."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from palate.models import load_causal
from palate.models import load_reward_model as load_scorer
from palate.recipe import Recipe, load_recipe, recipe_from
from palate.rewards import ModelReward
from palate.stages.material import Loaded
from palate.stages.rounds import execute

logger = logging.getLogger("palate")


class Quiet:
    """An onlooker that writes to the log and never stops the run."""

    def begin(self, total: int, done: int) -> None:
        """Nothing to show."""

    def advance(self, row: Mapping[str, float]) -> None:
        """One row of metrics at debug level."""
        logger.debug("%s", row)

    def say(self, sentence: str) -> None:
        """The sentence at warning level: whoever calls from Python should see it."""
        logger.warning("%s", sentence)

    def stopping(self) -> bool:
        """Never."""
        return False

    def check(self) -> None:
        """Goes on."""


def run(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    *,
    root: str | Path = "runs",
    fresh: bool = False,
    force: bool = False,
) -> Path:
    """Does every stage of a recipe (a file, nested tables, or a record) that is not done; returns the run directory.

    A recipe with [rounds] is done round after round, and waits for votes where people give them.
    Raises StageStopped at a stage whose verdict is stop, unless `force` goes on past it.
    """
    return _execute(recipe, root, None, force, fresh)


def sft(recipe: str | Path | Mapping[str, Any] | Recipe, *, root: str | Path = "runs", force: bool = False) -> Path:
    """Does the supervised fine-tuning of a recipe alone."""
    return _execute(recipe, root, "sft", force)


def reward(recipe: str | Path | Mapping[str, Any] | Recipe, *, root: str | Path = "runs", force: bool = False) -> Path:
    """Trains the reward model of a recipe alone."""
    return _execute(recipe, root, "reward", force)


def align(recipe: str | Path | Mapping[str, Any] | Recipe, *, root: str | Path = "runs", force: bool = False) -> Path:
    """Does the alignment of a recipe alone."""
    return _execute(recipe, root, "align", force)


def evaluate(
    recipe: str | Path | Mapping[str, Any] | Recipe, *, root: str | Path = "runs", force: bool = False
) -> Path:
    """Does the evaluation of a recipe alone."""
    return _execute(recipe, root, "evaluate", force)


def load_policy(path: str | Path) -> Loaded:
    """A language model with its chat format and tokenizer, from a directory or the hub."""
    return Loaded(*load_causal(path))


def load_reward_model(path: str | Path) -> ModelReward:
    """A reward model as a judge of completions, from a directory."""
    model, chat, _ = load_scorer(path)
    return ModelReward("reward_model", model, chat)


def _execute(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    root: str | Path,
    only: str | None,
    force: bool,
    fresh: bool = False,
) -> Path:
    if isinstance(recipe, Mapping):
        recipe = recipe_from(recipe)
    elif not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe)
    return execute(
        recipe,
        watch=lambda phase: Quiet(),
        say=lambda sentence: logger.info("%s", sentence),
        root=root,
        fresh=fresh,
        force=force,
        only=only,
    )
