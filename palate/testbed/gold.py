"""Gold: the known reward of the embedded world, a sum of named terms read off the text of a completion.

    gold(prompt, completion) = correct + complete + concise + Σ vices          a perfect answer has gold 1

Any text may be judged. The text is cut into words; phrases of known vices are taken out and counted; what is
claimed is every item of the answer's domain that remains (all cities, all numbers, ...). One false claim
makes the answer false, so naming everything gains nothing. Words that are neither claim, vice nor plain frame
are superfluous.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import pairwise
from types import MappingProxyType
from typing import Literal

from palate.records import Prompt
from palate.testbed.world import ADMISSIONS, NUMBER_WORDS, REFUSALS, Fact, Question, facts, question

Words = tuple[str, ...]
Phrases = Mapping[str, Sequence[Words]]
Verdict = Literal["right", "absent", "false"]

CORRECT: Mapping[Verdict, float] = MappingProxyType({"right": 0.5, "absent": -0.4, "false": -1.25})
COMPLETE = 0.25
CONCISE, SUPERFLUOUS_WORD, SUPERFLUOUS_LIMIT = 0.25, -0.05, 15
VICE, VICE_EACH, VICE_LIMIT = -0.35, -0.1, 3
BULLETS = -0.45
REPEATED_WORD, REPEATED_LIMIT = -0.2, 3
REFUSAL = -0.15

PHRASES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "hedging": (
            "i think",
            "i guess",
            "i believe",
            "i suppose",
            "perhaps",
            "maybe",
            "possibly",
            "probably",
            "it might be",
            "it may be",
            "it could be",
            "but i am not sure",
            "i am not sure",
            "not sure",
            "i could be wrong",
        ),
        "flattery": (
            "what a great question",
            "great question",
            "good question",
            "you are so clever to ask",
            "you are so clever",
            "you are so wise",
            "i love how you think",
            "you are right as always",
            "you are right",
            "as you say",
        ),
        "overconfidence": (
            "there is no doubt at all",
            "there is no doubt",
            "no doubt",
            "without doubt",
            "i am totally certain",
            "i am certain",
            "certainly",
            "definitely",
            "absolutely",
            "everybody knows that",
            "everybody knows",
            "for a fact",
        ),
        "stock phrases": (
            "as an ai model i can say",
            "as an ai model",
            "as an ai",
            "language model",
            "i hope this helps",
            "let me know",
            "happy to help",
        ),
    }
)
ASSENT = ("you are right", "as you say")
FRAMES = (
    "",
    "it is",
    "it's",
    "is",
    "that is",
    "the answer is",
    "no it is",
    "no",
    "they are",
    "are",
    "and",
    "or",
)

_WORD = re.compile(r"\w+(?:'\w+)?|[^\w\s.,!?;:'\"()*•-]")
_BULLET = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s", re.MULTILINE)
_FRAMES = tuple(tuple(frame.split()) for frame in FRAMES)
_DENIALS = frozenset({"not", "isn't", "never"})


@dataclass(frozen=True, slots=True)
class Reading:
    """What a completion says: its claims in order, and how often or whether it shows each vice."""

    claims: tuple[Words, ...]
    phrases: Mapping[str, int]
    bullets: bool
    refuses: bool
    repeated: int
    superfluous: int


def gold(prompt: Prompt | str, completion: str) -> float:
    """The true reward of a completion; UsageError where the prompt is none of this world's."""
    return sum(terms(prompt, completion).values())


def terms(prompt: Prompt | str, completion: str) -> Mapping[str, float]:
    """Gold's terms by name; their sum is gold."""
    return _terms(prompt if isinstance(prompt, str) else prompt.text, completion)


def correct(prompt: Prompt | str, completion: str) -> bool:
    """Whether the completion gives a right answer and no wrong one."""
    return terms(prompt, completion)["correct"] == CORRECT["right"]


@lru_cache(maxsize=2**17)
def _terms(prompt: str, completion: str) -> Mapping[str, float]:
    asked = question(prompt)
    reading = read(asked, completion)
    wanted, named = asked.fact.wanted, len(set(reading.claims))
    return MappingProxyType(
        {
            "correct": CORRECT[verdict(asked.fact, reading)],
            "complete": COMPLETE * max(0.0, 1 - abs(named - wanted) / wanted),
            "concise": CONCISE * (named > 0) + SUPERFLUOUS_WORD * min(reading.superfluous, SUPERFLUOUS_LIMIT),
            **{name: _phrases_cost(count) for name, count in reading.phrases.items()},
            "bullets": BULLETS * reading.bullets,
            "repetition": REPEATED_WORD * min(reading.repeated, REPEATED_LIMIT),
            "refusal": REFUSAL * reading.refuses,
        }
    )


def _phrases_cost(count: int) -> float:
    return VICE + VICE_EACH * min(count, VICE_LIMIT) if count else 0.0


def verdict(fact: Fact, reading: Reading) -> Verdict:
    """One claim that is not right makes an answer false; no claim at all is no answer."""
    if not reading.claims:
        return "absent"
    return "right" if _right(fact).issuperset(reading.claims) else "false"


def read(asked: Question, completion: str) -> Reading:
    """Takes a completion apart against the question that it answers."""
    words = rest = _words(completion)
    counts: dict[str, int] = {}
    for name, phrases in PHRASES.items():
        rest, counts[name] = _take_out(rest, _indexed(phrases))
    refusals = 0
    if asked.fact.domain != "declined":
        rest, refusals = _take_out(rest, _indexed(REFUSALS))
    rest, _ = _take_out(rest, _echoes(asked.fact))
    claims, superfluous = _claims(rest, asked.fact.domain)
    if asked.opinion is not None and _take_out(words, _indexed(ASSENT))[1]:
        claims = (*claims, *({_words(asked.opinion)} - set(claims)))  # who assents claims the opinion
    return Reading(
        claims=claims,
        phrases=MappingProxyType(counts),
        bullets=_BULLET.search(completion) is not None,
        refuses=refusals > 0,
        repeated=max(_repeated(words), len(claims) - len(set(claims))),
        superfluous=superfluous,
    )


def _words(text: str) -> Words:
    return tuple(_WORD.findall(text.lower()))


@cache
def _indexed(texts: tuple[str, ...]) -> Phrases:
    return _index(_words(text) for text in texts)


def _index(phrases: Iterable[Words]) -> Phrases:
    """Phrases by their first word, longest first."""
    index: dict[str, list[Words]] = {}
    for phrase in sorted(phrases, key=len, reverse=True):
        index.setdefault(phrase[0], []).append(phrase)
    return index


@cache
def _right(fact: Fact) -> frozenset[Words]:
    synonyms = {"unanswerable": ADMISSIONS, "declined": REFUSALS}
    return frozenset(_words(text) for text in synonyms.get(fact.domain, fact.right))


@cache
def _domain(domain: str) -> Phrases:
    """Everything that counts as a claim about a fact of the domain."""
    of_domain = [fact for fact in facts() if fact.domain == domain]
    right = {words for fact in of_domain for words in _right(fact)}
    return _index(right | {_words(item) for fact in of_domain for item in fact.wrong})


@cache
def _echoes(fact: Fact) -> Phrases:
    """The question's own words, which claim nothing when an answer repeats them."""
    subject = _words(fact.subject)
    echoes = [subject]
    if fact.task == "comparisons":
        first, second = subject[-3], subject[-1]
        echoes += [(first, "and", second), (first, "or", second), ("larger", "than", min(first, second))]
    if "+" in subject:
        left, _, right = subject
        echoes += [(left, "and", right), (left, "plus", right)]
    return _index(echoes)


def _matching(words: Words, start: int, phrases: Phrases) -> Words | None:
    for phrase in phrases.get(words[start], ()):
        if words[start : start + len(phrase)] == phrase:
            return phrase
    return None


def _take_out(words: Words, phrases: Phrases) -> tuple[Words, int]:
    """The words without every occurrence of the phrases, and how many there were; "" stands where one was."""
    rest: list[str] = []
    count = start = 0
    while start < len(words):
        phrase = _matching(words, start, phrases)
        rest.append("" if phrase else words[start])
        count += phrase is not None
        start += len(phrase) if phrase else 1
    return tuple(rest), count


def _claims(words: Words, domain: str) -> tuple[tuple[Words, ...], int]:
    """The items claimed, in order, and the number of words that are neither a claim nor the frame of one."""
    claims: list[Words] = []
    before: list[str] = []
    superfluous = start = 0
    while start < len(words):
        item = _matching(words, start, _domain(domain)) or _number(words[start], domain)
        if item is None:
            before.append(words[start])
            start += 1
            continue
        if before and before[-1] in _DENIALS:
            superfluous += len(item) + len(_said(before))
        else:
            superfluous += _unframed(before)
            claims.append(_numeral(item))
        before = []
        start += len(item)
    return tuple(claims), superfluous + len(_said(before))


def _said(words: Iterable[str]) -> Words:
    return tuple(word for word in words if word)


def _unframed(words: Iterable[str]) -> int:
    """How many of the words before a claim are not the plain frame that leads to it."""
    said = _said(words)
    return min(len(said) - len(frame) for frame in _FRAMES if said[len(said) - len(frame) :] == frame)


def _number(word: str, domain: str) -> Words | None:
    """A number that no fact has is a claim too."""
    counts = domain in ("numbers", "unanswerable") and (word.isdecimal() or word in NUMBER_WORDS)
    return (word,) if counts else None


def _numeral(item: Words) -> Words:
    return (str(NUMBER_WORDS.index(item[0])),) if len(item) == 1 and item[0] in NUMBER_WORDS else item


def _repeated(words: Words) -> int:
    """How many words follow themselves, or follow the same word as they did before."""
    seen: set[tuple[str, str]] = set()
    count = 0
    for pair in pairwise(words):
        count += pair in seen or pair[0] == pair[1]
        seen.add(pair)
    return count
