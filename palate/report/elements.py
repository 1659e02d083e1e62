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


def figure(title: str, caption: str, chart: str) -> str:
    """A chart under its title and caption."""
    return f"<figure><figcaption><b>{escaped(title)}</b>{escaped(caption)}</figcaption>{chart}</figure>"


def table(name: str, header: Sequence[str], rows: Iterable[Sequence[str]], numbers: int) -> str:
    """A table that scrolls sideways if it must; the first column names rows, the last `numbers` are numbers.

    `name` is the CSS class and, for screen readers, the name of the region.
    """

    def row(values: Sequence[str], opening: Sequence[str], closing: Sequence[str]) -> str:
        cells = (
            f"<{tag}{' class=number' if column >= len(header) - numbers else ''}>{value}</{end}>"
            for column, (tag, value, end) in enumerate(zip(opening, values, closing, strict=True))
        )
        return f"<tr>{''.join(cells)}</tr>"

    rest = len(header) - 1
    head = row(header, ['th scope="col"'] * (rest + 1), ["th"] * (rest + 1))
    body = "".join(row(values, ['th scope="row"', *["td"] * rest], ["th", *["td"] * rest]) for values in rows)
    return (
        f'<div class="scroll" role="region" aria-label="{name}" tabindex="0"><table class="{name}">'
        f"<thead>{head}</thead><tbody>{body}</tbody></table></div>"
    )
