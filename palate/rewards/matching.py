"""Regular expressions as a reward; a file of its own, as an expression may take for ever and is tried in another
process."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any


def matches(prompts: Sequence[str], completions: Sequence[str], *, pattern: str, **fields: Any) -> list[float]:
    """1 where the pattern is found in the completion, else 0; the dot matches line breaks, ^ and $ their places."""
    found = re.compile(pattern, re.DOTALL | re.MULTILINE)
    return [float(found.search(text) is not None) for text in completions]
