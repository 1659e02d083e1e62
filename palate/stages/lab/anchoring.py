"""`anchor`: what keeps a policy from forgetting, a gradient of demonstrations (PPO-ptx) or a price of KL."""

from __future__ import annotations

import math
from collections.abc import Iterator

from palate.report.lab import Column, Picture, Reading
from palate.report.words import number, percent
from palate.stages.lab.framework import (
    ALIGNED,
    EVALUATED,
    OVER_STEPS,
    Bench,
    Experiment,
    Found,
    along,
    figures_of,
    listed,
)

ARMS = {
    "free": ("align.ppo.kl.coef=0.0",),
    "leash": ("align.ppo.kl.coef=0.1",),
    "ptx": ("align.ppo.kl.coef=0.0", "align.mix={ weight = 1.0, batch_tokens = 1024 }"),
    "both": ("align.ppo.kl.coef=0.1", "align.mix={ weight = 1.0, batch_tokens = 1024 }"),
}
SETTINGS = ("align.anchor=256", EVALUATED)

WORDS = {"free": "neither", "leash": "the price of KL", "ptx": "PPO-ptx", "both": "both"}


def experiment() -> Experiment:
    """PPO with a leash, with demonstrations mixed in, with both, and with neither."""
    return Experiment(
        name="anchor",
        question="What keeps a policy from forgetting: demonstrations mixed in, or a price of KL?",
        work=work,
        columns=(
            Column(figure="perplexity_before", title="Perplexity before"),
            Column(figure="perplexity", title="Perplexity after"),
            Column(figure="correct_before", title="Right before", unit="percent"),
            Column(figure="correct", title="Right after", unit="percent"),
            Column(figure="gold_before", title="Gold before"),
            Column(figure="gold", title="Gold after"),
            Column(figure="score", title="Reward after"),
            Column(figure="kl", title="KL"),
        ),
        pictures=(
            Picture(
                curve="loss",
                title="Held-out demonstrations",
                measure="−log π a token, nats,",
                along=OVER_STEPS,
                caption="What the demonstrations cost the policy; low is remembered.",
            ),
            Picture(curve="gold", title="Gold", measure="gold", along=OVER_STEPS, smooth=True),
        ),
        seen=seen,
    )


def work(bench: Bench) -> Iterator[Reading]:
    """The base, and each anchor on it."""
    bench.run("base", SETTINGS, only=("sft", "reward"))
    known = ALIGNED | {"correct_before": "align/correct_before", "correct": "align/correct_after"}
    for arm, settings in ARMS.items():
        run = bench.run(arm, (*SETTINGS, *settings), begins="base")
        loss, rise = along(run, "anchor/loss"), along(run, "anchor/rise")
        (_, after), (_, risen) = loss[-1], rise[-1]
        yield Reading(
            arm=arm,
            seed=bench.seed,
            figures=figures_of(run, known)
            | {"perplexity_before": math.exp(after - risen), "perplexity": math.exp(after)},
            curves={"loss": loss, "gold": along(run, "score/gold")},
        )


def seen(found: Found) -> str:
    """What the numbers say."""
    before = found.mean("free", "perplexity_before")
    perplexities = listed([f"{number(found.mean(arm, 'perplexity'))} with {WORDS[arm]}" for arm in ARMS])
    kept = min(ARMS, key=lambda arm: found.mean(arm, "perplexity"))
    rights = listed([f"{percent(found.mean(arm, 'correct'))} with {WORDS[arm]}" for arm in ARMS])
    golden = max(ARMS, key=lambda arm: found.mean(arm, "gold"))
    right = max(ARMS, key=lambda arm: found.mean(arm, "correct"))
    said = (
        f"The perplexity of held-out demonstrations went from {number(before)} to {perplexities}; {WORDS[kept]} kept "
        f"them best. Answers were right on {percent(found.mean('free', 'correct_before'))} before, and after on "
        f"{rights}: most often with {WORDS[right]}. Gold ended highest with {WORDS[golden]}, at "
        f"{number(found.mean(golden, 'gold'))}. "
    )
    if golden == kept:
        return said + "What remembered best was also worth most."
    return said + (
        "What remembered best was not worth most: these demonstrations show vices that gold counts off, so some of "
        "what is forgotten is meant to be."
    )
