"""A run: which stages must be done, done again or gone on with, in their order, and the report at the end.

A stage is reused when its settings and everything they rest on are what they were. Else it and what follows are done
again, which is said before anything happens. More epochs or iterations than were done go on from where they ended.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from palate import report
from palate.engine.files import file_sha256, write_atomic
from palate.engine.interfaces import Onlooker
from palate.errors import PalateError, UsageError
from palate.recipe import TESTBED, Recipe, files_of
from palate.settings import digest, dump_toml, resolve
from palate.stages import align, evaluate, reward, sft
from palate.stages.context import Context, Outcome, device_of, use_threads
from palate.stages.directory import RunDirectory, set_aside
from palate.stages.material import read_data

Action = Literal["run", "redo", "resume", "continue", "reuse"]

STAGES: Mapping[str, Callable[[Context], Outcome]] = {
    "sft": sft.run,
    "reward": reward.run,
    "align": align.run,
    "evaluate": evaluate.run,
}

# How long a stage trains. With a constant learning rate a longer run begins exactly as a shorter one.
_LENGTHS = {"sft": "epochs", "reward": "epochs", "align": "iterations"}


@dataclass(frozen=True, slots=True)
class Step:
    """What is to happen to one stage, and the digest of what it rests on."""

    stage: str
    action: Action
    digest: str
    length: int


def execute(
    recipe: Recipe,
    *,
    watch: Callable[[str], Onlooker],
    say: Callable[[str], None],
    root: str | Path = "runs",
    command: Sequence[str] = (),
    fresh: bool = False,
    only: str | None = None,
) -> Path:
    """Does what the recipe asks and is not done yet; returns the run directory.

    `only` names one stage to do alone. Raises PalateError; whatever was finished before stays usable.
    """
    data, recipe = read_data(recipe)
    place = Path(root) / recipe.run.name
    if fresh:
        moved = set_aside(place)
        if moved is not None:
            say(f"The run that was there is now {moved}.")
    begun = not place.exists()
    threads = use_threads(recipe.run)
    device = device_of(recipe.run)
    try:
        with RunDirectory.open(
            root, name=recipe.run.name, seed=recipe.run.seed, threads=threads, command=command
        ) as directory:
            context = Context(recipe, data, directory, device, watch, say)
            say(f"Run {place} on {device} with {threads} thread{'s' if threads != 1 else ''}, seed {recipe.run.seed}.")
            _perform(context, plan(context, only))
    except UsageError:
        if begun and not any(place.rglob("checkpoints")):
            shutil.rmtree(place, ignore_errors=True)  # nothing was done there: leave nothing there
        raise
    return place


def plan(context: Context, only: str | None = None) -> list[Step]:
    """What is to happen to every stage of the recipe, in order."""
    recorded = context.directory.record["stages"]
    steps: list[Step] = []
    chain = digest(_foundation(context))
    stale = False
    for stage in STAGES:
        section = getattr(context.recipe, stage)
        if section is None:
            continue
        own, length = _digest(context, stage, chain)
        action = _action(recorded.get(stage), own, length, stale)
        stale = stale or action in ("run", "redo", "continue", "resume")
        if only in (None, stage):
            steps.append(Step(stage, action, own, length))
        chain = digest(own, length)
    return steps


def _foundation(context: Context) -> dict[str, Any]:
    """What every stage rests on: the seed, the model, and how the embedded world is annotated."""
    recipe = context.recipe
    uses_testbed = TESTBED in resolve(recipe.model).values() or len(context.data) < sum(
        getattr(recipe, stage) is not None for stage in STAGES
    )
    return {
        "seed": recipe.run.seed,
        "model": resolve(recipe.model),
        "weights": _model_files(recipe.model.path),
        "testbed": resolve(recipe.testbed) if uses_testbed else None,
    }


def _model_files(path: str | None) -> dict[str, str]:
    place = Path(path or "")
    if path in (None, TESTBED) or not place.is_dir():
        return {}
    return {
        file.name: file_sha256(file) for file in sorted(place.iterdir()) if file.suffix in (".safetensors", ".json")
    }


def _digest(context: Context, stage: str, chain: str) -> tuple[str, int]:
    """The digest of a stage's settings and inputs, its length left out where a longer run begins the same way."""
    settings = resolve(getattr(context.recipe, stage))
    length = settings.get(_LENGTHS.get(stage, ""), 0)
    if settings.get("optimiser", {}).get("schedule") == "constant":
        del settings[_LENGTHS[stage]]
    inputs = [file.sha256 for file in context.data.get(stage, ())]
    heldout = getattr(context.recipe, stage).heldout if stage in ("sft", "reward") else None
    unseen = [file_sha256(Path(file)) for file in files_of(heldout)] if heldout is not None else []
    judge = context.recipe.evaluate.judge if stage == "reward" and context.recipe.evaluate is not None else None
    return digest(chain, settings, inputs, unseen, judge), length


def _action(recorded: Mapping[str, Any] | None, own: str, length: int, stale: bool) -> Action:
    if recorded is None:
        return "run"
    if stale or recorded["digest"] != own or recorded["length"] > length:
        return "redo"
    if recorded["status"] != "done":
        return "resume"
    return "continue" if recorded["length"] < length else "reuse"


_SAYINGS: Mapping[Action, str] = {
    "run": "to do",
    "redo": "to do again: its settings, its data or what it rests on changed",
    "resume": "to go on with, from its last checkpoint",
    "continue": "to go on with, for longer than it was",
    "reuse": "done before, and reused",
}


def _perform(context: Context, steps: Sequence[Step]) -> None:
    for step in steps:
        context.say(f"  {step.stage}: {_SAYINGS[step.action]}.")
    if context.directory.changed and any(step.action in ("resume", "continue") for step in steps):
        context.say(f"Going on is not exact to the bit: {'; '.join(context.directory.changed)}.")
    hashes = {str(file.path): file.sha256 for files in context.data.values() for file in files}
    context.directory.update(data=hashes)
    write_atomic(
        context.place("recipe.toml"),
        dump_toml(context.recipe, "The resolved recipe, every value written out."),
    )
    for step in steps:
        if step.action == "redo":
            aside = context.directory.reset_stage(step.stage)
            if aside is not None:
                context.say(f"  What {step.stage} had done is now {aside}.")
    for step in steps:
        if step.action != "reuse":
            _do(context, step)
    report.write(context.directory.path)


def _do(context: Context, step: Step) -> None:
    """Runs one stage and writes down how it went, also when it fails."""
    directory = context.directory
    directory.stage(step.stage)
    before = directory.record["stages"].get(step.stage, {}).get("seconds", 0.0)
    directory.update_stage(step.stage, status="running", digest=step.digest, length=step.length, started=time.time())
    began = time.perf_counter()
    try:
        outcome = STAGES[step.stage](context)
    except BaseException as error:
        failed = isinstance(error, PalateError)
        directory.update_stage(
            step.stage,
            status="failed" if failed else "stopped",
            seconds=before + time.perf_counter() - began,
            reason=str(error),
        )
        raise
    seconds = before + time.perf_counter() - began
    verdict = {
        "level": "warn" if outcome.concerns else "pass",
        "figures": outcome.figures,
        "reasons": list(outcome.concerns),
    }
    directory.update_stage(
        step.stage,
        status="done",
        seconds=seconds,
        steps=outcome.steps,
        verdict=verdict,
        files=_files(context, step.stage),
    )
    # The evaluation's figures are about alignment, and say so in their names.
    named = {name if "/" in name else f"{step.stage}/{name}": value for name, value in outcome.figures.items()}
    directory.summarise(named | {f"seconds/{step.stage}": seconds})
    told = _TOLD[step.stage](outcome.figures)
    context.say(f"{step.stage} done in {seconds:.0f} s{': ' if told else ''}{told}.")
    for concern in outcome.concerns:
        context.say(f"  Note: {concern}")


_TOLD: Mapping[str, Callable[[Mapping[str, float]], str]] = {
    "sft": lambda done: (
        f"held-out loss {done['base_loss']:.3f} before, {done['heldout_loss']:.3f} after, "
        f"perplexity {done['heldout_perplexity']:.2f}"
    ),
    "reward": lambda done: (
        f"right on {done['accuracy']:.1%} [{100 * done['accuracy_low']:.1f}, {100 * done['accuracy_high']:.1f}] of "
        f"{done['heldout']:.0f} held-out pairs; counting length alone is on {done['length_accuracy']:.1%}"
    ),
    "align": lambda done: (
        f"score {done['score_initial']:.2f} before, {done['score_final']:.2f} after, KL {done['kl_final']:.2f} nats, "
        f"length {done['length_initial']:.1f} before, {done['length_final']:.1f} after"
    ),
    "evaluate": lambda done: "",
}


def _files(context: Context, stage: str) -> list[str]:
    """What a stage leaves for others, relative to the run directory."""
    names = ("model", "metrics.jsonl", "samples.jsonl", "results.json", "comparisons.jsonl")
    return [f"{stage}/{name}" for name in names if context.place(stage, name).exists()]
