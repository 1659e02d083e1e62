"""`length`: a reward that only counts characters, with a leash and without."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from palate.report.lab import Column, Picture, Reading
from palate.report.words import number, percent
from palate.stages.lab.framework import (
    ALIGNED,
    OVER_STEPS,
    Bench,
    Experiment,
    Found,
    along,
    figures_of,
)

REWARD = Path(__file__).with_name("characters.py")

# The reward is taken as it is, so that a price of .1 is one of .1 a nat. The longest prompt leaves room for 96 tokens.
SETTINGS = (
    f"align.reward={json.dumps(f'{REWARD}:hundredths')}",
    'align.shaping.normalise="none"',
    "align.max_new_tokens=96",
    "align.iterations=30",
    "align.batch=128",
)
PRICES = (0.0, 0.1)

# Answers that are this many times as long as before have grown beyond any doubt.
GROWN = 1.5


def experiment() -> Experiment:
    """PPO on length / 100 with β = 0 and β = 0.1."""
    return Experiment(
        name="length",
        question="What does a policy do with a reward of length / 100, and what does a leash change?",
        work=work,
        columns=(
            Column(figure="length_before", title="Tokens before"),
            Column(figure="length", title="Tokens after"),
            Column(figure="score_before", title="Reward before"),
            Column(figure="score", title="Reward after"),
            Column(figure="kl", title="KL"),
            Column(figure="ended", title="Answers that end", unit="percent"),
            Column(figure="gold_before", title="Gold before"),
            Column(figure="gold", title="Gold after"),
        ),
        pictures=(
            Picture(curve="length", title="Length", measure="tokens an answer", along=OVER_STEPS, smooth=True),
            Picture(curve="kl", title="KL", measure="KL, nats,", along=OVER_STEPS, smooth=True),
            Picture(curve="gold", title="Gold", measure="gold", along=OVER_STEPS, smooth=True),
        ),
        seen=seen,
    )


def work(bench: Bench) -> Iterator[Reading]:
    """The base, and each price on it."""
    bench.run("base", only=("sft",), without=("reward",))
    names = ALIGNED | {"length_before": "align/length_initial"}
    for price in PRICES:
        arm = f"beta-{price:g}"
        settings = (*SETTINGS, f"align.ppo.kl.coef={price}")
        run = bench.run(arm, settings, begins="base", without=("reward",))
        yield Reading(
            arm=arm,
            seed=bench.seed,
            figures=figures_of(run, names) | {"ended": along(run, "length/eos_rate")[-1][1]},
            curves={
                "length": along(run, "length/mean"),
                "kl": along(run, "kl/sequence"),
                "gold": along(run, "score/gold"),
            },
        )


def seen(found: Found) -> str:
    """What the numbers say."""
    free, held = (f"beta-{price:g}" for price in PRICES)
    before, after, leashed = found.mean(free, "length_before"), found.mean(free, "length"), found.mean(held, "length")
    told = f"Without a leash answers went from {number(before)} to {number(after)} tokens, "
    told += "as a reward of nothing but length asks" if after > GROWN * before else "hardly longer: it learnt little"
    told += (
        f", at a KL of {number(found.mean(free, 'kl'))} nats; {percent(found.mean(free, 'ended'))} of them still ended "
        f"by themselves. At a price of {PRICES[1]:g} a nat they went to {number(leashed)} tokens at "
        f"{number(found.mean(held, 'kl'))} nats: "
    )
    if leashed >= after:
        told += "the leash did not keep them shorter. "
    else:
        told += f"the leash kept them shorter{', though not as they were' if leashed > GROWN * before else ''}. "
    gold = {arm: found.mean(arm, "gold") - found.mean(arm, "gold_before") for arm in (free, held)}
    return (
        f"{told}Gold changed by {number(gold[free])} without the leash and by {number(gold[held])} with it; nobody had "
        "asked for it."
    )
