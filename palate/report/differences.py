"""What two texts do not share, word by word, as HTML."""

from __future__ import annotations

import re
from difflib import SequenceMatcher

from palate.report.words import escaped

_WORDS = re.compile(r"\s+|\w+|[^\w\s]")


def marked(before: str, after: str) -> tuple[str, str]:
    """Both texts as HTML: what only the first holds in `<del>`, what only the second holds in `<ins>`.

    Texts without a word in common stay unmarked: marking all of both would point at nothing.
    """
    first, second = _WORDS.findall(before), _WORDS.findall(after)
    steps = SequenceMatcher(None, first, second, autojunk=False).get_opcodes()
    if not any(kind == "equal" and "".join(first[start:end]).strip() for kind, start, end, _, _ in steps):
        return escaped(before), escaped(after)
    old = (_tagged(first[start:end], "del", kind != "equal") for kind, start, end, _, _ in steps)
    new = (_tagged(second[start:end], "ins", kind != "equal") for kind, _, _, start, end in steps)
    return "".join(old), "".join(new)


def _tagged(words: list[str], tag: str, differs: bool) -> str:
    text = escaped("".join(words))
    return f"<{tag}>{text}</{tag}>" if differs and text else text
