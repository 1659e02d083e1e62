"""Putting a stage's model into the run directory: whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from palate.engine.files import atomic_directory, make_directory


def save_whole(place: Path, write: Callable[[Path], None]) -> None:
    """Lets `write` fill a fresh directory and puts it at `place` once it is complete and durable."""
    make_directory(place.parent)
    with atomic_directory(place) as partial:
        write(partial)
