"""What is read out of a model's reply."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.collect.replies import objects, spoken


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        ("no object", []),
        ('{"a": 1}', [{"a": 1}]),
        ('so {"a": {"b": 2}} and {"c": 3}.', [{"a": {"b": 2}}, {"c": 3}]),
        ('{name} is {"a": "}{"}', [{"a": "}{"}]),
        ('{"cut": [{"a": 1}, {"b"', [{"a": 1}]),
        ('[{"a": 1}]', [{"a": 1}]),
        ("{" * 5_000, []),
        ('{"a":' * 5_000, []),
    ],
)
def test_the_outermost_objects_of_a_text_are_found(text: str, found: list[dict]) -> None:
    assert list(objects(text)) == found


@given(st.dictionaries(st.text(), st.text() | st.integers()), st.text(alphabet=st.characters(exclude_characters="{")))
def test_an_object_is_found_between_any_words(one: dict, words: str) -> None:
    assert list(objects(f"{words}{json.dumps(one)}{words}")) == [one]


def test_thoughts_are_not_what_is_said() -> None:
    assert spoken("<think>first?</think> no, <think>wait</think>\n second \n") == "second"
    assert spoken("second ") == "second"
