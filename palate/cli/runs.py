"""Commands that make runs, compare them, and say what they are worth."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from palate.cli.doing import execute, heard, recipe_of, seeds_of
from palate.cli.options import (
    Dry,
    Force,
    Fresh,
    RecipeFile,
    Root,
    Settings,
)


def demo(
    settings: Settings = None,
    runs: Root = Path("runs"),
    fresh: Fresh = False,
    force: Force = False,
    dry_run: Dry = False,
) -> None:
    """Align the embedded model on the embedded world, in minutes, offline."""
    from palate.recipe import demo_recipe

    execute(demo_recipe(settings or ()), runs, fresh, force, dry_run)


def run(
    recipe: RecipeFile,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="As many rounds in all: sample, ask, learn anew, align anew; as [rounds].")
    ] = None,
    settings: Settings = None,
    runs: Root = Path("runs"),
    fresh: Fresh = False,
    force: Force = False,
    dry_run: Dry = False,
) -> None:
    """Do every stage of a recipe that is not done yet, round after round where it says so."""
    numbered = [] if rounds is None else [f"rounds.number={rounds}"]
    execute(recipe_of(recipe, [*(settings or ()), *numbered]), runs, fresh, force, dry_run)


# The stages that can be done alone.
STAGES = {
    "sft": "Do the supervised fine-tuning of a recipe alone.",
    "reward": "Train the reward model of a recipe alone.",
    "align": "Do the alignment of a recipe alone.",
    "evaluate": "Do the evaluation of a recipe alone.",
}


def stage(name: str) -> Callable[..., None]:
    """The command that does one stage of a recipe."""

    def command(
        recipe: RecipeFile,
        settings: Settings = None,
        runs: Root = Path("runs"),
        fresh: Fresh = False,
        force: Force = False,
        dry_run: Dry = False,
    ) -> None:
        execute(recipe_of(recipe, settings), runs, fresh, force, dry_run, name)

    command.__doc__ = STAGES[name]
    return command


def compare(
    recipe: Annotated[Path | None, typer.Argument(help="A recipe in TOML; the demo's unless given.")] = None,
    methods: Annotated[str, typer.Option(help="Algorithms by name, with commas between.")] = "ppo,rloo,grpo,dpo",
    seeds: Annotated[str, typer.Option(help="Seeds, with commas between.")] = "0,1,2",
    equal: Annotated[
        str,
        typer.Option(help="samples: as many completions as the recipe's own alignment; time: as long as the first."),
    ] = "samples",
    completions: Annotated[
        int | None,
        typer.Option(min=1, help="As many completions, sampled or read, in place of the recipe's own alignment's."),
    ] = None,
    settings: Settings = None,
    runs: Root = Path("runs"),
) -> None:
    """Compare methods from one SFT model: score against KL, win rate, cost."""
    if equal not in ("samples", "time"):
        raise typer.BadParameter(f"--equal is samples or time; {equal!r} was given.")
    chosen = seeds_of(seeds)
    from palate.recipe import demo_recipe
    from palate.stages.compare import compare as contest

    whole = demo_recipe(settings or ()) if recipe is None else recipe_of(recipe, settings)
    page = heard(
        lambda **watched: contest(
            whole,
            methods=[method.strip() for method in methods.split(",")],
            seeds=chosen,
            equal="time" if equal == "time" else "samples",
            completions=completions,
            root=runs,
            **watched,
        )
    )
    print(f"Written: {page} and {page.with_suffix('.json')}")
    print(f"Next: open {page}")


def lab(
    name: Annotated[str | None, typer.Argument(help="An experiment; all are listed unless given.")] = None,
    seeds: Annotated[str, typer.Option(help="Seeds, with commas between.")] = "0",
    bias: Annotated[
        str | None,
        typer.Option(help="What annotators of `hacking` like besides gold: length (unless given), format, sycophancy."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Goes through every part in seconds; the numbers mean nothing.")
    ] = False,
    runs: Root = Path("runs"),
) -> None:
    """Do an experiment on the embedded world, and write its page."""
    from palate.stages.lab import EXPERIMENTS, conduct, experiment_of

    if name is None:
        for known in EXPERIMENTS:
            print(f"{known:<18} {experiment_of(known).question}")
        print("\nNext: palate lab NAME")
        return
    experiment, chosen = experiment_of(name, bias), seeds_of(seeds)
    options = f"{f' --bias {bias}' if bias else ''} --seeds {','.join(map(str, chosen))}{' --quick' if quick else ''}"
    page = heard(
        lambda **watched: conduct(
            experiment, seeds=chosen, quick=quick, command=f"palate lab {name}{options}", root=runs, **watched
        )
    )
    print(f"Written: {page} and {page.with_suffix('.json')}")
    print(f"Next: open {page}")


def report(run: Annotated[Path, typer.Argument(help="A run directory.", show_default=False)]) -> None:
    """Write a run's report anew."""
    from palate.report import write

    print(write(run))


def doctor(
    run: Annotated[Path, typer.Argument(help="A run directory, finished, stopped or failed.", show_default=False)],
    json_lines: Annotated[
        bool, typer.Option("--json", help="One JSON object a diagnosis, the likeliest first, in place of words.")
    ] = False,
) -> None:
    """Say which stage of a run is the likeliest cause of what went wrong, on what evidence, and what to change."""
    from dataclasses import asdict

    from palate.engine.files import encode_json
    from palate.stages.trust.doctor import examine, told

    diagnoses = examine(run)
    for line in map(encode_json, map(asdict, diagnoses)) if json_lines else told(run, diagnoses):
        print(line)


def verify() -> None:
    """Check on this machine what must be true exactly, in under two minutes."""
    from palate.stages.trust.verify import findings

    failed = 0
    for finding in findings():
        failed += not finding.holds
        mark = "ok  " if finding.holds else "FAIL"
        print(
            f"{mark} {finding.name}\n       expected {finding.expected}\n       observed {finding.observed}",
            flush=True,
        )
    print(f"\n{failed} properties failed." if failed else "\nEverything holds.")
    sys.exit(1 if failed else 0)
