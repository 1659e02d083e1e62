"""From a data file to records; the format is found by looking at all rows, and can be pinned.

What a row lacks, or holds too much of, is that row's fault and named with its line; a file whose rows are of
two kinds, or of none that is known, is refused as a whole.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping as Table
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from palate.data.conversion import SERVES, Rejected, converted
from palate.data.formats import FORMATS, Format, Reader
from palate.data.reading import file_sha256, read_rows, stop_at
from palate.data.rows import Kind, Record, Row, RowError, type_name
from palate.errors import DataError, RecipeError

_BY_NAME = {known.name: known for known in FORMATS}
_RENAMED = {
    "question": "prompt",
    "query": "prompt",
    "text": "prompt",
    "response": "completion",
    "answer": "completion",
    "target": "completion",
    "preferred": "chosen",
    "winner": "chosen",
    "dispreferred": "rejected",
    "loser": "rejected",
    "correct": "chosen",
    "incorrect": "rejected",
    "best_answer": "chosen",
    "best_incorrect_answer": "rejected",
}


@dataclass(frozen=True, slots=True)
class Mapping:
    """How a file is read: its format, the kind of its records, and its names for the format's columns.

    Found once and pinned in the recipe, it reads later files the same way; pinned by hand, it reads files
    whose columns have other names, as in `Mapping("prompts", "prompts", {"prompt": "question"})`. `rejected` is
    the reply that a ranking's best one is paired with: a random or the worst other one.
    """

    format: str
    kind: Kind
    columns: dict[str, str] = field(hash=False)
    rejected: Rejected = "random"

    def __post_init__(self) -> None:
        known = _BY_NAME.get(self.format)
        if known is None:
            near = difflib.get_close_matches(self.format, _BY_NAME, n=1, cutoff=0.0)[0]
            raise RecipeError(f"a mapping's format is {self.format!r}, which is not known. Did you mean {near!r}?")
        if self.kind != known.kind:
            raise RecipeError(f"a mapping of format {self.format!r} holds {known.kind}, not {self.kind!r}.")
        missing = set(known.required) - set(self.columns)
        unknown = set(self.columns) - set(known.required) - set(known.optional)
        if missing or unknown:
            wanted = ", ".join((*known.required, *(f"{name} (optional)" for name in known.optional)))
            given = ", ".join(self.columns) or "none"
            raise RecipeError(f"a mapping of format {self.format!r} needs the columns {wanted}; given are {given}.")
        if self.rejected not in get_args(Rejected):
            known_values = " or ".join(map(repr, get_args(Rejected)))
            raise RecipeError(f"a mapping's rejected is {self.rejected!r}; it must be {known_values}.")

    def to_dict(self) -> dict[str, Any]:
        """The mapping as a small table for a recipe; `rejected` stands there for rankings alone."""
        table = {"format": self.format, "kind": self.kind, "columns": dict(self.columns)}
        return {**table, "rejected": self.rejected} if self.kind == "rankings" else table

    @property
    def also(self) -> dict[str, str]:
        """The other kinds that the file serves as, each with what is taken for it."""
        rejected = {"random": "a random", "worst": "the worst"}[self.rejected]
        served = {kind: said.format(rejected=rejected) for kind, said in SERVES[self.kind].items()}
        for kind, reading in _BY_NAME[self.format].also.items():
            if {*reading.needs} <= self.columns.keys():
                served[kind] = reading.contents
        return served

    @classmethod
    def from_dict(cls, table: Table[str, Any]) -> Mapping:
        """The mapping that `to_dict` wrote; raises `RecipeError` where the table is not one."""
        known = {"format", "kind", "columns"}
        optional = {"rejected"} if table.get("kind") == "rankings" else set()
        if set(table) - optional != known or not isinstance(table["columns"], Table):
            given = ", ".join(table) or "nothing"
            raise RecipeError(
                f"a mapping has format, kind and a table of columns, that of rankings also rejected; given is {given}."
            )
        return cls(**{**table, "columns": dict(table["columns"])})


@dataclass(frozen=True, slots=True)
class Dataset:
    """What one file holds: its records in the file's order, and account of every row that is not among them.

    `skipped` names the line and the reason of each bad row; `dropped_equal` counts rows that prefer nothing:
    those whose replies are all equal, and rankings that tie throughout where two replies are wanted.
    """

    records: tuple[Any, ...]
    mapping: Mapping
    path: Path
    sha256: str
    skipped: tuple[tuple[int, str], ...] = ()
    dropped_equal: int = 0


def read(
    path: str | Path,
    kind: Kind | None = None,
    *,
    on_bad: Literal["stop", "skip"] = "stop",
    mapping: Mapping | None = None,
) -> Dataset:
    """The records of a file as the kind that is asked for, or as its own kind.

    A file also serves as the kinds that `Mapping.also` names. A chat gives one demonstration for each turn of
    the assistant, and one prompt, that of its last reply.
    Raises `DataError` for an unreadable file, an unknown or mixed format, a file that cannot serve as `kind`,
    no usable row, and with `on_bad="stop"` the first bad row.
    """
    path = Path(path).expanduser()
    skipped: list[tuple[int, str]] = []
    complain = stop_at(path) if on_bad == "stop" else lambda line, reason: skipped.append((line, reason))
    rows = list(read_rows(path, complain))
    if mapping is None and rows:
        mapping = recognise(rows, path)
    if mapping is None:
        raise _nothing_usable(path, skipped, 0)
    kind = _checked_kind(kind or mapping.kind, mapping, path)
    records: list[Record] = []
    dropped_equal = 0
    as_kind = _reader(mapping, kind)
    for line, row in rows:
        try:
            found = as_kind(_named(row, mapping, line))
        except (RowError, DataError) as error:
            complain(line, str(error))
            continue
        dropped_equal += not found
        records.extend(found)
    if not records:
        raise _nothing_usable(path, skipped, dropped_equal)
    return Dataset(tuple(records), mapping, path, file_sha256(path), tuple(sorted(skipped)), dropped_equal)


def recognise(rows: Sequence[tuple[int, Table[str, Any]]], path: str | Path) -> Mapping:
    """The format of numbered rows: the one that most of them have, the others then being bad rows of it.

    Raises `DataError` where rows belong to two formats of pairs or demonstrations, or most belong to none.
    Rows fit for prompts alone do not make a mixture: such a row in a file of pairs has lost a column.
    """
    first_lines: dict[str, int] = {}
    votes: Counter[str] = Counter()
    for line, row in rows:
        name = _format_name(row)
        votes[name] += 1
        first_lines.setdefault(name, line)
    known = [name for name in _BY_NAME if votes[name]]
    richer = [name for name in known if _BY_NAME[name].kind != "prompts"]
    if len(richer) > 1:
        raise _mixture(path, votes, first_lines, richer)
    if not known or votes[""] > len(rows) / 2:
        raise _unknown(path, rows)
    winner = _BY_NAME[max(known, key=votes.__getitem__)]
    present = {column for _, row in rows for column in row}
    optional = tuple(column for column in winner.optional if column in present)
    return Mapping(winner.name, winner.kind, {column: column for column in winner.required + optional})


def _format_name(row: Table[str, Any]) -> str:
    return next((known.name for known in FORMATS if known.fits(row)), "")


def _named(row: Table[str, Any], mapping: Mapping, line: int) -> Row:
    """The row under the format's names; a required column must be there, an optional one may be missing."""
    for name in _BY_NAME[mapping.format].required:
        column = mapping.columns[name]
        if column not in row:
            there = ", ".join(f"'{present}'" for present in row) or "none"
            raise RowError(f"the column '{column}' is missing; this row's columns are {there}.")
    used = {name: row[column] for name, column in mapping.columns.items() if column in row}
    others = {name: value for name, value in row.items() if name not in mapping.columns.values()}
    return Row(used, others, line)


def _reader(mapping: Mapping, kind: Kind) -> Reader:
    """What reads one row as `kind`; it gives nothing for a row that prefers nothing."""
    known = _BY_NAME[mapping.format]
    if kind in known.also and kind != known.kind:
        return known.also[kind].records
    return lambda row: converted(known.records(row), kind, mapping.rejected)


def _checked_kind(kind: Kind, mapping: Mapping, path: Path) -> Kind:
    if kind == mapping.kind or kind in mapping.also:
        return kind
    columns = ", ".join(mapping.columns.values())
    wanted = "; ".join(_columns(known) for known in FORMATS if known.kind == kind)
    judged = " A reply with a 'label' or with scores is a judgement, which is neither imitated nor compared."
    raise DataError(
        f"this file holds {mapping.kind} (format {mapping.format}, columns {columns}); {kind} are wanted. "
        f"Columns that make {kind}: {wanted}.{judged if mapping.kind in ('feedback', 'ratings') else ''} "
        "Give another file, or rename its columns.",
        path,
    )


def _columns(known: Format) -> str:
    return f"{' + '.join(known.required)}, {known.contents} ({known.name})"


def _mixture(path: str | Path, votes: Counter[str], first_lines: dict[str, int], names: list[str]) -> DataError:
    found = ", ".join(f"{votes[name]} rows of {name} (first in line {first_lines[name]})" for name in names)
    return DataError(f"the file mixes formats: {found}. One file holds one format; split it.", path)


def _unknown(path: str | Path, rows: Sequence[tuple[int, Table[str, Any]]]) -> DataError:
    line, row = next(((line, row) for line, row in rows if not _format_name(row)), rows[0])
    seen = ", ".join(f"'{name}' ({type_name(value)})" for name, value in row.items()) or "no columns"
    known = "; ".join(_columns(known) for known in FORMATS)
    return DataError(f"the format is not known. Line {line} has {seen}. Known are: {known}. {_advice(row)}", path)


def _advice(row: Table[str, Any]) -> str:
    if {"chosen", "rejected"} <= set(row):
        return (
            "Plain texts under 'chosen' and 'rejected' need a column 'prompt' beside them, or must both be "
            "transcripts: a beginning that two texts share may be more or less than their prompt."
        )
    renamed = [f"'{name}' to '{_RENAMED[name]}'" for name in row if name in _RENAMED]
    rename = f"Rename {' and '.join(renamed)}" if renamed else "Rename the columns to those of one of these formats"
    return f"{rename}, or pin a mapping that names them."


def _nothing_usable(path: Path, skipped: list[tuple[int, str]], dropped_equal: int) -> DataError:
    first = f" The first of them is line {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
    return DataError(
        f"no row is left: {len(skipped)} are bad and {dropped_equal} prefer nothing (equal replies, or all tied)."
        f"{first} Give a file with at least one good row.",
        path,
    )
