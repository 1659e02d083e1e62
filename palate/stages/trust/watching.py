"""Looks at over-optimisation while the online loop aligns: the reward's score beside that of a judge it does not learn
from, over the distance from the start; and the way back to the model of the best look.

A look changes nothing that training sees: its random numbers are of their own seed, and the same at every look. What is
remembered of the looks stands in the checkpoint's state (how many of `align/points.jsonl` count) and among its tensors
(the best look's weights), so that no moment of dying can leave one without the other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor

from palate.algorithms.loop_state import LoopState
from palate.engine.checkpoint import Checkpoint
from palate.engine.files import encode_json, write_atomic
from palate.engine.interfaces import Completions, Reward
from palate.engine.metrics import JsonLines
from palate.engine.seeding import derive, permutation
from palate.evaluation.overoptimisation import Judged, Look, fit_looks, past_peak
from palate.recipe import TESTBED
from palate.records import Prompt
from palate.rewards import EnsembleReward, checked_scores
from palate.stages.context import Context
from palate.stages.judges import gold_reward, reward_model, uses_run_model
from palate.stages.material import Loaded, data_files, sample
from palate.stages.trust.measuring import log_ratios

POINTS, REPORT = "points.jsonl", "overoptimisation.json"

# Under this prefix the best look's weights stand among a checkpoint's tensors.
BEST = "best."

# How the reason begins for which a stage ends where its looks are past the peak.
PAST = "past the peak of over-optimisation"

# Digits kept of a score or log-ratio: more are noise of float32, and the file is read by people.
DIGITS = 6


@dataclass(frozen=True)
class Watched:
    """What the looks so far have shown. `reached` is √KL by the iteration's row at the last of them; `best` is the
    weights of the best one's model, on the CPU, where it may be wanted back."""

    looks: tuple[Look, ...] = ()
    gold: tuple[float, ...] = ()
    reached: float = 0.0
    best: Mapping[str, Tensor] = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors for a checkpoint."""
        return {f"{BEST}{name}": tensor for name, tensor in self.best.items()}


@dataclass(frozen=True)
class Watcher:
    """Who looks: at which prompts' answers, with which judges, into which file."""

    context: Context
    reference: Loaded
    reward: Reward
    judge: Reward | None
    gold: Reward | None
    prompts: Sequence[Prompt]

    @property
    def points(self) -> JsonLines:
        """A row a look."""
        return JsonLines(self.context.place("align", POINTS))

    @property
    def stops(self) -> bool:
        """Whether the best model may be wanted back."""
        return self.judge is not None and self.context.align.watch.stop

    def answers(self, policy: Loaded) -> Completions:
        """The policy's answers to the watched prompts; every policy is given the same uniform numbers."""
        count = len(self.prompts)
        completions, _ = sample(
            policy,
            self.prompts,
            seed=derive(self.context.seed, "watch"),
            rows=range(count),
            samples=[0] * count,
            length=self.context.align.loop.max_new_tokens,
            sampling=self.context.align.loop.sampling,
        )
        return completions

    def due(self, watched: Watched, row: Mapping[str, float]) -> bool:
        """Whether √KL, by an iteration's row, has passed the next multiple of the step above where it has been at a
        look, or the last look is `every` iterations old: on the leash a policy may be bent at one KL too.

        Without a judge there is nothing to see on the way.
        """
        settings = self.context.align.watch
        further = distance_of(row) >= settings.step * (math.floor(watched.reached / settings.step) + 1)
        return self.judge is not None and (further or row["step"] - watched.looks[-1].step >= settings.every)

    @torch.no_grad()
    def look(self, watched: Watched, policy: Loaded, step: int, answers: Completions, reached: float = 0.0) -> Watched:
        """Judges the policy's answers after `step` iterations, and appends what it sees to the points."""
        kl = log_ratios(policy, self.reference, answers, self.context.align.loop.sampling.temperature)
        judges = [self.reward, *([] if self.judge is None else [self.judge])]
        look = Look(step, _rounded(kl), *(_rounded(checked_scores(judge, answers)) for judge in judges))
        gold = () if self.gold is None else (fmean(_rounded(checked_scores(self.gold, answers))),)
        seen = replace(watched, looks=(*watched.looks, look), gold=(*watched.gold, *gold), reached=reached)
        self.points.append(self._row(look, gold) | {"reached": reached})
        if self.stops and past_peak(seen.looks).best == len(seen.looks) - 1:
            held = {name: tensor.detach().cpu().clone() for name, tensor in policy.model.state_dict().items()}
            return replace(seen, best=held)
        return seen

    def _row(self, look: Look, gold: Sequence[float]) -> dict[str, Any]:
        row: dict[str, Any] = {
            "step": look.step,
            "kl": fmean(look.kl),
            "d": look.distance,
            "proxy": look.mean("proxy"),
            "proxy_se": _error(look.proxy),
        }
        if self.judge is not None:
            row |= {"heldout": look.mean("heldout"), "heldout_se": _error(look.heldout), "judge": self.judge.name}
        if gold:
            row["gold"] = gold[0]
        row["prompts"] = {"kl": look.kl, "proxy": look.proxy} | ({"heldout": look.heldout} if look.heldout else {})
        return row

    def restored(self, found: Checkpoint | None) -> Watched:
        """What had been seen at the checkpoint; rows past it are cut back."""
        count = 0 if found is None else found.state["looks"]
        rows = list(self.points.rows())[:count]
        if self.points.path.exists():
            write_atomic(self.points.path, "".join(f"{encode_json(row)}\n" for row in rows))
        if found is None:
            return Watched()
        return Watched(
            looks=tuple(look_of(row) for row in rows),
            gold=tuple(row["gold"] for row in rows if "gold" in row),
            reached=rows[-1]["reached"],
            best={name.removeprefix(BEST): tensor for name, tensor in found.tensors().items() if name.startswith(BEST)},
        )

    def judged(self, watched: Watched, state: LoopState) -> LoopState:
        """The state, ended where the last two looks are past the peak."""
        if state.ended is not None or not self.stops or not past_peak(watched.looks).past:
            return state
        return replace(state, ended=f"{PAST}: {_told(watched.looks, self.judged_by)}")

    @property
    def judged_by(self) -> str:
        """The name of the judge that the reward is compared with; of the reward where there is none."""
        return self.reward.name if self.judge is None else self.judge.name

    def taken(self, watched: Watched) -> Look:
        """The look whose model is the stage's: the last, or the best where the last is worse."""
        if not self.stops:
            return watched.looks[-1]
        decision = past_peak(watched.looks)
        return watched.looks[decision.best if decision.worse else -1]

    def figures(self, watched: Watched, stopped: bool) -> dict[str, float]:
        """The stage's figures; `stopped` says that it ended because its looks were past the peak."""
        looks, taken = watched.looks, self.taken(watched)
        figures: dict[str, float] = {"iteration_taken": taken.step}
        if self.judge is not None:
            figures |= {
                "stopped_past_peak": float(stopped),
                "heldout_initial": looks[0].mean("heldout"),
                "heldout_best": max(look.mean("heldout") for look in looks),
                "heldout_final": taken.mean("heldout"),
            }
            fit = fit_looks(looks, "heldout")
            if fit is not None and fit.peak is not None and fit.peak.high is not None:
                figures["peak_kl"] = fit.peak.distance**2
        if watched.gold:
            figures |= {
                "gold_initial": watched.gold[0],
                "gold_best": max(watched.gold),
                "gold_final": watched.gold[looks.index(taken)],
            }
        return figures

    def report(self, watched: Watched, stopped: bool) -> None:
        """Writes `align/overoptimisation.json`: the fitted curves, their peaks, and what was decided."""
        looks, taken = watched.looks, self.taken(watched)
        decision: dict[str, Any] = {"taken": taken.step, "rolled_back": taken is not looks[-1], "stopped": stopped}
        names: list[Judged] = ["proxy"]
        if self.judge is not None:
            names.append("heldout")
            found = past_peak(looks)
            decision |= {"best": looks[found.best].step, "worse": found.worse, "past_peak": found.past}
            decision["reason"] = self._reason(looks, taken, stopped)
        fits = {name: fit_looks(looks, name) for name in names}
        report = {
            "judge": None if self.judge is None else self.judge.name,
            "proxy": self.reward.name,
            "prompts": len(self.prompts),
            "looks": [look.step for look in looks],
            "form": "d(α − β log d), d = √KL",
            "fits": {name: None if fit is None else asdict(fit) for name, fit in fits.items()},
            "decision": decision,
        }
        write_atomic(self.context.place("align", REPORT), encode_json(report, indent=1) + "\n")

    def _reason(self, looks: Sequence[Look], taken: Look, stopped: bool) -> str:
        """The decision in words."""
        if taken is looks[-1] and not past_peak(looks).worse:
            return f"By {self.judged_by} no look was clearly better than the last, whose model was taken."
        end = "The looks were only to measure: the last model was taken"
        if taken is not looks[-1]:
            end = f"The model after iteration {taken.step} was taken"
        told = _told(looks, self.judged_by)
        return f"{'Stopped: ' if stopped else ''}{told[0] if stopped else told[0].upper()}{told[1:]}. {end}."


def watcher_of(
    context: Context, policy: Loaded, reference: Loaded, reward: Reward, prompts: Sequence[Prompt]
) -> Watcher:
    """The watcher by the recipe.

    Its prompts are alignment's own, since what is asked is whether the judges part on what the policy learns from;
    those of the evaluation stay unseen by any choice between models. They are drawn at random, since files have an
    order that even strides might fall in with.
    """
    drawn = permutation(len(prompts), context.seed, "watched prompts")[: context.align.watch.prompts]
    chosen = [prompts[row] for row in sorted(drawn.tolist())]
    judge = _judge(context, policy, reward)
    gold = gold_reward() if _on_testbed(context) else None
    return Watcher(context, reference, reward, judge, gold, chosen)


def _judge(context: Context, policy: Loaded, reward: Reward) -> Reward | None:
    """Who judges beside the reward, None where nobody can."""
    name = context.align.watch.judge
    if name == "none":
        return None
    if name == "gold":
        return gold_reward()
    if name != "auto":
        return reward_model(context, Path(name), policy, Path(name).name)
    if _on_testbed(context):
        return gold_reward()
    evaluation = context.recipe.evaluate
    # Where alignment does not rest on the stage reward, that stage may not be done, or be another's.
    if evaluation is not None and evaluation.judge == "heldout-reward" and uses_run_model(context.align):
        return reward_model(context, context.place("reward", "judge", "model"), policy, "heldout-reward")
    if isinstance(reward, EnsembleReward) and reward.combine != "worst":
        return replace(reward, name="lowest of the ensemble", combine="worst")
    return None


def _on_testbed(context: Context) -> bool:
    """Whether gold can look on: it knows the prompts, and is not itself a reward."""
    rewarded = any(source.name == "gold" for source in context.align.sources)
    return data_files(context.recipe, "align") == TESTBED and not rewarded


def _told(looks: Sequence[Look], judge: str) -> str:
    """How the last look compares with the best."""
    best, last = looks[past_peak(looks).best], looks[-1]
    return (
        f"by {judge} the policy fell from {best.mean('heldout'):.2f} after iteration {best.step} "
        f"(KL {fmean(best.kl):.1f} nats) to {last.mean('heldout'):.2f} after iteration {last.step} (KL "
        f"{fmean(last.kl):.1f}), while the reward went from {best.mean('proxy'):.2f} to {last.mean('proxy'):.2f}"
    )


def distance_of(row: Mapping[str, float]) -> float:
    """√KL by an iteration's row, 0 where noise makes the KL negative."""
    return math.sqrt(max(row["kl/sequence"], 0.0))


def look_of(row: Mapping[str, Any]) -> Look:
    """The look that a row of `align/points.jsonl` tells of."""
    prompts = row["prompts"]
    return Look(row["step"], tuple(prompts["kl"]), tuple(prompts["proxy"]), tuple(prompts.get("heldout", ())))


def _rounded(numbers: Tensor) -> tuple[float, ...]:
    return tuple(float(f"{number:.{DIGITS}g}") for number in numbers.tolist())


def _error(scores: Sequence[float]) -> float:
    """The standard error of the mean; 0 for a single score, which has none."""
    return stdev(scores) / math.sqrt(len(scores)) if len(scores) > 1 else 0.0
