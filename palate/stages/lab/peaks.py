"""`overoptimisation`: where gold turns, by the size of the reward model and the number of comparisons that it saw.

Gao et al., arXiv 2210.10760, with PPO and best-of-n. Reward models smaller than the policy are its first layers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from safetensors.torch import load_file, save_file

from palate import testbed
from palate.algorithms.makers import best_of_n_kl_bound
from palate.engine.files import atomic_directory
from palate.engine.generation import Sampling
from palate.engine.interfaces import Completions
from palate.engine.metrics import JsonLines
from palate.engine.seeding import derive
from palate.evaluation import Fit, Look, best_of_n_worth, fit_looks, fit_points
from palate.evaluation.overoptimisation import Judged
from palate.models import load_causal, load_reward_model
from palate.report.lab import Column, Picture, Points, Reading
from palate.report.words import number
from palate.rewards import ModelReward, checked_scores
from palate.stages.judges import gold_reward
from palate.stages.lab.framework import ALIGNED, OVER_KL, Bench, Experiment, Found, figures_of
from palate.stages.material import Loaded, evenly, sample
from palate.stages.trust.watching import look_of

LAYERS = (1, 2, 4)
PAIRS = (1000, 4000, 16000)

# So many samples a prompt, of which subsets are taken for best-of-n up to all of them.
SAMPLES, PROMPTS = 64, 96
# The same in a quick look.
FEW_SAMPLES, FEW_PROMPTS = 8, 4

# How finely a fitted curve is drawn.
DRAWN = 40

NAMES = ALIGNED | {"accuracy": "reward/accuracy"}


def experiment() -> Experiment:
    """PPO without a leash, and best-of-n, against reward models of three sizes with three amounts of data."""
    return Experiment(
        name="overoptimisation",
        question="How far can a reward model be optimised before gold turns, and do size and data move the peak?",
        work=work,
        columns=(
            Column(figure="layers", title="Layers", unit="count"),
            Column(figure="pairs", title="Comparisons", unit="count"),
            Column(figure="accuracy", title="Accuracy", unit="percent"),
            Column(figure="gain", title="PPO: best gain"),
            Column(figure="kept", title="at the end"),
            Column(figure="peak", title="peak, √KL"),
            Column(figure="peak_low", title="from"),
            Column(figure="peak_high", title="to"),
            Column(figure="fitted", title="R²"),
            Column(figure="bon_gain", title="Best of n: best gain"),
            Column(figure="bon_peak", title="peak, √KL"),
        ),
        pictures=(
            Picture(
                curve="fit",
                points="gold",
                title="PPO: gold, with the fit d(α − β log d)",
                measure="gold gained",
                along=OVER_KL,
                caption="Dots are looks at 128 prompts, the line the fitted curve.",
            ),
            Picture(curve="proxy", title="PPO: the reward itself", measure="reward gained", along=OVER_KL),
            Picture(
                curve="bon_fit",
                points="bon_gold",
                title="Best of n: gold, with the fit d(α − βd)",
                measure="gold gained",
                along=OVER_KL,
                caption=f"n = 1 to {SAMPLES}, from all subsets of {SAMPLES} samples a prompt.",
            ),
        ),
        seen=seen,
    )


def arm_of(layers: int, pairs: int) -> str:
    """The name of an arm."""
    return f"layers-{layers}-pairs-{pairs}"


def work(bench: Bench) -> Iterator[Reading]:
    """One SFT model and its samples; for each size and amount a reward model, PPO on it, and the best samples by it."""
    base = bench.run("base", only=("sft",), without=("reward", "align"))
    model = base / "sft" / "model"
    pool = _pool(model, bench)
    for layers in LAYERS:
        trunk = _shortened(model, layers, bench.place / f"trunk-{layers}-{bench.seed}")
        for pairs in PAIRS:
            settings = (
                f"model.path={json.dumps(str(model))}",
                f"reward.model={json.dumps(str(trunk))}",
                f"testbed.pairs={pairs}",
                "align.ppo.kl.coef=0.0",
            )
            run = bench.run(arm_of(layers, pairs), settings, without=("sft",))
            figures, curves = _of_policy(run)
            best_figures, best_curves = _of_best(pool, run / "reward" / "model")
            yield Reading(
                arm=arm_of(layers, pairs),
                seed=bench.seed,
                figures={"layers": layers, "pairs": pairs} | figures | best_figures,
                curves=curves | best_curves,
            )


def _shortened(model: Path, layers: int, place: Path) -> Path:
    """The model's first layers as a model of their own; the model itself where these are all."""
    config = json.loads((model / "config.json").read_bytes())
    if config["num_hidden_layers"] == layers:
        return model
    beyond = tuple(f"model.layers.{layer}." for layer in range(layers, config["num_hidden_layers"]))
    tensors = load_file(model / "model.safetensors")
    with atomic_directory(place) as partial:
        for file in model.iterdir():
            if file.suffix in (".json", ".jinja"):
                (partial / file.name).write_bytes(file.read_bytes())
        (partial / "config.json").write_text(json.dumps(config | {"num_hidden_layers": layers}, indent=2))
        kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(beyond)}
        save_file(kept, partial / "model.safetensors", metadata={"format": "pt"})
    return place


# ---- PPO


def _of_policy(run: Path) -> tuple[dict[str, float], dict[str, Points]]:
    """Gains over the start along the looks, their fit, and its peak where one is in sight."""
    rows = list(JsonLines(run / "align" / "points.jsonl").rows())
    looks = [look_of(row) for row in rows]
    known = figures_of(run, NAMES)
    figures = {
        "accuracy": known["accuracy"],
        "gain": known["gold_best"] - known["gold_before"],
        "kept": known["gold"] - known["gold_before"],
    }
    curves = {"gold": _gains(looks, "heldout"), "proxy": _gains(looks, "proxy")}
    fit = fit_looks(looks, "heldout")
    if fit is None:
        return figures, curves
    if fit.r_squared is not None:
        figures["fitted"] = fit.r_squared
    return figures | _peak(fit, "peak"), curves | {"fit": _line(fit, max(x for x, _ in curves["gold"]))}


def _gains(looks: Sequence[Look], judged: Judged) -> Points:
    """What a judge's mean gained over the start, over the distance."""
    return tuple((look.distance, look.mean(judged) - looks[0].mean(judged)) for look in looks)


def _peak(fit: Fit, name: str) -> dict[str, float]:
    if fit.peak is None:
        return {}
    ends = {f"{name}_low": fit.peak.low} | ({} if fit.peak.high is None else {f"{name}_high": fit.peak.high})
    return {name: fit.peak.distance} | ends


def _line(fit: Fit, farthest: float) -> Points:
    """A fitted curve from the start to where something was measured."""
    distances = [farthest * step / DRAWN for step in range(DRAWN + 1)]
    return tuple((distance, fit.gain(distance)) for distance in distances)


# ---- best of n


@dataclass(frozen=True)
class Pool:
    """What the SFT model answers: so many samples of every prompt in a row, and their gold."""

    model: Loaded
    completions: Completions
    gold: Sequence[float]
    samples: int


def _pool(model: Path, bench: Bench) -> Pool:
    loaded = Loaded(*load_causal(model))
    samples, count = (FEW_SAMPLES, FEW_PROMPTS) if bench.quick else (SAMPLES, PROMPTS)
    prompts = testbed.prompts("known")
    chosen, _ = evenly(count, len(prompts))
    completions, _ = sample(
        loaded,
        prompts,
        seed=derive(bench.seed, "lab", "best of n"),
        rows=[row for row in chosen for _ in range(samples)],
        samples=list(range(samples)) * count,
        length=48,
        sampling=Sampling(),
    )
    return Pool(loaded, completions, checked_scores(gold_reward(), completions).tolist(), samples)


def _of_best(pool: Pool, place: Path) -> tuple[dict[str, float], dict[str, Points]]:
    """Gold gained by the best of n by this reward model, and its fit; KL is log n − (n − 1)/n."""
    model, chat, _ = load_reward_model(place)
    judge = ModelReward("reward_model", model, chat, rereads=chat.fingerprint != pool.model.chat.fingerprint)
    scores = checked_scores(judge, pool.completions).tolist()
    starts = range(0, len(scores), pool.samples)
    points: list[tuple[float, float]] = []
    errors: list[float] = []
    for n in (2**power for power in range(int(math.log2(pool.samples)) + 1)):
        gains = [
            best_of_n_worth(scores[start : start + pool.samples], pool.gold[start : start + pool.samples], n)
            - fmean(pool.gold[start : start + pool.samples])
            for start in starts
        ]
        points.append((math.sqrt(best_of_n_kl_bound(n)), fmean(gains)))
        errors.append(stdev(gains) / math.sqrt(len(gains)))
    figures = {"bon_gain": max(gain for _, gain in points)}
    distances, means = zip(*points, strict=True)
    fit = fit_points(distances, means, "best-of-n", errors=errors)
    if fit is None:
        return figures, {"bon_gold": tuple(points)}
    return figures | _peak(fit, "bon_peak"), {"bon_gold": tuple(points), "bon_fit": _line(fit, distances[-1])}


# ---- what was seen


def seen(found: Found) -> str:
    """What the numbers say, beside what the paper found."""
    most, largest = PAIRS[-1], LAYERS[-1]
    data = _moved(found, [arm_of(largest, pairs) for pairs in PAIRS], f"From {PAIRS[0]:,} to {most:,} comparisons")
    size = _moved(found, [arm_of(layers, most) for layers in LAYERS], f"From {LAYERS[0]} layer to {largest}")
    arms = [arm_of(layers, pairs) for layers in LAYERS for pairs in PAIRS]
    turned = [arm for arm in arms if found.has(arm, "peak")]
    ppo = (
        f"PPO without a leash: in {len(turned)} of {len(arms)} arms the fitted gold turns within what was measured. "
        "Gao et al. found that more comparisons and larger reward models put the peak higher and farther out. "
        f"{data} {size} "
    )
    least, greatest = (found.mean(arm, "bon_gain") for arm in (arm_of(LAYERS[0], PAIRS[0]), arm_of(largest, most)))
    turned = [arm for arm in arms if found.has(arm, "bon_peak")]
    best = (
        f"Best of n gained {number(least)} by the smallest reward model with the least data and {number(greatest)} by "
        f"the largest with the most; its fitted curve turns within n = {SAMPLES} in {len(turned)} of {len(arms)} arms."
    )
    return ppo + best


def _moved(found: Found, arms: Sequence[str], what: str) -> str:
    """How peak and gain changed from the first of the arms to the last."""
    first, last = arms[0], arms[-1]
    higher = found.mean(last, "gain") > found.mean(first, "gain")
    told = f"{what} the best gain went from {number(found.mean(first, 'gain'))} to {number(found.mean(last, 'gain'))}"
    if not found.has(first, "peak") and not found.has(last, "peak"):
        return f"{told}, {'' if higher else 'not '}as in the paper; neither curve turns within what was measured."
    told += f", and the peak from {_place(found, first)} to {_place(found, last)}: "
    farther = found.has(first, "peak") and (
        not found.has(last, "peak") or found.mean(last, "peak") > found.mean(first, "peak")
    )
    if higher and farther:
        return f"{told}higher and farther out, as in the paper."
    if higher:
        return f"{told}higher as in the paper, but not farther out."
    return f"{told}{'farther out as in the paper, but not higher' if farther else 'not as in the paper'}."


def _place(found: Found, arm: str) -> str:
    if not found.has(arm, "peak"):
        return "beyond what was measured"
    among = found.among(arm, "peak")
    return f"√KL = {number(found.mean(arm, 'peak'))}{f' (in {among})' if among else ''}"
