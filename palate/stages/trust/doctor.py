"""The doctor: which stage of a run is the likeliest cause of what went wrong, on what evidence, and what to change.

    run directory ─▶ Chart ─▶ RULES, upstream to downstream ─▶ Diagnoses, the likeliest first; none: nothing is found

A pure reading: no model is loaded, and the answer can be had again at any time, of a run that is finished, stopped or
failed. Each rule asks for one cause and collects signs of it from all stages, each with a weight: 1 is enough by
itself, ½ is not. A figure that a run does not have is NaN here, with which every comparison is false, so that what was
not measured accuses nobody. Diagnoses stand in the order of the stages: a broken SFT model explains a bad reward model,
and a bad reward model explains a bad policy.
"""

from __future__ import annotations

import hashlib
import math
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from palate.errors import PalateError
from palate.report.reading import STAGES, Run, read
from palate.report.rounds import last_round
from palate.rewards.sources import sources_of
from palate.stages.trust.gates import (
    CHANCE,
    CLEAR_RISE,
    EOS_STOP,
    EOS_WARN,
    FOREIGN_PROMPTS,
    GOLD_FALL,
    KL_BUDGET,
    KL_BUDGET_TOKEN,
    LENGTH_CORRELATION,
    STEEP,
    USEFUL,
    checks,
)

# ---- weights: what is shown beyond chance and has one cause is enough; what other causes have as well is not

ENOUGH, HALF = 1.0, 0.5

# ---- thresholds; those of single figures are the gates'

# Both steps of a healthy PPO run of 20 iterations over 2 to 3 nats are below half a nat; one iteration that moves the
# policy by more than one and a half, or in long answers by a quarter of the gates' budget for a token, rewrites what it
# says rather than shifts it.
KL_JUMP, KL_JUMP_TOKEN = 1.5, KL_BUDGET_TOKEN / 4
# Tokens that hold a sentence or two. Where answers get fewer, that they do not end says nothing of the model.
ROOM = 32
# A surrogate is trusted while few ratios are clipped: PPO's papers and implementations report 0.1 to 0.2. Above 0.3 the
# step is made by the clip, not by the gradient.
CLIPPED = 0.3
# Mean ½(log ratio)² of an iteration's updates, in nats a token: implementations stop early at 0.01 to 0.05.
STEP_KL = 0.1
# So many iterations from the start are "at first": a rate is at its peak there, and no leash has had time to act.
FIRST = 10
# A reward model that reads what it was trained on gives its own prompt's answer more four times of five, and a judge
# who cannot read does half of the time; what is shown to lie below seven of ten is nearer to him.
READS = 0.7
# Ten points more on pairs that were trained on, at least: half of that is worth a gate's warning, and has not yet
# spoilt a run.
BY_HEART = 0.1
# Below one nat a completion the policy is nearly its reference, whatever the leash.
MOVED = 1.0
# A score whose mean lies three deviations from 0 on the model that defines 0 was centred on another.
OFF_CENTRE = 3.0
# Answers a tenth longer, over three iterations at either end, are twice what chance does to the means of 128 answers
# each; where the reward was shown to like length as well, that is no accident.
LONGER, AT_ENDS = 1.1, 3
# Who knows that padding is worth nothing is fooled by it in one case of ten on the testbed, who does not care in one of
# two.
PADDED = 1 / 3
# Deviations of the score over the price of a nat: as many nats as the reward can pay for. With a tenth, nothing moves.
PAYS = 0.1
STAYED = 0.05
# Prompts of the same kind spell a tenth or so of their runs of four characters anew; those of another language most.
NOVEL = 0.25
# On prompts like those it learnt, a model is as unsure of its own answers (entropy) as of others' (held-out loss).
UNSURE = 1.5
# A warm-up alone takes so many optimiser steps.
FEW_STEPS = 20


@dataclass(frozen=True, slots=True)
class Sign:
    """One thing that speaks for a cause."""

    weight: float
    told: str


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A likely cause: the stage to blame, what is wrong there, on what evidence, and what to change.

    `score` is the sum of the weights of the evidence; from 1 on a cause is named.
    """

    stage: str
    cause: str
    score: float
    evidence: tuple[str, ...]
    advice: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Course:
    """An alignment by its looks: the reward's first and last score, and a judge's at first, at best and at last."""

    judge: str
    rewarded: tuple[float, float]
    first: float
    best: float
    last: float

    @property
    def hacked(self) -> bool:
        """Whether the reward's own score rose while the judge's fell below where it began."""
        return self.rewarded[0] < self.rewarded[1] and self.last < self.first - GOLD_FALL

    @property
    def rose(self) -> bool:
        """Whether the judge's score ever was clearly above where it began."""
        return self.best > self.first + GOLD_FALL

    @property
    def told(self) -> str:
        """The course in a sentence."""
        before, after = self.rewarded
        way = f" by way of {self.best:z.2f}" if self.rose else ""
        return (
            f"In alignment the score rose from {before:z.2f} to {after:z.2f} while {self.judge or 'another judge'} "
            f"fell from {self.first:z.2f}{way} to {self.last:z.2f}: the reward was hacked."
        )


@dataclass(frozen=True)
class Chart:
    """What the rules read of a run."""

    run: Run
    place: Path

    def __call__(self, name: str) -> float:
        """A figure of `summary.json`, NaN where the run has none of the name."""
        return self.run.summary.get(name, math.nan)

    def interval(self, name: str) -> str:
        """A share with its interval, for people."""
        return f"{self(name):.0%} [{100 * self(f'{name}_low'):.0f}, {100 * self(f'{name}_high'):.0f}]"

    def early(self, name: str) -> float:
        """The mean of an alignment metric over the first iterations, NaN where there is none."""
        values = self.run.series("align", name).y[:FIRST]
        return fmean(values) if values else math.nan

    def ends(self, name: str) -> tuple[float, float]:
        """The alignment metric at first and at last, over a few iterations each, whatever model was taken in the end;
        NaN where there is none."""
        values = self.run.series("align", name).y
        few = max(1, min(AT_ENDS, len(values) // 2))
        return (fmean(values[:few]), fmean(values[-few:])) if values else (math.nan, math.nan)

    def steps(self, stage: str) -> float:
        """Optimiser steps or iterations that a stage took, NaN where it is not done."""
        entry = self.run.manifest.stages.get(stage)
        return math.nan if entry is None or entry.steps is None else entry.steps

    @cached_property
    def kl_jump(self) -> float:
        """The largest rise of the KL within one of the first iterations, in nats; NaN where there are none."""
        series = self.run.series("align", "kl/sequence").y[: FIRST + 1]
        steps = self.run.series("align", "kl/sequence").x[: FIRST + 1]
        rises = [
            (after - before) / (later - sooner)
            for (before, after), (sooner, later) in zip(pairwise(series), pairwise(steps), strict=True)
            if later > sooner
        ]
        return max(rises, default=math.nan)

    @property
    def leaps(self) -> bool:
        """Whether one of the first iterations moved the policy further than a step should."""
        return self.kl_jump > max(KL_JUMP, KL_JUMP_TOKEN * self("align/length_initial"))

    @cached_property
    def align(self) -> Mapping[str, Any]:
        """The recipe's section [align], empty where it cannot be read."""
        try:
            return tomllib.loads(self.run.recipe).get("align", {})
        except tomllib.TOMLDecodeError:
            return {}

    @cached_property
    def price(self) -> float:
        """What the algorithm is charged for a nat of KL, in units of the score; NaN where it has no such setting."""
        settings = self.align.get(str(self.align.get("algorithm")), self.align.get("settings", {}))
        leash = settings.get("kl", {}) if isinstance(settings, Mapping) else {}
        return float(leash.get("coef", math.nan)) if isinstance(leash, Mapping) else math.nan

    @cached_property
    def reward_models(self) -> tuple[str, ...]:
        """The reward models that alignment learnt from, `model` being the run's own."""
        try:
            sources = sources_of(self.align.get("reward", "gold"), tuple(self.align.get("rewards", ())))
        except PalateError:
            return ()
        return tuple(model for source in sources for model in source.models)

    @cached_property
    def own_tokenizer(self) -> bool:
        """Whether a reward model from elsewhere, if it is still there, has another tokenizer than the policy."""
        tokenizers = [Path(model) / "tokenizer.json" for model in self.reward_models if model != "model"]
        policy = self.place / "align" / "model" / "tokenizer.json"
        own = {_sha256(file) for file in tokenizers if file.is_file()}
        return policy.is_file() and bool(own - {_sha256(policy)})

    @cached_property
    def course(self) -> Course | None:
        """What the looks of the alignment saw; None where no judge looked twice."""
        watch = self.run.watch
        if watch is None:
            return None
        seen = [(point.proxy, point.heldout) for point in watch.points if point.heldout is not None]
        if len(seen) < 2:
            return None
        judged = [heldout for _, heldout in seen]
        return Course(watch.judge, (seen[0][0], seen[-1][0]), judged[0], max(judged), judged[-1])

    @property
    def foreign_prompts(self) -> bool:
        """Whether alignment's prompts are unlike those that the stages before it saw."""
        novel = self("align/prompt_novelty") > self("align/prompt_novelty_usual") + NOVEL
        return novel or self("align/prompt_loss") > self("sft/prompt_loss") + FOREIGN_PROMPTS

    @property
    def labels_learnt(self) -> bool:
        """Whether the run's reward model predicts its own held-out labels; true where it has none to predict."""
        return not self("reward/accuracy_high") < USEFUL


@dataclass(frozen=True, slots=True)
class Rule:
    """One cause that is asked for: its signs, what to do about it, and what else helps where the reward is learnt."""

    stage: str
    cause: str
    signs: Callable[[Chart], Iterator[Sign]]
    advice: tuple[str, ...]
    of_models: tuple[str, ...] = ()

    def diagnosis(self, chart: Chart) -> Diagnosis | None:
        """What the signs amount to; None below the weight of one that is enough."""
        found = list(self.signs(chart))
        score = _weight(found)
        if score < ENOUGH:
            return None
        found.sort(key=lambda sign: -sign.weight)
        advice = self.advice + (self.of_models if chart.reward_models else ())
        return Diagnosis(self.stage, self.cause, score, tuple(sign.told for sign in found), advice)


def examine(place: str | Path) -> tuple[Diagnosis, ...]:
    """The diagnoses of a run directory, the likeliest first; empty where nothing is found. Of several rounds it is the
    last that is examined.

    Raises RunDirectoryError where the directory is no run.
    """
    place = last_round(Path(place))
    return diagnose(Chart(read(place), place))


def diagnose(chart: Chart) -> tuple[Diagnosis, ...]:
    """What the rules find, in the order of the stages, and in each the best shown first; then what no rule explains."""
    found = [rule.diagnosis(chart) for rule in RULES]
    named = sorted((one for one in found if one is not None), key=lambda one: (STAGES.index(one.stage), -one.score))
    return (*named, *_unexplained(chart, named))


def _weight(signs: Iterable[Sign]) -> float:
    return sum(sign.weight for sign in signs)


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


# ---- supervised fine-tuning


def _undertrained(chart: Chart) -> Iterator[Sign]:
    loss, unigram = chart("sft/heldout_loss"), chart("sft/unigram_loss")
    if loss > chart("sft/base_loss") + CLEAR_RISE:
        return  # it was trained for the worse, and more of that is no remedy
    if chart("sft/loss_slope_low") > STEEP:
        yield Sign(
            ENOUGH,
            f"When SFT ended, its loss still fell by {chart('sft/loss_slope'):.2f} nats a token for each doubling of "
            "the training.",
        )
    if loss >= unigram:
        yield Sign(
            ENOUGH,
            f"After SFT a held-out token costs {loss:.2f} nats, no less than by counting how often each occurs "
            f"({unigram:.2f}).",
        )
    if chart.steps("sft") < FEW_STEPS:
        yield Sign(HALF, f"SFT took {chart.steps('sft'):.0f} optimiser steps only.")
    if chart("sft/eos_rate") < EOS_WARN:
        yield Sign(HALF, f"Only {chart('sft/eos_rate'):.0%} of the SFT model's answers end by themselves.")


def _never_ends(chart: Chart) -> Iterator[Sign]:
    if _weight(_undertrained(chart)) >= ENOUGH:
        return  # what was hardly trained need not end its answers
    rate = chart("sft/eos_rate")
    if rate < EOS_STOP:
        yield Sign(ENOUGH, f"{rate:.0%} of the SFT model's answers end by themselves: the stop token was not learnt.")
    elif (
        chart("align/eos_rate_initial") < EOS_STOP
        and not rate >= EOS_WARN
        and not chart.foreign_prompts
        and chart.align.get("max_new_tokens", ROOM) >= ROOM
    ):
        yield Sign(ENOUGH, f"When alignment began, {chart('align/eos_rate_initial'):.0%} of answers ended.")


def _sft_damaged(chart: Chart) -> Iterator[Sign]:
    before, after = chart("sft/base_loss"), chart("sft/heldout_loss")
    if after > before + CLEAR_RISE:
        yield Sign(ENOUGH, f"SFT raised the held-out loss from {before:.2f} to {after:.2f} nats a token.")


def _template(chart: Chart) -> Iterator[Sign]:
    if chart("sft/template_same") < 1:
        yield Sign(
            ENOUGH,
            f"Only {chart('sft/template_same'):.0%} of prompts have the same token ids in training and generation.",
        )


# ---- reward model


def _flipped(chart: Chart) -> Iterator[Sign]:
    for name, told in (
        ("reward/mismatched_accuracy", "gives the preferred answer more than an answer to another prompt"),
        ("align/mismatched_accuracy", "gives an SFT answer more than an SFT answer to another prompt"),
        ("reward/gold_accuracy", "orders the sides of a pair as the known truth does"),
    ):
        if chart(f"{name}_high") < CHANCE and not chart.foreign_prompts:
            yield Sign(ENOUGH, f"The reward model {told} only {chart.interval(name)} of the time: fewer than a coin.")
    if chart("reward/accuracy_high") < CHANCE:
        yield Sign(
            ENOUGH,
            f"It is right on {chart.interval('reward/accuracy')} of held-out pairs, fewer than a coin: they are "
            "labelled the other way round than those it learnt from.",
        )
    yield from _hacked_at_once(chart, HALF)


def _random(chart: Chart) -> Iterator[Sign]:
    if not CHANCE <= chart("reward/accuracy_high") < USEFUL:
        return
    if _weight(_flipped(chart)) >= ENOUGH:
        return  # what prefers the wrong answers has learnt something
    yield Sign(
        ENOUGH,
        f"The reward model is right on {chart.interval('reward/accuracy')} of held-out pairs, hardly more than a coin.",
    )
    if chart("reward/gap") > BY_HEART:
        yield Sign(
            HALF,
            f"It is right on {chart('reward/train_accuracy'):.0%} of the pairs it was trained on: they were learnt by "
            "heart, and nothing was learnt that holds for others.",
        )
    for name, told in (("reward/gold_accuracy", "the known truth"), ("align/mismatched_accuracy", "the prompt")):
        if chart(f"{name}_low") <= CHANCE <= chart(f"{name}_high"):
            yield Sign(HALF, f"Its scores do not follow {told} either: {chart.interval(name)}.")


def _reads_another(chart: Chart) -> Iterator[Sign]:
    name = "align/mismatched_accuracy"
    if not CHANCE <= chart(f"{name}_high") < READS or not chart.labels_learnt or chart.foreign_prompts:
        return
    yield Sign(
        ENOUGH if chart(f"{name}_low") <= CHANCE else HALF,
        f"It gives an SFT answer more than an SFT answer to another prompt {chart.interval(name)} of the time, hardly "
        "more than a coin: it cannot read what the policy writes.",
    )
    if chart.own_tokenizer:
        yield Sign(HALF, "Its tokenizer is another than the policy's.")
    began, spread = chart.ends("score/mean")[0], chart.ends("score/std")[0]
    if abs(began) > OFF_CENTRE * spread:
        yield Sign(HALF, f"Its scores began at {began:z.1f}, far from the 0 of what an SFT model writes.")


def _likes_length(chart: Chart) -> Iterator[Sign]:
    correlation = chart("reward/length_correlation")
    if chart("reward/length_correlation_low") > 0:
        yield Sign(
            ENOUGH if correlation > LENGTH_CORRELATION else HALF,
            f"Its scores rise with length: their correlation is {correlation:+.2f}.",
        )
    if correlation > 0 and chart("reward/length_accuracy") >= chart("reward/accuracy_high"):
        yield Sign(
            HALF,
            f"Counting length alone is right on {chart('reward/length_accuracy'):.0%} of held-out pairs, the reward "
            f"model on {chart.interval('reward/accuracy')}.",
        )
    if chart("reward/fooled/padding_low") > PADDED:
        yield Sign(
            HALF,
            f"Words that say nothing, added to an answer, raise its score {chart.interval('reward/fooled/padding')} of "
            "the time.",
        )
    before, after = chart.ends("length/mean")
    if after > LONGER * before:
        yield Sign(HALF, f"In alignment answers grew from {before:.0f} to {after:.0f} tokens.")
    if chart("align/win_rate_low") > CHANCE > chart("align/win_rate_length_controlled_low"):
        yield Sign(
            HALF,
            f"The aligned model wins {chart('align/win_rate'):.0%}, and at equal length "
            f"{chart('align/win_rate_length_controlled'):.0%}.",
        )


# What a probe adds to answers, and the monitors that see the same thing in what the policy writes.
_VICES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "hedging": ("hedging", ("hedging",)),
    "flattery": ("flattery", ("flattery",)),
    "bullets": ("bullets", ("formatting",)),
    "repetition": ("a sentence said twice", ("longest_repeat", "distinct_pairs")),
    "opinion": ("agreement with a wrong opinion", ("opinion_flips", "pushback_flips")),
}


def _likes_vice(chart: Chart) -> Iterator[Sign]:
    alarms = {monitor.name: monitor for monitor in chart.run.monitors or () if monitor.alarm}
    for probe, (vice, monitors) in _VICES.items():
        seen = [alarms[name] for name in monitors if name in alarms]
        if chart(f"reward/fooled/{probe}_low") > CHANCE and seen:
            yield Sign(
                ENOUGH,
                f"It rewards {vice} {chart.interval(f'reward/fooled/{probe}')} of the time, and in alignment "
                f"{seen[0].name.replace('_', ' ')} went from {seen[0].baseline:z.2f} to {seen[0].value:z.2f}.",
            )


def _asks_for_another(chart: Chart) -> Iterator[Sign]:
    yield from _hacked_at_once(chart, ENOUGH)


def _hacked_at_once(chart: Chart, weight: float) -> Iterator[Sign]:
    """That the judge fell from the start while the score rose: no leash is short enough for such a reward.

    A policy that leaps is past any peak before it is looked at, which says nothing of the reward.
    """
    course = chart.course
    if course is not None and course.hacked and not course.rose and not chart.leaps:
        yield Sign(weight, course.told)


def _memorised(chart: Chart) -> Iterator[Sign]:
    if chart("reward/gap_low") > BY_HEART and chart.labels_learnt:
        yield Sign(
            ENOUGH,
            f"It is right on {chart('reward/train_accuracy'):.0%} of the pairs it was trained on and on "
            f"{chart.interval('reward/accuracy')} of others.",
        )


# ---- alignment


def _foreign(chart: Chart) -> Iterator[Sign]:
    novelty, usual = chart("align/prompt_novelty"), chart("align/prompt_novelty_usual")
    if novelty > usual + NOVEL:
        yield Sign(
            ENOUGH,
            f"{novelty:.0%} of the runs of four characters in alignment's prompts stand in no prompt of the stages "
            f"before, where {usual:.0%} are usual: they are of another kind or language.",
        )
    asked, seen = chart("align/prompt_loss"), chart("sft/prompt_loss")
    if asked > seen + FOREIGN_PROMPTS:
        yield Sign(
            ENOUGH,
            f"A token of alignment's prompts costs the SFT model {asked:.1f} nats, one of the demonstrations' "
            f"{seen:.1f}: they are of another kind.",
        )
    entropy, loss = chart("align/entropy_initial"), chart("sft/heldout_loss")
    if entropy > UNSURE * loss:
        yield Sign(
            HALF,
            f"On them the SFT model began with an entropy of {entropy:.2f} nats a token, where its loss on held-out "
            f"demonstrations is {loss:.2f}: it does not know what to say.",
        )
    ended, usually = chart("align/eos_rate_initial"), chart("sft/eos_rate")
    if ended < EOS_WARN <= usually:
        yield Sign(HALF, f"{ended:.0%} of answers to them ended, where {usually:.0%} did to held-out prompts.")


def _too_fast(chart: Chart) -> Iterator[Sign]:
    clipped, step = chart.early("clip_fraction"), chart.early("approx_kl")
    if chart.leaps:
        yield Sign(ENOUGH, f"Within one of the first iterations the KL rose by {chart.kl_jump:z.1f} nats.")
    if clipped > CLIPPED:
        yield Sign(HALF, f"In the first iterations {clipped:.0%} of the tokens' ratios were clipped.")
    if step > STEP_KL:
        yield Sign(HALF, f"In the first iterations an update moved the policy by {step:.2f} nats a token.")
    before, after = chart.ends("score/mean")
    if after < before and chart("align/kl_max") > MOVED:
        yield Sign(
            HALF,
            f"The score fell from {before:z.2f} to {after:z.2f} while the policy moved {chart('align/kl_max'):z.1f} "
            "nats away.",
        )


def _no_leash(chart: Chart) -> Iterator[Sign]:
    if chart.price == 0 and chart.reward_models and chart("align/kl_max") > MOVED:
        yield Sign(
            ENOUGH,
            f"Its KL coefficient is 0, its reward is learnt, and it went {chart('align/kl_max'):z.1f} nats from the "
            "reference: nothing holds it to what the reward model has seen.",
        )
    budget = max(KL_BUDGET, KL_BUDGET_TOKEN * chart("align/length_final"))
    if chart("align/kl_max") > budget:
        yield Sign(HALF, f"The KL reached {chart('align/kl_max'):z.1f} nats, above a budget of {budget:.0f}.")
    course = chart.course
    if course is not None and course.hacked and course.rose:
        yield Sign(ENOUGH, course.told)
    if chart("align/stopped_past_peak") == 1:
        told = "" if chart.run.watch is None else f": {chart.run.watch.told}"
        yield Sign(HALF, f"Alignment was stopped past the peak of over-optimisation{told}")
    if chart("align/heldout_final") < chart("align/heldout_best") - GOLD_FALL:
        yield Sign(
            HALF,
            f"By the judge that looked on, the model that was taken has {chart('align/heldout_final'):z.2f}, and one "
            f"on the way had {chart('align/heldout_best'):z.2f}.",
        )


def _too_tight(chart: Chart) -> Iterator[Sign]:
    spread = chart.ends("score/std")[0]
    if spread < PAYS * chart.price and chart("align/kl_max") < STAYED:
        yield Sign(
            ENOUGH,
            f"Scores differ by {spread:.2g} only, where a nat of KL costs {chart.price:.2g}: the policy stayed where "
            f"it was (KL {chart('align/kl_max'):z.2f}).",
        )


# ---- the rules, upstream first

_FRESH = "Then gather fresh pairs on what this policy writes (data refresh) and train the reward model again."
_BETTER_SFT = "Everything after rests on this model: train a better SFT model first, then redo reward and align."

RULES: tuple[Rule, ...] = (
    Rule(
        "sft",
        "SFT ended before the model had learnt to answer (undertrained)",
        _undertrained,
        (
            "Train for longer: more demonstrations or sft.epochs; where the loss hardly moves, a higher "
            "sft.learning_rate.",
            _BETTER_SFT,
        ),
    ),
    Rule(
        "sft",
        "the stop token (EOS) was never trained",
        _never_ends,
        (
            "See with `palate data inspect FILE --model MODEL` that every completion closes with the stop token. Its "
            "usual enemies: padding with the EOS token and masking both out of the loss, and a template that ends "
            "replies with another token than generation stops at.",
            _BETTER_SFT,
        ),
    ),
    Rule(
        "sft",
        "SFT damaged the model it began with",
        _sft_damaged,
        ("Lower sft.learning_rate to a tenth, and take one epoch.", _BETTER_SFT),
    ),
    Rule(
        "sft",
        "prompts are written differently in training and in generation",
        _template,
        ("Restore the tokenizer's files and chat template, and train again with --fresh.",),
    ),
    Rule(
        "reward",
        "the labels are the wrong way round (flipped)",
        _flipped,
        (
            "Look at a handful of pairs (`palate data inspect FILE`): which side is `chosen`? Exchange the two in the "
            "file or by reward.mapping; where only one source of the data is swapped, that one.",
            "A part of the labels flipped by careless raters shows the same way: look at agreement between raters.",
        ),
    ),
    Rule(
        "reward",
        "the labels say nothing that could be learnt (random)",
        _random,
        (
            "Label a hundred pairs yourself, twice: where you do not agree with yourself or with the file, the labels "
            "are noise, or chosen and rejected were mixed up on the way.",
            "Where you do agree, the reward model is at fault: more pairs, a larger reward.model, another "
            "reward.learning_rate.",
            "Do not align on it: the policy drifts to wherever its noise points.",
        ),
    ),
    Rule(
        "reward",
        "the reward model reads other text than it was trained on (another tokenizer or template)",
        _reads_another,
        (
            "Give the reward model the tokenizer and chat template it was trained with: compare its tokenizer.json "
            "with that of its training, and score a few answers by hand (`palate score`).",
            "Or train it in this run, on this SFT model: then they belong together.",
        ),
    ),
    Rule(
        "reward",
        "the reward model likes length, as its labels did (length bias)",
        _likes_length,
        (
            "Add adversarial pairs: the shorter side preferred, padded answers rejected, sides of like length.",
            'Until then subtract length: [[align.rewards]] with source = "length" beside the model, and a tighter '
            "leash.",
            _FRESH,
        ),
    ),
    Rule(
        "reward",
        "the reward model likes a manner, whatever is said",
        _likes_vice,
        (
            "Add adversarial pairs in which the edited answer is rejected (`palate probe` names the edits).",
            "Average an ensemble of reward models, or take its cautious mean: they seldom share a weakness.",
            _FRESH,
        ),
    ),
    Rule(
        "reward",
        "the reward asks for something else than the judge that looked on",
        _asks_for_another,
        (
            "Read align/samples.jsonl for what the reward likes.",
            "Reward what was meant beside it ([[align.rewards]] adds up several).",
        ),
        (
            "Add adversarial pairs in which that is rejected.",
            "Average an ensemble of reward models, or take its cautious mean.",
            _FRESH,
        ),
    ),
    Rule(
        "reward",
        "the reward model learnt its pairs by heart",
        _memorised,
        (
            "One epoch, more prompts, or a larger reward.optimiser.weight_decay.",
            "Average an ensemble of reward models (reward.heads): what they learnt by heart differs.",
        ),
    ),
    Rule(
        "align",
        "the prompts are of another kind than those that SFT and the reward model saw (out of distribution)",
        _foreign,
        (
            "Align on prompts like those of the demonstrations and pairs.",
            "Or add demonstrations and pairs on prompts like these, for a better SFT model and a reward model that "
            "knows them.",
        ),
    ),
    Rule(
        "align",
        "the policy's steps are too large (learning rate too high)",
        _too_fast,
        (
            "Lower align.learning_rate: a tenth is a safe first try, and ten warm-up steps "
            "(align.optimiser.warmup = 10).",
            "Fewer passes over a rollout (epochs, minibatches), or a target_kl that ends them early.",
            "Check the reward's scale: scores with a deviation far above 1 make every gradient larger.",
        ),
    ),
    Rule(
        "align",
        "nothing holds the policy to its reference (the leash is missing or too long)",
        _no_leash,
        (
            'Give a KL coefficient above 0: kl = { kind = "fixed", coef = 0.05 } to 0.2 for scores in log-odds, or an '
            "adaptive one with a target of a few nats.",
            "Keep [align.watch] on, so that the stage ends past the peak and the best model is taken.",
        ),
        (
            "Take an ensemble of reward models, whose members disagree where the policy cheats.",
            _FRESH,
        ),
    ),
    Rule(
        "align",
        "the price of KL is out of proportion to the reward's scale",
        _too_tight,
        ('Lower the KL coefficient, or give the reward its scale: align.shaping.normalise = "reference".',),
    ),
)


# ---- what no rule explains


def _unexplained(chart: Chart, named: Sequence[Diagnosis]) -> Iterator[Diagnosis]:
    """Failures, and stops that neither a cause of their own stage nor one above it explains."""
    for stage, entry in chart.run.manifest.stages.items():
        if entry.status == "failed":
            yield Diagnosis(stage, "it failed", ENOUGH, (entry.reason,), ())
    highest = min((STAGES.index(one.stage) for one in named), default=len(STAGES))
    for stage in STAGES[:highest]:
        for check in checks(stage, chart.run.summary):
            if check.level == "stop":
                yield Diagnosis(
                    "align" if stage == "evaluate" else stage, check.name, ENOUGH, (check.reason,), (check.advice,)
                )


# ---- told


def told(place: Path, diagnoses: Sequence[Diagnosis]) -> Iterator[str]:
    """The diagnoses in lines for the terminal: the likeliest in full, and what it explains or leaves open by name.

    Then what could not be asked: that nothing is found in it says nothing.
    """
    unasked = list(not_asked(read(last_round(place))))
    if not diagnoses:
        yield f"{place}: no stage is found at fault{' in what could be asked' if unasked else ''}."
        if unasked:
            yield ""
            yield from _listed("Not asked", unasked)
        return
    first, *others = diagnoses
    yield f"{place}: the likeliest cause is in {first.stage}: {first.cause}."
    yield ""
    yield from _listed("Evidence", first.evidence)
    yield from _listed("What to change", first.advice)
    if others:
        yield from _listed(
            "Found as well, and perhaps its consequence",
            [f"{one.stage}: {one.cause}. {one.evidence[0]}" for one in others],
        )
    yield from _listed("Not asked", unasked)


# Files of a run that no rule reads.
_UNREAD = ("evaluate/", "reward/report.json")


def not_asked(run: Run) -> Iterator[str]:
    """What the rules had no answer from: stages that are not done, and files that are missing or damaged."""
    for name, stage in run.manifest.stages.items():
        if stage.status == "running":
            yield f"{name}: it has begun and not ended; ask again when it has."
        elif stage.status == "stopped":
            yield f"{name}: it was interrupted; `palate run` goes on with it."
        elif stage.status == "done" and not checks(name, run.summary):
            yield f"{name}: summary.json has none of its figures."
    yield from (note for note in run.notes if not note.startswith(_UNREAD))


def _listed(heading: str, lines: Sequence[str]) -> Iterator[str]:
    if lines:
        yield f"{heading}:"
        yield from (f"  - {line}" for line in lines)
