"""Metrics as JSON lines: appended row by row, cut back to the checkpoint when a run resumes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palate.engine import files
from palate.errors import DataError, TrainingError


@dataclass(frozen=True)
class JsonLines:
    """A file of rows, flat dicts with a `step`; a last line without a line break was torn, and is no row."""

    path: Path

    def append(self, row: Mapping[str, Any]) -> None:
        """Adds a row, safe from the death of this process; TrainingError where a number is not finite."""
        if not isinstance(row.get("step"), int):
            raise ValueError("every row has an integer step: by it a resumed run is cut back")
        try:
            line = files.encode_json(dict(row))
        except TrainingError as error:
            raise TrainingError(f"{self.path}, step {row['step']}: {error}") from None
        files.append_line(self.path, line)

    def sync(self) -> None:
        """Makes the rows so far durable: before a checkpoint that counts on them is saved."""
        if self.path.exists():
            files.sync(self.path)

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows in order, none where there is no file; DataError where a whole line is no row."""
        return (row for _, row in self._lines())

    def cut_after(self, step: int) -> None:
        """Drops the rows past `step`, as they will be written again by the run that resumes there."""
        if self.path.exists():
            kept = [line for line, row in self._lines() if row["step"] <= step]
            files.write_atomic(self.path, b"".join(kept))

    def _lines(self) -> Iterator[tuple[bytes, dict[str, Any]]]:
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.endswith(b"\n"):
                    yield line, self._row(line, number)

    def _row(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"not JSON: {error}. Restore the file or delete the line.", self.path, number) from error
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            raise DataError("not an object with a step. Restore the file or delete the line.", self.path, number)
        return row
