"""Designs: what every behaviour must bring, own sentences and their gaps, the folder's texts, and a model's drafts."""

from __future__ import annotations

import json
import re
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.collect import guidance, sizes
from palate.collect.design import Behaviour, Example, divided, known_behaviours, named_behaviour, plan_of
from palate.collect.drafting import drafted
from palate.collect.judgements import REASONS
from palate.collect.sentence import _shared, _tables, name_of, own_behaviour, read_sentence
from palate.collect.web.rendering import rendered
from palate.errors import UsageError

SENTENCES = (
    "answers like a patient maths tutor",
    "The model should be a whimsical pirate and never apologises",
    "Explains tax law to small-business owners in plain words",
    "is short and honest, in German",
)
ALL = [*known_behaviours(), *SENTENCES]


def behaviour(wish: str) -> Behaviour:
    return named_behaviour(wish) if wish in known_behaviours() else own_behaviour(wish)


def files(wish: str, **options: Any) -> dict[str, str]:
    found = behaviour(wish)
    return guidance.folder(found, plan_of(found, 4), base="models/base", **options)


def pairs(found: Behaviour) -> list[Example]:
    return [*found.examples, *found.gold]


# ---- what every design must bring


def test_the_named_behaviours() -> None:
    assert known_behaviours() == ["coding", "helpfulness", "honesty", "safety"]


@pytest.mark.parametrize("wish", ALL)
def test_a_design_is_whole(wish: str) -> None:
    found = behaviour(wish)
    assert len(found.gold) >= 10 and 30 <= len(found.prompts) <= 60
    assert len(found.principles) >= 2 and 4 <= len(found.tags) <= 12 and len(found.cases) >= 10
    assert found.annotators and found.training and found.care and found.criteria
    names = [tag.name for tag in found.tags]
    assert len({*names}) == len(names) and all(re.fullmatch(r"[a-z][a-z0-9-]*", name) for name in names)


@pytest.mark.parametrize("wish", known_behaviours())
def test_a_named_behaviour_has_worked_and_hard_pairs_and_asks_for_nothing(wish: str) -> None:
    found = named_behaviour(wish)
    assert len([one for one in found.examples if one.hard]) >= 4 and len(found.examples) >= 8
    assert any(one.both_bad for one in found.examples) and not found.gaps
    assert "FILL IN" not in "".join(files(wish).values())


@pytest.mark.parametrize("wish", ALL)
def test_nothing_is_asked_twice_and_no_answer_is_compared_with_itself(wish: str) -> None:
    found = behaviour(wish)
    asked = [one.prompt for one in (*found.prompts, *pairs(found))]
    assert [prompt for prompt, count in Counter(asked).items() if count > 1] == []
    for one in pairs(found):
        assert one.first.strip() and one.second.strip() and one.first != one.second
        assert {*one.tags} <= {tag.name for tag in found.tags}
        assert -3 <= one.degree <= 3 and not (one.both_bad and one.degree)
    for prompt in asked:
        assert [turn.role for turn in prompt] == ["user", "assistant"] * (len(prompt) // 2) + ["user"]


@pytest.mark.parametrize("wish", ALL)
def test_gold_has_a_better_side_and_no_side_is_mostly_the_better_one(wish: str) -> None:
    degrees = [one.degree for one in behaviour(wish).gold]
    assert all(abs(degree) >= 2 for degree in degrees)
    assert abs(sum(degree > 0 for degree in degrees) - len(degrees) / 2) <= len(degrees) / 4


@pytest.mark.parametrize("wish", ALL)
def test_what_gold_says_of_its_answers_names_no_place(wish: str) -> None:
    # gold.jsonl has a better and a worse answer; which comes first is drawn at the page.
    said = [one.why for one in behaviour(wish).gold]
    assert [why for why in said if re.search(r"\b[Tt]he (first|second)\b", why)] == []


@pytest.mark.parametrize("wish", ALL)
def test_worked_pairs_carry_tags_as_the_guidelines_ask(wish: str) -> None:
    for one in behaviour(wish).examples:
        assert bool(one.tags) == bool(one.degree or one.both_bad), one.prompt


def test_every_part_of_the_tables_can_stand_in_a_design() -> None:
    for part in (*_tables()["qualities"], *_tables()["roles"]):
        for which in ("example", "gold"):
            assert part[which]["good"] != part[which]["bad"], part["name"]
            # Sides change by turns, so the reason must not name one.
            assert not re.search(
                r"\b(first|second) (answer|one|is|has|names|gives)\b|[Oo]nly the (first|second)", part[which]["why"]
            )
    for role in _tables()["roles"]:
        assert len({*role["frames"]}) >= 10 and all("{topic}" in frame for frame in role["frames"])
    assert all(len({*subject["topics"]}) >= 10 for subject in _tables()["subjects"])
    words = [word for part in _tables()["qualities"] for word in part["words"]]
    assert len({*words}) == len(words)
    assert not {*words} & {*_shared()["plain"].split()}


# ---- an own sentence


@pytest.mark.parametrize(
    ("sentence", "role", "qualities", "subject", "audience", "avoided", "form", "unknown"),
    [
        ("answers like a patient maths tutor", "teacher", ["patient"], "mathematics", None, (), "", ()),
        (
            "Answers like a patient maths tutor, without jargon, in German.",
            *("teacher", ["patient"], "mathematics", None, ("jargon",), "German", ()),
        ),
        ("short and to the point", None, ["concise"], None, None, (), "", ()),
        ("Is kind to children but not condescending", None, ["warm"], None, "children", ("condescending",), "", ()),
        (
            "Explains tax law to small-business owners in plain words",
            *(None, ["simple"], "money", "small-business owners", (), "", ()),
        ),
        (
            "The model should be a whimsical pirate and never apologises",
            *(None, ["creative"], None, None, ("apologises",), "", ("pirate",)),
        ),
        ("like a grumpy old sailor", None, [], None, None, (), "", ("grumpy old sailor",)),
    ],
)
def test_the_parts_of_a_sentence(
    sentence: str,
    role: str | None,
    qualities: list[str],
    subject: str | None,
    audience: str | None,
    avoided: tuple[str, ...],
    form: str,
    unknown: tuple[str, ...],
) -> None:
    found = read_sentence(sentence)
    names = [part and part["name"] for part in (found.role, found.subject, found.audience)]
    assert names == [role, subject, audience]
    assert [part["name"] for part in found.qualities] == qualities
    assert (found.avoided, found.form, found.unknown) == (avoided, form, unknown)


def test_what_is_known_of_a_sentence_is_made_use_of() -> None:
    found = own_behaviour("answers like a patient maths tutor")
    assert [one.rule for one in found.principles[1:]] == ["It does what a good teacher does.", "It is patient."]
    assert any("3x + 5" in one.prompt[0].content for one in found.examples)
    assert any("adding fractions" in one.prompt[0].content for one in found.prompts)
    assert {"not-as-a-teacher", "not-patient"} <= {tag.name for tag in found.tags}


def test_what_is_not_known_is_asked_for_by_name_and_never_made_up() -> None:
    sentence = "like a grumpy old sailor, without swearing"
    found, written = own_behaviour(sentence), files(sentence)
    rule = next(one for one in found.principles if "grumpy old sailor" in one.rule)
    assert rule.detail.startswith("**FILL IN:**")
    for asked in ("“grumpy old sailor”", "“swearing”", "everyday life", "which trade", "gold.jsonl: five pairs"):
        assert any(asked in gap for gap in found.gaps), asked
        assert asked in written[guidance.README]
    assert written[guidance.GUIDELINES].count("**FILL IN:**") == 3  # the word, what it avoids, and hard pairs


@pytest.mark.parametrize("sentence", ["", "   ", "!!! ???", "word " * 80, "like a\0 bell"])
def test_what_is_no_sentence_is_refused(sentence: str) -> None:
    with pytest.raises(UsageError, match="sentence of at most"):
        read_sentence(sentence)


@given(st.text(max_size=200))
def test_no_sentence_breaks_a_design(sentence: str) -> None:
    try:
        found = own_behaviour(sentence)
    except UsageError:
        return
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]{0,39}", found.name)
    recipe = tomllib.loads(guidance.folder(found, plan_of(found, 2), base="b")[guidance.RECIPE])
    assert recipe["run"]["name"] == found.name


def test_a_name_keeps_whole_words() -> None:
    assert (
        name_of("Answers like a patient maths tutor, without jargon, in German") == "answers-like-a-patient-maths-tutor"
    )
    assert name_of("answers like a patient maths tutor for twelve-year-olds") == "answers-like-a-patient-maths-tutor"
    assert name_of("ответ") == "behaviour"


def test_no_child_is_asked_to_judge() -> None:
    found = own_behaviour("answers like a patient maths tutor for twelve-year-olds")
    assert "Parents, and people who teach that age." in found.annotators
    assert any(
        one.rule == "It fits twelve-year-olds." and "child of that age" in one.detail for one in found.principles
    )
    assert any("the rule on twelve-year-olds" in gap for gap in found.gaps)


# ---- prompts and plan


def test_a_random_third_of_every_kind_is_held_out_and_the_same_each_time() -> None:
    prompts = named_behaviour("helpfulness").prompts
    kept, held = divided(prompts, "a")
    assert sorted(map(hash, (*kept, *held))) == sorted(map(hash, prompts)) and not {*kept} & {*held}
    kinds, of_held = Counter(one.kind for one in prompts), Counter(one.kind for one in held)
    assert {kind: round(count / 3) for kind, count in kinds.items()} == dict(of_held)
    assert divided(prompts, "a") == (kept, held) != divided(prompts, "b")


def test_the_plan_counts_what_the_formulas_say() -> None:
    found = plan_of(named_behaviour("helpfulness"), 4)
    # 3.84146·.7·.3 / .04² = 504.2; / (.1·.5)² = 322.7; .9·.1 / .01 → 34.6; .85·.15 / .01 → 48.98; 155 as in test_sizes.
    assert (found.test, found.overlap, found.gold_each, found.repeats_each, found.comparison) == (505, 323, 35, 49, 155)
    # Four people: 50·4 pilot, 2·323, 505, 2,000, 35·4, 49·4, 155.
    assert found.votes == 200 + 646 + 505 + 2000 + 140 + 196 + 155
    # 3,842 votes of 60 s are 64.03 h; a quarter more, and twelve hours each.
    assert found.hours == pytest.approx(3842 / 60 * 1.25 + 48)
    assert found.days == pytest.approx(2 + 3842 / 60 / 16)
    # 505 prompts to test on and 2,000/2; a person judges 50 + (646 + 2,505)/4 = 837.75 pairs, of which 49 are 5.8 %.
    assert (found.prompts, found.repeat_share) == (1505, 0.06)
    assert found.mark == sizes.pass_mark(len(named_behaviour("helpfulness").gold)) == 9


def test_a_measured_pace_takes_the_place_of_the_guess() -> None:
    found = named_behaviour("coding")
    slow, quick = plan_of(found, 4), plan_of(found, 4, pace=60)
    assert (slow.pace, quick.pace) == (240, 60) and slow.votes == quick.votes
    # Safety: no more than two hours a day, so 82 h of votes take four people 10.3 days, and two for training.
    safety = plan_of(named_behaviour("safety"), 4)
    assert safety.days == pytest.approx(2 + safety.votes * 75 / 3600 / 8)
    assert slow.hours - 48 == pytest.approx(4 * (quick.hours - 48))


# ---- the texts


@pytest.mark.parametrize("wish", ALL)
def test_the_guidelines_render_on_the_label_page(wish: str) -> None:
    text = files(wish)[guidance.GUIDELINES]
    page = rendered(text)
    found = behaviour(wish)
    assert page.count("<table>") == 3 and page.count("<h3>") == len(found.examples)
    # The page keeps line breaks, so only what stands in a quotation may have one.
    prose = re.sub(r"<blockquote>.*?</blockquote>", "", page, flags=re.DOTALL)
    assert "<br" not in prose
    assert page.count("<blockquote>") == sum(len(one.prompt) + 2 for one in found.examples)
    for tag in found.tags:
        assert f"<code>{tag.name}</code>" in page


@pytest.mark.parametrize("wish", ALL)
def test_every_call_names_the_key_that_says_it(wish: str) -> None:
    found, text = behaviour(wish), files(wish)[guidance.GUIDELINES]
    calls = re.findall(r"\*\*Call: (.*?)\.\*\*", text)
    keys = {-3: "A much better (Shift ←)", -2: "A better (←)", -1: "A slightly better (3)", 0: "tie (↓)"}
    keys |= {1: "B slightly better (5)", 2: "B better (→)", 3: "B much better (Shift →)"}
    order = [one for one in found.examples if not one.hard] + [one for one in found.examples if one.hard]
    assert calls == ["both bad (X)" if one.both_bad else keys[one.degree] for one in order]


@pytest.mark.parametrize("wish", ALL)
def test_every_reason_to_skip_is_one_that_the_label_page_offers(wish: str) -> None:
    written = files(wish)
    both = written[guidance.GUIDELINES] + written[guidance.PROTOCOL]
    told = re.findall(r"(?i)\bskip[^.|\n]*?\b(?:with|reason) `([^`]+)`(?: or `([^`]+)`)?", both)
    assert {"private", "upsetting"} < {reason for one in told for reason in one if reason} <= {*REASONS}
    offered = ", ".join(f"{number} `{reason}`" for number, reason in enumerate(REASONS, start=1))
    assert f"S asks for a reason, by number: {offered};" in written[guidance.GUIDELINES]


@pytest.mark.parametrize("wish", ALL)
def test_no_document_is_left_with_a_blank(wish: str) -> None:
    written = files(wish, pay=30)
    for name in (guidance.README, guidance.PROTOCOL, guidance.CRITERIA, guidance.GUIDELINES):
        assert not re.search(r"\$[a-z_]+\b", re.sub(r"(?m)^> .*$|`[^`]*`", "", written[name])), name
        for link in re.findall(r"\]\(([^)]+)\)", written[name]):
            assert link in written, link
        for line in written[name].splitlines():
            assert len(line.split("|")) in (1, *range(4, 10)), line
    assert "At 30 an hour" in written[guidance.PROTOCOL]
    assert set(written) == {
        *("README.md", "guidelines.md", "protocol.md", "criteria.md", "tags.txt"),
        *("prompts.jsonl", "heldout.jsonl", "gold.jsonl", "recipe.toml"),
    }


def test_the_tables_of_sizes_hold_what_the_formulas_give() -> None:
    text = files("safety")[guidance.CRITERIA]
    assert "| 5 points | 783 | 626 | 469 |" in text
    assert "| 1 % | 299 | 473 | 628 |" in text
    assert "| ± 2 points | 2,305 | 2,185 | 2,017 | 1,537 |" in text


# ---- drafts of a model

DRAFTS: dict[str, Any] = {
    "rules": {"rules": [{"rule": f"Rule {n}.", "detail": "What is seen."} for n in range(2)]},
    "tags": {"tags": [{"name": "too-loud", "when": "it shouts"}, {"name": "too-quiet", "when": "it mumbles"}]},
    "pairs": {
        "pairs": [
            {"prompt": f"Drafted prompt {n}", "first": "a", "second": "b", "degree": 3 - 3 * n, "why": "Seen so."}
            for n in range(3)
        ]
    },
    "cases": {"cases": [{"when": f"Case {n}", "call": "Do this."} for n in range(3)]},
    "prompts": {"prompts": [f"A drafted question {n}?" for n in range(12)]},
}


def model(changed: Mapping[str, Sequence[Any]] = {}) -> Any:
    """A model that answers each part by its schema; `changed` holds other answers for a part, one a try."""
    asked: list[str] = []

    def ask(messages: Sequence[Mapping[str, str]], schema: Mapping[str, Any]) -> str:
        part = next(iter(schema["properties"]))
        asked.append(part)
        tries = changed.get(part, ())
        answer = tries[asked.count(part) - 1] if asked.count(part) <= len(tries) else DRAFTS[part]
        return answer if isinstance(answer, str) else json.dumps(answer)

    ask.asked = asked  # pyright: ignore[reportFunctionMemberAccess]
    return ask


def test_what_a_model_drafts_is_added_and_marked() -> None:
    before = own_behaviour("like a grumpy old sailor")
    after, said = drafted(before, model(), "a-model")
    assert said == [] and after.drafted == ("rules", "tags", "examples", "cases", "prompts")
    assert after.gold == before.gold and after.gaps == before.gaps
    assert len(after.prompts) == len(before.prompts) + 12
    text = guidance.folder(after, plan_of(after, 4), base="b")
    assert "Drafted by the model a-model: rules, tags, examples, cases, prompts." in text[guidance.GUIDELINES]
    assert text[guidance.GUIDELINES].count("drafted by the model a-model; to be read by a person") == 4
    assert "too-loud" in text[guidance.TAGS] and "A drafted question" in text[guidance.PROMPTS]


@pytest.mark.parametrize(
    "reply",
    [
        "Certainly!\n```json\n{}\n```\nHope that helps.",
        "<think>The shape is {{tags: [...]}}, I see.</think>{}",
        "For {{name}} I take\n{}\nwhere {{when}} is seen in the answer.",
    ],
    ids=["in a fence", "after thoughts", "between braces"],
)
def test_an_answer_between_other_words_is_read(reply: str) -> None:
    before = named_behaviour("helpfulness")
    ask = model({"tags": [reply.format(json.dumps(DRAFTS["tags"]))]})
    after, said = drafted(before, ask, "m")
    assert said == [] and after.tags[-1].name == "too-quiet" and ask.asked.count("tags") == 1


def with_pairs(**change: Any) -> dict[str, Any]:
    return {"pairs": [{**one, **change} for one in DRAFTS["pairs"]["pairs"]]}


@pytest.mark.parametrize(
    ("part", "answer", "fault"),
    [
        ("rules", "I cannot do that.", "no whole JSON object"),
        ("rules", "{broken}", "no whole JSON object"),
        ("rules", '{"rules": ' * 2_000, "no whole JSON object"),
        ("rules", {"rules": []}, "at least 2 items"),
        ("rules", {"rules": [{"rule": "a\nb|c", "detail": "d"}] * 2}, "pattern"),
        ("tags", {"tags": [{"name": "wrong", "when": "it is wrong"}] * 2}, "there already"),
        ("tags", {"tags": [{"name": "Ünicode Tag!", "when": "never"}] * 2}, "pattern"),
        ("pairs", with_pairs(second="a"), "are the same"),
        ("pairs", with_pairs(degree=3), "same answer is better in all"),
        ("pairs", with_pairs(degree=7), "less than or equal to 3"),
        ("pairs", with_pairs(extra=1), "not permitted"),
        ("pairs", with_pairs(prompt="Drafted prompt 0"), "is there already"),
        ("prompts", {"prompts": ["One question?"] * 12}, "twice"),
    ],
)
def test_a_part_that_cannot_be_used_is_asked_for_again_and_then_left_out(part: str, answer: Any, fault: str) -> None:
    before = named_behaviour("helpfulness")
    ask = model({part: [answer, answer]})
    after, said = drafted(before, ask, "m")
    name = "examples" if part == "pairs" else part
    assert ask.asked.count(part) == 2 and name not in after.drafted and len(after.drafted) == 4
    assert len(said) == 1 and said[0].startswith(f"{name}: m gave nothing that can be used") and fault in said[0]


def test_a_second_try_counts() -> None:
    after, said = drafted(named_behaviour("helpfulness"), model({"cases": ["no"]}), "m")
    assert said == [] and "cases" in after.drafted
