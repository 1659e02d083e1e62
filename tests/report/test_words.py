"""Numbers and foreign text as the page writes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.report.words import change, date, duration, escaped, length_change, number, percent, percent_range


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0.0, "0.00"),
        (-0.25, "−0.25"),
        (9.994, "9.99"),
        (9.996, "10.0"),
        (99.96, "100"),
        (1204.4, "1,204"),
        (-0.001, "0.00"),
    ],
)
def test_a_number_has_three_figures_and_a_true_minus(value: float, written: str) -> None:
    assert number(value) == written


def test_shares_are_percentages_with_one_decimal() -> None:
    assert percent(0.784) == "78.4%"
    assert percent_range(0.742, 0.821) == "74.2–82.1%"
    assert percent_range(-0.0002, 0.0002) == "0.0–0.0%" and percent_range(-0.02, 0.01) == "−2.0–1.0%"


@pytest.mark.parametrize(
    ("seconds", "written"), [(40.6, "41 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")]
)
def test_durations_are_as_a_person_says_them(seconds: float, written: str) -> None:
    assert duration(seconds) == written


@pytest.mark.parametrize(
    ("before", "after", "written"),
    [
        (10, 11.2, "12% longer"),
        (10, 9, "10% shorter"),
        (10, 10.04, "as long as before"),
        (0, 3, "as long as before"),
    ],
)
def test_a_change_of_length_is_told_in_words(before: float, after: float, written: str) -> None:
    # 11.2/10 − 1 = 12 %; 9/10 − 1 = −10 %; 10.04/10 − 1 = .4 %, under half; nothing is relative to 0.
    assert length_change(before, after) == written


def test_before_and_after_stay_on_one_line() -> None:
    assert change(14.2, 12.34) == "14.2\u00a0→\u00a012.3"


def test_dates_are_readable_and_what_is_no_date_is_kept() -> None:
    assert date("2026-10-01T12:05:00+00:00") == "1 October 2026, 12:05 UTC"
    assert date("2026-01-31T00:00:00") == "31 January 2026, 00:00"
    assert date("yesterday") == "yesterday"


@given(st.text(st.characters(exclude_categories=())))
def test_escaped_text_is_encodable_and_holds_no_markup(text: str) -> None:
    written = escaped(text)
    written.encode()
    assert not set(written) & set("<>\"'\x00\x1b\x7f")


def test_escaping_keeps_the_words() -> None:
    assert escaped('a < b & "c"\nd\ud800') == "a &lt; b &amp; &quot;c&quot;\nd\ufffd"
