"""Metrics as JSON lines: what is appended is read back, a torn line is no row, and resuming cuts back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from palate.engine.metrics import JsonLines
from palate.errors import DataError, TrainingError


def with_steps(path: Path, *steps: int) -> JsonLines:
    lines = JsonLines(path)
    for step in steps:
        lines.append({"step": step, "loss": step / 3})
    return lines


def steps(lines: JsonLines) -> list[int]:
    return [row["step"] for row in lines.rows()]


def test_rows_come_back_to_the_bit(tmp_path: Path):
    rows = [{"step": 1, "loss": 0.1 + 0.2, "kl": 5e-324}, {"step": 2, "text": "a\u2028b\nc", "loss": -0.0}]
    lines = JsonLines(tmp_path / "m.jsonl")
    for row in rows:
        lines.append(row)
    lines.sync()
    assert list(lines.rows()) == rows
    assert (tmp_path / "m.jsonl").read_bytes().count(b"\n") == 2


def test_there_are_no_rows_before_the_first(tmp_path: Path):
    lines = JsonLines(tmp_path / "m.jsonl")
    lines.sync()
    lines.cut_after(0)
    assert list(lines.rows()) == []
    assert not lines.path.exists()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused_with_step_and_name(tmp_path: Path, bad: float):
    lines = with_steps(tmp_path / "m.jsonl", 1)
    with pytest.raises(TrainingError, match=r"step 2: grad_norm = (nan|inf)"):
        lines.append({"step": 2, "loss": 1.0, "grad_norm": bad})
    assert steps(lines) == [1]


def test_a_row_without_a_step_is_refused(tmp_path: Path):
    lines = JsonLines(tmp_path / "m.jsonl")
    with pytest.raises(ValueError, match="step"):
        lines.append({"loss": 1.0})
    assert not lines.path.exists()


@pytest.mark.parametrize("torn", [b'{"step": 3, "lo', b'{"step": 3, "loss": 1.0}', b"\xff"])
def test_a_torn_last_line_is_no_row_and_makes_way(tmp_path: Path, torn: bytes):
    lines = with_steps(tmp_path / "m.jsonl", 1, 2)
    whole = lines.path.read_bytes()
    lines.path.write_bytes(whole + torn)
    assert steps(lines) == [1, 2]
    lines.append({"step": 3, "loss": 2.0})
    assert steps(lines) == [1, 2, 3]


def test_resuming_cuts_rows_past_the_checkpoint(tmp_path: Path):
    lines = with_steps(tmp_path / "m.jsonl", 1, 2, 3, 4)
    before = lines.path.read_bytes()
    lines.path.write_bytes(before + b'{"step": 5')
    lines.cut_after(2)
    assert lines.path.read_bytes() == b"".join(before.splitlines(keepends=True)[:2])
    lines.cut_after(2)
    assert steps(lines) == [1, 2]
    lines.cut_after(0)
    assert lines.path.read_bytes() == b""
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.jsonl"]


@pytest.mark.parametrize("line", [b"{", b"[]", b'{"loss": 1}', b'{"step": "2"}', b"\xff", b""])
def test_a_whole_line_that_is_no_row_is_an_error_with_its_number(tmp_path: Path, line: bytes):
    lines = with_steps(tmp_path / "m.jsonl", 1)
    with lines.path.open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(DataError) as caught:
        list(lines.rows())
    assert caught.value.line == 2


def test_several_rows_may_share_a_step(tmp_path: Path):
    lines = with_steps(tmp_path / "samples.jsonl", 1, 1, 2, 2)
    lines.cut_after(1)
    assert steps(lines) == [1, 1]
    assert json.loads(lines.path.read_text().splitlines()[0]) == {"step": 1, "loss": 1 / 3}
