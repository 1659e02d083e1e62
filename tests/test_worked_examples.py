"""Runs the page of worked examples, and holds the numbers of its prose and tables to those of its code."""

import doctest
import re
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "worked-examples.md"


def split_page() -> tuple[str, str]:
    """The page's code and its prose, either with the other left empty, so that line numbers hold."""
    code, prose, inside = [], [], False
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        fence = line.startswith("```")
        code.append(line if inside and not fence else "")
        prose.append("" if inside or fence else line)
        inside ^= fence
    return "\n".join(code), "\n".join(prose)


def decimals(text: str) -> set[float]:
    return {float(number) for number in re.findall(r"(?<![\w.])\d*\.\d+", text)}


def test_the_code_of_the_page_gives_what_it_shows():
    code, _ = split_page()
    test = doctest.DocTestParser().get_doctest(code, {}, PAGE.name, str(PAGE), 0)
    report: list[str] = []
    results = doctest.DocTestRunner().run(test, out=report.append)
    assert results.failed == 0, "".join(report)
    assert results.attempted >= 35


def test_every_decimal_of_the_prose_appears_in_the_code():
    # Left over are steps of a hand calculation: e⁻¹, 1 + e⁻¹, and the clipped ratio 1 + ε.
    code, prose = split_page()
    assert decimals(prose) - decimals(code) == {0.3679, 1.3679, 1.2}
