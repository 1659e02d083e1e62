"""`kl`: what the price of a nat does to reward, KL and gold."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from palate.report.lab import Column, Picture, Reading
from palate.report.words import number
from palate.stages.lab.framework import (
    ALIGNED,
    OVER_KL,
    OVER_STEPS,
    Bench,
    Experiment,
    Found,
    along,
    figures_of,
    listed,
    rooted,
)

PRICES = (0.001, 0.02, 0.5)
# Between what the low and the high price let it be, so that the adaptive price has something to steer.
TARGET = 1.5
# Two iterations of 256 completions: within 30 iterations a price can move by a factor of seventeen.
HORIZON = 512
# A KL within this factor of the target counts as held.
HELD = 1.5

# A fall of gold from its best by more than this is more than the noise of 128 prompts (a standard error of some .06).
FALL = 0.15


def experiment() -> Experiment:
    """PPO on one reward model under three fixed prices and an adaptive one."""
    return Experiment(
        name="kl",
        question="What does the price of a nat of KL do to reward, KL and gold?",
        work=work,
        columns=(
            Column(figure="score_before", title="Reward before"),
            Column(figure="score", title="Reward after"),
            Column(figure="kl", title="KL"),
            Column(figure="price", title="Price at the end"),
            Column(figure="gold_before", title="Gold before"),
            Column(figure="gold_best", title="Best gold"),
            Column(figure="gold", title="Gold after"),
        ),
        pictures=(
            Picture(curve="kl", title="KL", measure="KL, nats,", along=OVER_STEPS, smooth=True),
            Picture(curve="score", title="Reward", measure="score", along=OVER_STEPS, smooth=True),
            Picture(curve="gold", title="Gold over the distance", measure="gold", along=OVER_KL, smooth=True),
        ),
        seen=seen,
    )


def work(bench: Bench) -> Iterator[Reading]:
    """The base, and each leash on it."""
    bench.run("base", only=("sft", "reward"))
    leashes = {f"beta-{price:g}": (f"align.ppo.kl.coef={price}",) for price in PRICES}
    steered = f'align.ppo.kl={{kind="adaptive", coef=0.02, target={TARGET}, horizon={HORIZON}}}'
    for arm, settings in {**leashes, "adaptive": (steered,)}.items():
        run = bench.run(arm, settings, begins="base")
        price = along(run, "kl/coef")
        yield Reading(
            arm=arm,
            seed=bench.seed,
            figures=figures_of(run, ALIGNED) | {"price": price[-1][1]},
            curves={
                "kl": along(run, "kl/sequence"),
                "score": along(run, "score/mean"),
                "gold": rooted(along(run, "score/gold", "kl/sequence")),
            },
        )


def seen(found: Found) -> str:
    """What the numbers say."""
    arms = [f"beta-{price:g}" for price in PRICES]
    prices = listed([f"{price:g}" for price in PRICES])
    kl, score, gold = ([found.mean(arm, name) for arm in arms] for name in ("kl", "score", "gold"))
    ends = [listed([number(value) for value in values]) for values in (kl, score, gold)]
    dearer, poorer = (all(first > second for first, second in pairwise(values)) for values in (kl, score))
    said = [
        f"At prices of {prices} a nat, KL ended at {ends[0]} nats and the reward's score at {ends[1]}: "
        + (
            "the dearer a nat, the nearer the policy stayed"
            if dearer
            else "KL did not fall with every rise of the price"
        )
        + (
            ", and the less reward it won." if dearer and poorer else ", while reward did not follow in the same order."
        ),
        f"Gold went from {number(found.mean(arms[0], 'gold_before'))} to {ends[2]}; it ended highest at "
        f"{PRICES[gold.index(max(gold))]:g}.",
    ]
    falls = [f"{price:g}" for price, arm in zip(PRICES, arms, strict=True) if _fall(found, arm) > FALL]
    said.append(
        f"At {listed(falls)} gold had been higher on the way (by {number(max(_fall(found, arm) for arm in arms))} at "
        "most) and fell again: over-optimisation."
        if falls
        else "At no price did gold fall much from its best on the way."
    )
    reached, price = found.mean("adaptive", "kl"), found.mean("adaptive", "price")
    held = TARGET / HELD <= reached <= TARGET * HELD
    said.append(
        f"The adaptive price, told to aim at {TARGET:g} nats, ended at {number(reached)} nats and a price of "
        f"{price:.3f}: {'it held near its target' if held else 'it had not brought the KL to its target by the end'}; "
        f"gold ended at {number(found.mean('adaptive', 'gold'))}."
    )
    return " ".join(said)


def _fall(found: Found, arm: str) -> float:
    return found.mean(arm, "gold_best") - found.mean(arm, "gold")
