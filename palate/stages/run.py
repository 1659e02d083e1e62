"""A run: which stages must be done, done again or gone on with, in their order, each with its verdict, and the report.

A stage is reused when its settings and everything they rest on are what they were. Else it and what follows are done
again, which is said before anything happens. More epochs or iterations than were done go on from where they ended.
After each stage, done or reused, its figures are judged anew; a verdict of stop ends the run before the next one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

from palate import report
from palate.algorithms.direct import DIRECT
from palate.algorithms.makers import MAKERS
from palate.engine.files import file_sha256, write_atomic
from palate.engine.interfaces import Onlooker
from palate.errors import PalateError, RecipeError, StageStopped
from palate.recipe import DATA, METHODS, PATHS, TESTBED, WATCHERS, Recipe
from palate.rewards.sources import WORDS
from palate.settings import digest, dump_toml, resolve
from palate.stages import align, evaluate, preflight, reward, sft
from palate.stages.context import Context, Outcome, device_of, present, use_threads
from palate.stages.directory import begun
from palate.stages.judges import lineage, uses_run_model
from palate.stages.material import CAPABILITY, MIX, data_files, heldout_of, read_data
from palate.stages.trust.gates import verdict

Action = Literal["run", "redo", "resume", "continue", "reuse"]

STAGES: Mapping[str, Callable[[Context], Outcome]] = {
    "sft": sft.run,
    "reward": reward.run,
    "align": align.run,
    "evaluate": evaluate.run,
}


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
    force: bool = False,
    only: str | None = None,
) -> Path:
    """Does what the recipe asks and is not done yet; returns the run directory.

    `only` names one stage to do alone; `force` goes on past a verdict of stop, and has that written down. Raises
    PalateError, of them StageStopped at such a verdict; whatever was finished before stays usable.
    """
    sections = tuple(STAGES) if only is None else (*rests_on(recipe, only), only)
    data, recipe = read_data(recipe, sections)
    threads = use_threads(recipe.run)
    device = device_of(recipe.run)
    with begun(root, recipe.run, threads=threads, command=command, fresh=fresh, say=say) as directory:
        context = Context(recipe, data, directory, device, watch, say)
        told = f"{threads} thread{'s' if threads != 1 else ''}, seed {recipe.run.seed}"
        say(f"Run {directory.path} on {device} with {told}.")
        steps = plan(context, only)
        preflight.check(context, [step.stage for step in steps if step.action != "reuse"])
        _perform(context, steps, () if only is None else rests_on(recipe, only), force)
    return directory.path


def plan(context: Context, only: str | None = None) -> list[Step]:
    """What is to happen to every stage of the recipe, in order, or to one alone.

    Raises RecipeError where what that one rests on is not done.
    """
    recorded = context.directory.record["stages"]
    foundation = _foundation(context)
    steps: dict[str, Step] = {}
    for stage in STAGES if only is None else (*rests_on(context.recipe, only), only):
        if getattr(context.recipe, stage) is None:
            continue
        below = rests_on(context.recipe, stage)
        chain = [[name, *_state(steps[name] if name in steps else recorded.get(name))] for name in below]
        own, length = _digest(context, stage, digest(foundation, chain))
        stale = any(steps[name].action != "reuse" for name in below if name in steps)
        steps[stage] = Step(stage, _action(recorded.get(stage), own, length, stale), own, length)
    if only is None:
        return list(steps.values())
    undone = [step.stage for step in steps.values() if step.action != "reuse" and step.stage != only]
    if undone:
        raise RecipeError(
            f"The stage {only} was asked for alone, but what it rests on ({', '.join(undone)}) is not done with the "
            f"settings and data that the recipe has now. Run `palate {undone[0]} RECIPE` first, or `palate run RECIPE` "
            "for the whole of it."
        )
    return [steps[only]]


def rests_on(recipe: Recipe, stage: str) -> tuple[str, ...]:
    """The stages whose results a stage needs, in order; RecipeError where the recipe has no such stage."""
    if stage == "align":
        align = present(recipe.align, stage)
        return ("sft", "reward") if align.judged and uses_run_model(align) else ("sft",)
    if stage == "evaluate":
        judge = present(recipe.evaluate, stage).judge
        own = judge == "reward" and recipe.align is not None and uses_run_model(recipe.align)
        judged = own or judge == "heldout-reward"
        before = ("sft",) if recipe.align is None else rests_on(recipe, "align")
        return (*(("sft", "reward") if judged else before), "align")
    present(getattr(recipe, stage), stage)
    return ("sft",) if stage == "reward" else ()


def _state(stage: Step | Mapping[str, Any] | None) -> tuple[str | None, int]:
    """Digest and length of a stage of the recipe, or of one that was done before and is in the recipe no more."""
    if isinstance(stage, Step):
        return stage.digest, stage.length
    return (None, 0) if stage is None else (stage["digest"], stage["length"])


def _foundation(context: Context) -> dict[str, Any]:
    """What every stage rests on: the seed, the model, and how the embedded world is annotated."""
    recipe = context.recipe
    sections = [stage for stage in STAGES if getattr(recipe, stage) is not None]
    worldly = recipe.model.path == TESTBED or any(data_files(recipe, section) == TESTBED for section in sections)
    return {
        "seed": recipe.run.seed,
        "model": resolve(recipe.model) | {"path": _content(recipe.model.path)},
        "testbed": resolve(recipe.testbed) if worldly else None,
    }


def _digest(context: Context, stage: str, chain: str) -> tuple[str, int]:
    """The digest of a stage's settings and inputs, its length left out where a longer run begins the same way.

    Files and models count by what they hold, so that moving them changes nothing and editing them does.
    """
    settings = resolve(getattr(context.recipe, stage))
    if stage == "align":  # what another algorithm would be told is nothing to this one
        others = [name for name in METHODS if name != settings["algorithm"]]
        settings = {name: value for name, value in settings.items() if name not in others}
    table, name = _lasting(context.recipe, stage, settings)
    length = table.get(name, 0)
    # With a constant learning rate a longer run begins exactly as a shorter one; every round has a schedule of its own.
    if name == "rounds" or table.get("optimiser", {}).get("schedule") == "constant":
        del table[name]
    for key, words in PATHS[stage].items():
        files = context.data.get({"heldout": heldout_of(stage), "capability": CAPABILITY}.get(key, stage))
        if key in DATA and files is not None:
            settings[key] = [file.sha256 for file in files]
        elif settings[key] not in words:
            settings[key] = _content(settings[key])
    for term in settings.get("rewards", ()):
        places = [term["source"]] if isinstance(term["source"], str) else term["source"]
        term["source"] = [place if place in WORDS else _content(place) for place in places]
    if stage == "align" and settings["watch"]["judge"] not in WATCHERS:
        settings["watch"]["judge"] = _content(settings["watch"]["judge"])
    if stage == "align" and MIX in context.data:
        settings["mix"]["data"] = [file.sha256 for file in context.data[MIX]]
    judge = context.recipe.evaluate.judge if stage == "reward" and context.recipe.evaluate is not None else None
    return digest(chain, settings, judge), length


def _lasting(recipe: Recipe, stage: str, settings: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The table and the name of the setting that says how long a stage trains."""
    if stage != "align" or recipe.align is None:
        return settings, "epochs"
    algorithm = recipe.align.algorithm
    if algorithm in MAKERS:
        return settings[algorithm], "rounds"
    return (settings[algorithm], "epochs") if algorithm in DIRECT else (settings, "iterations")


def _content(name: str | None) -> Any:
    """What stands behind a setting that names Python code or a model directory; else, as for a hub name, the name."""
    file, _, symbol = (name or "").rpartition(":")
    if Path(file).is_file():
        return [file_sha256(Path(file)), symbol]
    if name is None or not Path(name).is_dir():
        return name
    return {
        entry.name: file_sha256(entry)
        for entry in sorted(Path(name).iterdir())
        if entry.suffix in (".safetensors", ".json", ".jinja", ".model", ".txt")
    }


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


def _perform(context: Context, steps: Sequence[Step], below: Sequence[str], force: bool) -> None:
    for step in steps:
        context.say(f"  {step.stage}: {_SAYINGS[step.action]}.")
    if context.directory.changed and any(step.action in ("resume", "continue") for step in steps):
        context.say(f"Going on is not exact to the bit: {'; '.join(context.directory.changed)}.")
    _note(context)
    before = [*below, *(step.stage for step in takewhile(lambda step: step.action == "reuse", steps))]
    for stage in before:
        _heed(context, stage, force)
    for step in steps:
        if step.action == "redo":
            aside = context.directory.reset_stage(step.stage)
            if aside is not None:
                context.say(f"  What {step.stage} had done is now {aside}.")
    for step in steps:
        if step.action != "reuse":
            _do(context, step)
        if step.stage not in before:
            _heed(context, step.stage, force)
    report.write(context.directory.path)


def _note(context: Context) -> None:
    """Writes down what the run is about to be made of."""
    hashes = {str(file.path): file.sha256 for files in context.data.values() for file in files}
    context.directory.update(data=hashes)
    if context.recipe.align is not None:
        rewards, parents = lineage(context.recipe.align)
        context.directory.update(rewards=rewards, parents=parents)
    write_atomic(
        context.place("recipe.toml"),
        dump_toml(context.recipe, "The resolved recipe, every value written out."),
    )


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
    # The evaluation's figures are about alignment, and say so in their names.
    named = {
        name if name.partition("/")[0] in STAGES else f"{step.stage}/{name}": value
        for name, value in outcome.figures.items()
    }
    # Before the stage counts as done: what is done is reused, and its figures would never be written.
    directory.summarise(named | {f"seconds/{step.stage}": seconds})
    judged = verdict(step.stage, directory.summary, outcome.figures, outcome.concerns)
    directory.update_stage(
        step.stage,
        status="done",
        seconds=seconds,
        steps=outcome.steps,
        concerns=list(outcome.concerns),
        verdict=judged,
        files=_files(context, step.stage),
    )
    told = _TOLD[step.stage](outcome.figures)
    context.say(f"{step.stage} done in {seconds:.0f} s{': ' if told else ''}{told}.")
    passed = sum(check["level"] == "pass" for check in judged["checks"])
    if passed:
        context.say(f"  {passed} check{'s' if passed > 1 else ''} passed.")
    for concern in outcome.concerns:
        context.say(f"  warn: {concern}")
    for check in judged["checks"]:
        if check["level"] != "pass":
            context.say(f"  {check['level']}: {check['reason']} {check['advice']}")


def _heed(context: Context, stage: str, force: bool) -> None:
    """Judges a finished stage by its figures on disk; StageStopped where the verdict is stop, unless forced."""
    directory = context.directory
    entry = directory.record["stages"].get(stage, {})
    if entry.get("status") != "done":  # the run begins above it
        return
    judged = verdict(stage, directory.summary, entry["verdict"]["figures"], entry.get("concerns", ()))
    stops = [check for check in judged["checks"] if check["level"] == "stop"]
    forced = bool(stops) and (force or entry.get("forced", False))
    if entry["verdict"] != judged or entry.get("forced", False) != forced:
        directory.update_stage(stage, verdict=judged, forced=forced)
    if stops and force:
        context.say(f"  {stage}: its verdict is stop, and the run goes on because of --force.")
    elif stops:
        page = report.write(directory.path)
        raise StageStopped(
            f"the verdict on {stage} is stop. {' '.join(check['reason'] for check in stops)} "
            f"{' '.join(dict.fromkeys(check['advice'] for check in stops))} The stage is "
            f"saved and need not be done again, and {page} shows it. To go on all the same, add --force (in Python "
            "force=True): the report will say so."
        )


def _scores(done: Mapping[str, float]) -> str:
    """The score before and after, where a reward gave one."""
    if "score_final" not in done:
        return ""
    return f"score {done['score_initial']:z.2f} before, {done['score_final']:z.2f} after, "


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
        f"{_scores(done)}KL {done['kl_final']:z.2f} nats, "
        f"length {done['length_initial']:.1f} before, {done['length_final']:.1f} after"
    ),
    "evaluate": lambda done: "",
}


def _files(context: Context, stage: str) -> list[str]:
    """What a stage leaves for others, relative to the run directory."""
    names = ("model", "metrics.jsonl", "samples.jsonl", "report.json", "points.jsonl", "overoptimisation.json")
    names += ("monitors.json", "results.json", "comparisons.jsonl", "unusual.jsonl")
    return [f"{stage}/{name}" for name in names if context.place(stage, name).exists()]
