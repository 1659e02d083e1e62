"""What commands do alike: read a recipe, work under somebody's eyes, say and write what came of it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import typer

if TYPE_CHECKING:
    from palate.recipe import Recipe

Outcome = TypeVar("Outcome")

INTERRUPTED = 130


def recipe_of(path: Path, settings: list[str] | None) -> Recipe:
    """The recipe of a file, with settings changed."""
    from palate.recipe import load_recipe

    return load_recipe(path, settings or ())


def execute(recipe: Recipe, runs: Path, fresh: bool, force: bool, dry_run: bool, only: str | None = None) -> None:
    """Does the stages of a recipe, or one of them, and says how it ended; or only what it would do."""
    from rich.console import Console

    from palate.stages import rounds
    from palate.stages.closing import closing_words
    from palate.stages.estimate import estimate

    console = Console(soft_wrap=True)
    if dry_run:
        console.print(estimate(recipe, only))
        return
    place = heard(
        lambda **watched: rounds.execute(
            recipe, root=runs, command=sys.argv, fresh=fresh, force=force, only=only, **watched
        )
    )
    console.print(closing_words(place))


def heard(work: Callable[..., Outcome]) -> Outcome:
    """Does the work with someone to watch it, who hears Ctrl-C."""
    from rich.console import Console

    from palate.cli.progress import Interruption, Watcher

    console, interruption = Console(soft_wrap=True), Interruption()
    try:
        with interruption.listening():
            return work(
                watch=lambda phase: Watcher(phase, console, interruption),
                say=lambda sentence: console.print(sentence, highlight=False, markup=False),
            )
    except KeyboardInterrupt:
        print("\npalate: stopped. The same command goes on from here.", file=sys.stderr)
        sys.exit(INTERRUPTED)


def seeds_of(text: str) -> list[int]:
    """Whole numbers with commas between."""
    if not all(seed.strip().isascii() and seed.strip().isdecimal() for seed in text.split(",")):
        raise typer.BadParameter(f"--seeds takes whole numbers with commas between, such as 0,1,2; {text!r} was given.")
    return [int(seed) for seed in text.split(",")]


def words_of(text: str) -> tuple[str, ...]:
    """Words with commas between."""
    return tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def say(sentence: str) -> None:
    """A line at once, also into a pipe."""
    print(sentence, flush=True)


def write(lines: Iterator[str], out: Path | None) -> None:
    """To the screen line by line, or to a file whole or not at all."""
    if out is None:
        for line in lines:
            print(line)
        return
    from palate.engine.files import write_atomic

    write_atomic(out, "".join(f"{line}\n" for line in lines))
    print(out)
