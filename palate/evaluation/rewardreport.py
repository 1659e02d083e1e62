"""What a reward model is worth on preference pairs, from its scores of both sides and nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from palate.data.checks import length_bias
from palate.evaluation.calibration import Calibration, calibration, cross_fitted
from palate.evaluation.ceiling import Ceiling
from palate.evaluation.preference import Accuracy, preference_accuracy
from palate.evaluation.probes import Probed
from palate.evaluation.resampling import Floats, bootstrap_interval
from palate.records import PreferencePair

# Where accuracy by margin is cut, in nats: σ(½) = .62, σ(1) = .73, σ(2) = .88, σ(4) = .98.
MARGINS = (0.0, 0.5, 1.0, 2.0, 4.0, float("inf"))

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

# Sums of the same terms in another order differ by less than this.
_ROUNDING = 1e-9

# A column of the data with more values than this is no way to sort pairs, but text.
_MOST_VALUES = 16

_MARKDOWN = re.compile(r"\*\*|__|`|^#{1,6} |^\|.*\|$|\[[^\]]+\]\(", re.MULTILINE)
_BULLET = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s", re.MULTILINE)

FEATURES: Mapping[str, Callable[[str], int]] = {
    "length": len,
    "bullets": lambda text: len(_BULLET.findall(text)),
    "markdown": lambda text: len(_MARKDOWN.findall(text)),
}


@dataclass(frozen=True, slots=True)
class Slice:
    """The accuracy on some of the pairs, ties half, with Wilson's 95 % interval; `by` says how they were picked."""

    by: str
    name: str
    accuracy: float
    low: float
    high: float
    pairs: int


@dataclass(frozen=True, slots=True)
class Leaning:
    """How far a judge goes by a feature of the text: its length in characters, its bullets, its Markdown.

    `correlation` is Spearman's between the differences of score and of feature within pairs, with a bootstrap interval
    over prompts. Of the pairs whose sides differ in the feature, `judge` is the share where the judge prefers more of
    it, and `labels` the share where the annotators do.
    """

    feature: str
    correlation: float
    low: float
    high: float
    judge: Accuracy
    labels: Accuracy


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far the members of an ensemble say the same.

    `alike` is the share of pairs that two members order alike, half where one of them ties, the mean over all twos of
    members, with a bootstrap interval over prompts; `spread` the mean over pairs of the standard deviation of their
    score differences, in nats.
    """

    members: int
    alike: float
    low: float
    high: float
    spread: float
    accuracies: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Gap:
    """Accuracy on training pairs, and how far it is above that on held-out pairs, with Newcombe's 95 % interval."""

    train: Accuracy
    estimate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Margins:
    """Quantiles (5, 25, 50, 75, 95 %) of the scores of both sides and of their difference."""

    chosen: tuple[float, ...]
    rejected: tuple[float, ...]
    difference: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class AnswerReport:
    """What is told of a reward model by replies that nobody compared: as of `RewardReport`."""

    answers: int
    mismatched: Accuracy | None
    probes: tuple[Probed, ...]


@dataclass(frozen=True, slots=True)
class RewardReport:
    """All that is told of a reward model; what does not apply is None, or empty.

    `length_accuracy` is that of a judge who counts length alone; `mismatched` how often an answer outscores one to
    another prompt; `gold` how often the two sides are ordered as gold does. `before` is the calibration of the scores
    as they are, `after` with a gain that was fitted on other pairs.
    """

    pairs: int
    prompts: int
    accuracy: Accuracy
    length_accuracy: float
    ceiling: Ceiling | None
    before: Calibration
    after: Calibration | None
    margins: Margins
    by_margin: tuple[Slice, ...]
    slices: tuple[Slice, ...]
    leanings: tuple[Leaning, ...]
    gap: Gap | None = None
    agreement: Agreement | None = None
    mismatched: Accuracy | None = None
    gold: Accuracy | None = None
    probes: tuple[Probed, ...] = ()


def reward_report(
    pairs: Sequence[PreferencePair],
    chosen: Sequence[float],
    rejected: Sequence[float],
    *,
    gain: float = 1.0,
    seed: int = 0,
    probabilities: Sequence[float] | None = None,
    gold: Sequence[tuple[float, float]] | None = None,
    ceiling: Ceiling | None = None,
    train: Accuracy | None = None,
    members: Sequence[tuple[Sequence[float], Sequence[float]]] = (),
    mismatched: Accuracy | None = None,
    probes: Sequence[Probed] = (),
) -> RewardReport:
    """The report of a judge that gave these scores to the two sides of these pairs.

    `gain` is what the scores were multiplied by since they were trained, so that `before` is of what was trained;
    `probabilities` are those of each label and `gold` the truth of both sides, where they are known; `members` are the
    scores of an ensemble's members. Raises UsageError where there is no pair.
    """
    longer = length_bias(pairs).figures["accuracy"]
    prompts = [pair.prompt.messages for pair in pairs]
    accuracy = preference_accuracy(chosen, rejected, prompts)
    as_trained = [np.divide(scores, gain).tolist() for scores in (chosen, rejected)]
    scaled = cross_fitted(chosen, rejected, prompts, seed)
    return RewardReport(
        pairs=len(pairs),
        prompts=len(set(prompts)),
        accuracy=accuracy,
        length_accuracy=max(longer, 1 - longer),  # a judge of length alone may also prefer the shorter
        ceiling=ceiling,
        before=calibration(as_trained[0], as_trained[1], probabilities, prompts),
        after=None if scaled is None else calibration(*scaled, probabilities, prompts),
        margins=margins(chosen, rejected),
        by_margin=by_margin(chosen, rejected, prompts),
        slices=slices(pairs, chosen, rejected),
        leanings=leanings(pairs, chosen, rejected),
        gap=None if train is None else gap(train, accuracy),
        agreement=agreement(members, prompts) if len(members) > 1 else None,
        mismatched=mismatched,
        gold=None if gold is None else ordered_as(gold, chosen, rejected, prompts),
        probes=tuple(probes),
    )


def margins(chosen: Sequence[float], rejected: Sequence[float]) -> Margins:
    """How the scores of preferred and rejected sides lie."""
    differences = np.subtract(chosen, rejected)
    return Margins(*(tuple(map(float, np.quantile(numbers, QUANTILES))) for numbers in (chosen, rejected, differences)))


def by_margin(chosen: Sequence[float], rejected: Sequence[float], prompts: Sequence[Hashable]) -> tuple[Slice, ...]:
    """Accuracy by how sure the judge is, |Δ| in nats; bins without a pair are left out."""
    sizes = np.abs(np.subtract(chosen, rejected, dtype=np.float64))
    found = []
    for low, high in pairwise(MARGINS):
        rows = np.flatnonzero((low <= sizes) & (sizes < high))
        name = f"{low:g} to {high:g}" if np.isfinite(high) else f"{low:g} and more"
        found.append(_slice("margin", name, rows, chosen, rejected, prompts))
    return tuple(one for one in found if one.pairs)


def slices(pairs: Sequence[PreferencePair], chosen: Sequence[float], rejected: Sequence[float]) -> tuple[Slice, ...]:
    """Accuracy by which side is the longer, by turns of the conversation, and by every column of few values."""
    ways: dict[str, list[str]] = {
        "longer side": [_longer(pair) for pair in pairs],
        "turns": [_turns(len(pair.prompt.messages)) for pair in pairs],
    }
    for name in sorted(
        {name for pair in pairs for name, value in pair.prompt.fields.items() if isinstance(value, str)}
    ):
        ways[name] = [str(pair.prompt.fields.get(name, "")) for pair in pairs]
    prompts = [pair.prompt.messages for pair in pairs]
    return tuple(
        _slice(by, value, [row for row, own in enumerate(values) if own == value], chosen, rejected, prompts)
        for by, values in ways.items()
        if 1 < len(set(values)) <= _MOST_VALUES
        for value in sorted(set(values))
    )


def leanings(
    pairs: Sequence[PreferencePair], chosen: Sequence[float], rejected: Sequence[float]
) -> tuple[Leaning, ...]:
    """What the judge makes of length, bullets and Markdown; features in which no pair differs are left out."""
    differences = np.subtract(chosen, rejected, dtype=np.float64)
    prompts = [pair.prompt.messages for pair in pairs]
    found = []
    for name, count in FEATURES.items():
        more = np.array([count(pair.chosen) - count(pair.rejected) for pair in pairs], dtype=np.float64)
        rows = np.flatnonzero(more)
        if not len(rows):
            continue
        towards = (np.sign(more) * differences)[rows].tolist()  # above 0 where the side with more of it scores higher
        nothing, of_rows = [0.0] * len(rows), [prompts[row] for row in rows]
        rho, low, high = correlation(differences, more, prompts)
        judge, labels = (preference_accuracy(side, nothing, of_rows) for side in (towards, more[rows].tolist()))
        found.append(Leaning(name, rho, low, high, judge, labels))
    return tuple(found)


def correlation(first: Floats, second: Floats, groups: Sequence[Hashable]) -> tuple[float, float, float]:
    """Spearman's correlation of two differences within pairs, with a bootstrap interval over groups.

    Which side of a pair comes first is nobody's choice, so each pair stands there both ways round: the ranks are then
    symmetric around 0, and ρ = Σ r·s / √(Σ r²·Σ s²). The ranks are not taken anew for each draw. 0 where one of the two
    does not vary.
    """
    ranks, others = (_signed_ranks(one) for one in (first, second))
    products = np.stack([ranks * others, ranks**2, others**2], axis=1)

    def figure(means: Floats) -> Floats:
        scale = np.sqrt(means[:, 1] * means[:, 2])
        return np.divide(means[:, 0], scale, out=np.zeros(len(means)), where=scale > 0)

    return float(figure(products.mean(axis=0)[None])[0]), *bootstrap_interval(products, groups, figure)


def agreement(members: Sequence[tuple[Sequence[float], Sequence[float]]], groups: Sequence[Hashable]) -> Agreement:
    """How far the members of an ensemble order the same pairs alike."""
    differences = np.array([np.subtract(chosen, rejected, dtype=np.float64) for chosen, rejected in members])
    signs = np.sign(differences)
    alike = np.mean([1 - np.abs(one - other) / 2 for one, other in combinations(signs, 2)], axis=0)
    return Agreement(
        len(members),
        float(alike.mean()),
        *bootstrap_interval(alike, groups),
        float(differences.std(axis=0).mean()),
        tuple(preference_accuracy(*sides).estimate for sides in members),
    )


def gap(train: Accuracy, heldout: Accuracy) -> Gap:
    """The difference of two accuracies with Newcombe's interval (1998, method 10), made of the two Wilson intervals.

    low = d − √((p₁ − l₁)² + (u₂ − p₂)²),  high = d + √((u₁ − p₁)² + (p₂ − l₂)²),  d = p₁ − p₂
    """
    difference = train.estimate - heldout.estimate
    below = np.hypot(train.estimate - train.low, heldout.high - heldout.estimate)
    above = np.hypot(train.high - train.estimate, heldout.estimate - heldout.low)
    return Gap(train, difference, float(difference - below), float(difference + above))


def ordered_as(
    gold: Sequence[tuple[float, float]],
    chosen: Sequence[float],
    rejected: Sequence[float],
    prompts: Sequence[Hashable],
) -> Accuracy | None:
    """How often the judge orders the sides as gold does, over pairs whose gold differs; None where none does."""
    rows = [row for row, (one, other) in enumerate(gold) if abs(one - other) > _ROUNDING]
    signs = [1.0 if gold[row][0] > gold[row][1] else -1.0 for row in rows]
    ahead = [sign * (chosen[row] - rejected[row]) for row, sign in zip(rows, signs, strict=True)]
    return preference_accuracy(ahead, [0.0] * len(ahead), [prompts[row] for row in rows]) if rows else None


def reward_figures(report: RewardReport) -> dict[str, float]:
    """The report's figures for `summary.json`; those that do not apply are absent."""
    calibrated = report.after or report.before
    length = next((leaning for leaning in report.leanings if leaning.feature == "length"), None)
    found: dict[str, Any] = {
        **_rate("accuracy", report.accuracy),
        "length_accuracy": report.length_accuracy,
        "ece": calibrated.error,
        "ece_noise": calibrated.noise,
        "ece_before": report.before.error,
        **_rate("mismatched_accuracy", report.mismatched),
        **_rate("gold_accuracy", report.gold),
    }
    if calibrated.true_error is not None:
        found["ece_true"] = calibrated.true_error
    if length is not None:
        found |= _interval("length_correlation", length.correlation, length.low, length.high)
    if report.gap is not None:
        found |= _rate("train_accuracy", report.gap.train)
        found |= _interval("gap", report.gap.estimate, report.gap.low, report.gap.high)
    if report.ceiling is not None:
        found["ceiling"] = report.ceiling.estimate
        if not report.ceiling.known:
            found |= {"ceiling_low": report.ceiling.low, "ceiling_high": report.ceiling.high}
    if report.agreement is not None:
        found |= _interval("ensemble_agreement", report.agreement.alike, report.agreement.low, report.agreement.high)
    for one in report.probes:
        if one.expects == "lower":
            found |= _interval(f"fooled/{one.name}", one.fooled, one.fooled_low, one.fooled_high)
    return found


def _rate(name: str, rate: Accuracy | None) -> dict[str, float]:
    return {} if rate is None else _interval(name, rate.estimate, rate.low, rate.high)


def _interval(name: str, estimate: float, low: float, high: float) -> dict[str, float]:
    return {name: estimate, f"{name}_low": low, f"{name}_high": high}


def _slice(
    by: str,
    value: str,
    rows: Sequence[int] | NDArray[np.intp],
    chosen: Sequence[float],
    rejected: Sequence[float],
    prompts: Sequence[Hashable],
) -> Slice:
    ahead, behind = ([side[row] for row in rows] for side in (chosen, rejected))
    right = preference_accuracy(ahead, behind, [prompts[row] for row in rows])
    return Slice(by, f"{by}: {value}", right.estimate, right.low, right.high, right.pairs)


def _longer(pair: PreferencePair) -> str:
    more = len(pair.chosen) - len(pair.rejected)
    return "chosen" if more > 0 else "rejected" if more < 0 else "neither"


def _turns(count: int) -> str:
    return "1" if count == 1 else "2 or 3" if count <= 3 else "4 or more"


def _signed_ranks(numbers: Floats) -> Floats:
    """The ranks of the numbers among themselves and their opposites, around 0."""
    ranks = rankdata(np.concatenate([numbers, -numbers]))[: len(numbers)]
    return ranks - len(numbers) - 0.5
