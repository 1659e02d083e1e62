"""Candidates: merging, the questions that could be asked of them, the items these become, hidden repetitions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.collect.candidates import Drawing, Drawn, Question, asked, merged, questions, with_repeats
from palate.collect.judgements import Candidate, Item, Origin
from palate.errors import RecipeError, UsageError
from palate.records import Prompt
from palate.settings import build


def origin(name, number=0):
    return Origin("model", name, f"hash of {name}", {"sample": number})


def several(count):
    return tuple(Candidate(f"text {number}", (origin("a", number),)) for number in range(count))


# ---- merging


def test_equal_texts_of_one_prompt_are_one_candidate_with_every_origin():
    drawn = [
        Drawn(0, "Paris.", origin("a", 0)),
        Drawn(1, "Paris.", origin("a", 0)),
        Drawn(0, "Rome.", origin("a", 1)),
        Drawn(0, "Paris.", origin("b", 0)),
    ]
    first, second, third = merged(3, drawn)
    assert [one.text for one in first] == ["Paris.", "Rome."]
    assert [one.name for one in first[0].origins] == ["a", "b"]
    assert second == (Candidate("Paris.", (origin("a", 0),)),)
    assert third == ()


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from("abcd"))))
def test_merging_loses_nothing_and_repeats_nothing(rows):
    drawn = [Drawn(prompt, text, origin("a", number)) for number, (prompt, text) in enumerate(rows)]
    found = merged(4, drawn)
    again = {
        (prompt, one.text, who.sampling["sample"])
        for prompt, texts in enumerate(found)
        for one in texts
        for who in one.origins
    }
    assert again == {(prompt, text, number) for number, (prompt, text) in enumerate(rows)}
    for texts in found:
        assert len({one.text for one in texts}) == len(texts)


# ---- questions


@pytest.mark.parametrize(
    ("mode", "counts", "shown"),
    [
        # k candidates: k(k − 1)/2 pairs, one ranking where there are two, k of a single completion, one prompt.
        ("pair", [6, 0, 0, 1], 2),
        ("edit", [6, 0, 0, 1], 2),
        ("ranking", [1, 0, 0, 1], None),
        ("thumbs", [4, 1, 0, 2], 1),
        ("rating", [4, 1, 0, 2], 1),
        ("demonstration", [1, 1, 1, 1], 0),
    ],
)
def test_every_question_of_a_mode_is_there_once(mode, counts, shown):
    sizes = (4, 1, 0, 2)
    found = questions([several(size) for size in sizes], mode)
    assert len(set(found)) == len(found)
    assert [sum(one.prompt == prompt for one in found) for prompt in range(4)] == counts
    for one in found:
        assert len(one.places) == (sizes[one.prompt] if shown is None else shown)
        assert all(set(pair) <= set(range(sizes[one.prompt])) for pair in one.pairs)


def test_a_single_completion_is_judged_by_its_pairs_with_the_others():
    assert questions([several(3)], "thumbs")[1] == Question(0, (1,), ((0, 1), (1, 2)))
    assert questions([several(3)], "ranking")[0].pairs == ((0, 1), (0, 2), (1, 2))


def test_more_than_a_person_can_rank_is_refused():
    assert len(questions([several(9)], "ranking")) == 1
    with pytest.raises(UsageError, match="hold 10 completions, and a person ranks at most 9"):
        questions([several(10)], "ranking")


def test_a_question_becomes_one_item_whoever_wrote_first():
    texts = (Candidate("b", (origin("x"),)), Candidate("a", (origin("y"),)), Candidate("c"))
    settings = {"slice": "uncertain", "propensity": 0.25, "wanted": 3, "round": 2}
    item = asked(Question(0, (0, 1), ((0, 1),)), Prompt.of("?"), texts, "pair", **settings)
    assert [one.text for one in item.candidates] == ["a", "b"]
    assert item.candidates[0].origins == (origin("y"),)
    assert (item.slice, item.propensity, item.wanted, item.round) == ("uncertain", 0.25, 3, 2)
    other = asked(Question(0, (0, 1), ((0, 1),)), Prompt.of("?"), texts[1::-1], "pair", **settings)
    assert other.id == item.id


# ---- hidden repetitions


@given(st.integers(0, 60), st.floats(0, 0.5))
def test_repetitions_come_half_the_list_later_and_name_what_they_repeat(count, share):
    items = [Item(Prompt.of(f"{number}?"), several(2)) for number in range(count)]
    found = with_repeats(items, share)
    assert [item for item in found if not item.repeats] == items
    places = {item.id: place for place, item in enumerate(found)}
    assert len(places) == len(found)
    again = [item for item in found if item.repeats]
    assert len(again) == min(round(share * count), count // 2)
    assert len({item.repeats for item in again}) == len(again)
    for item in again:
        original = found[places[item.repeats]]
        assert (original.prompt, original.candidates, original.repeats) == (item.prompt, item.candidates, "")
        assert places[item.id] - places[item.repeats] >= count // 2


# ---- settings


@pytest.mark.parametrize("wrong", [{"samples": 0}, {"temperatures": []}, {"temperatures": [-1.0]}, {"top_p": 0.0}])
def test_impossible_drawings_are_refused(wrong):
    with pytest.raises(RecipeError):
        build(Drawing, wrong)
