"""An experiment: a question, arms that are ordinary runs, what their directories say, and what was seen in the numbers.

`runs/lab/NAME/` holds a run ARM-SEED for each arm and seed, each reused, resumed or redone as any run is. From them
`experiment.json` and `experiment.html` are made anew.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from palate.engine.files import encode_json, make_directory, write_atomic
from palate.engine.interfaces import Onlooker
from palate.engine.metrics import JsonLines
from palate.recipe import Recipe, recipe_from
from palate.report.lab import RESULTS, Column, Picture, Reading, among, values, write
from palate.report.lab import Experiment as Record
from palate.settings import apply_overrides, load_toml
from palate.stages import rounds
from palate.stages.compare import copied
from palate.stages.directory import RunDirectory
from palate.stages.run import execute

BASE = Path(__file__).parent / "base.toml"

# What --quick changes: every part is gone through once, and nothing is learnt.
QUICK = (
    "testbed.demonstrations=48",
    "sft.heldout_fraction=0.3",
    "testbed.pairs=48",
    "testbed.heldout_pairs=24",
    "reward.reference_samples=8",
    "align.iterations=2",
    "align.batch=8",
    "align.max_new_tokens=8",
    "align.reference_samples=8",
    "align.watch.prompts=4",
    "evaluate.count=8",
    "rounds.judgements=16",
    "rounds.candidates=2",
)

# The evaluation of arms whose answers are to be counted right or wrong, without its own best-of-n.
EVALUATED = 'evaluate={ prompts = "testbed", judge = "gold", best_of = 2, best_of_prompts = 8 }'


@dataclass(frozen=True)
class Bench:
    """Where the arms of one seed are run, and whom to tell. `arms` notes what each was told."""

    place: Path
    seed: int
    quick: bool
    watch: Callable[[str], Onlooker]
    say: Callable[[str], None]
    arms: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def run(
        self,
        arm: str,
        settings: Sequence[str] = (),
        *,
        begins: str | None = None,
        without: Sequence[str] = (),
        only: Sequence[str] = (),
    ) -> Path:
        """Does an arm: the lab's recipe with `settings` and without some sections; returns its run directory.

        It begins with the finished stages of the arm `begins`; `only` names stages to do alone.
        """
        name = f"{arm}-{self.seed}"
        target = self.place / name
        if begins is not None and not target.exists():
            copied(self.place / f"{begins}-{self.seed}", target, name)
        self.arms[arm] = tuple(settings)
        recipe = self._recipe(name, settings, without)
        for stage in only or (None,):
            execute(recipe, watch=self.watch, say=self.say, root=self.place, only=stage, force=True)
        return target

    def rounds(self, arm: str, settings: Sequence[str], first: Path) -> Path:
        """Does an arm of several rounds, of which the finished run `first` is the first; returns its directory."""
        name = f"{arm}-{self.seed}"
        target = self.place / name
        self.arms[arm] = tuple(settings)
        if not (target / "rounds" / "1").exists():
            RunDirectory.open(self.place, name=name, seed=self.seed, threads=1, command=()).close()
            make_directory(target / "rounds")
            copied(first, target / "rounds" / "1", "1")
        return rounds.execute(
            self._recipe(name, settings, ()), watch=self.watch, say=self.say, root=self.place, force=True
        )

    def _recipe(self, name: str, settings: Sequence[str], without: Sequence[str]) -> Recipe:
        own = (f"run.name={name}", f"run.seed={self.seed}")
        table = apply_overrides(load_toml(BASE), [*own, *settings])
        if self.quick:
            table = apply_overrides(table, [one for one in QUICK if one.partition(".")[0] in table])
        return recipe_from({section: part for section, part in table.items() if section not in without})


@dataclass(frozen=True)
class Experiment:
    """What is asked; the work on one seed, which gives a reading for each arm; what to show; what may be said."""

    name: str
    question: str
    work: Callable[[Bench], Iterable[Reading]]
    columns: tuple[Column, ...]
    pictures: tuple[Picture, ...]
    seen: Callable[[Found], str]


@dataclass(frozen=True)
class Found:
    """The readings of all seeds, to be asked for figures by arm."""

    readings: tuple[Reading, ...]

    def all(self, arm: str, name: str) -> list[float]:
        """A figure, one value a seed that has it."""
        return values(self.readings, arm, name)

    def mean(self, arm: str, name: str) -> float:
        """Its mean over the seeds that have it."""
        return fmean(self.all(arm, name))

    def among(self, arm: str, name: str) -> str:
        """In how many of the arm's seeds it is there, where it is not in all: 2 of 3 seeds."""
        return among(self.readings, arm, name)

    def has(self, arm: str, name: str) -> bool:
        """Whether any seed has it."""
        return bool(self.all(arm, name))


def conduct(
    experiment: Experiment,
    *,
    seeds: Sequence[int],
    quick: bool,
    command: str,
    watch: Callable[[str], Onlooker],
    say: Callable[[str], None],
    root: str | Path = "runs",
) -> Path:
    """Does the experiment with every seed; returns its page."""
    place = Path(root) / "lab" / (f"{experiment.name}-quick" if quick else experiment.name)
    make_directory(place)
    arms: dict[str, tuple[str, ...]] = {}
    found: list[Reading] = []
    for seed in seeds:
        bench = Bench(place, seed, quick, watch, say, arms)
        found += experiment.work(bench)
    record = Record(
        name=experiment.name,
        question=experiment.question,
        seen=experiment.seen(Found(tuple(found))),
        quick=quick,
        seeds=tuple(seeds),
        command=command,
        columns=experiment.columns,
        pictures=experiment.pictures,
        readings=tuple(found),
        arms=arms,
    )
    write_atomic(place / RESULTS, encode_json(record.model_dump(mode="json"), indent=1) + "\n")
    return write(place)


# ---- what a run directory says


def figures_of(run: Path, names: Mapping[str, str]) -> dict[str, float]:
    """Figures of `summary.json` by names of the experiment's own; those that the run does not have are left out."""
    summary = json.loads((run / "summary.json").read_bytes())
    return {own: summary[name] for own, name in names.items() if name in summary}


def along(run: Path, y: str, x: str = "step", file: str = "metrics") -> tuple[tuple[float, float], ...]:
    """One number of alignment's metrics, or of another of its files, over another; rows without them are left out."""
    rows: Iterable[Mapping[str, Any]] = JsonLines(run / "align" / f"{file}.jsonl").rows()
    return tuple((float(row[x]), float(row[y])) for row in rows if x in row and y in row)


# What alignment's summary says of every arm that was aligned.
ALIGNED = {
    "score_before": "align/score_initial",
    "score": "align/score_final",
    "gold_before": "align/gold_initial",
    "gold_best": "align/gold_best",
    "gold": "align/gold_final",
    "kl": "align/kl_final",
    "length": "align/length_final",
    "alarms": "align/alarms",
}


# ---- pictures and words that several experiments have

OVER_KL = "√KL from the SFT model"
OVER_STEPS = "iterations"


def rooted(points: Iterable[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """A curve over √KL from one over the KL; an estimate below 0 is 0."""
    return tuple((math.sqrt(max(x, 0.0)), y) for x, y in points)


def listed(things: Sequence[str]) -> str:
    """Some things in a sentence: a, b and c."""
    return things[0] if len(things) == 1 else f"{', '.join(things[:-1])} and {things[-1]}"
