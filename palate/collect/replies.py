"""The reply of a model: what it says once it has thought, and the JSON objects that stand in a text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

_DECODER = json.JSONDecoder()


def spoken(text: str) -> str:
    """What a model says after thinking aloud, without the white space around it."""
    return text.rpartition("</think>")[2].strip()


def objects(text: str) -> Iterator[dict[str, Any]]:
    """The JSON objects that stand in a text, outermost ones."""
    place = text.find("{")
    while place >= 0:
        try:
            found, end = _DECODER.raw_decode(text, place)
        except (ValueError, RecursionError):
            end = place + 1
        else:
            yield found
        place = text.find("{", end)
