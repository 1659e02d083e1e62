"""What several tests of stages ask of a run's files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Rows = list[dict[str, Any]]


def _rows(path: Path) -> Rows:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="session")
def rows() -> Callable[[Path], Rows]:
    """`rows(path)` are the rows of a file of JSON lines."""
    return _rows


@pytest.fixture(scope="session")
def timeless() -> Callable[[Path], Rows]:
    """`timeless(path)` are the same without what time they took: what must be equal in two runs that are alike."""
    return lambda path: [
        {name: value for name, value in row.items() if not name.startswith("time/")} for row in _rows(path)
    ]
