"""`pooling`: a reward model that reads the last token's state against one that reads the mean over the completion."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

from palate.report.lab import Column, Picture, Reading
from palate.report.words import percent
from palate.stages.lab.framework import Bench, Experiment, Found, figures_of

POOLINGS = ("last", "mean")
PAIRS = (1000, 4000, 16000)

FIGURES = {
    "accuracy": "reward/accuracy",
    "accuracy_low": "reward/accuracy_low",
    "accuracy_high": "reward/accuracy_high",
    "of_ceiling": "reward/of_ceiling",
    "of_ceiling_manner": "reward/of_ceiling_manner",
    "of_ceiling_correctness": "reward/of_ceiling_correctness",
}


def experiment() -> Experiment:
    """Two poolings with three amounts of data."""
    return Experiment(
        name="pooling",
        question="Does it matter whether a reward model reads the last token or the mean over the completion?",
        work=work,
        columns=(
            Column(figure="pairs", title="Pairs", unit="count"),
            Column(figure="accuracy", title="Accuracy", unit="percent"),
            Column(figure="accuracy_low", title="from", unit="percent"),
            Column(figure="accuracy_high", title="to", unit="percent"),
            Column(figure="of_ceiling", title="Of the ceiling", unit="percent"),
            Column(figure="of_ceiling_manner", title="on manner", unit="percent"),
            Column(figure="of_ceiling_correctness", title="on correctness", unit="percent"),
        ),
        pictures=(
            Picture(
                curve="learning",
                title="Share of the ceiling that is reached",
                measure="share of the ceiling",
                along="log₁₀ of the number of pairs",
            ),
        ),
        seen=seen,
    )


def work(bench: Bench) -> Iterator[Reading]:
    """One SFT model, and a reward model from it for each pooling and amount."""
    base = bench.run("base", only=("sft",), without=("reward", "align"))
    start = f"model.path={json.dumps(str(base / 'sft' / 'model'))}"
    for pooling in POOLINGS:
        learning = []
        for pairs in PAIRS:
            settings = (start, f"testbed.pairs={pairs}", f'reward.pooling="{pooling}"')
            run = bench.run(arm_of(pooling, pairs), settings, without=("sft", "align"))
            figures = figures_of(run, FIGURES) | {"pairs": pairs}
            learning.append((math.log10(pairs), figures["of_ceiling"]))
            yield Reading(arm=arm_of(pooling, pairs), seed=bench.seed, figures=figures)
        yield Reading(arm=pooling, seed=bench.seed, figures={}, curves={"learning": tuple(learning)})


def arm_of(pooling: str, pairs: int) -> str:
    """The name of an arm."""
    return f"{pooling}-{pairs}"


def seen(found: Found) -> str:
    """What the numbers say; two accuracies are told apart where their intervals do not meet, with every seed."""
    return " ".join(_compared(found, pairs) for pairs in PAIRS)


def _compared(found: Found, pairs: int) -> str:
    last, mean = (arm_of(pooling, pairs) for pooling in POOLINGS)
    told = (
        f"With {pairs:,} pairs the last token's state was right on {percent(found.mean(last, 'accuracy'))} of held-out "
        f"pairs and the mean on {percent(found.mean(mean, 'accuracy'))} "
        f"({percent(found.mean(last, 'of_ceiling'))} and {percent(found.mean(mean, 'of_ceiling'))} of the ceiling): "
    )
    if _above(found, last, mean):
        return f"{told}the last token is clearly better."
    if _above(found, mean, last):
        return f"{told}the mean is clearly better."
    return f"{told}their intervals meet, so these pairs do not tell them apart."


def _above(found: Found, first: str, second: str) -> bool:
    lows, highs = found.all(first, "accuracy_low"), found.all(second, "accuracy_high")
    return all(low > high for low, high in zip(lows, highs, strict=True))
