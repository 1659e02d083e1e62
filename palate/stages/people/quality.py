"""`palate quality`: how far some feedback can be trusted, and whether it is enough."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from palate.collect.agreement import Agreement
from palate.collect.annotators import Annotator, Share
from palate.collect.enough import LearningCurve, learning_curve
from palate.collect.exchange import is_events, read_events, read_feedback
from palate.collect.judgements import Answer, Item, Judgement, Preference, Rater, answer_to_json
from palate.collect.quality import Contest, Disagreement, Quality, comparison, of_people
from palate.collect.quality import quality as measured
from palate.collect.store import Store
from palate.data.checks import split_by_prompt
from palate.engine.files import make_directory, write_atomic
from palate.engine.interfaces import Onlooker
from palate.engine.seeding import derive
from palate.errors import UsageError
from palate.evaluation import Ceiling
from palate.models import load_reward_model
from palate.recipe import Recipe
from palate.records import PreferencePair
from palate.report.words import shortened
from palate.rewards import ModelReward
from palate.stages.compare import copied
from palate.stages.people.labelling import COMPARISON, is_store
from palate.stages.people.pairing import pairs_of, written
from palate.stages.run import execute
from palate.stages.trust.probing import fits, sides

# The share of the prompts that every reward model of the learning curve is tested on.
HELDOUT = 0.2
# The shares of the other prompts' labels that they learn from.
SHARES = (1 / 8, 1 / 4, 1 / 2, 1.0)
# Fewer labels than this leave an eighth that no reward model learns anything from.
LEAST_LABELS = 80

# Rows that the terminal shows; --json has all.
SHOWN = 10
_COLUMNS = ("rater", "answers", "skip", "tie", "again", "gold", "others", "first", "longer", "time")


@dataclass(frozen=True, slots=True)
class Feedback:
    """What a store or a file holds."""

    items: Sequence[Item]
    judgements: Sequence[Judgement]
    raters: Mapping[str, Rater]


@dataclass(frozen=True, slots=True)
class Examined:
    """All that is told: quality, the result where two models were compared blindly, the learning curve where asked."""

    quality: Quality
    contest: Contest | None
    curve: LearningCurve | None = None


def read_source(source: str | Path, on_bad: str = "stop") -> Feedback:
    """The feedback of a store, of its events, or of any file that `palate import` takes; none is made or changed."""
    path = Path(source).expanduser()
    checked: Literal["stop", "skip"] = "skip" if on_bad == "skip" else "stop"
    if not path.is_file() or is_store(path):
        with Store.existing(path) as store:
            return Feedback(store.items(), store.judgements(), store.raters())
    if is_events(path):
        with Store(":memory:") as store:
            store.add_events(read_events(path))
            return Feedback(store.items(), store.judgements(), store.raters())
    found = read_feedback(path, on_bad=checked)
    return Feedback(found.items, found.judgements, {rater.name: rater for rater in found.raters})


def examine(feedback: Feedback) -> Examined:
    """The report on some feedback; UsageError where nothing was judged."""
    if not feedback.judgements:
        raise UsageError(
            f"The quality of feedback was asked for, and of {len(feedback.items)} items none has been judged. Judge "
            "some first (`palate label`, `palate judge`)."
        )
    compared = bool(feedback.items) and all(COMPARISON in item.prompt.fields for item in feedback.items)
    return Examined(
        measured(feedback.items, feedback.judgements, feedback.raters),
        comparison(feedback.items, of_people(feedback.judgements, feedback.raters)) if compared else None,
    )


# ---- is it enough


def enough(
    feedback: Feedback,
    recipe: Recipe,
    *,
    watch: Callable[[str], Onlooker],
    say: Callable[[str], None],
    root: str | Path = "runs",
    force: bool = False,
) -> LearningCurve:
    """The learning curve of the recipe's reward model, trained on 1/8, 1/4, 1/2 and all of the labels.

    One run for each under `root`/quality/NAME, which begin with the same SFT and are reused where they are finished.
    Held-out prompts are those of items that were not selected for being hard. UsageError without [reward], or for too
    few labels; StageStopped at SFT's verdict of stop, unless `force`. A reward model that learnt nothing of few labels
    is what a curve begins with.
    """
    if recipe.reward is None:
        raise UsageError("A learning curve was asked for, and the recipe has no [reward] to train. Give one that has.")
    train, heldout = _divided(feedback, recipe.run.seed)
    place = Path(root) / "quality" / recipe.run.name
    make_directory(place)
    write_atomic(place / "heldout.jsonl", written(heldout))
    alone = replace(recipe, align=None, evaluate=None, rounds=None)
    if recipe.sft is not None:
        execute(_named(replace(alone, reward=None), "base"), watch=watch, say=say, root=place, force=force)
    runs = [_learnt(alone, place, name, train[:count], watch, say) for name, count in _sizes(train)]
    labels = [count for _, count in _sizes(train)]
    rewards = [_reward_model(run) for run in runs]
    kept = [pair for pair in heldout if fits(rewards[0], pair.prompt, pair.chosen, pair.rejected)]
    points = np.stack([_right(reward, kept) for reward in rewards], axis=1)
    return learning_curve(labels, points, [pair.prompt.messages for pair in kept])


def _divided(feedback: Feedback, seed: int) -> tuple[list[PreferencePair], list[PreferencePair]]:
    """Labels to learn from, those of one prompt together in a random order of prompts, and held-out ones."""
    pairs = pairs_of(feedback.items, feedback.judgements).pairs
    focused = {pair.prompt.messages for pair in pairs if pair.prompt.fields["slice"] not in ("random", "given")}
    plain = [pair for pair in pairs if pair.prompt.messages not in focused]
    if len(pairs) < LEAST_LABELS or not plain:
        raise UsageError(
            f"A learning curve was asked for from {len(pairs)} labels that prefer one of a pair, {len(plain)} of them "
            f"on prompts that were not selected for being hard. It takes {LEAST_LABELS}, some of these among them, for "
            "reward models on parts of them. Collect more."
        )
    share = min(HELDOUT * len(pairs) / len(plain), 0.5)
    known, heldout = split_by_prompt(plain, share, derive(seed, "quality heldout") % 2**32)
    train = [*known, *(pair for pair in pairs if pair.prompt.messages in focused)]
    order = {messages: place for place, messages in enumerate(dict.fromkeys(pair.prompt.messages for pair in train))}
    places = np.random.default_rng(derive(seed, "quality order") % 2**32).permutation(len(order))
    return sorted(train, key=lambda pair: places[order[pair.prompt.messages]]), list(heldout)


def _sizes(train: Sequence[PreferencePair]) -> Iterator[tuple[str, int]]:
    """Each run's name and how many labels it learns from."""
    for share in SHARES:
        yield f"labels-{round(share * len(train))}", round(share * len(train))


def _learnt(
    recipe: Recipe,
    place: Path,
    name: str,
    pairs: Sequence[PreferencePair],
    watch: Callable[[str], Onlooker],
    say: Callable[[str], None],
) -> Path:
    """A run of the recipe's SFT, taken over, and of its reward model on these pairs alone."""
    write_atomic(place / f"{name}.jsonl", written(pairs))
    if recipe.sft is not None and not (place / name).exists():
        copied(place / "base", place / name, name)
    assert recipe.reward is not None
    files = {"data": str(place / f"{name}.jsonl"), "heldout": str(place / "heldout.jsonl"), "mapping": None}
    only = replace(recipe, reward=replace(recipe.reward, **files))
    return execute(_named(only, name), watch=watch, say=say, root=place, force=True)


def _named(recipe: Recipe, name: str) -> Recipe:
    return replace(recipe, run=replace(recipe.run, name=name))


def _reward_model(run: Path) -> ModelReward:
    scorer, chat, _ = load_reward_model(run / "reward" / "model")
    return ModelReward("reward_model", scorer, chat)


def _right(reward: ModelReward, pairs: Sequence[PreferencePair]) -> np.ndarray:
    """1 for each pair that the mean of the heads orders rightly, ½ for a tie, else 0."""
    chosen, rejected = np.mean(sides(reward, pairs), axis=0)
    return np.sign(chosen - rejected) / 2 + 0.5


# ---- told


def as_json(found: Examined) -> dict[str, Any]:
    """All of it as plain JSON, answers with their kind."""
    table = asdict(found)
    for disagreement, own in zip(table["quality"]["disagreements"], found.quality.disagreements, strict=True):
        for row, one in zip(disagreement["said"], own.said, strict=True):
            row["answer"] = answer_to_json(one.answer)
    return table


def render(found: Examined) -> RenderableType:
    """The same for a terminal."""
    quality = found.quality
    people = len(quality.annotators)
    parts: list[RenderableType] = [
        Text(
            f"{quality.items:,} items, {quality.judgements:,} judgements of {people} rater{'s' if people > 1 else ''}, "
            f"{quality.skipped:,} of them skips"
        )
    ]
    if found.contest is not None:
        parts += [Text(), Text(told_contest(found.contest))]
    parts += [Text(), _agreements(quality.agreements), Text(), Text(_told_ceiling(quality.ceiling))]
    parts += [Text(), _raters(quality.annotators)]
    alarms = [f"{one.rater} {alarm}." for one in quality.annotators for alarm in one.alarms]
    parts += [Text(f"! {alarm}") for alarm in alarms] or [Text("Nobody stands out.")]
    if quality.between:
        parts += [Text(), _twos(quality)]
    if quality.disagreements:
        parts += [Text(), _discussed(quality.disagreements)]
    if found.curve is not None:
        parts += [Text(), *_curve(found.curve)]
    return Group(*parts)


def told_contest(contest: Contest) -> str:
    """The result of a blind comparison in words."""
    figures = (
        f"{contest.b} against {contest.a}: preferred {contest.wins_b} times, {contest.a} {contest.wins_a} times, "
        f"{contest.ties} ties on {contest.prompts} prompts; win rate {_percent(contest.win_rate)} "
        f"{_brackets(contest.low, contest.high)}, which holds however often one looks. "
    )
    if contest.decided:
        return f"{figures}Decided: {contest.b if contest.win_rate > 0.5 else contest.a} is preferred."
    if contest.more_votes_needed is None:
        return f"{figures}Not decided, and too even for any number of votes to decide."
    return (
        f"{figures}Not decided: if the rate stays, about {contest.more_votes_needed:,} more votes decide it, four "
        "times in five."
    )


def _agreements(agreements: Mapping[str, Agreement]) -> RenderableType:
    if not agreements:
        return Text("No item was judged by two raters: nothing tells how far they agree.")
    table = _table("How far raters agree", "on", "by", "estimate", "95 % interval", "items")
    for name, one in agreements.items():
        share = one.percent
        between = f"{100 * share.low:.1f} to {100 * share.high:.1f}"
        table.add_row(name, "alike", f"{share.estimate:.1%}", between, f"{one.items:,}")
        figures = {"Fleiss' κ": one.fleiss, "Krippendorff's α": one.alpha, "α of ordered values": one.ordinal}
        for by, figure in figures.items():
            if figure is not None:
                table.add_row("", by, f"{figure.estimate:.3f}", f"{figure.low:.3f} to {figure.high:.3f}", "")
    return table


def _told_ceiling(ceiling: Ceiling | None) -> str:
    if ceiling is None:
        return "The noise ceiling is not known: fewer than 20 comparisons have two raters who preferred a side."
    return (
        f"The noise ceiling: nobody can foretell one rater's preference more often than "
        f"{_percent(ceiling.estimate)} {_brackets(ceiling.low, ceiling.high)}, by {ceiling.items:,} comparisons."
    )


def _raters(annotators: Sequence[Annotator]) -> Table:
    """The raters who did most; those with an alarm always."""
    shown = max(SHOWN, sum(bool(one.alarms) for one in annotators))
    most = sorted(annotators, key=lambda one: (not one.alarms, -one.judgements))[:shown]
    title = "Raters" if len(most) == len(annotators) else f"{len(most)} of {len(annotators)} raters"
    table = _table(f"{title}: percent ± half a 95 % interval", *_COLUMNS)
    for one in most:
        shares = (one.skipped, one.ties, one.consistency, one.gold, one.others, one.first_place, one.longer)
        seconds = "" if one.seconds is None else f"{one.seconds:.0f} s"
        kind = "" if one.kind == "human" else f" ({one.kind})"
        table.add_row(f"{one.rater}{kind}", f"{one.judgements:,}", *map(_share, shares), seconds)
    return table


def _twos(quality: Quality) -> Table:
    table = _table("Two raters at a time, on comparisons that both judged", "raters", "", "alike", "Cohen's κ", "of")
    for one in quality.between[:SHOWN]:
        kappa = "" if one.kappa is None else f"{one.kappa:.2f}"
        table.add_row(one.first, one.second, _share(one.alike), kappa, f"{one.alike.count:,}")
    return table


def _discussed(disagreements: Sequence[Disagreement]) -> RenderableType:
    lines = [
        f"{len(disagreements):,} items on which raters differ; talk about these first "
        "(below 0 the first completion is better)"
    ]
    for one in disagreements[:SHOWN]:
        said = ", ".join(f"{told.rater} {_answer(told.answer)}" for told in one.said)
        lines += [f"{one.item[:8]}  {shortened(one.prompt, 68)}", f"          {shortened(said, 160)}"]
    return Text("\n".join(lines))


def _curve(curve: LearningCurve) -> list[RenderableType]:
    table = _table(
        "Is it enough? Accuracy on held-out prompts by labels learnt from", "labels", "accuracy", "the curve"
    )
    for labels, one in zip(curve.labels, curve.accuracies, strict=True):
        accuracy = f"{_percent(one.estimate)} {_brackets(one.low, one.high)}"
        table.add_row(f"{labels:,}", accuracy, _percent(curve.at(labels)))
    table.add_row(f"{2 * curve.labels[-1]:,}", "", _percent(curve.at(2 * curve.labels[-1])))
    return [table, Text(curve.verdict)]


def _answer(answer: Answer) -> str:
    if isinstance(answer, Preference):
        return "both bad" if answer.both_bad else f"{answer.degree:+d}" if answer.degree else "tie"
    return ", ".join(str(value) for name, value in answer_to_json(answer).items() if name != "kind")


def _table(title: str, *names: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for name in names:
        table.add_column(name, overflow="fold")
    return table


def _share(share: Share | None) -> str:
    return "" if share is None else f"{100 * share.estimate:.0f}±{50 * (share.high - share.low):.0f}"


def _percent(share: float) -> str:
    return f"{share:.1%}"


def _brackets(low: float, high: float) -> str:
    return f"[{100 * low:.1f}, {100 * high:.1f}]"
