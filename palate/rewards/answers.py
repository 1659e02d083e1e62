"""The final answer of a text, as a number or in words: what a verifier compares with the answer that is known."""

from __future__ import annotations

import re
from fractions import Fraction

# Longer numerals are no answer to anything, and Python refuses to read them past some thousand digits.
LONGEST_NUMERAL = 200

_BOXED = re.compile(r"\\f?boxed\s*\{")
_LATEX = re.compile(r"\\(?:left|right|text|mathrm|[!,;: ])|\\(?=[$%#])|\^\s*(?:\\circ|\{\s*\\circ\s*\})")
_NUMERAL = r"(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)"
_FRACTION = re.compile(
    rf"""(?:(?P<sign>[-+])|[ ]?)\\[dtc]?frac
        \s*(?:\{{\s*(?P<above>-?{_NUMERAL})\s*\}}|(?P<one_above>\d))
        \s*(?:\{{\s*(?P<below>-?{_NUMERAL})\s*\}}|(?P<one_below>\d))
    """,
    re.VERBOSE,
)
# A blank may follow a sign, but in "9 - 4", "the total - 4" and a list of lines the dash is none.
_SIGN_APART = re.compile(r"(\A\$?|\s\$|[=:(\[{≈]|\bis)[ \t]*-[ \t]+(?=[$€£¥]?[ \t]?\.?\d)")
# What may stand around a number that is the whole answer.
_AROUND = " \t\n$€£¥%°.*`"
_GROUP = r"(?:\{(?:[^{}]|\{[^{}]*\})*\}|\w)"
# Powers, roots and fractions of such, with what is reckoned on: no number of theirs is the answer.
_UNREAD = rf"""
    (?: \^\s*(?:{_GROUP}|[-+]?\w+|\\\w+)
      | (?<=[\d)])(?:\*\*(?=[-\d(])[-\d(]+|[⁺⁻]?[⁰¹²³⁴-⁹]+)
      | \\sqrt\s*(?:\[[^\]]*\]\s*)?{_GROUP}
      | √\s*\(?[\w.]+
      | \\[dtc]?frac\s*{_GROUP}\s*{_GROUP}
    )+
    (?:[ \t]*(?:[-+*/]|\\cdot|\\times)[ \t]*{_NUMERAL})*
"""
_NUMBER = re.compile(
    rf"""(?P<unread>{_UNREAD})
        |
        (?P<sign>(?<![\w)\]}}])[-+])?                         # 3-4 holds no negative number
        (?:[$€£¥]\s?(?P<inner>-)?)?
        (?:(?P<mixed>\d+)[ ](?=\d+/\d))?                      # 1 1/2
        (?P<value>{_NUMERAL})
        (?:[eE](?P<power>[-+]?\d{{1,2}})(?!\w))?
        (?:\s?/\s?(?P<below>-?{_NUMERAL}))?
    """,
    re.VERBOSE,
)


def final_answer(text: str) -> str:
    r"""What a text gives as its answer: the last `\\boxed{…}`, else the line after the last `####`, else all of it."""
    boxed = [found for match in _BOXED.finditer(text) if (found := _until_closed(text[match.end() :])) is not None]
    if boxed:
        return boxed[-1].strip()
    _, mark, rest = text.rpartition("####")
    return (rest.strip().partition("\n")[0] if mark else text).strip()


def last_number(text: str) -> Fraction | None:
    """The last number of a text's final answer, exactly; None where there is none.

    Read are signs, thousands (1,234), decimals, exponents, fractions (3/4, 1 1/2, LaTeX), currency before the number; a
    full stop after it, a unit or a percent sign are left aside. None, too, where a power or a root stands last.
    """
    found = list(_NUMBER.finditer(_plain(text)))
    if not found or found[-1]["unread"] is not None or len(found[-1][0]) > LONGEST_NUMERAL:
        return None
    return _exact(found[-1])


def is_number(text: str) -> bool:
    """Whether the final answer of a text is a number and nothing else but a currency or percent sign, marks of LaTeX or
    Markdown, a full stop."""
    return last_number(text) is not None and _NUMBER.fullmatch(_plain(text).strip(_AROUND)) is not None


def same_words(text: str, wanted: str) -> bool:
    """Whether the final answers of two texts are the same, apart from case, blanks and the marks around them."""
    return _words(text) == _words(wanted)


def _plain(text: str) -> str:
    """The final answer with its numbers in one notation."""
    plain = final_answer(text).replace("−", "-").replace("{,}", ",")
    return _SIGN_APART.sub(r"\1 -", _FRACTION.sub(_on_one_line, _LATEX.sub("", plain)))


def _on_one_line(fraction: re.Match[str]) -> str:
    r"""` 3/4` for `\frac{3}{4}`, the signs before and within it made one; the blank keeps `1\frac{3}{4}` apart."""
    above, below = fraction["above"] or fraction["one_above"], fraction["below"] or fraction["one_below"]
    sign = fraction["sign"] or " "
    if (above[0] == "-") != (below[0] == "-"):
        sign = "+" if sign == "-" else " -"
    return f"{sign}{above.lstrip('-')}/{below.lstrip('-')}"


def _exact(found: re.Match[str]) -> Fraction | None:
    value = Fraction(found["value"].replace(",", "")) * Fraction(10) ** int(found["power"] or 0)
    if found["below"] is not None:
        below = Fraction(found["below"].replace(",", ""))
        if below == 0:
            return None
        value /= below
    value += int(found["mixed"] or 0)
    return -value if "-" in (found["sign"], found["inner"]) else value


def _words(text: str) -> str:
    return " ".join(final_answer(text).casefold().split()).strip(" .,;:!?\"'`*$")


def _until_closed(text: str) -> str | None:
    """The text up to the brace that closes one before it, None where none does."""
    depth = 1
    for index, character in enumerate(text):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return text[:index]
    return None
