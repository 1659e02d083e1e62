"""What records of one kind say as records of another: pairs as feedback, rankings as pairs, and so on.

Nothing is made up. A kind that would need to know more than the file says (a threshold that turns scores into
labels, a reply that nobody compared) is not offered.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Literal

from palate.data.rows import Kind, Record, RowError
from palate.records import Demonstration, Feedback, Message, PreferencePair, Prompt, Ranking, Rating

Rejected = Literal["random", "worst"]

# What a kind serves as, and what is taken for it, as people are told.
SERVES: Mapping[Kind, Mapping[Kind, str]] = {
    "pairs": {
        "demonstrations": "the chosen replies",
        "feedback": "chosen replies desirable, rejected ones not",
        "rankings": "two replies each",
        "prompts": "those of all rows",
    },
    "rankings": {
        "pairs": "the best reply against {rejected} other one",
        "demonstrations": "the best replies",
        "feedback": "the best reply desirable, {rejected} other one not",
        "prompts": "those of all rows",
    },
    "demonstrations": {"prompts": "those of all rows"},
    "feedback": {"prompts": "those of all rows"},
    "ratings": {"prompts": "those of all rows"},
    "prompts": {},
}


def converted(found: Sequence[Record], kind: Kind, rejected: Rejected) -> list[Record]:
    """One row's records as `kind`, a key of `SERVES` of their own; none where the row prefers nothing.

    A row prefers nothing where its replies are equal, and, once two are wanted, where all of them tie. The pair
    of a ranking is its best reply, the first of those that tie, against the worst or a random other one. RowError for a
    pair whose weight the kind has no place for.
    """
    last = found[-1]
    if isinstance(last, PreferencePair | Ranking):
        return [] if _all_equal(last) else _compared(last, kind, rejected)
    return [prompt_of(last)] if kind == "prompts" else list(found)


def prompt_of(record: Record) -> Prompt:
    """The prompt of any record."""
    return record if isinstance(record, Prompt) else record.prompt


def _all_equal(record: PreferencePair | Ranking) -> bool:
    if isinstance(record, PreferencePair):
        return record.chosen == record.rejected
    return len(set(record.completions)) == 1


def _compared(record: PreferencePair | Ranking, kind: Kind, rejected: Rejected) -> list[Record]:
    if kind == "prompts":
        return [record.prompt]
    if kind in ("rankings", "feedback") and isinstance(record, PreferencePair):
        _must_weigh_one(record, kind)
    if kind == "rankings":
        return [record if isinstance(record, Ranking) else _two_ranked(record)]
    pair = best_pair(record, rejected) if isinstance(record, Ranking) else record
    if pair is None:
        return []
    if kind == "demonstrations":
        return [Demonstration(pair.prompt, pair.chosen)]
    if kind == "feedback":
        return [Feedback(pair.prompt, pair.chosen, True), Feedback(pair.prompt, pair.rejected, False)]
    return [pair]


def _must_weigh_one(pair: PreferencePair, kind: Kind) -> None:
    """Raises RowError for a weight that would be lost: rankings and single judgements count alike."""
    if pair.weight != 1:
        raise RowError(
            f"'weight' is {pair.weight:g}, and pairs are read as {kind} here, of which each counts alike. Remove the "
            "column, or learn from pairs (of direct methods: dpo, ipo, hinge, simpo, orpo)."
        )


def ranked(ratings: Sequence[Rating], attributes: Sequence[str]) -> list[Ranking]:
    """One ranking for each prompt with several rated replies, by the mean over `attributes`; replies that lack one of
    them are left out."""
    rated: dict[tuple[Message, ...], dict[str, tuple[Rating, float]]] = {}
    for rating in ratings:
        if all(name in rating.scores for name in attributes):
            mean = sum(rating.scores[name] for name in attributes) / len(attributes)
            rated.setdefault(rating.prompt.messages, {})[rating.completion] = rating, mean
    rankings = []
    for replies in rated.values():
        if len(replies) > 1:
            steps = sorted({mean for _, mean in replies.values()}, reverse=True)
            ranks = tuple(steps.index(mean) for _, mean in replies.values())
            rankings.append(Ranking(next(iter(replies.values()))[0].prompt, tuple(replies), ranks))
    return rankings


def _two_ranked(pair: PreferencePair) -> Ranking:
    return Ranking(pair.prompt, (pair.chosen, pair.rejected), (0, 1))


def best_pair(ranking: Ranking, rejected: Rejected) -> PreferencePair | None:
    """The first of the best replies against another, None where all tie.

    The random one is drawn by a hash of the row's texts, so that it stays the same wherever the row stands.
    """
    chosen = ranking.completions[ranking.ranks.index(0)]
    others = [
        (rank, text)
        for rank, text in zip(ranking.ranks, ranking.completions, strict=True)
        if rank > 0 and text != chosen
    ]
    if not others:
        return None
    if rejected == "worst":
        return PreferencePair(ranking.prompt, chosen, max(others, key=lambda other: other[0])[1])
    texts = json.dumps([ranking.prompt.text, ranking.completions]).encode()
    drawn = int.from_bytes(hashlib.blake2b(texts, digest_size=8).digest(), "big") % len(others)
    return PreferencePair(ranking.prompt, chosen, others[drawn][1])
