"""From stored votes to the pairs that a reward model learns from, and to the file that it reads them from.

What comes out depends on items and judgements alone, not on when they came: items in the order they were stored, the
judgements of one in that of their raters, of each rater the newest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import cycle
from typing import Any

from palate.collect.judgements import Answer, Item, Judgement, Preference, Thumb
from palate.collect.store import Event
from palate.collect.votes import answered, uncontrolled
from palate.engine.files import encode_json
from palate.records import Message, PreferencePair, Prompt

# Why votes make no pair: ties, answers that are no preference, checks of the raters, completions without text, and
# thumbs with nothing of the same prompt to be compared with.
UNUSED = ("ties", "other", "checks", "empty", "thumbs_unused")

# What the slice of a pair is called that was there before anybody was asked.
DATA = "data"


@dataclass(frozen=True, slots=True)
class Found:
    """The pairs that votes make, and counts of what became of the votes that make none."""

    pairs: tuple[PreferencePair, ...]
    counts: dict[str, int]


def standing(events: Sequence[Event], last: int) -> list[Judgement]:
    """The judgements that stood when event `last` was the newest."""
    past = [event for event in events if event.seq <= last]
    gone = {event.id.partition(":")[2] for event in past if event.kind == "retraction"}
    said = [Judgement.from_json(event.body) for event in past if event.kind == "judgement"]
    return [judgement for judgement in said if judgement.id not in gone]


def pairs_of(items: Sequence[Item], judgements: Iterable[Judgement]) -> Found:
    """The pairs that the votes make, each with its round, slice, rater and votes among the fields of its prompt.

    A preference is a pair, whatever its degree; a tie, a skip and what only checks the raters (hidden gold, hidden
    repetitions) are none. Thumbs make pairs where completions of one prompt have been judged differently.
    """
    pairs: list[PreferencePair] = []
    thumbs: list[tuple[Item, Judgement]] = []
    counts: dict[str, int] = dict.fromkeys(UNUSED, 0)
    asked = {item.id: item for item in uncontrolled(items)}
    said = answered(items, judgements)
    counts["checks"] = sum(len(votes) for name, votes in said.items() if name not in asked)
    for name, item in asked.items():
        for _, vote in sorted(said[name].items()):
            if isinstance(vote.answer, Thumb):
                thumbs.append((item, vote))
            elif (reason := _unused(item, vote.answer)) is not None:
                counts[reason] += 1
            elif isinstance(vote.answer, Preference):
                pairs.append(_preferred(item, vote, vote.answer))
    made, counts["thumbs_unused"] = _of_thumbs(thumbs)
    return Found((*pairs, *made), counts)


def _unused(item: Item, answer: Answer) -> str | None:
    """Why an answer makes no pair, None where it makes one."""
    if not isinstance(answer, Preference):
        return "other"
    if answer.degree == 0:
        return "ties"
    # Files of pairs hold replies with text.
    return None if all(candidate.text.strip() for candidate in item.candidates) else "empty"


def _preferred(item: Item, vote: Judgement, answer: Preference) -> PreferencePair:
    first, second = (one.text for one in item.candidates)
    chosen, rejected = (second, first) if answer.degree > 0 else (first, second)
    return PreferencePair(_told(item, [vote]), chosen, rejected)


def _told(item: Item, votes: Sequence[Judgement]) -> Prompt:
    """The item's prompt with what is known of the votes among its fields."""
    facts = {
        "round": item.round,
        "slice": item.slice,
        "rater": " and ".join(dict.fromkeys(vote.rater for vote in votes)),
        "votes": [vote.id for vote in votes],
    }
    return Prompt(item.prompt.messages, {**item.prompt.fields, **facts})


def _of_thumbs(thumbs: Sequence[tuple[Item, Judgement]]) -> tuple[list[PreferencePair], int]:
    """Pairs of what more raters liked than not with what more did not, of one prompt, so that each stands in one at
    least; and how many thumbs that leaves."""
    prompts: dict[tuple[Message, ...], dict[str, list[tuple[Item, Judgement]]]] = {}
    for item, vote in thumbs:
        prompts.setdefault(item.prompt.messages, {}).setdefault(item.candidates[0].text, []).append((item, vote))
    pairs: list[PreferencePair] = []
    used: set[str] = set()
    for completions in prompts.values():
        liked, disliked = ([text for text, votes in completions.items() if sign * _net(votes) > 0] for sign in (1, -1))
        if not liked or not disliked:
            continue
        longer = max(len(liked), len(disliked))
        for chosen, rejected, _ in zip(cycle(liked), cycle(disliked), range(longer), strict=False):
            said = [*completions[chosen], *completions[rejected]]
            item = max((item for item, _ in said), key=lambda item: item.round)
            votes = [vote for _, vote in said]
            pairs.append(PreferencePair(_told(item, votes), chosen, rejected))
            used |= {vote.id for vote in votes}
    return pairs, len(thumbs) - len(used)


def _net(votes: Sequence[tuple[Item, Judgement]]) -> int:
    """Thumbs up less thumbs down."""
    return sum(1 if isinstance(vote.answer, Thumb) and vote.answer.up else -1 for _, vote in votes)


def of_data(pair: PreferencePair) -> PreferencePair:
    """A pair of the first round's own data, marked as such."""
    return replace(pair, prompt=replace(pair.prompt, fields={**pair.prompt.fields, "round": 1, "slice": DATA}))


def round_of(pair: PreferencePair) -> int:
    """The round that a pair came from."""
    return pair.prompt.fields["round"]


def written(pairs: Sequence[PreferencePair]) -> str:
    """The pairs as JSON lines that Palate and TRL read: as texts where every prompt is one user turn, else as turns."""
    plain = all([message.role for message in pair.prompt.messages] == ["user"] for pair in pairs)
    return "".join(f"{encode_json(_row(pair, plain))}\n" for pair in pairs)


def _row(pair: PreferencePair, plain: bool) -> dict[str, Any]:
    """One row; the facts that Palate adds stand in columns of their own, those of the prompt beside them."""
    messages = [asdict(message) for message in pair.prompt.messages]

    def side(text: str) -> Any:
        return text if plain else [{"role": "assistant", "content": text}]

    judged = {
        "prompt": pair.prompt.messages[0].content if plain else messages,
        "chosen": side(pair.chosen),
        "rejected": side(pair.rejected),
        "weight": pair.weight,
        **({} if pair.margin is None else {"margin": pair.margin}),
    }
    # A column of the prompt's own that is called margin would be read as the pair's.
    return {**judged, **{name: value for name, value in pair.prompt.fields.items() if name not in {*judged, "margin"}}}
