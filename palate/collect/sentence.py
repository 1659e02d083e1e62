"""A behaviour from an owner's own sentence, without a model: what is known of it is made use of, the rest is asked for.

"answers like a patient maths tutor, without jargon" ─▶ patient · role teacher · subject mathematics · avoids jargon

Nothing is made up: a word that no table of `behaviours/parts` knows becomes a gap with its name, for the owner to fill.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from palate.collect.design import (
    Asked,
    Behaviour,
    Case,
    Criterion,
    Example,
    Principle,
    Tag,
    conversation,
    example_of,
    table_of,
)
from palate.errors import UsageError

PROMPTS = 36
PACE = 75.0
AGREEMENT = 0.65
LONGEST_SENTENCE = 300
LONGEST_NAME = 40

# What a name that was cut does not end in.
_LINKS = frozenset(
    ["a", "an", "the", "and", "or", "but", "for", "to", "in", "of", "with", "without", "like", "as", "is", "not"]
)

# What may follow "The model" as it stands, besides a verb in s.
_MODAL = frozenset(["should", "must", "will", "can", "never", "always", "only"])

Part = Mapping[str, Any]

_AVOIDED = re.compile(
    r"\b(?:without|never|avoids?|avoiding|rather than|instead of|does not|doesn't|do not|don't|not|no)\s+"
    r"(?P<what>[^,.;:]+?)(?=\s*(?:[,.;:]|\bbut\b|\band\b|\bin\b|$))",
    re.IGNORECASE,
)
_FORM = re.compile(
    r"\b(?:only |always )?in (?P<what>[^,.;:]+?)(?=\s*(?:[,.;:]|\band\b|\bbut\b|\bfor\b|\bto\b|$))", re.IGNORECASE
)
_AUDIENCE = re.compile(
    r"\b(?:for|to)\s+(?:an?\s+|the\s+|our\s+|my\s+)?(?P<what>[^,.;:]+?)(?=\s*(?:[,.;:]|\b(?:with|in|and|but|who|that)\b|$))",
    re.IGNORECASE,
)
# Said as one word, so that no part of it is taken for the reader.
_TO_THE_POINT = re.compile(r"\bto the point\b", re.IGNORECASE)
_BEGINNING = re.compile(
    r"^(?:(?:the |an? |our |my )?(?:model|assistant|bot|chatbot|ai)|it|that|which|who)\s+", re.IGNORECASE
)
# "twelve-year-olds" are no annotators, and their age is told.
_AGE = re.compile(
    r"\b(?:[5-9]|1[0-7]|five|six|seven|eight|nine|ten|eleven|twelve|\w+teen)[- ]year[- ]olds?\b", re.IGNORECASE
)
_WORD = re.compile(r"[^\W\d_]+(?:[-'’][^\W\d_]+)*")


@dataclass(frozen=True, slots=True)
class Reading:
    """What was found in a sentence: records of `behaviours/parts`, verbatim phrases, and words that nothing knows."""

    sentence: str
    qualities: tuple[Part, ...]
    role: Part | None
    subject: Part | None
    audience: Part | None
    avoided: tuple[str, ...]
    form: str
    unknown: tuple[str, ...]

    @property
    def parts(self) -> tuple[Part, ...]:
        """The records found, the role first: it decides most."""
        return (*((self.role,) if self.role else ()), *self.qualities)


def read_sentence(sentence: str) -> Reading:
    """The parts of a sentence. Raises UsageError where it is none."""
    text = " ".join(sentence.split())
    if not _WORD.search(text) or len(text) > LONGEST_SENTENCE or not text.isprintable():
        raise UsageError(
            f"The behaviour {text[:60]!r} was given. It is a name, or a sentence of at most {LONGEST_SENTENCE} "
            'printable characters on how the model should answer, such as "answers like a patient maths tutor". '
            "Write one."
        )
    text = _BEGINNING.sub("", text.rstrip(".! "))
    avoided = tuple(dict.fromkeys(found["what"].strip() for found in _AVOIDED.finditer(text)))
    rest = _TO_THE_POINT.sub("concise", _AVOIDED.sub(" , ", text))
    form = next((found["what"].strip() for found in _FORM.finditer(rest)), "")
    if any(_known("qualities", word) for word in _WORD.findall(form.lower())):
        form = ""  # "in plain words" is a manner
    else:
        rest = _FORM.sub(" , ", rest, count=1)
    addressed = _AUDIENCE.search(rest)
    rest = _AUDIENCE.sub(" , ", rest, count=1)
    words = [word.lower() for word in _WORD.findall(rest)]
    return Reading(
        sentence=text,
        qualities=tuple({part["name"]: part for word in words if (part := _known("qualities", word))}.values()),
        role=next((part for word in words if (part := _known("roles", word))), None),
        subject=next((part for word in _WORD.findall(text.lower()) if (part := _known("subjects", word))), None),
        audience=None if addressed is None else _audience(addressed["what"].strip()),
        avoided=avoided,
        form=form,
        unknown=_unknown(rest),
    )


def _unknown(text: str) -> tuple[str, ...]:
    """What no table knows, words that stand together as one."""
    phrases: list[list[str]] = [[]]
    for token in re.findall(rf"{_WORD.pattern}|[^\s\w]", text.lower()):
        if _WORD.fullmatch(token) and token not in _plain() and not any(_known(kind, token) for kind in _tables()):
            phrases[-1].append(token)
        else:
            phrases.append([])
    return tuple(dict.fromkeys(" ".join(phrase) for phrase in phrases if phrase))


def _audience(phrase: str) -> Part:
    """Who is addressed, by what is known of such readers, or by their own name."""
    needs = f"what {phrase} need that others do not; two things that can be pointed at, and what they know already"
    unknown = {
        "name": phrase,
        "better": gap(needs),
        "annotators": f"At least half of the annotators are {phrase} of age, or serve {phrase} every day.",
        "gap": f"guidelines.md, the rule on {phrase}: {needs}.",
    }
    if _AGE.search(phrase):
        children = _known("audiences", "children")
        return {**unknown, **{part: children[part] for part in ("better", "annotators")}} if children else unknown
    found = (part for word in reversed(_WORD.findall(phrase.lower())) if (part := _known("audiences", word)))
    known = next(found, None)
    return unknown if known is None else {**known, "gap": f"protocol.md, who judges: {known['gap']}."}


def own_behaviour(sentence: str) -> Behaviour:
    """The behaviour of an owner's own sentence, with the gaps that only they can fill."""
    reading = read_sentence(sentence)
    shared, subject = _shared(), reading.subject or _subject_of_nothing()
    return Behaviour(
        name=name_of(reading.sentence),
        title=f"“{_continued(reading.sentence)}”",
        goal=f"The model {_continued(reading.sentence)}. Being right and useful still comes first.",
        question="Both being right, which answer would whoever wrote this sentence rather have given?",
        failure=_failure(reading),
        pace=PACE,
        agreement=AGREEMENT,
        annotators=_annotators(reading, subject),
        training=_training(reading),
        care=(
            "User prompts may hold private details. Anyone who sees such a thing skips the item with the reason "
            "`private`, and the lead removes it that day.",
            "Anyone may skip what upsets them, with the reason `upsetting`, and is never asked why.",
        ),
        pilot=(
            "Do people agree less on the manner than on the facts? Read twenty split pairs, and write for each the "
            "words in the answers that decided for either side. Those words belong into the rules.",
        ),
        in_scope=tuple(dict.fromkeys(one.kind for one in _prompts(reading, subject))),
        out_of_scope=(
            "Requests that should be declined. Skip with `safety`.",
            "What you cannot check within three minutes. Skip with `cannot check`.",
        ),
        principles=_principles(reading, subject),
        tags=_tags(reading),
        examples=(*map(example_of, shared["examples"]), *_pairs(reading, "example")),
        cases=(
            *(
                Case(f"The answer is {part['name']} to excess.", f"It loses by 1, tag `overdone`. {part['overdone']}")
                for part in reading.qualities
            ),
            *(Case(**case) for case in shared["cases"]),
        ),
        gold=(*_pairs(reading, "gold"), *_sided(shared["attention"])),
        prompts=_prompts(reading, subject),
        criteria=_criteria(reading),
        note=_note(reading),
        gaps=_gaps(reading),
    )


def name_of(sentence: str) -> str:
    """A name for files and runs: the sentence's words with dashes between, as many whole ones as fit."""
    words = re.findall(r"[a-z0-9]+", sentence.lower())
    kept = words[:]
    while len("-".join(kept)) > LONGEST_NAME - 1 or (len(words) > len(kept) > 1 and kept[-1] in _LINKS):
        kept.pop()
    return "-".join(kept) or "behaviour"


def gap(what: str) -> str:
    """A place that waits for its owner."""
    return f"**FILL IN:** {what}"


# ---- the parts of a design


def _principles(reading: Reading, subject: Part) -> tuple[Principle, ...]:
    found = [Principle("Right and useful first.", f"No manner rescues a wrong answer. {subject['check']}")]
    if reading.role:
        found.append(
            Principle(
                f"It does what a good {reading.role['name']} does.",
                f"Better: {reading.role['better']}. Worse: {reading.role['worse']}.",
            )
        )
    found += [
        Principle(f"It is {part['name']}.", f"Better: {part['better']}. Worse: {part['worse']}.")
        for part in reading.qualities
    ]
    found += [Principle(f"{_said(word)}, as its owner means it.", gap(_marks(word))) for word in reading.unknown]
    if reading.audience:
        found.append(Principle(f"It fits {reading.audience['name']}.", f"Better: {reading.audience['better']}."))
    found += [
        Principle(
            f"It avoids: {what}.",
            f"An answer with it loses to one without by 2, other things equal. {gap(_phrases(what))}",
        )
        for what in reading.avoided
    ]
    if reading.form:
        found.append(
            Principle(
                f"It is in {reading.form}.", "An answer that is not loses by 2, however good; unless the prompt asks."
            )
        )
    return tuple(found)


def _tags(reading: Reading) -> tuple[Tag, ...]:
    found = [
        Tag("wrong", "the worse answer has an error that a user would act on"),
        Tag("missed-the-point", "the worse answer does not do what was asked"),
    ]
    if reading.role:
        found.append(Tag(f"not-as-a-{reading.role['name'].replace(' ', '-')}", reading.role["worse"]))
    found += [Tag(f"not-{part['name']}", part["worse"]) for part in reading.qualities]
    found += [Tag(f"not-{name_of(word)}", f"it lacks {_said(word)}, by the rule above") for word in reading.unknown]
    if reading.qualities or reading.unknown:
        found.append(Tag("overdone", "the manner gets in the way of the content"))
    if reading.audience:
        found.append(Tag("wrong-audience", f"not fit for {reading.audience['name']}"))
    found += [Tag(name_of(what), f"it holds what was to be avoided: {what}") for what in reading.avoided]
    if reading.form:
        found.append(Tag("wrong-form", f"not in {reading.form}"))
    return (*found, Tag("taste", "both do the job; the choice is a matter of style"))


def _pairs(reading: Reading, which: str) -> tuple[Example, ...]:
    found = _sided([part[which] for part in reading.parts])
    if which == "gold":
        return found
    tags = [_tag_of(part, reading) for part in reading.parts]
    return tuple(
        Example(one.prompt, one.first, one.second, one.why, one.degree, tags=(tag,))
        for one, tag in zip(found, tags, strict=True)
    )


def _tag_of(part: Part, reading: Reading) -> str:
    return f"not-as-a-{part['name'].replace(' ', '-')}" if part is reading.role else f"not-{part['name']}"


def _sided(pairs: Sequence[Part]) -> tuple[Example, ...]:
    """Good and bad answers as first and second by turns, so that no side is the better one."""
    return tuple(
        Example(
            conversation(pair["prompt"]),
            *((pair["good"], pair["bad"]) if place % 2 else (pair["bad"], pair["good"])),
            why=pair["why"],
            degree=-3 if place % 2 else 3,
        )
        for place, pair in enumerate(pairs)
    )


def _prompts(reading: Reading, subject: Part) -> tuple[Asked, ...]:
    """Questions of the role about the subject, each question as often and each topic as evenly as can be."""
    frames = reading.role["frames"] if reading.role else _shared()["frames"]
    topics = subject["topics"]
    kind = subject["name"]
    pairs = (
        (frames[place % len(frames)], topics[(place + place // len(frames)) % len(topics)]) for place in range(PROMPTS)
    )
    return tuple(Asked(conversation(frame.format(topic=topic)), kind) for frame, topic in dict.fromkeys(pairs))


def _annotators(reading: Reading, subject: Part) -> tuple[str, ...]:
    told = [
        part["annotators"] for part in (reading.role, subject if reading.subject else None, reading.audience) if part
    ]
    return (
        *dict.fromkeys(told),
        "Native or near-native readers of the language of the prompts; tone is lost on others.",
    )


def _training(reading: Reading) -> tuple[str, ...]:
    manner = _listed([part["name"] for part in reading.qualities] + [*map(_said, reading.unknown)])
    return (
        "The owner of the sentence tells in ten minutes why they want it, for whom, and shows one real answer that has "
        "it and one that has not.",
        "Work through the worked pairs aloud: everyone says the call and points at the words that decided.",
        f"Exercise: everyone rewrites three plain answers so that they are {manner or 'what the sentence wants'}, and "
        "one so that it is overdone. The group guesses which is which.",
    )


def _criteria(reading: Reading) -> tuple[Criterion, ...]:
    manners = [f"not-{part['name']}" for part in reading.qualities] + [
        f"not-{name_of(word)}" for word in reading.unknown
    ]
    if reading.role:
        manners.insert(0, f"not-as-a-{reading.role['name'].replace(' ', '-')}")
    found = [
        Criterion(
            "Win rate over the start model",
            "blind A/B on the held-out prompts, ties half",
            "the interval lies above 50 %, and so does that at equal length in the run's report",
        ),
        Criterion(
            "Errors", "tag `wrong` on the new model's answers, per 100 comparisons", "not more than the start model's"
        ),
    ]
    found += [
        Criterion(
            f"Tag `{tag}`", "on the new model's answers, per 100 comparisons", "at most half of the start model's"
        )
        for tag in manners
    ]
    found += [
        Criterion(
            f"Avoids: {what}",
            f"tag `{name_of(what)}` on 100 answers of the new model, all read",
            "none, or the rate that the table below promises",
        )
        for what in reading.avoided
    ]
    return tuple(found)


def _failure(reading: Reading) -> str:
    if reading.avoided:
        return f"an answer with what was to be avoided: {reading.avoided[0]}"
    return "an answer that is wrong because it served the manner"


def _note(reading: Reading) -> str:
    read = [
        ("role", reading.role and reading.role["name"]),
        ("manner", ", ".join(part["name"] for part in reading.qualities)),
        ("subject", reading.subject and reading.subject["name"]),
        ("readers", reading.audience and reading.audience["name"]),
        ("avoids", "; ".join(reading.avoided)),
        ("form", reading.form),
        ("not known to us, to be described by you", ", ".join(reading.unknown)),
    ]
    told = "; ".join(f"{name}: {value}" for name, value in read if value)
    return f"*Read so: {told or 'nothing in the sentence is known to us'}. Places marked FILL IN wait for its owner.*"


def _gaps(reading: Reading) -> tuple[str, ...]:
    found = [
        f"guidelines.md, top: is the sentence read as you meant it? Does {_order(reading)} stand in the right order? "
        "The lower number wins.",
        *(f"guidelines.md, the rule on “{word}”: {_marks(word)}" for word in reading.unknown),
        *(f"guidelines.md, the rule on “{what}”: {_phrases(what)}" for what in reading.avoided),
        *(
            f"guidelines.md, worked pairs: one pair for “{word}”, of two right answers of which one has it; and one "
            "where it is overdone."
            for word in reading.unknown
        ),
        "guidelines.md, hard pairs: two pairs on which you and a colleague differed, your decision and the reason.",
    ]
    if not reading.parts:
        found.append(
            "gold.jsonl: five pairs of your own with a call beyond dispute. Those there only show that somebody reads."
        )
    if reading.audience:
        found += [
            reading.audience["gap"],
            f"prompts.jsonl: take out what {reading.audience['name']} would never ask; the questions are general.",
        ]
    if not reading.subject:
        found.append(
            "prompts.jsonl: no subject was found in the sentence, so the prompts are on everyday life. Name ten "
            "subjects of your users, and write three questions on each."
        )
    if reading.role is None:
        found.append("protocol.md, who judges: which trade or experience makes somebody a judge of this?")
    return tuple(found)


def _order(reading: Reading) -> str:
    names = [*(part["name"] for part in reading.parts), *reading.unknown, *reading.avoided]
    return f"what follows “right and useful first” ({', '.join(names)})" if names else "the list of rules"


def _marks(word: str) -> str:
    return (
        f"what do you see in an answer that shows {_said(word)}, and not in another that is as right? Three things "
        "that can be pointed at, and what would be too much of it."
    )


def _phrases(what: str) -> str:
    return f"three phrases that count as “{what}”, and one that looks like it and is allowed."


def _said(word: str) -> str:
    return f"“{word}”"


def _continued(sentence: str) -> str:
    """The sentence after "The model"."""
    first, rest = sentence.split()[0], sentence[len(sentence.split()[0]) :]
    word = first.lower()
    told = f"{first if first.isupper() and len(first) > 1 else word}{rest}"
    if word in _MODAL or (word.endswith("s") and not word.endswith("ss")):
        return told
    return f"should {told}" if word in _plain() else f"is {told}"


# ---- tables


def _known(kind: str, word: str) -> Part | None:
    return next((part for part in _tables()[kind] if word in part["words"]), None)


@cache
def _tables() -> dict[str, Sequence[Part]]:
    found = {name: table_of(f"parts/{name}.toml")[name] for name in ("qualities", "roles", "subjects")}
    return {**found, "audiences": _shared()["audiences"]}


@cache
def _shared() -> Part:
    return table_of("parts/sentences.toml")


@cache
def _plain() -> frozenset[str]:
    return frozenset(_shared()["plain"].split())


def _subject_of_nothing() -> Part:
    return _tables()["subjects"][-1]


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)
