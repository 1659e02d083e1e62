"""What may honestly be said of a run: the verdict, the headline figures, the cautions, the samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from palate.report.reading import Comparison, Results, Run, Series
from palate.report.words import change, length_change, number, percent, percent_range

GAIN_LOST = 0.25  # share of the best gain that must be given back before we speak of over-optimisation
LENGTH_NOTABLE = 0.1  # relative growth of length that a reader must be told of


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


def finding(run: Run) -> Finding:
    """The verdict: first what went wrong, then what is missing, and only then who won."""
    stages = run.manifest.stages
    for name, stage in stages.items():
        if stage.status in ("failed", "stopped"):
            verb = "failed" if stage.status == "failed" else "was interrupted"
            grounds = stage.reason or "The run directory does not say why."
            return Finding("bad", f"The run ended early: the stage “{name}” {verb}.", (grounds,))
    running = [name for name, stage in stages.items() if stage.status == "running"]
    if running:
        grounds = "What follows is what has been written so far."
        headline = f"The run is not finished: the stage “{running[0]}” has begun and not ended."
        return Finding("open", headline, (grounds,))
    if run.results is None:
        done = ", ".join(name for name in stages) or "none"
        grounds = f"Stages done: {done}. Nothing can be said about the aligned model before it is evaluated."
        return Finding("open", "There is no verdict yet: this run has not been evaluated.", (grounds,))
    return _judged(run, run.results)


def judge_name(results: Results) -> str:
    """The judge as a reader should know it."""
    names = {
        "gold": "the gold judge",
        "heldout-reward": "a held-out reward model",
        "reward": "the reward it was trained on",
    }
    return names.get(results.judge, f"the judge “{results.judge}”")


def _judged(run: Run, results: Results) -> Finding:
    rate = results.win_rate
    judge = judge_name(results)
    judge = judge[0].upper() + judge[1:]
    if rate.low > 0.5:
        tone, headline = "good", f"{judge} prefers the aligned model to the SFT model."
    elif rate.high < 0.5:
        tone, headline = "bad", f"{judge} prefers the SFT model to the aligned model."
    else:
        tone, headline = "open", f"{judge} cannot tell the aligned model from the SFT model."
    grounds = (
        f"The aligned model wins {percent(rate.estimate)} of {results.prompts:,} held-out prompts "
        f"(95% interval {percent_range(rate.low, rate.high)}; a tie is half a win)."
    )
    if results.attainable is not None:
        grounds += f" An always perfect answerer would win {percent(results.attainable.win_rate)}."
    if results.judge == "gold":
        grounds += " Gold is the testbed’s own truth, known exactly."
    kl = _kl(run)
    moved = f"It moved {number(kl)} nats from the SFT model, and its" if kl is not None else "Its"
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
    return (_win_figure(run), _score_figure(run), _kl_figure(run), _accuracy_figure(run))


def _win_figure(run: Run) -> Figure:
    if run.results is None:
        return Figure("Win rate over SFT", "—", "not evaluated")
    rate = run.results.win_rate
    return Figure("Win rate over SFT", percent(rate.estimate), f"95% interval {percent_range(rate.low, rate.high)}")


def _score_figure(run: Run) -> Figure:
    if run.results is None:
        return Figure("Mean score", "—", "not evaluated")
    score, best = run.results.score, run.results.best_of_n
    note = f"by {judge_name(run.results)}"
    if best is not None and best.share_of_way is not None:
        note = f"{percent(best.share_of_way)} of the way to best of {best.n}"
    return Figure("Mean score", change(score.before, score.after), note)


def _kl_figure(run: Run) -> Figure:
    kl, highest = _kl(run), run.summary.get("align/kl_max")
    if kl is None:
        return Figure("KL from SFT", "—", "not aligned")
    note = "nats a completion" if highest is None else f"nats a completion, {number(highest)} at most"
    return Figure("KL from SFT", number(kl), note)


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
    for name, stage in run.manifest.stages.items():
        if stage.status == "done" and stage.verdict is not None and stage.verdict.level != "pass":
            for reason in stage.verdict.reasons:
                yield f"Stage {name}: {reason}"


def _alignment_cautions(run: Run) -> Iterator[str]:
    proxy = run.series("align", "score/mean")
    name, truth = independent_score(run)
    if over_optimised(proxy, truth):
        yield (
            f"Over-optimisation: the {name} score gave back more than a quarter of its best gain while the "
            "score that was optimised did not fall. An earlier checkpoint is likely to be the better model."
        )


def independent_score(run: Run) -> tuple[str, Series]:
    """The score that alignment did not optimise, gold where there is one, else held-out, else nothing."""
    optimised = run.series("align", "score/mean")
    for part, name in (("score/gold", "gold"), ("score/heldout", "held-out")):
        series = run.series("align", part)
        if series.y and series != optimised:
            return name, series
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


def samples(comparisons: Sequence[Comparison], count: int = 5) -> tuple[Comparison, ...]:
    """The comparisons to show: ordered from the clearest win to the clearest loss, the middle of each slice.

    There are `count` slices of equal size. Where losses exist but none falls on a middle, the median loss
    takes the last place. Nothing is drawn at random.
    """
    rank = {"win": 0, "tie": 1, "loss": 2}
    ordered = sorted(comparisons, key=lambda one: (rank[one.outcome], one.score_before - one.score_after, one.prompt))
    if len(ordered) <= count:
        return tuple(ordered)
    chosen = [ordered[(2 * i + 1) * len(ordered) // (2 * count)] for i in range(count)]
    losses = [one for one in ordered if one.outcome == "loss"]
    if losses and chosen[-1].outcome != "loss":
        chosen[-1] = losses[len(losses) // 2]
    return tuple(chosen)
