"""Methods side by side: from one SFT model a seed, on the same prompts, with equal samples or in equal time.

A comparison is a directory of ordinary runs: `base-SEED` holds what all methods of a seed share, `METHOD-SEED` one
alignment and its evaluation. Each is reused, resumed or redone as any run is; `comparison.json` and
`comparison.html` are made from them anew.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from palate.algorithms.direct import DIRECT
from palate.algorithms.makers import MAKERS
from palate.algorithms.online import Online
from palate.engine.files import encode_json, make_directory, write_atomic
from palate.engine.interfaces import Onlooker
from palate.engine.metrics import JsonLines
from palate.errors import RecipeError
from palate.recipe import ANSWERING, METHODS, Align, Files, Recipe, Watch, checked
from palate.report import write_comparison
from palate.stages.context import present
from palate.stages.directory import LOCK, RUN
from palate.stages.run import execute

Equal = Literal["samples", "time"]

# The share of the budget that a pilot spends to learn how fast a method is.
PILOT = 0.1

RESULTS = "comparison.json"


@dataclass(frozen=True)
class Contest:
    """What is compared, and whom to tell."""

    recipe: Recipe
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    place: Path
    watch: Callable[[str], Onlooker]
    say: Callable[[str], None]

    def run(self, method: str, seed: int, completions: int, name: str) -> dict[str, Any]:
        """One method from the seed's SFT model, with a budget of completions; what came of it."""
        recipe = with_method(self._seeded(seed, name), method, completions)
        target = self.place / name
        base = self.place / f"base-{seed}"
        if base.exists() and not target.exists():
            copied(base, target, name)
        self._execute(recipe)
        return outcome(target, method, seed) | {"completions": planned(present(recipe.align, "align"))}

    def prepare(self, seed: int) -> None:
        """The SFT model and the reward model that all methods of a seed share."""
        recipe = self._seeded(seed, f"base-{seed}")
        for stage in ("sft", "reward"):
            if getattr(recipe, stage) is not None:
                self._execute(recipe, stage)

    def _seeded(self, seed: int, name: str) -> Recipe:
        return replace(self.recipe, run=replace(self.recipe.run, seed=seed, name=name))

    def _execute(self, recipe: Recipe, only: str | None = None) -> None:
        # Methods are compared on what a recipe gives, good or bad; the runs' own reports say what their verdicts were.
        execute(recipe, watch=self.watch, say=self.say, root=self.place, only=only, force=True)


def compare(
    recipe: Recipe,
    *,
    methods: Sequence[str],
    seeds: Sequence[int],
    equal: Equal,
    completions: int | None = None,
    watch: Callable[[str], Onlooker],
    say: Callable[[str], None],
    root: str | Path = "runs",
) -> Path:
    """Runs every method with every seed; returns the page.

    The budget is so many completions, sampled or, by direct methods, read; unless given, as many as the recipe's own
    alignment takes. In equal time, a pilot of the first seed finds how many completions each method gets through while
    the first does that many. Raises RecipeError where a method has no name here, the recipe lacks what it learns from,
    or there is no budget.
    """
    align = present(recipe.align, "align")
    present(recipe.evaluate, "evaluate")
    budget = planned(align) if completions is None else completions
    if budget is None:
        raise RecipeError(
            f'algorithm = "{align.algorithm}" was given without a limit: it takes all of its data, however many '
            "completions these are. Methods are compared on a number of them. Give it, for example as "
            "--completions 10240."
        )
    for method in methods:
        with_method(recipe, method, budget)  # a mistake is told before the first hour is spent
    place = Path(root) / f"{recipe.run.name}-comparison"
    make_directory(place)
    contest = Contest(recipe, tuple(methods), tuple(seeds), place, watch, say)
    for seed in seeds:
        contest.prepare(seed)
    budgets = dict.fromkeys(methods, budget) if equal == "samples" else in_equal_time(contest, budget)
    results = [contest.run(method, seed, budgets[method], f"{method}-{seed}") for seed in seeds for method in methods]
    table = {"equal": equal, "budgets": budgets, "seeds": list(seeds), "results": results}
    write_atomic(place / RESULTS, encode_json(table, indent=1) + "\n")
    return write_comparison(place)


def in_equal_time(contest: Contest, budget: int) -> dict[str, int]:
    """Completions for each method, so that all take as long as the first does for `budget`."""
    seed = contest.seeds[0]
    pilots = {
        method: contest.run(method, seed, max(1, round(PILOT * budget)), f"pilot-{method}")
        for method in contest.methods
    }
    speeds = {method: done["completions"] / done["seconds"] for method, done in pilots.items()}
    first = speeds[contest.methods[0]]
    return {method: max(1, round(budget * speed / first)) for method, speed in speeds.items()}


def with_method(recipe: Recipe, method: str, completions: int) -> Recipe:
    """The recipe with this algorithm in place of its own, its length set by a budget of completions.

    Settings of the recipe's alignment that the method cannot use are left out. Raises RecipeError where the method has
    no name here, the recipe lacks what it learns from, or the two break a rule between settings.
    """
    align = present(recipe.align, "align")
    if method not in METHODS:
        raise RecipeError(f"{method!r} was asked for. palate compare knows {', '.join(METHODS)}. Correct the name.")
    chosen: Any = getattr(align, method)
    if method in DIRECT:
        rows = max(2, completions // (2 if chosen.data == "pairs" else 1))
        return _fed(recipe, replace(_off_the_loop(align), rows=rows), method, chosen.data)
    if method in MAKERS:
        each = max(1, completions // (chosen.rounds * chosen.samples))
        sized = replace(_off_the_loop(align), **{method: replace(chosen, prompts=each)})
        return _fed(recipe, sized, method, chosen.data)
    return _fed(recipe, replace(align, rows=None, loop=_on_the_loop(align, chosen, completions)), method, "prompts")


def _on_the_loop(align: Align, chosen: Any, completions: int) -> Online:
    """The online loop for this method: as many completions an iteration as the recipe's own has, if that is online."""
    at_once = align.loop.batch * (align.samples if align.online else chosen.samples)
    batch = max(1, min(at_once, completions) // chosen.samples)
    iterations = max(1, completions // (batch * chosen.samples))
    asynchronous = align.loop.asynchronous and not getattr(chosen, "refills", 0)
    return replace(align.loop, samples=None, batch=batch, iterations=iterations, asynchronous=asynchronous)


def _off_the_loop(align: Align) -> Align:
    """The alignment without what only methods of the online loop, or only direct ones, can use."""
    loop = Online(**{name: getattr(align.loop, name) for name in ANSWERING})
    return replace(align, rows=None, mix=None, watch=Watch(), anchor=0, anchor_limit=None, loop=loop)


def _fed(recipe: Recipe, align: Align, method: str, wanted: str) -> Recipe:
    """The recipe with an alignment by this method on the data that the recipe has of the kind it wants."""
    files, mapping = _data(recipe, wanted)
    if files is None:
        raise RecipeError(
            f"{method} learns from {wanted}, and the recipe names none. Add them: pairs in [reward], demonstrations in "
            "[sft]."
        )
    given = {"prompts": files, "data": None} if wanted == "prompts" else {"prompts": None, "data": files}
    return checked(replace(recipe, align=replace(align, algorithm=method, mapping=mapping, **given)))


def _data(recipe: Recipe, wanted: str) -> tuple[Files | None, dict[str, Any] | None]:
    """The files of this kind that the recipe names, and how they are read; all that alignment reads has prompts."""
    align = present(recipe.align, "align")
    if wanted in (align.asks, "prompts"):
        return align.files, align.mapping
    part = recipe.sft if wanted == "demonstrations" else recipe.reward
    return (None, None) if part is None else (part.data, part.mapping)


def planned(align: Align) -> int | None:
    """Completions that an alignment samples or, by a direct method, reads; None where its data alone says."""
    method = align.method
    if align.algorithm in DIRECT:
        return None if align.rows is None else align.rows * (2 if method.data == "pairs" else 1)
    if align.algorithm in MAKERS:
        return None if method.prompts is None else method.rounds * method.prompts * method.samples
    return align.loop.iterations * align.loop.batch * align.samples


def copied(base: Path, target: Path, name: str) -> None:
    """Begins a run with the finished stages of another: files are linked, since nothing finished is ever changed."""
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(base, partial, copy_function=linked, ignore=shutil.ignore_patterns(LOCK, RUN, "report.html"))
    record = json.loads((base / RUN).read_bytes()) | {"name": name}
    write_atomic(partial / RUN, encode_json(record, indent=2) + "\n")
    partial.rename(target)


def linked(source: str, target: str) -> None:
    """A file once more, by a link where the file system has them."""
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)


def outcome(run: Path, method: str, seed: int) -> dict[str, Any]:
    """What a finished run says of its method: figures of the evaluation, costs, and the curve over the KL."""
    summary = json.loads((run / "summary.json").read_bytes())
    rows = list(JsonLines(run / "align" / "metrics.jsonl").rows())
    judge = "score/gold" if any("score/gold" in row for row in rows) else "score/mean"
    curve = [[row["kl/sequence"], row[judge]] for row in rows if judge in row and "kl/sequence" in row]
    if "align/gold_initial" in summary:  # a direct method is measured on its way only, and at its ends apart
        ends = [[summary[f"align/kl_{end}"], summary[f"align/gold_{end}"]] for end in ("initial", "final")]
        curve = [ends[0], *curve, ends[1]]
    names = ("win_rate", "win_rate_low", "win_rate_high", "kl", "gold_gain", "correct_before", "correct_after")
    return {
        "method": method,
        "seed": seed,
        **{name: summary[f"align/{name}"] for name in names if f"align/{name}" in summary},
        "length": summary["align/length_after"],
        "seconds": summary["seconds/align"],
        "tokens": sum(row.get("tokens/useful", 0) for row in [*rows, *_round_rows(run)]),
        "judge": judge.removeprefix("score/"),
        "curve": curve,
    }


def _round_rows(run: Path) -> list[dict[str, Any]]:
    """The metrics of trainings inside rounds."""
    return [row for path in sorted(run.glob("align/rounds/*/metrics.jsonl")) for row in JsonLines(path).rows()]
