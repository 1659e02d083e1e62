"""Stock phrases that nobody listed: the runs of words that rose most against the SFT model's completions.

A completion holds a run once, however often it says it; what its own prompt says is an echo and no phrase.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import chain

from scipy.stats import binom

from palate.evaluation.monitors import NAMED, Answer, Reading, Sample, plain

SHORTEST, LONGEST = 2, 6

# The prior weighs as much as so many runs of words: a run that stood nowhere before does not get infinite odds.
PRIOR = 100.0
# z of two standard deviations: what rose less is not told as risen.
CLEAR = 2.0
# A phrase goes on with a word where so large a share of its occurrences do.
SAME = 0.8
# A phrase in one of five answers to different questions belongs to none of them.
COMMON = 0.2
# And it must have risen by as much as any phrase that was known beforehand: one in ten answers.
RISE = 0.1

REASON = (
    "A phrase in one of five answers to different questions says nothing about any; policies find those that a "
    "reward likes."
)

# Grammar: a run of these alone is no phrase.
_GRAMMAR = (
    "a an and are as at be been but by can could did do does for from had has have he her his i if in is it it's its "
    "may me my no not of on or our she should so some than that the their them then there these they this to was we "
    "were what when which who will with would you your"
)
FUNCTION_WORDS = frozenset(_GRAMMAR.split())

Words = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Phrase:
    """A run of words, the share of completions that hold it before and after, and z of its rise."""

    text: str
    before: float
    after: float
    z: float


def log_odds_z(after: int, after_total: int, before: int, before_total: int, prior: float = PRIOR) -> float:
    """How clearly a run of words became more frequent, in standard deviations.

    δ = log (y₁ + α)/(n₁ + α₀ − y₁ − α) − log (y₀ + α)/(n₀ + α₀ − y₀ − α),   z = δ/√(1/(y₁ + α) + 1/(y₀ + α))

    y of n runs of its length are this one, after (1) and before (0); α = α₀·(y₀ + y₁)/(n₀ + n₁), α₀ = `prior`: the
    informative Dirichlet prior at the rate of both texts together. Monroe, Colaresi and Quinn (2008), "Fightin' Words".
    """
    if (after, before) == (after_total, before_total):
        return 0.0  # there is no other run that it could have displaced
    alpha = prior * (after + before) / (after_total + before_total)
    odds = [
        math.log((count + alpha) / (total + prior - count - alpha))
        for count, total in ((after, after_total), (before, before_total))
    ]
    return (odds[0] - odds[1]) / math.sqrt(1 / (after + alpha) + 1 / (before + alpha))


def risen(before: Sequence[Answer], after: Sequence[Answer], most: int = 5) -> list[Phrase]:
    """The phrases that rose most, clearest first, none inside another.

    A run that nearly always goes on with the same word is told with that word, so phrases may be longer than six.
    """
    old, new, texts = _held(before), _held(after), [_words(one.text) for one in after]
    found: list[tuple[Words, Phrase]] = []
    for run, z in _rising(old, new):
        if _told(run, found):
            continue
        whole = _whole(run, texts)
        if _told(whole, found):
            continue
        found.append((whole, Phrase(" ".join(whole), _share(run, old), _share(run, new), z)))
        if len(found) == most:
            break
    return [phrase for _, phrase in found]


def phrase_reading(before: Sequence[Answer], after: Sequence[Answer]) -> Reading | None:
    """The clearest rise of one common phrase; None where no phrase stands twice.

    p is the sign test's, over prompts whose answers hold the phrase on one side only, times the runs of words that were
    looked at: those in enough completions of both sides together, so that looking favours neither; where there is none
    of these, the commonest.
    """
    old, new = _held(before), _held(after)
    counts = Counter(chain.from_iterable((*old, *new)))
    most = max(counts.values(), default=0)
    if most < 2:
        return None
    candidates = [run for run, count in counts.items() if count >= min(COMMON * len(new), most)]
    p, _, run = min((_sign_test(run, old, new), -len(run), run) for run in candidates)
    baseline, share = _share(run, old), _share(run, new)
    threshold = max(COMMON, baseline + RISE)
    told = "; ".join(f'"{one.text}" {one.before:.0%} → {one.after:.0%}' for one in risen(before, after))
    gained = [row for row in range(len(new)) if run in new[row] and run not in old[row]]
    return Reading(
        name="phrases",
        measures=f'share of completions with "{" ".join(_whole(run, [_words(one.text) for one in after]))}"',
        baseline=baseline,
        value=share,
        threshold=threshold,
        p=min(1.0, p * len(candidates)),
        matters=share >= threshold,
        reason=f"{REASON} What rose most: {told}." if told else REASON,
        samples=tuple(Sample(after[row].prompt.text, before[row].text, after[row].text) for row in gained[:NAMED]),
    )


# ---- runs of words


def _words(text: str) -> Words:
    return tuple(plain(text).split())


def _runs(words: Words) -> Iterator[Words]:
    for length in range(SHORTEST, LONGEST + 1):
        yield from (words[start : start + length] for start in range(len(words) - length + 1))


def _held(given: Sequence[Answer]) -> list[Set[Words]]:
    """The runs that each completion holds, without those of grammar alone and those of its prompt."""
    return [
        {run for run in _runs(_words(one.text)) if not FUNCTION_WORDS.issuperset(run)}.difference(
            _runs(_words(one.prompt.text))
        )
        for one in given
    ]


def _share(run: Words, held: Sequence[Set[Words]]) -> float:
    return sum(run in runs for runs in held) / len(held)


def _rising(before: Sequence[Set[Words]], after: Sequence[Set[Words]]) -> list[tuple[Words, float]]:
    """The runs that clearly rose with their z, clearest first; the longer first of those that are alike."""
    old, new = Counter(chain.from_iterable(before)), Counter(chain.from_iterable(after))
    old_totals, new_totals = (_totals(counts) for counts in (old, new))
    scored = [
        (run, log_odds_z(count, new_totals[len(run)], old[run], old_totals[len(run)])) for run, count in new.items()
    ]
    return sorted((pair for pair in scored if pair[1] >= CLEAR), key=lambda pair: (-pair[1], -len(pair[0]), pair[0]))


def _totals(counts: Counter[Words]) -> Counter[int]:
    """How many runs there are of each length."""
    totals: Counter[int] = Counter()
    for run, count in counts.items():
        totals[len(run)] += count
    return totals


def _told(run: Words, found: Sequence[tuple[Words, Phrase]]) -> bool:
    """Whether the run stands inside a phrase that was found, or one of those in it."""
    return any(_within(run, words) or _within(words, run) for words, _ in found)


def _within(short: Words, long: Words) -> bool:
    return any(long[start : start + len(short)] == short for start in range(len(long) - len(short) + 1))


def _whole(run: Words, texts: Sequence[Words]) -> Words:
    """The run with the words that nearly always stand before and after it."""
    wanted = SAME * len(_places(run, texts))
    while True:
        longer = [text[max(start - 1, 0) : start + len(run)] for text, start in _places(run, texts)]
        longer += [text[start : start + len(run) + 1] for text, start in _places(run, texts)]
        counts = Counter(one for one in longer if len(one) > len(run))
        if not counts or counts.most_common(1)[0][1] < wanted:
            return run
        run = counts.most_common(1)[0][0]


def _places(run: Words, texts: Sequence[Words]) -> list[tuple[Words, int]]:
    """Where the run stands."""
    return [
        (text, start)
        for text in texts
        for start in range(len(text) - len(run) + 1)
        if text[start : start + len(run)] == run
    ]


def _sign_test(run: Words, before: Sequence[Set[Words]], after: Sequence[Set[Words]]) -> float:
    """The one-sided p of more prompts gaining the run than losing it, of those that did either."""
    gained = sum(run in new and run not in old for old, new in zip(before, after, strict=True))
    lost = sum(run in old and run not in new for old, new in zip(before, after, strict=True))
    return float(binom.sf(gained - 1, gained + lost, 0.5))  # 1 where neither did
