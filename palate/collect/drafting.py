"""A model adds to a design: rules, tags, worked pairs, cases and prompts, each checked, and marked as a model's draft.

What it writes is a draft for a person to correct. It is never asked for gold, whose answers must be beyond dispute, nor
for counts, which follow from formulas. A part that cannot be used after two tries is left out, and that is said.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from palate.collect.design import Asked, Behaviour, Case, Example, Principle, Tag, conversation
from palate.collect.replies import objects, spoken
from palate.records import Message

# What answers a question in JSON of a shape.
Ask = Callable[[Sequence[Mapping[str, str]], Mapping[str, Any]], str]

TRIES = 2
DRAFTED = "drafted"

Line = Annotated[str, Field(min_length=3, max_length=400, pattern=r"^[^\n|]+$")]
Text = Annotated[str, Field(min_length=1, max_length=3000)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z-]{1,23}$")]


class _Rule(BaseModel):
    model_config = ConfigDict(extra="forbid")
    rule: Line
    detail: Line


class _Tag(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: Name
    when: Line


class _Pair(BaseModel):
    model_config = ConfigDict(extra="forbid")
    prompt: Text
    first: Text
    second: Text
    degree: Annotated[int, Field(ge=-3, le=3)]
    why: Line


class _Case(BaseModel):
    model_config = ConfigDict(extra="forbid")
    when: Line
    call: Line


class _Rules(BaseModel):
    model_config = ConfigDict(extra="forbid")
    rules: Annotated[list[_Rule], Field(min_length=2, max_length=6)]


class _Tags(BaseModel):
    model_config = ConfigDict(extra="forbid")
    tags: Annotated[list[_Tag], Field(min_length=2, max_length=6)]


class _Pairs(BaseModel):
    model_config = ConfigDict(extra="forbid")
    pairs: Annotated[list[_Pair], Field(min_length=3, max_length=8)]


class _Cases(BaseModel):
    model_config = ConfigDict(extra="forbid")
    cases: Annotated[list[_Case], Field(min_length=3, max_length=10)]


class _Prompts(BaseModel):
    model_config = ConfigDict(extra="forbid")
    prompts: Annotated[list[Text], Field(min_length=12, max_length=40)]


Shape = TypeVar("Shape", bound=BaseModel)
Named = TypeVar("Named", bound=Hashable)


@dataclass(frozen=True, slots=True)
class _Part(Generic[Shape]):
    """A part of the design: what is asked for, its shape, a check beyond the shape, and how it enters the design."""

    name: str
    wish: str
    shape: type[Shape]
    faults: Callable[[Behaviour, Shape], str]
    added: Callable[[Behaviour, Shape], Behaviour]


def drafted(behaviour: Behaviour, ask: Ask, drafter: str) -> tuple[Behaviour, list[str]]:
    """The behaviour with what a model drafted for it, and sentences on what could not be used."""
    said: list[str] = []
    for part in _PARTS:
        found, fault = _answered(part, behaviour, ask)
        if found is None:
            said.append(f"{part.name}: {drafter} gave nothing that can be used ({fault}); the design goes without it.")
            continue
        behaviour = replace(part.added(behaviour, found), drafted=(*behaviour.drafted, part.name), drafter=drafter)
    return behaviour, said


def _answered(part: _Part[Any], behaviour: Behaviour, ask: Ask) -> tuple[Any, str]:
    """What the model gives for a part, or None and what is wrong with it."""
    messages = [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": _question(part, behaviour)}]
    fault = ""
    for _ in range(TRIES):
        text = ask(messages, _schema(part))
        try:
            found = part.shape.model_validate(_given(text))
            fault = part.faults(behaviour, found)
        except (ValidationError, ValueError) as error:
            found, fault = None, _first_line(error)
        if found is not None and not fault:
            return found, ""
        messages += [
            {"role": "assistant", "content": text},
            {"role": "user", "content": f"That cannot be used: {fault}. Give the whole JSON object again, corrected."},
        ]
    return None, fault


_SYSTEM = (
    "You help the lead of an annotation team to write guidelines for comparing answers of a language model. Write "
    "short plain sentences. Name what can be seen in a text; no praise, no filler. Answer with one JSON object of the "
    "given shape and nothing else."
)


def _question(part: _Part[Any], behaviour: Behaviour) -> str:
    rules = "\n".join(f"{place}. {one.rule} {one.detail}" for place, one in enumerate(behaviour.principles, start=1))
    tags = ", ".join(tag.name for tag in behaviour.tags)
    return (
        f"What the model is to learn: {behaviour.goal}\n\nRules that stand already:\n{rules}\n\nReason tags that stand "
        f"already: {tags}\n\n{part.wish}\n\nThe JSON object has this schema:\n{json.dumps(_schema(part))}"
    )


def _schema(part: _Part[Any]) -> dict[str, Any]:
    return part.shape.model_json_schema()


def _given(text: str) -> dict[str, Any]:
    """The last JSON object of a reply, which may stand in a fence or between sentences; ValueError for none."""
    found = [*objects(spoken(text))]
    if not found:
        raise ValueError("there is no whole JSON object in it")
    return found[-1]


def _first_line(error: ValidationError | ValueError) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or 'the object'}: {first['msg']}"


# ---- the parts


def _no_fault(behaviour: Behaviour, found: BaseModel) -> str:
    return ""


def _repeated(new: Iterable[Named], known: Iterable[Named]) -> list[Named]:
    """Those of the new that are known, or stand there twice."""
    drafted = [*new]
    seen = Counter((*drafted, *{*known}))
    return [one for one in drafted if seen[one] > 1]


def _asked(behaviour: Behaviour) -> set[tuple[Message, ...]]:
    """The prompts that the behaviour has anywhere."""
    return {one.prompt for one in (*behaviour.prompts, *behaviour.examples, *behaviour.gold)}


def _with_rules(behaviour: Behaviour, found: _Rules) -> Behaviour:
    new = tuple(Principle(one.rule, one.detail) for one in found.rules)
    return replace(behaviour, principles=behaviour.principles + new)


def _faulty_tags(behaviour: Behaviour, found: _Tags) -> str:
    twice = _repeated((one.name for one in found.tags), (tag.name for tag in behaviour.tags))
    return f"the tag {twice[0]} is there already" if twice else ""


def _with_tags(behaviour: Behaviour, found: _Tags) -> Behaviour:
    return replace(behaviour, tags=behaviour.tags + tuple(Tag(one.name, one.when) for one in found.tags))


def _faulty_pairs(behaviour: Behaviour, found: _Pairs) -> str:
    if any(one.first.strip() == one.second.strip() for one in found.pairs):
        return "the two answers of a pair are the same"
    degrees = [one.degree for one in found.pairs]
    if not min(degrees) < 0 < max(degrees):
        return "the same answer is better in all pairs; mix them"
    twice = _repeated((conversation(one.prompt) for one in found.pairs), _asked(behaviour))
    return "a pair has the prompt of one that is there already" if twice else ""


def _with_pairs(behaviour: Behaviour, found: _Pairs) -> Behaviour:
    new = tuple(Example(conversation(one.prompt), one.first, one.second, one.why, one.degree) for one in found.pairs)
    return replace(behaviour, examples=behaviour.examples + new)


def _with_cases(behaviour: Behaviour, found: _Cases) -> Behaviour:
    return replace(behaviour, cases=behaviour.cases + tuple(Case(one.when, one.call) for one in found.cases))


def _faulty_prompts(behaviour: Behaviour, found: _Prompts) -> str:
    twice = _repeated((conversation(text.strip()) for text in found.prompts), _asked(behaviour))
    return "a prompt stands there twice, or is there already" if twice else ""


def _with_prompts(behaviour: Behaviour, found: _Prompts) -> Behaviour:
    new = tuple(Asked(conversation(text.strip()), DRAFTED) for text in found.prompts)
    return replace(behaviour, prompts=behaviour.prompts + new)


_PARTS: tuple[_Part[Any], ...] = (
    _Part(
        "rules",
        "Write two to six further rules that tell a better answer from a worse one for just this behaviour: a short "
        "rule, and in its detail what is seen in a better answer and what in a worse one. Repeat nothing that stands "
        "already.",
        _Rules,
        _no_fault,
        _with_rules,
    ),
    _Part(
        "tags",
        "Write two to six further reason tags: a name in lower case with dashes, and when it fits the worse answer.",
        _Tags,
        _faulty_tags,
        _with_tags,
    ),
    _Part(
        "examples",
        "Write three to eight worked pairs: a prompt as a real user would write it, a first and a second answer that "
        "both could come from a model, and the call: a degree from -3 (the first is much better) to 3 (the second "
        "is), 0 for a tie, with the reason in one sentence. Let the first be better in some and the second in others; "
        "make at least two of them hard.",
        _Pairs,
        _faulty_pairs,
        _with_pairs,
    ),
    _Part(
        "cases",
        "Write three to ten doubtful cases that annotators will meet, each with the call.",
        _Cases,
        _no_fault,
        _with_cases,
    ),
    _Part(
        "prompts",
        "Write twelve to forty prompts as different real users would write them, of different length, level and mood, "
        "on which the behaviour can be seen.",
        _Prompts,
        _faulty_prompts,
        _with_prompts,
    ),
)
