"""Markdown from anywhere as HTML that can do nothing: no raw HTML, no images, links by http, https and mailto alone.

Prompts, completions and guidelines are strangers' text. The HTML made here holds text, structure, classes and safe
links; there is no script, style, frame, form or address that is loaded. LaTeX is shown as it was written, for Markdown
would eat its backslashes.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from functools import lru_cache

from markdown_it import MarkdownIt
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token

# A longer text stands as it is: Markdown of a megabyte tells a reader nothing, and takes seconds.
LONGEST = 100_000

_SAFE = re.compile(r"(?:https?://|mailto:)", re.IGNORECASE)
_ALIGNED = re.compile(r"text-align:(left|center|right)")


# What encloses mathematics, and how long it may be.
_FENCES = ((r"\(", r"\)"), (r"\[", r"\]"), ("$$", "$$"))
_LONGEST_FORMULA = 2_000
# Between single dollar signs, which stand close to it, so that prices are none (Pandoc's rule).
_FORMULA = re.compile(r"\$(?=\S)(?:[^$`\\\n]|\\.){1,500}(?<=\S)\$(?!\d)")


def rendered(text: str) -> str:
    """A Markdown text as safe HTML."""
    if len(text) > LONGEST:
        return f"<pre>{html.escape(text)}</pre>"
    return _rendered(text)


@lru_cache(maxsize=256)
def _rendered(text: str) -> str:
    tokens = _MARKDOWN.parse(text)
    for token in _flat(tokens):
        _tame(token)
    return _MARKDOWN.renderer.render(tokens, _MARKDOWN.options, {})


def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False, "breaks": True}).enable(["table", "strikethrough"])
    parser.disable("image")
    parser.inline.ruler.before("escape", "mathematics", _mathematics)
    parser.validateLink = lambda address: _SAFE.match(address) is not None  # pyright: ignore[reportAttributeAccessIssue]
    return parser


def _mathematics(state: StateInline, silent: bool) -> bool:
    """The rule of a parser that takes mathematics for code: not a letter of it is Markdown."""
    end = _end_of_formula(state.src, state.pos)
    if not end or end > state.posMax:
        return False
    if not silent:
        state.push("code_inline", "code", 0).content = state.src[state.pos : end]
    state.pos = end
    return True


def _end_of_formula(text: str, start: int) -> int:
    """Where the mathematics that begins here ends; 0 where none does."""
    for opening, closing in _FENCES:
        if text.startswith(opening, start):
            found = text.find(closing, start + 3, start + _LONGEST_FORMULA)
            return found + 2 if found > 0 else 0
    found = _FORMULA.match(text, start)
    return found.end() if found else 0


_MARKDOWN = _parser()


def _flat(tokens: Sequence[Token]) -> list[Token]:
    return [one for token in tokens for one in (token, *(token.children or ()))]


def _tame(token: Token) -> None:
    """Links lead away without telling from where; a cell's alignment is a class, since the page allows no style."""
    if token.type == "link_open":
        token.attrs = {"href": token.attrs.get("href", ""), "rel": "noopener noreferrer nofollow", "target": "_blank"}
    elif token.type in ("th_open", "td_open"):
        aligned = _ALIGNED.fullmatch(str(token.attrs.pop("style", "")))
        if aligned:
            token.attrs["class"] = f"align-{aligned[1]}"
