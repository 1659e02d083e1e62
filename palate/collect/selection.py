"""Which questions to ask next: a sample without replacement whose inclusion probabilities are known exactly.

    πᵢ = ρ + Σ_s π_s(i) ≤ 1,   Σᵢ πᵢ = count,   Σ_{i of one prompt} πᵢ ≤ cap

ρ is the same for every question: the random slice, an unbiased test set. The focused slices s (uncertain, adversarial)
have π_s(i) in proportion to a weight, as far as the limits leave room. Questions are laid side by side in a random
order, those of one prompt together, each a stretch of length πᵢ; points at distance one from a random start choose
(systematic sampling: Madow 1949; in random order: Hartley and Rao 1962). A length L holds ⌊L⌋ or ⌈L⌉ points, so that
count and cap hold in every draw, and each question is chosen with probability πᵢ, whatever the order. What was chosen
is divided among the slices in the same way, the random one getting its part ρ/πᵢ. With πᵢ recorded, Σ yᵢ/πᵢ over what
was chosen is an unbiased estimate of Σ yᵢ over all questions (Horvitz and Thompson 1952).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from pydantic import Field
from scipy.stats import rankdata

from palate.engine.seeding import derive
from palate.settings import record

Focus = Literal["uncertain", "adversarial"]
Name = Literal["random", "uncertain", "adversarial"]

SLICES: tuple[Name, ...] = get_args(Name)

# Probabilities are whole multiples of 1/TICKS, so that what is recorded is what is drawn.
TICKS = 2**40

# A weight below this share of the largest is none.
LEAST = 1e-12


@record
class Selection:
    """How many questions to ask, and by which shares they are selected."""

    count: int = Field(100, ge=1, description="questions to ask; fewer where the candidates allow no more")
    random: float = Field(
        0.3, gt=0, description="share drawn uniformly over all possible questions: an unbiased test set"
    )
    uncertain: float = Field(
        0.4, ge=0, description="share drawn where the reward model's margin is near zero, or its ensemble disagrees"
    )
    adversarial: float = Field(
        0.3, ge=0, description="share drawn where the reward model prefers what monitors count, or a probe fools it"
    )
    per_prompt: int = Field(2, ge=1, description="most questions about one prompt")


@dataclass(frozen=True, slots=True)
class Choice:
    """A chosen question by its place, the slice that chose it, and the probability that any slice would have."""

    place: int
    slice: Name
    propensity: float


# ---- what makes a pair worth asking


def uncertainty(margins: np.ndarray) -> np.ndarray:
    """How little a reward model knows of each pair, from its K heads' margins [P, K] → [P].

    w = (1 − F(|m̄|))³ + F(std_k m_k)³,   F(x) = the share of pairs that have less

    The first term is for a mean margin near zero: half of it falls on the nearest 16 % of the pairs. The second is for
    heads that disagree, and absent where there is one. Ranks, since a reward model's unit may be off, or its own. What
    was not scored (NaN) weighs nothing.
    """
    known = np.isfinite(margins.sum(axis=1))
    found = np.zeros(len(margins))
    found[known] = (1 - _share_below(np.abs(margins[known].mean(axis=1)))) ** 3
    if margins.shape[1] > 1:
        found[known] += _share_below(margins[known].std(axis=1)) ** 3
    return found


def adversity(margins: np.ndarray, excess: np.ndarray) -> np.ndarray:
    """How much more of what monitors count a pair's preferred side has, margins [P, K], excess [P, F] → [P].

    w = max(0, Σ_f sign(m̄)·e_f/rms(e_f))

    m̄ is the mean margin of the first side over the second, e_f how much more of feature f, the bad way round, the first
    side has; what is rare weighs more than what most pairs differ in. The margin's size is left aside: mistakes that
    the reward model is sure of are what the uncertain slice cannot find. What was not scored (NaN) weighs nothing.
    """
    known = np.isfinite(margins.sum(axis=1))
    preferred = np.sign(np.where(known, margins.mean(axis=1), 0.0))
    size = np.sqrt(np.mean(excess**2, axis=0))
    return np.maximum(0.0, preferred * (excess / np.where(size > 0, size, 1.0)).sum(axis=1))


def _share_below(values: np.ndarray) -> np.ndarray:
    """For each value the share of the others below it, ties half."""
    return (rankdata(values) - 0.5) / len(values)


# ---- inclusion probabilities


def inclusion(
    prompts: np.ndarray, weights: Mapping[Focus, np.ndarray], wanted: Selection, eligible: np.ndarray | None = None
) -> dict[Name, np.ndarray]:
    """The probability with which each slice chooses each question, [N] a slice.

    `prompts [N]` numbers each question's prompt, `weights` says what draws a focused slice. The random slice is uniform
    over the `eligible [N]` questions, all unless given. What the cap keeps one slice from placing goes to the next,
    from random to adversarial to uncertain and back to random; what is left then cannot be asked.
    """
    count = min(wanted.count, len(prompts))
    whole = wanted.random + wanted.uncertain + wanted.adversarial
    uniform = np.ones(len(prompts)) if eligible is None else eligible.astype(float)
    total = _even(count * wanted.random / whole, uniform, np.zeros(len(prompts)), prompts, wanted.per_prompt)
    found = {"random": total, "adversarial": np.zeros_like(total), "uncertain": np.zeros_like(total)}
    shares: tuple[tuple[Focus, float], ...] = (("adversarial", wanted.adversarial), ("uncertain", wanted.uncertain))
    carried = count * wanted.random / whole - total.sum()
    for name, share in shares:
        goal = carried + count * share / whole
        if name in weights:
            found[name] = _filled(goal, weights[name], np.maximum(0.0, 1 - total), prompts, wanted.per_prompt)
            total = total + found[name]
        carried = goal - found[name].sum()
    more = _even(count - total.sum(), uniform, total, prompts, wanted.per_prompt)
    return {"random": found["random"] + more, "uncertain": found["uncertain"], "adversarial": found["adversarial"]}


def _even(goal: float, eligible: np.ndarray, total: np.ndarray, prompts: np.ndarray, per_prompt: int) -> np.ndarray:
    """The same for every eligible question, `goal` together, or as much as question and prompt leave room for."""
    if goal <= 0 or not eligible.any():
        return np.zeros_like(total)
    rooms = per_prompt - np.bincount(prompts, total)
    counts = np.bincount(prompts, eligible)
    most = min((1 - total)[eligible > 0].min(), (rooms[counts > 0] / counts[counts > 0]).min())
    return eligible * max(0.0, min(goal / eligible.sum(), most))


def _filled(goal: float, weights: np.ndarray, room: np.ndarray, prompts: np.ndarray, per_prompt: int) -> np.ndarray:
    """In proportion to the weights, `goal` together, or as much as question and prompt leave room for.

    x_i = min(room_i, t·w_i), those of a prompt scaled down to the prompt's room; t by bisection.
    """
    rooms = np.maximum(0.0, per_prompt - np.bincount(prompts, 1 - room))  # sums are rounded

    def placed(scale: float) -> np.ndarray:
        found = np.minimum(room, scale * weights)
        sums = np.bincount(prompts, found)
        fit = np.minimum(1.0, np.divide(rooms, sums, out=np.ones_like(sums), where=sums > 0))
        return found * fit[prompts]

    if goal <= 0 or not (weights > 0).any():
        return np.zeros_like(room)
    weights = np.where(weights >= LEAST * weights.max(), weights / weights.max(), 0.0)
    low, high = 0.0, 1 / LEAST  # from there on, nothing more can be placed
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if placed(middle).sum() < goal else (low, middle)
    return placed(high)


# ---- the draw


def choose(
    prompts: Sequence[int],
    weights: Mapping[Focus, np.ndarray],
    wanted: Selection,
    *,
    seed: int,
    eligible: np.ndarray | None = None,
) -> list[Choice]:
    """Questions to ask, in a random order; `prompts` numbers each question's prompt, the rest is as in `inclusion`.

    Count and cap hold in every draw, and slices have their shares on average over draws.
    """
    if not prompts:
        return []
    numbers = np.unique(np.asarray(prompts), return_inverse=True)[1]
    parts = inclusion(numbers, weights, wanted, eligible)
    total = np.rint(np.minimum(sum(parts.values()), 1) * TICKS) / TICKS
    random = np.random.Generator(np.random.Philox(key=derive(seed, "selection")))
    order = np.lexsort((random.random(len(numbers)), random.permutation(numbers.max() + 1)[numbers]))
    left = order[_drawn(total[order], random)]
    found: list[Choice] = []
    rest = total
    for name in SLICES[::-1]:
        part = parts[name]
        hit = _drawn((part[left] / rest[left]).clip(0, 1), random) | (name == SLICES[0])
        found += [Choice(int(place), name, float(total[place])) for place in left[hit]]
        left, rest = left[~hit], rest - part
    return [found[place] for place in random.permutation(len(found)).tolist()]


def _drawn(probabilities: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Which of several are drawn, each with its probability and about their sum together: systematic sampling."""
    ticks = np.rint(probabilities * TICKS).astype(np.int64)
    ends = ticks.cumsum() + random.integers(TICKS)
    return ends // TICKS > (ends - ticks) // TICKS
