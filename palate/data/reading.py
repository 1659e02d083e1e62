"""Rows of a data file, each a plain dict with its line; every way a file can be broken has its error.

JSON lines are split at the byte `\\n` and nowhere else, so that U+2028 and its kin stay inside their strings.
What JSON parsers let through in silence is refused here: NaN and infinities, a key that stands twice in one
object, and lone surrogates, which no tokenizer can encode.
"""

from __future__ import annotations

import difflib
import gzip
import hashlib
import json
import math
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from palate.errors import DataError

OnBadRow = Callable[[int, str], None]

_SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_WHITESPACE = re.compile(r"[ \t\r\n]*")
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


def stop_at(path: str | Path) -> OnBadRow:
    """The answer to a bad row that ends the reading: a `DataError` with file, line and reason."""

    def stop(line: int, reason: str) -> None:
        raise DataError(f'{reason} Mend this row, or leave such rows out with on_bad = "skip".', path, line)

    return stop


def read_rows(path: str | Path, on_bad: OnBadRow | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a .jsonl, .json (an array, or lines), .jsonl.gz, .json.gz or .parquet file, as (line, row).

    Lines count from 1; in a parquet file the line is the number of the row, in an array the line where the
    element begins. Blank lines are passed over. `on_bad(line, reason)` hears of each row that cannot be read
    and may return to go on with the next; without it the first one raises. Raises `DataError` where the file
    as a whole cannot be read.
    """
    path = Path(path).expanduser()
    suffix = _checked_suffix(path)
    seen = 0
    for line, row in _rows(path, suffix, on_bad or stop_at(path)):
        seen += 1
        if row is not None:
            yield line, row
    if seen == 0:
        raise DataError("the file holds no rows. Every file needs at least one; was it cut, or never written?", path)


def file_sha256(path: str | Path) -> str:
    """The SHA-256 of the file's bytes, in hexadecimal."""
    with Path(path).expanduser().open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checked_suffix(path: Path) -> str:
    if path.is_dir():
        inside = [entry.name for entry in sorted(path.iterdir()) if entry.name.endswith(_SUFFIXES)]
        found = f"It holds {', '.join(inside[:5])}: name one of them." if inside else "It holds no data file either."
        raise DataError(f"this is a directory, and a data file is wanted. {found}", path)
    if not path.is_file():
        raise DataError(f"there is no such file. {_near_names(path)}", path)
    for suffix in _SUFFIXES:
        if path.name.lower().endswith(suffix):
            return suffix
    known = ", ".join(_SUFFIXES)
    raise DataError(f"files that end in '{path.suffix}' are not read, only {known}. Convert it to JSON lines.", path)


def _near_names(path: Path) -> str:
    if not path.parent.is_dir():
        return f"The directory {path.parent} does not exist either; is the path right, seen from {Path.cwd()}?"
    names = [entry.name for entry in path.parent.iterdir()]
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
    if not near:
        return f"Nothing in {path.parent.resolve()} has a name like it; is the path right?"
    return f"Did you mean {' or '.join(sorted(near))}?"


def _rows(path: Path, suffix: str, on_bad: OnBadRow) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Rows, None in the place of each that `on_bad` let pass; failures of the file become `DataError`."""
    try:
        if suffix == ".parquet":
            yield from _parquet_rows(path)
        elif suffix.startswith(".jsonl") or not _is_array(path):
            yield from _line_rows(path, on_bad)
        else:
            yield from _array_rows(path, on_bad)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"the gzip file is damaged or cut short ({error}). Copy or make it again.", path) from error
    except OSError as error:
        raise DataError(f"the file cannot be read ({error.strerror or error}). Check its permissions.", path) from error


def _open(path: Path) -> Any:
    return gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb")


def _is_array(path: Path) -> bool:
    with _open(path) as file:
        return file.read(4096).removeprefix(_BYTE_ORDER_MARK).lstrip().startswith(b"[")


def _line_rows(path: Path, on_bad: OnBadRow) -> Iterator[tuple[int, dict[str, Any] | None]]:
    with _open(path) as file:
        for line, raw in enumerate(file, start=1):
            if line == 1:
                _refuse_utf16(raw, path)
                raw = raw.removeprefix(_BYTE_ORDER_MARK)
            if not raw.strip():
                continue
            row, reason = _parsed_line(raw)
            if reason:
                on_bad(line, reason)
            yield line, row


def _parsed_line(raw: bytes) -> tuple[dict[str, Any] | None, str]:
    """The row of one line and no reason, or no row and the reason why there is none."""
    try:
        text = raw.decode("utf-8").rstrip("\r\n")
        value = _DECODER.decode(text)
    except UnicodeDecodeError as error:
        return None, f"byte {error.start + 1} of this line is no UTF-8. Data files are UTF-8 text."
    except json.JSONDecodeError as error:
        return None, f"this is no whole JSON object: {error.msg} at column {error.colno}."
    except (ValueError, RecursionError) as error:
        return None, f"{error}."
    return _as_row(value, text)


def _as_row(value: Any, text: str) -> tuple[dict[str, Any] | None, str]:
    if not isinstance(value, dict):
        return (
            None,
            f"a row must be a JSON object with named columns, and this is {type(value).__name__} data.",
        )
    if _SURROGATE_ESCAPE.search(text) and not _encodable(value):
        return (
            None,
            "a string holds half of a surrogate pair (\\ud800 to \\udfff), which is no text in any encoding.",
        )
    return value, ""


def _array_rows(path: Path, on_bad: OnBadRow) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """The elements of a JSON array; a syntax error always raises, for what follows it cannot be trusted."""
    text = _whole_text(path)
    position = text.index("[") + 1
    line, counted = 1, 0
    while True:
        position = _skip_whitespace(text, position)
        if text.startswith("]", position):
            break
        line, counted = line + text.count("\n", counted, position), position
        value, end = _decoded_element(text, position, path, line)
        row, reason = _as_row(value, text[position:end])
        if reason:
            on_bad(line, reason)
        yield line, row
        position = _skip_whitespace(text, end)
        if text.startswith(",", position):
            position += 1
        elif not text.startswith("]", position):
            raise DataError("the array goes on without a comma, or is cut short after this element.", path, line)
    if text[position + 1 :].strip():
        raise DataError("something stands after the array's closing bracket. One file holds one array.", path)


def _whole_text(path: Path) -> str:
    with _open(path) as file:
        raw = file.read()
    try:
        return raw.removeprefix(_BYTE_ORDER_MARK).decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError("this line is no UTF-8. Data files are UTF-8 text: convert it.", path, line) from error


def _skip_whitespace(text: str, position: int) -> int:
    match = _WHITESPACE.match(text, position)
    assert match is not None  # the pattern matches the empty string as well
    return match.end()


def _decoded_element(text: str, position: int, path: Path, line: int) -> tuple[Any, int]:
    try:
        return _DECODER.raw_decode(text, position)
    except json.JSONDecodeError as error:
        message = f"this is no whole JSON array: {error.msg} at column {error.colno}. Mend the file."
        raise DataError(message, path, error.lineno) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{error}. Mend this element.", path, line) from error


def _parquet_rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        advice = "Install it with pip install 'palate[parquet]', or convert the file to JSON lines."
        raise DataError(f"parquet files need the package pyarrow, which is not installed. {advice}", path) from error
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if len(set(names)) < len(names):
                raise DataError("two columns have the same name. Rename one.", path)
            rows = (row for batch in file.iter_batches() for row in batch.to_pylist())
            yield from enumerate(rows, start=1)
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"this is no whole parquet file ({error}). Copy or make it again.", path) from error


def _refuse_utf16(raw: bytes, path: Path) -> None:
    if raw.startswith(_UTF16_MARKS):
        raise DataError("the file is UTF-16, and data files are UTF-8. Save it as UTF-8.", path)


def _encodable(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    built = dict(pairs)
    if len(built) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object, and only one of its values can be meant")
    return built


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number; leave the column out or write null where there is no value")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"the number {digits[:40]} is too large to hold")
    return number


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_refuse_constant, parse_float=_finite)
