"""The world's tables: every question is reachable, nothing held out leaks, and every answer is what it claims."""

from __future__ import annotations

from collections import Counter

import pytest

from palate.errors import UsageError
from palate.records import Prompt
from palate.testbed.gold import gold
from palate.testbed.world import (
    CAPITALS,
    CATEGORIES,
    OPPOSITES,
    PHRASINGS,
    facts,
    joined,
    perfect,
    question,
    questions,
)


def words(text: str) -> set[str]:
    return set(text.lower().replace("?", " ").replace(".", " ").split())


def test_every_text_is_asked_once_and_leads_back_to_its_question():
    texts = [asked.text for asked in questions()]
    assert len(set(texts)) == len(texts)
    assert all(question(asked.text) is asked and question(asked.prompt) is asked for asked in questions())


def test_a_question_of_another_world_is_refused_with_the_way_out():
    with pytest.raises(UsageError, match=r"What is love\?.*palate.testbed.prompts"):
        question(Prompt.of("What is love?"))


def test_the_tables_give_every_task_its_facts():
    counts = Counter(fact.task for fact in facts())
    several = sum(len(fact.wrong) > 1 for fact in facts() if fact.task in ("sums", "capitals", "opposites"))
    assert counts["capitals"] == len(CAPITALS)
    assert counts["opposites"] == 2 * len(OPPOSITES)
    assert counts["lists"] == 2 * len(CATEGORIES)
    assert counts["opinions"] == -(-several // 3)  # every third fact that has several mistakes
    assert counts["sums"] == 15 and counts["comparisons"] == 28  # 5·6/2 and 8·7/2
    assert set(counts) == set(PHRASINGS)


def test_a_third_of_each_facts_phrasings_is_held_out():
    for task, phrasings in PHRASINGS.items():
        splits = Counter(asked.split for asked in questions() if asked.fact.task == task)
        assert len(phrasings) == len(set(phrasings)) == 6
        assert splits["known"] == 2 * splits["heldout"]


def test_words_of_held_out_phrasings_are_known_from_other_phrasings():
    known = {word for phrasings in PHRASINGS.values() for text in phrasings[:-2] for word in words(text)}
    assert all(words(text) <= known for phrasings in PHRASINGS.values() for text in phrasings[-2:])


def test_the_arithmetic_is_right():
    for fact in facts():
        if fact.task == "sums":
            left, _, right = fact.subject.split()
            assert fact.right == (str(int(left) + int(right)),)
        if fact.task == "comparisons":
            first, second = int(fact.subject.split()[-3]), int(fact.subject.split()[-1])
            assert (fact.right, fact.wrong) == ((str(max(first, second)),), (str(min(first, second)),))


def test_no_mistake_is_right():
    assert all(fact.wrong and not set(fact.wrong) & set(fact.right) for fact in facts())


def test_tables_have_no_item_twice():
    assert len(set(CAPITALS.values())) == len(CAPITALS)
    assert len({word for pair in OPPOSITES for word in pair}) == 2 * len(OPPOSITES)
    members = [member for members in CATEGORIES.values() for member in members]
    assert len(set(members)) == len(members)


@pytest.mark.parametrize("asked", questions()[::7], ids=lambda asked: asked.text)
def test_the_perfect_answer_has_gold_one(asked):
    assert gold(asked.prompt, perfect(asked.prompt)) == pytest.approx(1.0, abs=1e-12)
    assert asked.prompt.fields["answer"] == perfect(asked.text)


def test_items_are_joined_as_english_lists_them():
    assert [joined(("red", "blue", "green")[:n]) for n in (1, 2, 3)] == [
        "red",
        "red and blue",
        "red, blue and green",
    ]
