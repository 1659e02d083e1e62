"""Final answers: which number or words of a text are meant."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.rewards.answers import final_answer, is_number, last_number, same_words


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("72", 72),
        ("The answer is 72.", 72),
        ("72.0", 72),
        ("It costs $1,234.50.", Fraction(12345, 10)),
        ("€ 5", 5),
        ("-$5", -5),
        ("$-5", -5),
        ("−3", -3),
        ("about 5 or 6 apples", 6),
        ("9 - 4 = 5", 5),
        ("from 3-4", 4),
        ("f(2)-7", 7),
        ("12,34", 34),
        ("1,234,567 people", 1_234_567),
        ("1,2345", 2345),
        (".5", Fraction(1, 2)),
        ("3/4", Fraction(3, 4)),
        ("-3/4 cup", Fraction(-3, 4)),
        ("1 1/2 hours", Fraction(3, 2)),
        ("-1 1/2", Fraction(-3, 2)),
        ("2e3", 2000),
        ("1.5E-2", Fraction(15, 1000)),
        ("50%", 50),
        ("COVID-19", 19),
        ("1/0", None),
        ("no number", None),
        ("", None),
        ("9" * 5000, None),
        ("1e99", 10**99),
        # marked answers win over what stands behind them
        ("6 * 12 = 72\n#### 72", 72),
        ("#### 5\n#### 72 dollars\nor 80 in 2 years", 72),
        (r"So \boxed{72}, not 5.", 72),
        (r"\boxed{1} then \boxed{\frac{3}{4}}", Fraction(3, 4)),
        (r"\boxed{x = \dfrac{-1}{2}}", Fraction(-1, 2)),
        (r"\boxed{\$1{,}000}", 1000),
        (r"\boxed{\text{about } 7}", 7),
        (r"\boxed{12} and \boxed{13", 12),
        (r"\boxed{none} of 5", None),
        # a sign apart from its number is a sign where nothing stands before it to be subtracted from
        ("- 5", -5),
        (r"\boxed{x = - 5}", -5),
        (r"$- \frac{1}{2}$", Fraction(-1, 2)),
        ("It is - $5", -5),
        ("9 - 4", 4),
        ("**Total** - 5", 5),
        ("the total -- 5", 5),
        ("$x$ - 5", 5),
        ("- 5 apples\n- 6 pears", 6),
        # fractions of LaTeX keep the sign before them, and turn it where they hold one themselves
        (r"\boxed{-\frac{3}{4}}", Fraction(-3, 4)),
        (r"we get -\frac{1}{2}", Fraction(-1, 2)),
        (r"-\frac{-1}{2}", Fraction(1, 2)),
        (r"\frac{1}{-2}", Fraction(-1, 2)),
        (r"\frac{-1}{-2}", Fraction(1, 2)),
        (r"x-\frac{1}{2}", Fraction(1, 2)),
        (r"-2\frac{1}{2}", Fraction(-5, 2)),
        (r"2 \tfrac12", Fraction(5, 2)),
        (r"\frac12", Fraction(1, 2)),
        (r"-\frac 3{40}", Fraction(-3, 40)),
        (r"\frac{1,000}{2}", 500),
        (r"\frac{1\,000}{.5}", 2000),
        ("3/1,000", Fraction(3, 1000)),
        # powers and roots are no numbers that are read, nor is what they are a part of
        (r"10^{-3}", None),
        (r"\boxed{5 \times 10^3}", None),
        ("10⁻³", None),
        ("2**10", None),
        (r"3\sqrt{2}", None),
        (r"\sqrt[3]{\frac{1}{2}}", None),
        ("√2", None),
        (r"\frac{\sqrt{3}}{2}", None),
        (r"\sqrt{3}/2 + 1", None),
        (r"2^{3} + 1 = 9", 9),
        ("\\sqrt{16}\n#### 4", 4),
        (r"90^\circ", 90),
        (r"90^{\circ}", 90),
        ("x^2 is **72**", 72),
    ],
)
def test_the_last_number_of_the_final_answer(text, number):
    assert last_number(text) == number


@given(st.integers(-(10**9), 10**9), st.integers(1, 10**6), st.sampled_from(["{}", "So {}.", "#### {}", "= {} kg"]))
def test_a_written_number_is_read_exactly(whole, below, frame):
    assert last_number(frame.format(whole)) == whole
    assert last_number(frame.format(f"{whole:,}")) == whole
    assert last_number(frame.format(f"{whole}/{below}")) == Fraction(whole, below)
    assert last_number(frame.format(f"{whole:,}.25")) == Fraction(f"{whole}.25")


@given(
    st.integers(-(10**9), 10**9), st.integers(1, 10**6), st.sampled_from(["{}", "So {}.", r"\boxed{{{}}}", "= {} kg"])
)
def test_a_fraction_of_latex_is_the_quotient_of_its_parts(above, below, frame):
    sign, size = "-" if above < 0 else "", abs(above)
    for written in (rf"\frac{{{above}}}{{{below}}}", rf"{sign}\dfrac{{{size:,}}}{{{below:,}}}"):
        assert last_number(frame.format(written)) == Fraction(above, below)


@given(st.text())
def test_any_text_may_be_read(text):
    assert last_number(text) is None or isinstance(last_number(text), Fraction)
    assert same_words(text, text)


@pytest.mark.parametrize(
    ("text", "answer"),
    [("  Paris.\n", "Paris."), ("so\n#### Paris \nand more", "Paris"), (r"\boxed{a{b}c} d", "a{b}c")],
)
def test_what_a_text_gives_as_its_answer(text, answer):
    assert final_answer(text) == answer


def test_words_are_compared_apart_from_case_blanks_and_marks():
    assert same_words("  the   Red House. ", "The red house")
    assert same_words("I think\n#### **Paris**", "paris")
    assert not same_words("It is Paris", "Paris")
    assert not same_words("", "Paris")


@pytest.mark.parametrize(
    "text",
    [
        "12",
        "-3",
        "− 4",
        "$7.00",
        "50%",
        "7.",
        "1,234.50 €",
        "3/4",
        "1 1/2",
        r"$\frac{1}{2}$",
        "so\n#### 1,200",
        "**12**",
    ],
)
def test_an_answer_that_is_a_number(text):
    assert is_number(text)


@pytest.mark.parametrize(
    "text", ["", "seven", "Apollo 11", "12 apples", "in 1492", "3-4", "2^10", "(2, 3)", "42 or 43", "1/0", "9" * 300]
)
def test_an_answer_that_only_holds_a_number_or_none(text):
    assert not is_number(text)
