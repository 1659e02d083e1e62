"""Where preferences come from: what to ask, who answers, how far to trust it. One append-only store holds all of it."""

from palate.collect.judgements import (
    Answer,
    Candidate,
    Edited,
    Item,
    Judgement,
    Order,
    Origin,
    Preference,
    Rater,
    Scores,
    Skipped,
    Thumb,
    Written,
)
from palate.collect.store import Event, Store

__all__ = [
    "Answer",
    "Candidate",
    "Edited",
    "Event",
    "Item",
    "Judgement",
    "Order",
    "Origin",
    "Preference",
    "Rater",
    "Scores",
    "Skipped",
    "Store",
    "Thumb",
    "Written",
]
