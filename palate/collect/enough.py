"""Is it enough: held-out accuracy against the number of labels, and what twice as many would bring."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from palate.collect.agreement import Estimate
from palate.errors import UsageError
from palate.evaluation.resampling import bootstrap_interval

Floats = NDArray[np.float64]

# Exponents that are tried: with the least, eight times the labels take off a tenth of what is missing, with the most
# all but an eighth of it. Steeper curves than 1/n are not seen.
EXPONENTS = np.geomspace(0.05, 1.0, 40)
# A gain of less than this is worth no second round of labelling.
WORTH = 0.01
CHANCE = 0.5


@dataclass(frozen=True, slots=True)
class LearningCurve:
    """accuracy(n) ≈ a − b·n^(−c) through the accuracies of reward models that learnt from `labels`.

    `gain` is what twice the most labels would add to the curve there, `limit` is a. The intervals are over the prompts
    of the held-out pairs; what another draw of the training labels or another seed would change is not in them.
    """

    labels: tuple[int, ...]
    accuracies: tuple[Estimate, ...]
    limit: float
    scale: float
    exponent: float
    gain: Estimate

    @property
    def verdict(self) -> str:
        """Whether it is enough, in a sentence."""
        if self.accuracies[-1].low <= CHANCE:
            return (
                "With all labels the reward model is not shown to be better than a coin, and nothing foretells when it "
                "will be: look at the labels and at the model before collecting more."
            )
        twice = f"Twice the labels would bring {_points(self.gain.estimate)} points [{_points(self.gain.low)}, "
        twice += f"{_points(self.gain.high)}]"
        if self.gain.high < WORTH:
            return f"{twice}: it is enough."
        if self.gain.low >= WORTH:
            return f"{twice}: more labels pay."
        if self._rising():
            return f"{twice}, or more: the last doubling brought more than those before, which the curve does not know."
        return f"{twice}: these figures cannot tell whether more labels pay; hold out more pairs to see."

    def _rising(self) -> bool:
        """Whether the last doubling brought more than they all did on average."""
        found = np.diff([one.estimate for one in self.accuracies]) / np.diff(np.log2(self.labels))
        return bool(found[-1] > found.mean())

    def at(self, labels: float) -> float:
        """The curve."""
        return self.limit - self.scale * labels**-self.exponent


def learning_curve(
    labels: Sequence[int], points: Sequence[Sequence[float]] | Floats, prompts: Sequence[Hashable]
) -> LearningCurve:
    """The curve through the accuracies of models that learnt from so many `labels`, on the same held-out pairs.

    accuracy(n) = a − b·n^(−c), b ≥ 0, a ≤ 1, by least squares: for each c of a grid a line in n^(−c). The inverse power
    law of learning curves: Hestness et al., 1712.00409, §2; Viering and Loog, 2103.10948, §3.3. `points [pairs, K]` are
    1 where the k-th model orders a pair rightly, ½ for a tie, else 0; the bootstrap draws whole prompts, for all the
    models together, and fits each draw. UsageError for fewer than three numbers of labels.
    """
    numbers, right = np.asarray(labels, dtype=np.float64), np.asarray(points, dtype=np.float64)
    if len(set(labels)) < 3:
        raise UsageError(
            f"A learning curve was asked for through {len(set(labels))} numbers of labels; three parameters take three "
            "at least. Collect more labels."
        )
    means = right.mean(axis=0)
    limit, scale, exponent = (float(part[0]) for part in fit(numbers, means[None]))
    return LearningCurve(
        labels=tuple(labels),
        accuracies=tuple(
            Estimate(float(mean), *bootstrap_interval(column, prompts))
            for mean, column in zip(means, right.T, strict=True)
        ),
        limit=limit,
        scale=scale,
        exponent=exponent,
        gain=Estimate(
            float(_doubled(numbers, means[None])[0]),
            *bootstrap_interval(right, prompts, lambda drawn: _doubled(numbers, drawn)),
        ),
    )


def fit(labels: Floats, accuracies: Floats) -> tuple[Floats, Floats, Floats]:
    """a, b and c [D] of the best curve through each row of accuracies [D, K] at `labels [K]`."""
    best = np.full((4, len(accuracies)), np.inf)
    for exponent in EXPONENTS:
        term = labels**-exponent
        around = term - term.mean()
        scale = np.maximum(-(accuracies @ around) / (around @ around), 0.0)
        limit = accuracies.mean(axis=1) + scale * term.mean()
        over = limit > 1  # the best line through 1 then
        scale = np.where(over, np.maximum((1 - accuracies) @ term / (term @ term), 0.0), scale)
        limit = np.where(over, 1.0, limit)
        missed = ((accuracies - limit[:, None] + scale[:, None] * term) ** 2).sum(axis=1)
        better = missed < best[0]
        best[:, better] = np.stack([missed, limit, scale, np.full(len(limit), exponent)])[:, better]
    return best[1], best[2], best[3]


def _doubled(labels: Floats, accuracies: Floats) -> Floats:
    """What twice the most labels add to each row's curve: b·n^(−c)·(1 − 2^(−c))."""
    _, scale, exponent = fit(labels, accuracies)
    return scale * labels.max() ** -exponent * (1 - 2**-exponent)


def _points(share: float) -> str:
    return f"{100 * share:.1f}"
