"""`objectives`: two reward models, one of helpfulness and one of conciseness, alone and together."""

from __future__ import annotations

import json
from collections.abc import Iterator

from palate.report.lab import Column, Picture, Reading
from palate.report.words import number, percent
from palate.stages.lab.framework import ALIGNED, EVALUATED, OVER_STEPS, Bench, Experiment, Found, along, figures_of

# Each annotator is given back what gold takes off for all that is none of his business: whoever minds helpfulness does
# not see manner, and whoever minds conciseness does not see mistakes.
ANNOTATORS = {
    "helpful": "hedging = 0.55, sycophancy = 0.55, confidence = 0.55, format = 0.45, length = 0.05, "
    '"stock phrase" = 0.55',
    "concise": "blindness = 1, length = -0.3",
}
PAIRS = 12000

ARMS = {"helpful": ("helpful",), "concise": ("concise",), "both": ("helpful", "concise")}


def experiment() -> Experiment:
    """PPO on each of two reward models, and on their sum."""
    return Experiment(
        name="objectives",
        question="What do a reward for helpfulness and one for conciseness bring, alone and together?",
        work=work,
        columns=(
            Column(figure="correct_before", title="Right before", unit="percent"),
            Column(figure="correct", title="Right after", unit="percent"),
            Column(figure="length_before", title="Tokens before"),
            Column(figure="length", title="Tokens after"),
            Column(figure="gold_before", title="Gold before"),
            Column(figure="gold", title="Gold after"),
            Column(figure="kl", title="KL"),
        ),
        pictures=(
            Picture(curve="length", title="Length", measure="tokens an answer", along=OVER_STEPS, smooth=True),
            Picture(curve="gold", title="Gold", measure="gold", along=OVER_STEPS, smooth=True),
        ),
        seen=seen,
    )


def work(bench: Bench) -> Iterator[Reading]:
    """One SFT model, two reward models, and three policies."""
    base = bench.run("base", only=("sft",), without=("reward", "align"))
    start = f"model.path={json.dumps(str(base / 'sft' / 'model'))}"
    models = {}
    for name, biases in ANNOTATORS.items():
        settings = (start, f"testbed.biases={{ {biases} }}", f"testbed.pairs={PAIRS}")
        models[name] = bench.run(f"reward-{name}", settings, without=("sft", "align")) / "reward" / "model"
    for arm, names in ARMS.items():
        # Half each where there are two, so that together they ask for no more than one does.
        tables = ", ".join(
            f'{{ source = {json.dumps(str(models[name]))}, name = "{name}", weight = {1 / len(names)}, '
            "normalise = true }"
            for name in names
        )
        run = bench.run(arm, (start, f"align.rewards=[{tables}]", EVALUATED), without=("sft", "reward"))
        known = ALIGNED | {
            "correct_before": "align/correct_before",
            "correct": "align/correct_after",
            "length_before": "align/length_before",
            "length": "align/length_after",
        }
        yield Reading(
            arm=arm,
            seed=bench.seed,
            figures=figures_of(run, known),
            curves={"length": along(run, "length/mean"), "gold": along(run, "score/gold")},
        )


def seen(found: Found) -> str:
    """What the numbers say."""
    before = f"Before, {percent(found.mean('both', 'correct_before'))} of answers were right and had "
    before += f"{number(found.mean('both', 'length_before'))} tokens. "
    alone = " ".join(
        f"With {word} alone {percent(found.mean(arm, 'correct'))} were right, of {number(found.mean(arm, 'length'))} "
        f"tokens, at gold {number(found.mean(arm, 'gold'))}."
        for arm, word in (("helpful", "helpfulness"), ("concise", "conciseness"))
    )
    right, length, gold = (found.mean("both", name) for name in ("correct", "length", "gold"))
    together = (
        f" Together {percent(right)} were right, of {number(length)} tokens, at gold {number(gold)}: "
        f"{_verdict(found, right, length)}; gold, of which each is a part, "
        + (
            "ended higher than with either alone."
            if gold > max(found.mean(arm, "gold") for arm in ("helpful", "concise"))
            else "did not end higher than with the better one alone."
        )
    )
    return before + alone + together


def _verdict(found: Found, right: float, length: float) -> str:
    """What the sum has of both parts."""
    rights, shorter = right > found.mean("concise", "correct"), length < found.mean("helpful", "length")
    if rights and shorter:
        return "more often right than conciseness alone made them, and shorter than helpfulness alone did"
    if rights:
        return "more often right than conciseness alone made them, but no shorter than helpfulness alone did"
    if shorter:
        return "shorter than helpfulness alone made them, but no more often right than conciseness alone did"
    return "neither shorter than with helpfulness alone nor more often right than with conciseness alone"
