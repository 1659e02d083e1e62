"""What a win rate would be at equal length: many judges like the longer of two answers, whatever it says."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from palate.evaluation.resampling import DRAWS, SEED, Floats

# As much evidence as a hundredth of a comparison: nothing beside real ones, but enough to keep both coefficients finite
# where length, or the model alone, decides every comparison.
RIDGE = 0.01

# Two wins and two losses at equal length, drawn among the real comparisons for the interval, as Agresti and Coull
# (1998) add them to a proportion: without them that of 50 prompts with few losses holds the truth in 86 % of cases.
PSEUDO = (1.0, 1.0, 0.0, 0.0)

# Newton's method ends where no coefficient moves by more: 6 to 10 steps as a rule, some 20 where data is separable.
CLOSE = 1e-7
STEPS = 60

# Draws that are fitted at once: enough to be fast, few enough to be small.
AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class LengthControlled:
    """The win rate at equal length with its 95 % interval."""

    estimate: float
    low: float
    high: float


def length_controlled(
    points: Sequence[float], differences: Sequence[float], prompts: Sequence[Hashable]
) -> LengthControlled | None:
    """The share of comparisons that the second model would win were its answers as long as the first's, σ(θ) of

        P(win) = σ(θ + φ·tanh(Δ/s)),   s = standard deviation of the differences Δ

    fitted by likelihood with a small ridge on θ and φ. Dubois et al., 2404.04475, §3, without their term for the
    difficulty of each instruction, which is learnt from many models: here there are two. `points` are 1 for a win, ½
    for a tie and 0 for a loss; `differences` the second answer's length less the first's, in any unit. The interval is
    a percentile bootstrap over `prompts`: rows of one prompt are drawn together, and weigh as much as one. None where
    every answer became longer, or every one shorter: then nothing shows how the judge decides at equal length. Raises
    ValueError where there is no comparison.
    """
    if not points:
        raise ValueError("A win rate needs at least one comparison, and none was given.")
    if not min(differences) <= 0 <= max(differences):
        return None
    outcomes, lengths = np.asarray(points, dtype=np.float64), _standard(differences)
    places = {prompt: place for place, prompt in enumerate(dict.fromkeys(prompts))}
    group = np.array([places[prompt] for prompt in prompts])
    share = 1 / np.bincount(group)[group]
    estimate = float(expit(fit_preference(outcomes, lengths, share[None])[0, 0]))
    low, high = _interval(
        np.append(outcomes, PSEUDO),
        np.append(lengths, np.zeros(len(PSEUDO))),
        np.append(group, len(places) + np.arange(len(PSEUDO))),
        np.append(share, np.ones(len(PSEUDO))),
    )
    return LengthControlled(estimate, min(low, estimate), max(high, estimate))


def _standard(differences: Sequence[float]) -> Floats:
    """tanh(Δ/s); 0 throughout where the differences do not vary, which is where they are 0."""
    lengths = np.asarray(differences, dtype=np.float64)
    spread = lengths.std()
    return np.tanh(lengths / spread) if spread > 0 else np.zeros_like(lengths)


def _interval(points: Floats, lengths: Floats, group: np.ndarray, share: Floats) -> tuple[float, float]:
    """The middle 95 % of σ(θ) over draws of whole groups with replacement."""
    random = np.random.default_rng(SEED)
    count = int(group.max()) + 1
    found = []
    for _ in range(0, DRAWS, AT_ONCE):
        times = random.multinomial(count, np.full(count, 1 / count), size=AT_ONCE)
        found.append(fit_preference(points, lengths, times[:, group] * share)[:, 0])
    low, high = np.quantile(expit(np.concatenate(found)), [0.025, 0.975])
    return float(low), float(high)


def fit_preference(points: Floats, lengths: Floats, weights: Floats) -> Floats:
    """The likeliest (θ, φ) of P(win) = σ(θ + φ·length) for each row of `weights [D, n]`, as [D, 2].

    argmax Σ w·[y·log σ(η) + (1 − y)·log σ(−η)] − RIDGE/2·(θ² + φ²),  η = θ + φ·length; a fractional y is a share of a
    win. By Newton's method.
    """
    found = np.zeros((len(weights), 2))
    for _ in range(STEPS):
        chance = expit(found[:, :1] + found[:, 1:] * lengths)
        missing = weights * (points - chance)
        bend = weights * chance * (1 - chance)
        slope, tilt = missing.sum(axis=1) - RIDGE * found[:, 0], missing @ lengths - RIDGE * found[:, 1]
        own, both, other = bend.sum(axis=1) + RIDGE, bend @ lengths, bend @ lengths**2 + RIDGE
        solved = np.stack((other * slope - both * tilt, own * tilt - both * slope), axis=1)
        step = solved / (own * other - both**2)[:, None]
        found += step
        if np.abs(step).max() < CLOSE:
            break
    return found
