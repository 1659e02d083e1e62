"""`rounds`: whether votes on what a drifted policy writes bring gold back, and which votes are worth the most."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import gt
from pathlib import Path

from palate.report.lab import Column, Picture, Reading
from palate.report.words import number
from palate.stages.lab.framework import (
    ALIGNED,
    EVALUATED,
    OVER_KL,
    OVER_STEPS,
    Bench,
    Experiment,
    Found,
    along,
    figures_of,
    listed,
)

# Fewer comparisons than the lab's, read twice in small steps, and a weak leash: gold rises, and falls again while the
# reward goes on rising.
WEAK = (
    "testbed.pairs=2000",
    "reward.epochs=2",
    "reward.batch_tokens=1024",
    "align.ppo.kl.coef=0.05",
    "align.iterations=40",
    "align.checkpoint_every=20",
    EVALUATED,
)

# Votes that the second round asks for.
BUDGETS = (250, 500, 1000)

# Both hold out a twentieth of what they ask for, drawn at random.
WAYS = {
    "random": "random = 1.0, uncertain = 0.0, adversarial = 0.0, heldout = 0.05",
    "aimed": "random = 0.2, uncertain = 0.4, adversarial = 0.4, heldout = 0.25",
}

# So many further comparisons of the first kind: what as many votes are worth that look at no policy.
MORE = BUDGETS[-1]

NAMES = ALIGNED | {"gained": "align/gold_gain", "accuracy": "reward/accuracy", "right": "align/correct_after"}


def experiment() -> Experiment:
    """PPO on a weak leash, and again after votes on what came of it: random or aimed ones, more and more of them."""
    return Experiment(
        name="rounds",
        question="Do votes on what a drifted policy writes bring gold back, and how many does it take?",
        work=work,
        columns=(
            Column(figure="votes", title="Votes", unit="count"),
            Column(figure="gold_best", title="Best gold"),
            Column(figure="gold", title="Gold after"),
            Column(figure="gained", title="Gained, held-out prompts"),
            Column(figure="right", title="Right answers", unit="percent"),
            Column(figure="score", title="Reward after"),
            Column(figure="kl", title="KL"),
            Column(figure="alarms", title="Alarms"),
        ),
        pictures=(
            Picture(curve="gold", title="Gold on the way", measure="gold", along=OVER_STEPS, smooth=True),
            Picture(curve="gold_over_kl", title="Gold over the distance", measure="gold", along=OVER_KL, smooth=True),
        ),
        seen=seen,
    )


def work(bench: Bench) -> Iterator[Reading]:
    """One first round; the second ones on it, each with its own votes; more comparisons of the first kind."""
    first = bench.run("first", WEAK)
    yield _reading(bench, "first", first, 0)
    for votes in BUDGETS:
        for way, shares in WAYS.items():
            asked = f'rounds={{ number = 2, feedback = "gold", judgements = {votes}, {shares} }}'
            arm = f"{way}-{votes}"
            run = bench.rounds(arm, (*WEAK, asked), first)
            yield _reading(bench, arm, run / "rounds" / "2", votes)
    arm = f"more-{MORE}"
    yield _reading(bench, arm, bench.run(arm, (*WEAK, f"testbed.pairs={2000 + MORE}")), MORE)


def _reading(bench: Bench, arm: str, run: Path, votes: int) -> Reading:
    over_kl = tuple((max(x, 0.0) ** 0.5, y) for x, y in along(run, "score/gold", "kl/sequence"))
    curves = {"gold": along(run, "score/gold"), "gold_over_kl": over_kl}
    return Reading(arm=arm, seed=bench.seed, figures={"votes": votes} | figures_of(run, NAMES), curves=curves)


def seen(found: Found) -> str:
    """What the numbers say."""
    return " ".join((_fall(found), _return(found), _worth(found), _control(found)))


def _fall(found: Found) -> str:
    before, best, after = (found.mean("first", name) for name in ("gold_before", "gold_best", "gold"))
    fell = "and fell again" if after < best else "and did not fall"
    return (
        f"In the first round gold went from {number(before)} to {number(best)} {fell}, to {number(after)} at the end."
    )


def _return(found: Found) -> str:
    """Which second rounds rise above the first one's peak, and which end there, seed by seed."""
    arms = [f"{way}-{votes}" for way in WAYS for votes in BUDGETS]
    rose, ended = (_above(found, arms, figure) for figure in ("gold_best", "gold"))
    return (
        f"Second rounds rose above the first one's peak on their way with every seed in {len(rose)} of {len(arms)} "
        f"arms, and ended above it with every seed in {listed(ended) if ended else 'none'}."
    )


def _above(found: Found, arms: Sequence[str], figure: str) -> list[str]:
    """The arms whose figure is above the first round's peak with every seed."""
    peaks = found.all("first", "gold_best")
    return [arm for arm in arms if all(map(gt, found.all(arm, figure), peaks))]


def _worth(found: Found) -> str:
    """Random against aimed votes, at each number of them."""
    told = []
    for votes in BUDGETS:
        random, aimed = (found.mean(f"{way}-{votes}", "gained") for way in ("random", "aimed"))
        told.append(f"{number(aimed)} against {number(random)} at {votes:,}")
    better = sum(found.mean(f"aimed-{votes}", "gained") > found.mean(f"random-{votes}", "gained") for votes in BUDGETS)
    return (
        f"On held-out prompts aimed votes gained {listed(told)}: more than random ones at {better} of {len(BUDGETS)} "
        "budgets."
    )


def _control(found: Found) -> str:
    gained = found.mean(f"more-{MORE}", "gained")
    return f"{MORE:,} more comparisons of the first kind gained {number(gained)}."
