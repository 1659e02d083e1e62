"""Reading files row by row: what is let through, what is refused, and which line the error names."""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.data.reading import file_sha256, read_rows
from palate.errors import DataError

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
ROWS = st.lists(st.dictionaries(st.text(), JSON_VALUES, max_size=4), min_size=1, max_size=6)


def written(tmp_path: Path, content: str | bytes, name: str = "rows.jsonl") -> Path:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def refusal(path: Path) -> DataError:
    with pytest.raises(DataError) as caught:
        list(read_rows(path))
    assert caught.value.path == path
    return caught.value


@given(ROWS, st.sampled_from(["rows.jsonl", "rows.jsonl.gz", "rows.json", "rows.json.gz"]), st.booleans())
def test_what_json_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], name: str, ascii_only: bool
) -> None:
    if ".jsonl" in name:
        text = "\n".join(json.dumps(row, ensure_ascii=ascii_only) for row in rows)
        lines = list(range(1, len(rows) + 1))
    else:
        text = json.dumps(rows, ensure_ascii=ascii_only)
        lines = [1] * len(rows)
    raw = text.encode()
    path = tmp_path_factory.mktemp("rows") / name
    path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    assert list(read_rows(path)) == list(zip(lines, rows, strict=True))


def test_only_the_newline_byte_splits_lines(tmp_path: Path) -> None:
    text = "a\u2028b\u2029c\x85d"  # str.splitlines would cut at each of them
    path = written(tmp_path, json.dumps({"text": text}, ensure_ascii=False) + "\n" + '{"text": "second"}\n')
    assert list(read_rows(path)) == [(1, {"text": text}), (2, {"text": "second"})]


def test_byte_order_mark_carriage_returns_and_blank_lines(tmp_path: Path) -> None:
    path = written(tmp_path, b'\xef\xbb\xbf{"a": 1}\r\n\r\n   \n{"a": 2}\r\n')
    assert list(read_rows(path)) == [(1, {"a": 1}), (4, {"a": 2})]


def test_a_line_of_64_megabytes(tmp_path: Path) -> None:
    text = "x" * (64 * 2**20)
    path = written(tmp_path, b'{"text": "' + text.encode() + b'"}\n{"text": "y"}')
    (first, row), second = read_rows(path)
    assert (first, len(row["text"]), second) == (1, len(text), (2, {"text": "y"}))


def test_lines_of_an_array_are_those_where_its_elements_begin(tmp_path: Path) -> None:
    path = written(tmp_path, '\n[\n  {"a": 1},\n  {"a":\n 2}, {"a": 3}\n]\n', "rows.json")
    assert list(read_rows(path)) == [(3, {"a": 1}), (4, {"a": 2}), (5, {"a": 3})]


def test_a_json_file_of_lines_is_read_as_lines(tmp_path: Path) -> None:
    path = written(tmp_path, '{"a": 1}\n{"a": 2}\n', "rows.json")
    assert list(read_rows(path)) == [(1, {"a": 1}), (2, {"a": 2})]


def test_escaped_surrogate_pairs_are_text(tmp_path: Path) -> None:
    path = written(tmp_path, r'{"a": "\ud83d\ude00", "b": "a backslash before \\ud800"}')
    assert list(read_rows(path)) == [(1, {"a": "\U0001f600", "b": r"a backslash before \ud800"})]


GOOD = b'{"a": 1}\n'


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b'{"a": "\xff"}', "no UTF-8"),
        (b'{"a": "\xed\xa0\x80"}', "no UTF-8"),  # a surrogate written as three bytes
        (b'{"a": 1', "no whole JSON object: Expecting ',' delimiter at column 8"),
        (b"{'a': 1}", "no whole JSON object"),
        (b'{"a": 1} {"a": 2}', "Extra data"),
        (b'{"a": NaN}', "NaN is no JSON number"),
        (b'{"a": [-Infinity]}', "-Infinity is no JSON number"),
        (b'{"a": 1e999}', "1e999 is too large"),
        (b'{"a": 1, "b": 2, "a": 3}', "'a' stands twice"),
        (b'{"a": {"b": 1, "b": 1}}', "'b' stands twice"),
        (rb'{"a": "\ud800"}', "half of a surrogate pair"),
        (rb'{"\uDFFF": 1}', "half of a surrogate pair"),
        (b"[1, 2]", "must be a JSON object"),
        (b'"text"', "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "recursion"),
        (b'{"a": ' + b"9" * 5000 + b"}", "4300"),
    ],
)
def test_a_bad_line_is_named_with_its_reason_and_can_be_passed_over(tmp_path: Path, bad: bytes, reason: str) -> None:
    path = written(tmp_path, GOOD + bad + b"\n" + GOOD)
    error = refusal(path)
    assert error.line == 2
    assert reason in str(error)
    assert str(path) in str(error)
    assert 'on_bad = "skip"' in str(error)
    heard: list[tuple[int, str]] = []
    assert list(read_rows(path, lambda line, why: heard.append((line, why)))) == [
        (1, {"a": 1}),
        (3, {"a": 1}),
    ]
    assert [line for line, _ in heard] == [2]
    assert reason in heard[0][1]


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ('[{"a": 1},\n{"a": }]', 2, "no whole JSON array"),
        ('[{"a": 1}\n', 1, "cut short"),
        ('[{"a": 1},\n', 2, "no whole JSON array"),
        ('[{"a": 1}\n{"a": 2}]', 1, "without a comma"),
        ('[{"a": 1}] {"a": 2}', None, "after the array"),
        ('[\n{"a": NaN}]', 2, "NaN"),
        ('[\n{"a": 1, "a": 1}]', 2, "twice"),
        ("[\n3]", 2, "must be a JSON object"),
    ],
)
def test_a_broken_array_is_refused(tmp_path: Path, text: str, line: int | None, reason: str) -> None:
    error = refusal(written(tmp_path, text, "rows.json"))
    assert error.line == line
    assert reason in str(error)


def test_invalid_utf8_in_an_array_names_its_line(tmp_path: Path) -> None:
    assert refusal(written(tmp_path, b'[{"a": 1},\n\n{"a": "\xff"}]', "rows.json")).line == 3


@pytest.mark.parametrize("content", [b"", b"\n\n  \n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_refused(tmp_path: Path, content: bytes) -> None:
    assert "holds no rows" in str(refusal(written(tmp_path, content)))
    assert "holds no rows" in str(refusal(written(tmp_path, gzip.compress(content), "rows.jsonl.gz")))


def test_an_empty_array_is_refused(tmp_path: Path) -> None:
    assert "holds no rows" in str(refusal(written(tmp_path, "[ ]", "rows.json")))


def test_a_missing_file_says_near_names(tmp_path: Path) -> None:
    written(tmp_path, GOOD, "pairs_train.jsonl")
    assert "Did you mean pairs_train.jsonl?" in str(refusal(tmp_path / "pair_train.jsonl"))
    assert "Nothing in" in str(refusal(tmp_path / "zzz"))
    assert f"The directory {tmp_path / 'none'} does not exist" in str(refusal(tmp_path / "none" / "rows.jsonl"))


def test_a_directory_says_what_it_holds(tmp_path: Path) -> None:
    assert "holds no data file" in str(refusal(tmp_path))
    written(tmp_path, GOOD)
    assert "It holds rows.jsonl" in str(refusal(tmp_path))


def test_an_unknown_suffix_is_refused(tmp_path: Path) -> None:
    assert "'.csv'" in str(refusal(written(tmp_path, "a,b\n", "rows.csv")))


def test_utf16_is_named(tmp_path: Path) -> None:
    assert "UTF-16" in str(refusal(written(tmp_path, '{"a": 1}\n'.encode("utf-16"))))


def test_damaged_gzip_files_are_refused(tmp_path: Path) -> None:
    whole = gzip.compress(GOOD * 1000)
    corrupt = whole[:20] + bytes(255 - byte for byte in whole[20:30]) + whole[30:]
    for content in (whole[:-12], b"no gzip at all", corrupt):
        assert "damaged or cut short" in str(refusal(written(tmp_path, content, "rows.jsonl.gz")))


def test_parquet_rows_are_counted_from_one(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    rows = [{"prompt": f"p{number}", "turns": [{"role": "user"}], "margin": None} for number in range(5)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=2)
    assert list(read_rows(path)) == list(enumerate(rows, start=1))


def test_what_is_no_parquet_file_is_refused(tmp_path: Path) -> None:
    assert "no whole parquet file" in str(refusal(written(tmp_path, "PAR1", "rows.parquet")))


def test_parquet_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    columns = [pyarrow.array([1]), pyarrow.array([2])]
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays(columns, names=["a", "a"]), path)
    assert "same name" in str(refusal(path))


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "pip install 'palate[parquet]'" in str(refusal(written(tmp_path, "", "rows.parquet")))


def test_the_hash_is_that_of_the_bytes(tmp_path: Path) -> None:
    assert file_sha256(written(tmp_path, GOOD)) == hashlib.sha256(GOOD).hexdigest()
