"""The few HTML elements that the page is made of; titles and cells come as HTML, all else is escaped here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import resources

from palate.report.words import escaped

# The policy forbids whatever the page does not need: text that slipped through could load and run nothing.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def document(title: str, content: str) -> str:
    """A whole page of its own: the style within, no script, nothing loaded."""
    style = resources.files("palate.report").joinpath("style.css").read_text(encoding="utf-8")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>
{style}</style>
</head>
<body>
<main>
{content}
</main>
</body>
</html>
"""


def section(title: str, content: str) -> str:
    """A part of the page under its heading."""
    return f"<section>\n<h2>{title}</h2>\n{content}\n</section>"


def absent(sentence: str) -> str:
    """What stands where a part of the run is missing."""
    return f'<p class="absent">{escaped(sentence)}</p>'


def mark(level: str, word: str) -> str:
    """A word with the sign of a level, pass, warn or stop, before it."""
    return f'<span class="mark {level}">{escaped(word)}</span>'


def with_interval(value: str, interval: str) -> str:
    """A figure and its interval in brackets behind it."""
    return f'{value} <span class="interval">({interval})</span>'


def under(words: str) -> str:
    """A line of lesser weight beneath a cell's content; nothing where there is nothing to say."""
    return f'<span class="under">{escaped(words)}</span>' if words else ""


def figure(title: str, caption: str, chart: str) -> str:
    """A chart under its title and caption."""
    return f"<figure><figcaption><b>{escaped(title)}</b>{escaped(caption)}</figcaption>{chart}</figure>"


def table(name: str, header: Sequence[str], rows: Iterable[Sequence[str]], numbers: int) -> str:
    """A table that scrolls sideways if it must; the first column names rows, the last `numbers` are numbers.

    In a row of fewer cells than the header the second spans what is lacking. `name` is the CSS class and, for screen
    readers, the name of the region.
    """

    def cell(column: int, value: str, tag: str, scope: str = "", span: int = 1) -> str:
        number = " class=number" if column >= len(header) - numbers else ""
        return f"<{tag}{scope}{number}{f' colspan={span}' if span > 1 else ''}>{value}</{tag}>"

    def row(values: Sequence[str]) -> str:
        lacking = len(header) - len(values)
        cells = [cell(0, values[0], "th", ' scope="row"')]
        for column, value in enumerate(values[1:], start=1):
            cells.append(cell(column, value, "td", span=1 + lacking if column == 1 else 1))
        return f"<tr{' class=over' if lacking else ''}>{''.join(cells)}</tr>"

    head = "".join(cell(column, value, "th", ' scope="col"') for column, value in enumerate(header))
    return (
        f'<div class="scroll" role="region" aria-label="{name}" tabindex="0"><table class="{name}">'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(map(row, rows))}</tbody></table></div>"
    )
