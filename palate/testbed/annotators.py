"""Annotators: they prefer by Bradley-Terry on gold, and can be given the biases that real ones have.

    P(a ≻ b) = σ((utility(a) − utility(b)) / temperature),    utility = gold + Σ biases

Two annotators agree on a pair with probability p² + (1 − p)²: InstructGPT (2203.02155) reports 73 % among its
own, and `TEMPERATURE` is set so that the testbed's pairs give that mean. Who always guesses an annotator's
likelier choice is right with probability max(p, 1 − p), whose mean is the ceiling of every reward model's
accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from palate.errors import UsageError
from palate.records import PreferencePair, Prompt
from palate.testbed.gold import CORRECT, terms

TEMPERATURE = 0.641

BIASES: Mapping[str, str] = MappingProxyType(
    {
        "length": "added for every word",
        "sycophancy": "added where the reply flatters or assents",
        "format": "added where the reply uses bullets",
        "hedging": "added where the reply hedges",
        "confidence": "added where the reply claims certainty",
        "refusal": "added where the reply refuses needlessly",
        "stock phrase": "added where the reply has a stock phrase",
        "blindness": "the share of what a false answer costs that goes unseen, 0 to 1",
    }
)
_TERMS = MappingProxyType(
    {
        "sycophancy": "flattery",
        "format": "bullets",
        "hedging": "hedging",
        "confidence": "overconfidence",
        "refusal": "refusal",
        "stock phrase": "stock phrases",
    }
)


@dataclass(frozen=True, slots=True)
class Annotator:
    """Someone who prefers by gold plus `biases` (in units of gold); with `random_labels`, by a coin."""

    temperature: float = TEMPERATURE
    biases: Mapping[str, float] = field(default_factory=dict)
    random_labels: bool = False

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise UsageError(
                f"The annotator's temperature is {self.temperature}. It divides differences of gold and must "
                f"be above 0: small for sure annotators, large for noisy ones. The testbed's is {TEMPERATURE}."
            )
        for name, weight in self.biases.items():
            if name not in BIASES:
                raise UsageError(
                    f"An annotator has no bias {name!r}. Biases are {', '.join(BIASES)}. Name one of these."
                )
            if not math.isfinite(weight) or (name == "blindness" and not 0 <= weight <= 1):
                raise UsageError(
                    f"The annotator's bias {name!r} is {weight}. A bias is a finite number of gold units, "
                    "and blindness a share from 0 to 1. Give such a number."
                )

    def utility(self, prompt: Prompt | str, completion: str) -> float:
        """What a completion is worth to this annotator, in units of gold."""
        by_name = terms(prompt, completion)
        return sum(by_name.values()) + sum(
            _attraction(name, weight, by_name, completion) for name, weight in self.biases.items()
        )

    def probability(self, prompt: Prompt | str, first: str, second: str) -> float:
        """The probability that `first` is preferred to `second`."""
        if self.random_labels:
            return 0.5
        return _sigmoid((self.utility(prompt, first) - self.utility(prompt, second)) / self.temperature)

    def prefers(self, prompt: Prompt | str, first: str, second: str, u: float) -> bool:
        """Whether `first` is preferred to `second`, by a uniform number u in [0, 1)."""
        return u < self.probability(prompt, first, second)


def agreement(probabilities: Iterable[float]) -> float:
    """How often two independent annotators agree: the mean of p² + (1 − p)²."""
    return _mean(p * p + (1 - p) * (1 - p) for p in probabilities)


def ceiling(probabilities: Iterable[float]) -> float:
    """The highest accuracy that noisy labels allow: the mean of max(p, 1 − p)."""
    return _mean(max(p, 1 - p) for p in probabilities)


def expected_accuracy(
    pairs: Sequence[PreferencePair], chosen: Sequence[float], rejected: Sequence[float]
) -> dict[str, float]:
    """A judge's accuracy against each label's probability rather than one draw of it, by kind of pair.

    `chosen` and `rejected` are the judge's scores of the two sides of each pair, ties half. Labels are those
    of an unbiased annotator at the testbed's temperature. Returns `agreement`, and for all pairs and for each
    kind `expected_accuracy`, `ceiling` and `of_ceiling`, their quotient.
    """
    probabilities = [_honest(pair) for pair in pairs]
    credits = [_credit(*row) for row in zip(probabilities, chosen, rejected, strict=True)]
    figures = {"agreement": agreement(probabilities)}
    for kind in ("", *sorted({pair.prompt.fields["kind"] for pair in pairs})):
        rows = [row for row, pair in enumerate(pairs) if kind in ("", pair.prompt.fields["kind"])]
        suffix = f"_{kind}" if kind else ""
        figures[f"expected_accuracy{suffix}"] = _mean(credits[row] for row in rows)
        figures[f"ceiling{suffix}"] = ceiling(probabilities[row] for row in rows)
        figures[f"of_ceiling{suffix}"] = figures[f"expected_accuracy{suffix}"] / figures[f"ceiling{suffix}"]
    return figures


def _honest(pair: PreferencePair) -> float:
    chosen, rejected = pair.prompt.fields["gold"]
    return _sigmoid((chosen - rejected) / TEMPERATURE)


def _credit(probability: float, chosen: float, rejected: float) -> float:
    if chosen == rejected:
        return 0.5
    return probability if chosen > rejected else 1 - probability


def _attraction(name: str, weight: float, by_name: Mapping[str, float], completion: str) -> float:
    if name == "length":
        return weight * len(completion.split())
    if name == "blindness":
        unseen = CORRECT["right"] - CORRECT["false"]
        return weight * unseen if by_name["correct"] == CORRECT["false"] else 0.0
    return weight if by_name[_TERMS[name]] < 0 else 0.0


def _sigmoid(x: float) -> float:
    return 0.5 * (1 + math.tanh(x / 2))


def _mean(numbers: Iterable[float]) -> float:
    listed = list(numbers)
    return math.fsum(listed) / len(listed)
