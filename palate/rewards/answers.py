"""The final answer of a text, as a number or in words: what a verifier compares with the answer that is known."""

from __future__ import annotations

import re
from fractions import Fraction

# Longer numerals are no answer to anything, and Python refuses to read them past some thousand digits.
LONGEST_NUMERAL = 200

_BOXED = re.compile(r"\\f?boxed\s*\{")
_FRACTION = re.compile(r"\\[dt]?frac\s*\{\s*(-?[\d.]+)\s*\}\s*\{\s*(-?[\d.]+)\s*\}")
_LATEX = re.compile(r"\\(?:left|right|text|mathrm|[!,;: ])|\\(?=[$%#])|\{,\}(?=\d)|(?<=\d)\\,(?=\d)")
_NUMBER = re.compile(
    r"""(?P<sign>(?<![\w)\]}])[-+])?                          # 3-4 holds no negative number
        (?:[$€£¥]\s?(?P<inner>-)?)?
        (?:(?P<mixed>\d+)[ ](?=\d+/\d))?                      # 1 1/2
        (?P<value>(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)
        (?:[eE](?P<power>[-+]?\d{1,2})(?!\w))?
        (?:\s?/\s?(?P<below>-?\d+(?:\.\d+)?))?
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
    full stop after it, a unit or a percent sign are left aside.
    """
    plain = final_answer(text).replace("−", "-").replace("{,}", ",")
    plain = _LATEX.sub("", _FRACTION.sub(r" \1/\2", plain))
    found = list(_NUMBER.finditer(plain))
    return _exact(found[-1]) if found and len(found[-1][0]) <= LONGEST_NUMERAL else None


def same_words(text: str, wanted: str) -> bool:
    """Whether the final answers of two texts are the same, apart from case, blanks and the marks around them."""
    return _words(text) == _words(wanted)


def _exact(found: re.Match[str]) -> Fraction | None:
    value = Fraction(found["value"].replace(",", "")) * Fraction(10) ** int(found["power"] or 0)
    if found["below"] is not None:
        below = Fraction(found["below"])
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
