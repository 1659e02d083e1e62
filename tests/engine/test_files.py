"""Durable writing: all or nothing, in the right order, with nothing left over."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.engine import files
from palate.errors import TrainingError


class Trace:
    """Takes the place of `files.perform`: notes every operation, and fails the N-th with a full disk."""

    def __init__(self, fails_at: int = 0):
        self.fails_at = fails_at
        self.seen: list[tuple[str, str]] = []

    def __call__(self, operation: Callable[..., Any], *arguments: Any) -> Any:
        first = arguments[0]
        place = Path(f"/proc/self/fd/{first}").readlink() if isinstance(first, int) else first
        self.seen.append((operation.__name__, place.name))
        if len(self.seen) == self.fails_at:
            if operation is os.write:
                os.write(first, arguments[1][:1])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return operation(*arguments)


@pytest.fixture
def trace(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Trace]:
    def install(fails_at: int = 0) -> Trace:
        made = Trace(fails_at)
        monkeypatch.setattr(files, "perform", made)
        return made

    return install


@pytest.fixture
def fixed_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.secrets, "token_hex", lambda size: "0" * (2 * size))


def names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


def fill(path: Path, content: str) -> None:
    with files.atomic_directory(path) as partial:
        files.write(partial / "a", content)
        (partial / "inner").mkdir()
        (partial / "inner" / "b").write_text(content)  # as a library would write it


def content(path: Path) -> dict[str, str]:
    return {entry.name: entry.read_text() for entry in path.rglob("*") if entry.is_file()}


def operations_of(action: Callable[[], Any], trace: Callable[..., Trace]) -> int:
    seen = trace()
    action()
    return len(seen.seen)


# Order: content is durable before it gets its name, the name before what it replaces goes


def test_a_file_is_synced_before_and_its_directory_after_the_rename(
    tmp_path: Path, trace: Callable[..., Trace], fixed_names: None
):
    seen = trace()
    files.write_atomic(tmp_path / "f", "new")
    partial = ".f.00000000.partial"
    assert seen.seen == [
        ("open", partial),
        ("write", partial),
        ("fsync", partial),
        ("replace", partial),
        ("fsync", tmp_path.name),
    ]


def test_a_directory_is_synced_whole_before_the_rename_and_what_it_replaces_goes_last(
    tmp_path: Path, trace: Callable[..., Trace], fixed_names: None
):
    fill(tmp_path / "d", "old")
    seen = trace()
    fill(tmp_path / "d", "new")
    partial, replaced = ".d.00000000.partial", ".d.00000000.replaced"
    assert seen.seen == [
        ("mkdir", partial),
        ("open", "a"),
        ("write", "a"),
        ("fsync", "a"),
        ("fsync", "inner"),
        ("fsync", "b"),
        ("fsync", partial),
        ("rename", "d"),
        ("rename", partial),
        ("fsync", tmp_path.name),
        ("unlink", "a"),
        ("unlink", "b"),
        ("rmdir", "inner"),
        ("rmdir", replaced),
    ]
    assert content(tmp_path / "d") == {"a": "new", "b": "new"}


def test_removing_takes_the_name_away_durably_before_the_content(
    tmp_path: Path, trace: Callable[..., Trace], fixed_names: None
):
    fill(tmp_path / "d", "old")
    seen = trace()
    files.remove(tmp_path / "d")
    assert seen.seen[:2] == [("rename", "d"), ("fsync", tmp_path.name)]
    assert {name for name, _ in seen.seen[2:]} == {"unlink", "rmdir"}
    assert names(tmp_path) == []


# A full disk at every single operation


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path, trace: Callable[..., Trace]):
    path = tmp_path / "f"
    path.write_text("old")
    count = operations_of(lambda: files.write_atomic(tmp_path / "other", "new"), trace)
    for number in range(1, count + 1):
        path.write_text("old")
        seen = trace(number)
        with pytest.raises(OSError, match="No space left"):
            files.write_atomic(path, "new")
        # Only when the last operation fails, the fsync of the directory, has the new content its name.
        assert path.read_text() == ("new" if number == count else "old"), seen.seen
        assert names(tmp_path) == ["f", "other"]


def test_a_full_disk_leaves_the_old_directory_whole(tmp_path: Path, trace: Callable[..., Trace]):
    path = tmp_path / "d"
    fill(path, "old")
    count = operations_of(lambda: fill(path, "new"), trace)
    before_the_new_has_its_name = 9
    assert count > before_the_new_has_its_name
    for number in range(1, count + 1):
        trace()
        fill(path, "old")
        trace(number)
        with pytest.raises(OSError, match="No space left"):
            fill(path, "new")
        trace()
        if number <= before_the_new_has_its_name:
            assert names(tmp_path) == ["d"]
            assert content(path) == {"a": "old", "b": "old"}
        else:
            assert content(path) == {"a": "new", "b": "new"}
        files.recover(tmp_path)
        assert names(tmp_path) == ["d"]


def test_an_exception_in_the_block_leaves_nothing(tmp_path: Path):
    with pytest.raises(KeyboardInterrupt), files.atomic_directory(tmp_path / "d") as partial:
        files.write(partial / "a", "x")
        raise KeyboardInterrupt
    assert names(tmp_path) == []


def test_a_line_is_appended_whole_or_not_at_all(tmp_path: Path, trace: Callable[..., Trace]):
    path = tmp_path / "lines"
    files.append_line(path, "one")
    count = operations_of(lambda: files.append_line(path, "two"), trace)
    for number in range(1, count + 1):
        trace(number)
        with pytest.raises(OSError, match="No space left"):
            files.append_line(path, "three")
        assert path.read_text() == "one\ntwo\n"


def test_a_torn_line_goes_before_the_next_is_appended(tmp_path: Path):
    path = tmp_path / "lines"
    path.write_bytes(b"one\ntw")
    files.append_line(path, "three")
    assert path.read_text() == "one\nthree\n"
    path.write_bytes(b"on")
    files.append_line(path, "three")
    assert path.read_text() == "three\n"


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def one_byte(operation: Callable[..., Any], *arguments: Any) -> Any:
        return os.write(arguments[0], arguments[1][:1]) if operation is os.write else operation(*arguments)

    monkeypatch.setattr(files, "perform", one_byte)
    files.write_atomic(tmp_path / "f", "größer")
    assert (tmp_path / "f").read_bytes() == "größer".encode()


# After a kill


def test_recovery_restores_what_was_being_replaced_unless_the_new_is_there(tmp_path: Path):
    for name in ("lost", "done"):
        fill(tmp_path / f".{name}.0123abcd.replaced", "old")
    fill(tmp_path / "done", "new")
    fill(tmp_path / "done" / ".half.0123abcd.partial", "half")
    (tmp_path / ".keep.partial").write_text("not one of ours")
    files.recover(tmp_path)
    assert names(tmp_path) == [".keep.partial", "done", "lost"]
    assert content(tmp_path / "lost") == {"a": "old", "b": "old"}
    assert content(tmp_path / "done") == {"a": "new", "b": "new"}


def test_directories_are_made_with_those_above_and_each_name_is_synced(tmp_path: Path, trace: Callable[..., Trace]):
    seen = trace()
    files.make_directory(tmp_path / "a" / "b")
    files.make_directory(tmp_path / "a" / "b")
    assert seen.seen == [("mkdir", "a"), ("fsync", tmp_path.name), ("mkdir", "b"), ("fsync", "a")]


# Content

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(plain)
def test_json_comes_back_to_the_bit_and_fits_one_ascii_line(value: Any):
    line = files.encode_json(value)
    assert line.isascii()
    assert "\n" not in line
    assert json.loads(line) == value


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_json_refuses_what_is_not_finite_and_names_it(bad: float):
    with pytest.raises(TrainingError, match=r"^kl\.history\.1 = (nan|inf|-inf): only finite"):
        files.encode_json({"loss": 1.0, "kl": {"history": (0.5, bad)}})


def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path: Path):
    (tmp_path / "f").write_bytes(b"abc")
    # FIPS 180-4, appendix: SHA-256 of "abc".
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert files.file_sha256(tmp_path / "f") == expected
