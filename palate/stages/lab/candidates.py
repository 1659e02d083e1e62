"""`sampling`: what temperature and checkpoint of the candidates make of preference data and reward model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from palate import testbed
from palate.engine.files import encode_json, file_sha256, write_atomic
from palate.engine.generation import Sampling
from palate.engine.seeding import derive, uniforms
from palate.models import load_causal
from palate.records import Prompt
from palate.report.lab import Column, Picture, Reading
from palate.report.words import number, percent
from palate.stages.lab.framework import Bench, Experiment, Found, figures_of
from palate.stages.material import Loaded, evenly, sample
from palate.stages.tools import score
from palate.testbed.world import Split

PAIRS, HELDOUT = 6000, 1500
# The same in a quick look.
FEW = 48

# A difference of two shares of some 1,400 pairs that is above their noise (a standard error of .018).
NOTABLE = 0.036


@dataclass(frozen=True)
class Source:
    """Who writes the candidates, and at which temperature."""

    model: str
    temperature: float


SOURCES = {
    "sft-0.7": Source("sft", 0.7),
    "sft-1": Source("sft", 1.0),
    "sft-1.3": Source("sft", 1.3),
    "base-1": Source("base", 1.0),
}
# Beside them, the testbed's own pairs, which were written to differ in one thing at a time.
WRITTEN = "written"
ARMS = (*SOURCES, WRITTEN)


def experiment() -> Experiment:
    """A reward model from pairs of each source, on common pairs and on the SFT model's own."""
    return Experiment(
        name="sampling",
        question="What do temperature and checkpoint of the candidates make of preference data and reward model?",
        work=work,
        columns=(
            Column(figure="differing", title="Pairs that differ", unit="percent"),
            Column(figure="gap", title="Gap in gold"),
            Column(figure="right", title="Right answers", unit="percent"),
            Column(figure="pairs", title="Pairs learnt", unit="count"),
            Column(figure="common", title="As gold orders: common pairs", unit="percent"),
            Column(figure="on_policy", title="the policy’s own pairs", unit="percent"),
        ),
        pictures=(
            Picture(
                curve="common",
                title="Common pairs, by the candidates' temperature",
                measure="ordered as by gold",
                along="temperature",
                caption="Candidates of the SFT model.",
            ),
            Picture(
                curve="on_policy",
                title="The policy's own pairs",
                measure="ordered as by gold",
                along="temperature",
            ),
        ),
        seen=seen,
    )


def work(bench: Bench) -> Iterator[Reading]:
    """One SFT model; pairs of every source; a reward model from each, asked about the same pairs."""
    base = bench.run("base", only=("sft",), without=("reward", "align"))
    sft = base / "sft" / "model"
    models = {"sft": Loaded(*load_causal(sft)), "base": Loaded(*load_causal(testbed.base_model()))}
    files = Files(bench, models, file_sha256(sft / "model.safetensors")[:8])
    common, own = files.written("heldout"), files.drawn(Source("sft", 1.0), "heldout")
    curves: dict[str, list[tuple[float, float]]] = {"common": [], "on_policy": []}
    for arm in ARMS:
        data = files.drawn(SOURCES[arm], "known") if arm in SOURCES else files.written("known")
        settings = (
            f"model.path={json.dumps(str(sft))}",
            f"reward.data={json.dumps(str(data))}",
            f"reward.heldout={json.dumps(str(common))}",
        )
        run = bench.run(arm, settings, without=("sft", "align"))
        judged = {name: _as_gold(run, file) for name, file in (("common", common), ("on_policy", own))}
        if arm in SOURCES and SOURCES[arm].model == "sft":
            for name, value in judged.items():
                curves[name].append((SOURCES[arm].temperature, value))
        figures = _described(data, files.count("known")) | figures_of(run, {"pairs": "reward/pairs"}) | judged
        yield Reading(arm=arm, seed=bench.seed, figures=figures)
    told = {name: tuple(points) for name, points in curves.items()}
    yield Reading(arm="SFT model", seed=bench.seed, figures={}, curves=told)


@dataclass(frozen=True)
class Files:
    """The files of pairs. Their names hold all that they follow from, so that one that is there is the right one."""

    bench: Bench
    models: dict[str, Loaded]
    sft: str

    def count(self, split: Split) -> int:
        """Pairs asked for."""
        return FEW if self.bench.quick else PAIRS if split == "known" else HELDOUT

    def written(self, split: Split) -> Path:
        """The testbed's own pairs."""
        place = self.bench.place / f"pairs-{WRITTEN}-{split}-{self.count(split)}-{self.bench.seed}.jsonl"
        if not place.exists():
            pairs = testbed.pairs(self.count(split), self._seed("written", split), testbed.Annotator(), split=split)
            _write(place, [(pair.prompt.text, pair.chosen, pair.rejected) for pair in pairs])
        return place

    def drawn(self, source: Source, split: Split) -> Path:
        """Pairs of one model's answers to the split's prompts, annotated; answers that are equal or empty make none."""
        whose = f"{source.model}-{source.temperature:g}-{split}-{self.count(split)}-{self.sft}-{self.bench.seed}"
        place = self.bench.place / f"pairs-{whose}.jsonl"
        if not place.exists():
            _write(place, self._annotated(source, split))
        return place

    def _annotated(self, source: Source, split: Split) -> list[tuple[str, str, str]]:
        prompts, count = testbed.prompts(split), self.count(split)
        rows, numbers = evenly(count, len(prompts))
        first, second = (
            self._answers(source, split, prompts, rows, [2 * one + side for one in numbers]) for side in (0, 1)
        )
        u = uniforms(self._seed("labels", split), 0, rows, numbers, 1)[:, 0].tolist()
        annotator, pairs = testbed.Annotator(), []
        for row, one, other, chance in zip(rows, first, second, u, strict=True):
            if one != other and one.strip() and other.strip():
                prefers = annotator.prefers(prompts[row], one, other, chance)
                pairs.append((prompts[row].text, *((one, other) if prefers else (other, one))))
        return pairs

    def _answers(
        self,
        source: Source,
        split: Split,
        prompts: Sequence[Prompt],
        rows: Sequence[int],
        numbers: Sequence[int],
    ) -> tuple[str, ...]:
        completions, _ = sample(
            self.models[source.model],
            prompts,
            seed=self._seed(source.model, split),
            rows=rows,
            samples=numbers,
            length=48,
            sampling=Sampling(temperature=source.temperature),
        )
        return completions.texts

    def _seed(self, *purpose: str) -> int:
        return derive(self.bench.seed, "lab", "sampling", *purpose) % 2**32


def _write(place: Path, pairs: Sequence[tuple[str, str, str]]) -> None:
    names = ("prompt", "chosen", "rejected")
    write_atomic(place, "".join(f"{encode_json(dict(zip(names, pair, strict=True)))}\n" for pair in pairs))


def _read(place: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in place.read_text(encoding="utf-8").splitlines()]


def _described(place: Path, asked: int) -> dict[str, float]:
    """What the pairs are like: how many differ, how far apart their sides are in gold, how many sides are right."""
    rows = _read(place)
    gaps = [
        abs(testbed.gold(row["prompt"], row["chosen"]) - testbed.gold(row["prompt"], row["rejected"])) for row in rows
    ]
    right = [float(testbed.correct(row["prompt"], row[side])) for row in rows for side in ("chosen", "rejected")]
    return {"differing": len(rows) / asked, "gap": fmean(gaps), "right": fmean(right)}


def _as_gold(run: Path, pairs: Path) -> float:
    """The share of pairs whose sides the run's reward model orders as gold does; a tie of its scores is half."""
    credits = []
    for row in score(str(run / "reward" / "model"), pairs):
        gap = testbed.gold(row["prompt"], row["chosen"]) - testbed.gold(row["prompt"], row["rejected"])
        told = row["score_chosen"] - row["score_rejected"]
        if gap != 0:
            credits.append(0.5 if told == 0 else float((told > 0) == (gap > 0)))
    return fmean(credits)


def seen(found: Found) -> str:
    """What the numbers say."""
    cold, warm, hot = (f"sft-{temperature}" for temperature in ("0.7", "1", "1.3"))
    differing = [percent(found.mean(arm, "differing")) for arm in (cold, warm, hot)]
    gaps = [number(found.mean(arm, "gap")) for arm in (cold, warm, hot)]
    best = {name: max(ARMS, key=lambda arm: found.mean(arm, name)) for name in ("common", "on_policy")}
    sampled = {name: max(SOURCES, key=lambda arm: found.mean(arm, name)) for name in ("common", "on_policy")}
    data = (
        f"At temperatures .7, 1 and 1.3, {differing[0]}, {differing[1]} and {differing[2]} of the SFT model's pairs of "
        f"answers differed, by {gaps[0]}, {gaps[1]} and {gaps[2]} of gold on average. "
    )
    common = (
        f"On the common pairs the best reward model came from {_named(best['common'])} "
        f"({percent(found.mean(best['common'], 'common'))} ordered as by gold), on the policy's own from "
        f"{_named(best['on_policy'])} ({percent(found.mean(best['on_policy'], 'on_policy'))}); of the sampled ones "
        f"from {_named(sampled['common'])} and {_named(sampled['on_policy'])}. "
    )
    return f"{data}{common}{_checkpoint(found)}"


def _checkpoint(found: Found) -> str:
    """Whether candidates of the policy itself did better than those of the model before it."""
    gap = found.mean("sft-1", "on_policy") - found.mean("base-1", "on_policy")
    told = (
        "With candidates of the SFT model instead of the base model, both at temperature 1, the policy's own pairs "
        f"were ordered as by gold {number(100 * abs(gap))} points {'more' if gap >= 0 else 'less'} often: "
    )
    if abs(gap) <= NOTABLE:
        return f"{told}no difference worth a word."
    return f"{told}pairs from the policy itself teach {'more' if gap > 0 else 'less'} about it."


def _named(arm: str) -> str:
    if arm == WRITTEN:
        return "the testbed's written pairs"
    source = SOURCES[arm]
    return f"the {'SFT' if source.model == 'sft' else 'base'} model at temperature {source.temperature:g}"
