"""Word differences: what is marked, and that no text is lost or taken for markup."""

from __future__ import annotations

import html
import re

from hypothesis import given
from hypothesis import strategies as st

from palate.report.differences import marked

TEXTS = st.text(st.sampled_from("ab <>&\n.é"), max_size=40)


def bare(text: str) -> str:
    """The text of marked HTML."""
    return html.unescape(re.sub(r"</?(?:ins|del)>", "", text))


def test_words_that_only_one_text_has_are_marked_in_it() -> None:
    assert marked("It is Oslo, I think.", "It is Rome.") == (
        "It is <del>Oslo, I think</del>.",
        "It is <ins>Rome</ins>.",
    )


def test_equal_texts_and_texts_without_a_common_word_stay_unmarked() -> None:
    assert marked("the same", "the same") == ("the same", "the same")
    assert marked("one two", "three four") == ("one two", "three four")
    assert marked("", "three") == ("", "three")


def test_markup_in_the_texts_is_text() -> None:
    assert marked("a <b>", "a <i>") == ("a &lt;<del>b</del>&gt;", "a &lt;<ins>i</ins>&gt;")


@given(TEXTS, TEXTS)
def test_nothing_is_lost(before: str, after: str) -> None:
    old, new = marked(before, after)
    assert (bare(old), bare(new)) == (before, after)
