"""What a labelling team needs to teach a behaviour, as records: rules, tags, worked pairs, gold, prompts, criteria.

Behaviours that have a name stand in `behaviours/NAME.toml`; `palate.collect.sentence` makes one of an owner's own
sentence, `palate.collect.drafting` has a model add to it, `palate.collect.guidance` writes the folder.
"""

from __future__ import annotations

import math
import random
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palate.collect import sizes
from palate.records import Message

BEHAVIOURS = Path(__file__).parent / "behaviours"

# The share of every kind of prompts that is held out.
HELD_OUT = 1 / 3


@dataclass(frozen=True, slots=True)
class Principle:
    """A rule of judging, and what it means in practice."""

    rule: str
    detail: str


@dataclass(frozen=True, slots=True)
class Tag:
    """A reason to choose from, and when it fits."""

    name: str
    when: str


@dataclass(frozen=True, slots=True)
class Case:
    """Something that happens, and what is said then."""

    when: str
    call: str


@dataclass(frozen=True, slots=True)
class Example:
    """A pair with the right call, −3 to 3 as in a preference, and the reason; `hard` where people were divided."""

    prompt: tuple[Message, ...]
    first: str
    second: str
    why: str
    degree: int = 0
    both_bad: bool = False
    tags: tuple[str, ...] = ()
    hard: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt and the kind of prompts that it belongs to."""

    prompt: tuple[Message, ...]
    kind: str


@dataclass(frozen=True, slots=True)
class Criterion:
    """What is measured of the model, how, and when that is good enough."""

    name: str
    measure: str
    target: str


@dataclass(frozen=True, slots=True)
class Behaviour:
    """A behaviour, with all that is needed to collect preferences for it.

    `pace` (seconds a pair) and `agreement` are first guesses, to be measured in the pilot. `failure` is what must not
    happen. Nobody judges longer than `day_hours` a day, with a break every `rest`; an answer has up to `tokens` tokens.
    `note` says how a sentence was read, `gaps` what its owner has to fill in; `drafted` names the parts that a model
    wrote, and `drafter` that model.
    """

    name: str
    title: str
    goal: str
    question: str
    failure: str
    pace: float
    agreement: float
    annotators: tuple[str, ...]
    training: tuple[str, ...]
    care: tuple[str, ...]
    pilot: tuple[str, ...]
    in_scope: tuple[str, ...]
    out_of_scope: tuple[str, ...]
    principles: tuple[Principle, ...]
    tags: tuple[Tag, ...]
    examples: tuple[Example, ...]
    cases: tuple[Case, ...]
    gold: tuple[Example, ...]
    prompts: tuple[Asked, ...]
    criteria: tuple[Criterion, ...]
    day_hours: float = 4.0
    rest: str = "hour"
    tokens: int = 256
    note: str = ""
    gaps: tuple[str, ...] = ()
    drafted: tuple[str, ...] = ()
    drafter: str = ""


def known_behaviours() -> list[str]:
    """The names of the behaviours that need no sentence."""
    return sorted(path.stem for path in BEHAVIOURS.glob("*.toml"))


def named_behaviour(name: str) -> Behaviour:
    """The behaviour of that name."""
    table = table_of(f"{name}.toml")
    made = {
        "principles": tuple(Principle(**one) for one in table.pop("principles")),
        "tags": tuple(Tag(**one) for one in table.pop("tags")),
        "cases": tuple(Case(**one) for one in table.pop("cases")),
        "criteria": tuple(Criterion(**one) for one in table.pop("criteria")),
        "examples": tuple(map(example_of, table.pop("examples"))),
        "gold": tuple(map(example_of, table.pop("gold"))),
        "prompts": tuple(
            Asked(conversation(text), group["kind"]) for group in table.pop("prompts") for text in group["texts"]
        ),
    }
    return Behaviour(
        **{name: tuple(value) if isinstance(value, list) else value for name, value in table.items()}, **made
    )


def table_of(file: str) -> dict[str, Any]:
    """A file of `behaviours/` as tables."""
    return tomllib.loads((BEHAVIOURS / file).read_text(encoding="utf-8"))


def example_of(table: Mapping[str, Any]) -> Example:
    """A worked pair from its table."""
    given = {"prompt": conversation(table["prompt"]), "tags": tuple(table.get("tags", ()))}
    return Example(**{**table, **given})


def conversation(given: str | Sequence[str]) -> tuple[Message, ...]:
    """A prompt of one turn, or of several that user and assistant say by turns, the user first and last."""
    turns = [given] if isinstance(given, str) else given
    return tuple(Message("assistant" if place % 2 else "user", text) for place, text in enumerate(turns))


def divided(prompts: Sequence[Asked], seed: str) -> tuple[list[Asked], list[Asked]]:
    """Prompts to collect on, and a random third of every kind to hold out; the same for the same seed."""
    held: set[int] = set()
    for kind in dict.fromkeys(one.kind for one in prompts):
        places = [place for place, one in enumerate(prompts) if one.kind == kind]
        held |= set(random.Random(f"{seed}:{kind}").sample(places, round(len(places) * HELD_OUT)))
    return [one for place, one in enumerate(prompts) if place not in held], [prompts[place] for place in sorted(held)]


# ---- how much of it


# The share of ties that a comparison of two models is planned with, and the difference that it is to find.
TIES = 0.2
DIFFERENCE = 0.1
# How closely accuracy on the random slice, and κ, are to be known.
ACCURACY_WITHIN, KAPPA_WITHIN = 0.04, 0.1
# Two who toss coins agree on half of the pairs.
CHANCE = 0.5
# How well a single annotator is to be known: gold near .9 and repeats near .85, to ± .1.
GOLD_NEAR, REPEATS_NEAR, PERSON_WITHIN = 0.9, 0.85, 0.1
# No formula gives this; the learning curve says when it is enough.
TRAINING_PAIRS = 2000
PILOT_PAIRS = 50
TRAINING_HOURS = 8.0
MEETING_HOURS = 4.0
# Breaks and questions, on top of judging.
OVERHEAD = 1.25


@dataclass(frozen=True, slots=True)
class Work:
    """A part of the work: so many votes, in all."""

    what: str
    votes: int


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is judged by how many people at which pace; every count is derived in `palate.collect.sizes`."""

    people: int
    pace: float
    day_hours: float
    gold: int
    mark: int
    test: int
    overlap: int
    train: int
    comparison: int
    gold_each: int
    repeats_each: int
    works: tuple[Work, ...]

    @property
    def pairs(self) -> int:
        """Pairs that the run asks about: those to learn from and those to test on."""
        return self.train + self.test

    @property
    def prompts(self) -> int:
        """Prompts that the run asks about: one a pair to test on, as those are to be independent, else one for two."""
        return self.test + -(-self.train // 2)

    @property
    def repeat_share(self) -> float:
        """The share of a person's pairs that come again, so that all of a person's repeats do; in whole percent."""
        each = PILOT_PAIRS + (2 * self.overlap + self.pairs) / self.people
        return min(math.ceil(100 * self.repeats_each / each) / 100, 1.0)

    @property
    def votes(self) -> int:
        """All votes."""
        return sum(work.votes for work in self.works)

    @property
    def hours(self) -> float:
        """Paid hours of all annotators together: judging with its breaks, training and meetings."""
        return self.votes * self.pace / 3600 * OVERHEAD + self.people * (TRAINING_HOURS + MEETING_HOURS)

    @property
    def days(self) -> float:
        """Working days until the last vote, the model's own time not counted."""
        return 2 + self.votes * self.pace / 3600 / (self.day_hours * self.people)


def plan_of(behaviour: Behaviour, people: int, pace: float | None = None) -> Plan:
    """The plan for a behaviour; `pace` in seconds a vote, as measured, in place of the first guess."""
    test = sizes.share_items(behaviour.agreement, ACCURACY_WITHIN)
    overlap = sizes.kappa_items(behaviour.agreement, CHANCE, KAPPA_WITHIN)
    gold_each = sizes.share_items(GOLD_NEAR, PERSON_WITHIN)
    repeats_each = sizes.share_items(REPEATS_NEAR, PERSON_WITHIN)
    comparison = sizes.win_rate_votes(DIFFERENCE, TIES)
    return Plan(
        people=people,
        pace=behaviour.pace if pace is None else pace,
        day_hours=behaviour.day_hours,
        gold=len(behaviour.gold),
        mark=sizes.pass_mark(len(behaviour.gold)),
        test=test,
        overlap=overlap,
        train=TRAINING_PAIRS,
        comparison=comparison,
        gold_each=gold_each,
        repeats_each=repeats_each,
        works=(
            Work(f"pilot, {PILOT_PAIRS} pairs by everyone", PILOT_PAIRS * people),
            Work(f"agreement set, {overlap:,} pairs by two", 2 * overlap),
            Work(f"random slice, {test:,} pairs", test),
            Work("training pairs, first instalment", TRAINING_PAIRS),
            Work(f"hidden gold, {gold_each} a person", gold_each * people),
            Work(f"repeats, {repeats_each} a person", repeats_each * people),
            Work("final blind comparison", comparison),
        ),
    )
