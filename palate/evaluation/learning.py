"""How much of a language was learnt: against word counts, and whether training had come to its end."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

# A line has two parameters: with fewer points than this there is no telling how far off it may be.
FEWEST = 3


@dataclass(frozen=True, slots=True)
class Slope:
    """What a doubling of the training gained, nats a token, and the lower end of its 95 % interval."""

    gain: float
    low: float


def perplexity(loss: float) -> float:
    """exp(loss), the perplexity of a mean loss in nats; at most the largest float, which a broken model reaches."""
    return math.exp(loss) if loss < math.log(sys.float_info.max) else sys.float_info.max


def unigram_loss(seen: Iterable[Sequence[int]], unseen: Iterable[Sequence[int]], vocabulary: int) -> float:
    """Nats a token of unseen texts under how often each token occurs in the seen ones.

    −(1/N) Σ log((count(token) + 1) / (M + V)): add-one smoothing, M tokens seen, V ids, N tokens unseen.
    """
    counts = Counter(token for text in seen for token in text)
    tokens = np.array([token for text in unseen for token in text])
    smoothed = np.array([counts[token] + 1 for token in tokens.tolist()], dtype=np.float64)
    return float(np.log(counts.total() + vocabulary) - np.log(smoothed).mean())


def loss_slope(losses: Sequence[float]) -> Slope | None:
    """How much the loss of successive steps still fell a doubling of the training, by least squares on log₂(step).

    Over the second half, in which the loss of a power law is nearly a line in the logarithm and warm-up is past. The
    interval is Student's. None where that half has fewer than three steps.
    """
    half = len(losses) // 2
    doublings, fallen = np.log2(np.arange(1, len(losses) + 1)[half:]), np.asarray(losses, dtype=np.float64)[half:]
    if len(doublings) < FEWEST:
        return None
    doublings, fallen = doublings - doublings.mean(), fallen - fallen.mean()
    gain = -float(doublings @ fallen / (doublings @ doublings))
    left = float(np.sum((fallen + gain * doublings) ** 2)) / (len(doublings) - 2)
    error = (left / float(doublings @ doublings)) ** 0.5
    return Slope(gain, gain - float(student.ppf(0.975, len(doublings) - 2)) * error)
