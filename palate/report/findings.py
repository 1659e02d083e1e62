"""What may honestly be said of a run: the verdict, the headline figures, the cautions, the samples."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from palate.evaluation import Level
from palate.report.reading import Comparison, Named, Results, Run, Series, Stage
from palate.report.words import change, length_change, number, percent, percent_range, sentence, spoken

GAIN_LOST = 0.25  # share of the best gain that must be given back before we speak of over-optimisation
LENGTH_NOTABLE = 0.1  # relative growth of length that a reader must be told of
FLAGGED = 2  # samples shown of each monitor that alarms


@dataclass(frozen=True, slots=True)
class Finding:
    """The verdict on a run: a sentence, what it rests on, and whether it is good, bad or neither."""

    tone: Literal["good", "bad", "open"]
    headline: str
    grounds: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Figure:
    """A headline figure: its name, its value, and what qualifies it."""

    name: str
    value: str
    note: str


# Judges that look on during alignment, by the metric that they are logged under.
JUDGES = {"score/gold": "gold", "score/heldout": "held-out"}

Kind = Literal["best", "random", "worst", "flagged"]


@dataclass(frozen=True, slots=True)
class Shown:
    """A completion that the page shows, why, and what it is compared with where it is; scores are the judge's."""

    kind: Kind
    prompt: str
    after: str
    before: str | None = None
    score_before: float | None = None
    score_after: float | None = None
    outcome: str = ""
    group: str = ""
    monitors: tuple[str, ...] = ()


def finding(run: Run) -> Finding:
    """The verdict: first what went wrong, then what is missing, and only then who won."""
    found = _ended(run)
    if found is None and run.results is None:
        found = _unevaluated(run)
    if found is None and run.results is not None:
        found = _judged(run, run.results)
    assert found is not None
    return _forced(run, found)


def _unevaluated(run: Run) -> Finding:
    """What is to be said where there are no results."""
    if "evaluate" in run.manifest.stages:
        grounds = (
            "The evaluation is done, but evaluate/results.json is missing or damaged. Restore it from a copy, or do "
            "the run again with --fresh."
        )
        return Finding("open", "There is no verdict: the evaluation's results cannot be read.", (grounds,))
    done = ", ".join(run.manifest.stages) or "none"
    grounds = f"Stages done: {done}. Nothing can be said about the aligned model before it is evaluated."
    return Finding("open", "There is no verdict yet: this run has not been evaluated.", (grounds,))


def _ended(run: Run) -> Finding | None:
    """What is to be said first of a run that did not reach its end."""
    stages = run.manifest.stages
    for name, stage in stages.items():
        if stopping(name, stage) and not stage.forced:
            headline = f"The run was stopped: the stage “{name}” did not pass its gate."
            return Finding("bad", headline, tuple(_stop_grounds(stage)))
        if stage.status in ("failed", "stopped"):
            verb = "failed" if stage.status == "failed" else "was interrupted"
            grounds = stage.reason or "The run directory does not say why."
            return Finding("bad", f"The run ended early: the stage “{name}” {verb}.", (grounds,))
    running = [name for name, stage in stages.items() if stage.status == "running"]
    if running:
        grounds = "What follows is what has been written so far."
        headline = f"The run is not finished: the stage “{running[0]}” has begun and not ended."
        return Finding("open", headline, (grounds,))
    return None


def stopping(name: str, stage: Stage) -> bool:
    """Whether a stage's gate says stop to what follows it; after the evaluation nothing does."""
    return name != "evaluate" and stage.verdict is not None and stage.verdict.level == "stop"


def _stop_grounds(stage: Stage) -> Iterator[str]:
    """Why a gate said stop, and what to do; from its checks, or else from its reasons."""
    assert stage.verdict is not None
    stops = [check for check in stage.verdict.checks if check.level == "stop"]
    yield from (f"{check.reason} {check.advice}".strip() for check in stops)
    if not stops:
        yield from stage.verdict.reasons or ("The run directory does not say why.",)


def _forced(run: Run, found: Finding) -> Finding:
    """The finding of a run that was forced past a gate says so before anything else."""
    names = [name for name, stage in run.manifest.stages.items() if stopping(name, stage) and stage.forced]
    if not names:
        return found
    named = " and ".join(f"“{name}”" for name in names)
    headline = f"Forced: {named} did not pass {'its gate' if len(names) == 1 else 'their gates'}, and the run went on."
    why = [sentence for name in names for sentence in _stop_grounds(run.manifest.stages[name])]
    return Finding("bad", headline, (*why, f"What came of it: {found.headline}", *found.grounds))


def worst_gate(run: Run) -> tuple[Level | None, tuple[str, ...]]:
    """The gravest level that any gate gave, and the stages that gave it; None where no stage has a verdict."""
    levels = {name: stage.verdict.level for name, stage in run.manifest.stages.items() if stage.verdict is not None}
    order: tuple[Level, ...] = ("stop", "warn", "pass")
    for gravest in order:
        if gravest in levels.values():
            return gravest, tuple(name for name, level in levels.items() if level == gravest)
    return None, ()


def judge_name(results: Results) -> str:
    """The judge as a reader should know it."""
    names = {
        "gold": "the gold judge",
        "heldout-reward": "a held-out reward model",
        "reward": "the reward it was trained on",
    }
    return names.get(results.judge, f"the judge “{results.judge}”")


def _judged(run: Run, results: Results) -> Finding:
    rate, start = results.win_rate, run.manifest.start
    judge = judge_name(results)
    judge = judge[0].upper() + judge[1:]
    if rate.low > 0.5:
        tone, headline = "good", f"{judge} prefers the aligned model to {start}."
    elif rate.high < 0.5:
        tone, headline = "bad", f"{judge} prefers {start} to the aligned model."
    else:
        tone, headline = "open", f"{judge} cannot tell the aligned model from {start}."
    grounds = (
        f"The aligned model wins {percent(rate.estimate)} of {results.prompts:,} held-out prompts "
        f"(95% interval {percent_range(rate.low, rate.high)}; a tie is half a win)."
    )
    if results.attainable is not None:
        grounds += f" An always perfect answerer would win {percent(results.attainable.win_rate)}."
    if results.judge == "gold":
        grounds += " Gold is the testbed’s own truth, known exactly."
    kl = _kl(run)
    moved = f"It moved {number(kl)} nats from {start}, and its" if kl is not None else "Its"
    length = results.length
    moved += (
        f" completions are {length_change(length.before, length.after)} ({change(length.before, length.after)} tokens)."
    )
    return Finding(tone, headline, (grounds, moved))


def _kl(run: Run) -> float | None:
    """KL of the evaluated model from the SFT model, nats a completion; else the last of training."""
    if run.results is not None and run.results.kl is not None:
        return run.results.kl
    return run.summary.get("align/kl_final")


def figures(run: Run) -> tuple[Figure, ...]:
    """The four headline figures; one that the run does not have is said to be absent."""
    return (_gate_figure(run), _win_figure(run), _score_figure(run), _accuracy_figure(run))


def _gate_figure(run: Run) -> Figure:
    level, names = worst_gate(run)
    if level is None:
        return Figure("Gates", "—", "no stage is done")
    checks = [
        check for stage in run.manifest.stages.values() if stage.verdict is not None for check in stage.verdict.checks
    ]
    held = sum(check.level == "pass" for check in checks)
    counted = f"{held} of {len(checks)} checks passed" if checks else ""
    if level == "pass":
        return Figure("Gates", "all passed", counted or f"{len(names)} stages")
    words = f"{', '.join(names)}: {'a warning' if level == 'warn' else 'stop'}"
    return Figure("Gates", "warned" if level == "warn" else "stopped", f"{words}; {counted}" if counted else words)


def _win_figure(run: Run) -> Figure:
    name = f"Win rate over {'SFT' if 'sft' in run.manifest.stages else run.manifest.start}"
    if run.results is None:
        return Figure(name, "—", "not evaluated")
    rate, controlled = run.results.win_rate, run.results.length_controlled
    note = f"95% interval {percent_range(rate.low, rate.high)}"
    if controlled is not None and controlled.estimate is not None:
        note += f"; {percent(controlled.estimate)} at equal length"
    return Figure(name, percent(rate.estimate), note)


def _score_figure(run: Run) -> Figure:
    if run.results is None:
        return Figure("Mean score", "—", "not evaluated")
    score, best = run.results.score, run.results.best_of_n
    note = f"by {judge_name(run.results)}"
    if best is not None and best.share_of_way is not None:
        note = f"{percent(best.share_of_way)} of the way to best of {best.n}"
    return Figure("Mean score", change(score.before, score.after), note)


def _accuracy_figure(run: Run) -> Figure:
    accuracy = run.summary.get("reward/accuracy")
    if accuracy is None:
        return Figure("Reward-model accuracy", "—", "no reward model")
    low, high = run.summary.get("reward/accuracy_low"), run.summary.get("reward/accuracy_high")
    note = "held-out pairs" if low is None or high is None else f"95% interval {percent_range(low, high)}"
    return Figure("Reward-model accuracy", percent(accuracy), note)


def cautions(run: Run) -> tuple[str, ...]:
    """What a careful reader must know before believing the headline; empty where there is nothing."""
    found = [*_gate_cautions(run), *_alignment_cautions(run)]
    if run.results is not None:
        found += _evaluation_cautions(run.results)
    return (*found, *run.notes)


def _gate_cautions(run: Run) -> Iterator[str]:
    """Each gate's doubts with what to do about them; where checks say them, the bare reasons are not said again."""
    for name, stage in run.manifest.stages.items():
        if stage.status != "done" or stage.verdict is None or stage.verdict.level == "pass":
            continue
        doubted = [check for check in stage.verdict.checks if check.level != "pass"]
        told = {check.reason for check in doubted}
        for check in doubted:
            yield f"Stage {name}: {check.reason} {check.advice}".strip()
        yield from (sentence(f"Stage {name}: {reason}") for reason in stage.verdict.reasons if reason not in told)


def _alignment_cautions(run: Run) -> Iterator[str]:
    alarms = [monitor for monitor in run.monitors or () if monitor.alarm]
    for monitor in alarms:
        moved = f"{number(monitor.baseline)} before, {number(monitor.value)} after"
        yield f"Monitor “{spoken(monitor.name)}” alarms: {moved}."
    metric, truth = independent_score(run)
    if run.watch is None and over_optimised(run.series("align", "score/mean"), truth):
        yield (
            f"Over-optimisation: the {JUDGES[metric]} score gave back more than a quarter of its best gain while the "
            "score that was optimised did not fall. An earlier checkpoint is likely to be the better model."
        )


def independent_score(run: Run) -> tuple[str, Series]:
    """The metric that alignment did not optimise, gold where there is one, else held-out, else nothing."""
    optimised = run.series("align", "score/mean")
    for metric in JUDGES:
        series = run.series("align", metric)
        if series.y and series != optimised:
            return metric, series
    return "", Series((), ())


def over_optimised(proxy: Series, truth: Series) -> bool:
    """Whether the true score fell back by more than a quarter of its best gain while the proxy kept or rose.

    Both are taken where both were measured and smoothed over a tenth of the run, so that one bad batch
    convicts nobody; fewer than five measurements convict nobody either.
    """
    proxy, truth = common(proxy, truth)
    if len(truth.y) < 5:
        return False
    true, optimised = smoothed(truth).y, smoothed(proxy).y
    best = max(range(len(true)), key=true.__getitem__)
    gain = true[best] - true[0]
    return gain > 0 and true[best] - true[-1] > GAIN_LOST * gain and optimised[-1] >= optimised[best]


def common(first: Series, second: Series) -> tuple[Series, Series]:
    """Two series where both were measured."""
    shared = set(first.x) & set(second.x)

    def kept(series: Series) -> Series:
        points = [(x, y) for x, y in zip(series.x, series.y, strict=True) if x in shared]
        return Series(tuple(x for x, _ in points), tuple(y for _, y in points))

    return kept(first), kept(second)


def smoothed(series: Series) -> Series:
    """The centred moving mean over a tenth of the series; at the ends, over what there is."""
    reach = len(series.y) // 20
    windows = (series.y[max(0, i - reach) : i + reach + 1] for i in range(len(series.y)))
    return Series(series.x, tuple(sum(window) / len(window) for window in windows))


def _evaluation_cautions(results: Results) -> Iterator[str]:
    if results.judge != "gold":
        yield (
            f"The verdict is that of {judge_name(results)}, neither of people nor of a known truth; "
            "it may share the blind spots of the reward model that was optimised."
        )
    length = results.length
    if length.after > (1 + LENGTH_NOTABLE) * length.before:
        yield (
            f"Completions became {length_change(length.before, length.after)}; "
            "if the judge has a taste for length, part of the win rate is length."
        )
    if results.correct is not None and results.correct.after < results.correct.before:
        yield (
            f"Fewer answers are correct: {percent(results.correct.before)} before, "
            f"{percent(results.correct.after)} after."
        )
    worse = [group.name for group in results.groups if group.after < group.before]
    if worse:
        yield f"The mean score fell on these kinds of prompt: {', '.join(worse)}."


def samples(run: Run) -> tuple[Shown, ...]:
    """The answers to show: those `chosen` from the comparisons, then those that alarmed monitors name."""
    shown = [_shown(kind, one) for kind, one in chosen(run.comparisons)]
    known = {(one.prompt, one.after): one for one in run.comparisons}
    flagged: dict[Named, list[str]] = {}
    for monitor in run.monitors or ():
        for named in monitor.samples[:FLAGGED] if monitor.alarm else ():
            flagged.setdefault(named, []).append(monitor.name)
    for named, names in flagged.items():
        one = known.get((named.prompt, named.completion))
        found = Shown("flagged", named.prompt, named.completion, named.before)
        shown.append(replace(found if one is None else _shown("flagged", one), monitors=tuple(names)))
    return tuple(shown)


def chosen(comparisons: Sequence[Comparison]) -> tuple[tuple[Kind, Comparison], ...]:
    """The clearest win, two at random and the two clearest losses, none twice.

    "At random" is by a hash of the prompt: the same each time, and nobody's pick.
    """

    def gain(one: Comparison) -> float:
        return one.score_after - one.score_before

    ordered = sorted(comparisons, key=lambda one: (-gain(one), one.prompt, one.before, one.after))
    best, rest = ordered[:1], ordered[1:]
    drawn = sorted(rest[:-2], key=lambda one: (_hashed(one.prompt), one.before, one.after))[:2]
    kinds: tuple[tuple[Kind, list[Comparison]], ...] = (("best", best), ("random", drawn), ("worst", rest[-2:]))
    return tuple((kind, one) for kind, ones in kinds for one in ones)


def _shown(kind: Kind, one: Comparison) -> Shown:
    return Shown(
        kind,
        one.prompt,
        one.after,
        before=one.before,
        score_before=one.score_before,
        score_after=one.score_after,
        outcome=one.outcome,
        group=one.group or "",
    )


def _hashed(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
