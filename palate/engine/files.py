"""Durable files: the one place where what must survive a crash reaches the disk.

What is written here is there whole or not at all, also when the process is killed or the disk is full
half-way. New content is made beside its place under a hidden name (`.NAME.TOKEN.partial`), made durable, and
renamed into place; a directory that it replaces stands aside meanwhile (`.NAME.TOKEN.replaced`). `recover`
tidies up after a killed process. POSIX only: durability needs fsync on directories.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from palate.errors import TrainingError

_ASIDE = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.(?P<role>partial|replaced)")


def perform(operation: Callable[..., Any], *arguments: Any) -> Any:
    """Runs one operation that changes the disk; a test takes its place to fail it, or to die around it."""
    return operation(*arguments)


# Writing


def write_atomic(path: Path, data: bytes | str) -> None:
    """Puts `data` at `path`, durably: at any instant a reader finds the old content or the new, whole."""
    partial = _aside(path, "partial")
    try:
        write(partial, data)
        sync(partial)
        perform(os.replace, partial, path)
    except BaseException:
        _delete(partial)
        raise
    sync(path.parent)


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yields an empty directory to fill, which stands durably at `path` once the block ends without an error.

    A directory that stood at `path` before goes when the new one is durable.
    """
    partial, replaced = _aside(path, "partial"), _aside(path, "replaced")
    try:
        perform(os.mkdir, partial)
        yield partial
        for entry in sorted(partial.rglob("*")):
            sync(entry)
        sync(partial)
        if path.exists():
            perform(os.rename, path, replaced)
        perform(os.rename, partial, path)
    except BaseException:
        _delete(partial)
        _restore(replaced, path)
        raise
    sync(path.parent)
    _delete(replaced)


def write(path: Path, data: bytes | str) -> None:
    """Writes a file and no more; inside `atomic_directory`, which makes it durable, that is enough."""
    descriptor = perform(os.open, path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        _write_all(descriptor, data.encode() if isinstance(data, str) else data)
    finally:
        os.close(descriptor)


def append_line(path: Path, line: str) -> None:
    """Appends a line, whole or not at all; a torn last line, left by a killed process, goes first."""
    descriptor = perform(os.open, path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            size = path.read_bytes().rfind(b"\n") + 1
            perform(os.ftruncate, descriptor, size)
        try:
            _write_all(descriptor, f"{line}\n".encode())
        except BaseException:
            perform(os.ftruncate, descriptor, size)
            raise
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[perform(os.write, descriptor, rest) :]


def sync(path: Path) -> None:
    """Makes the content of a file, or the names in a directory, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        perform(os.fsync, descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path) -> None:
    """Makes a directory and those above it, durably; it may exist."""
    if not path.is_dir():
        make_directory(path.parent)
        perform(os.mkdir, path)
        sync(path.parent)


# Removing and recovering


def remove(path: Path) -> None:
    """Removes a file or directory such that it is never found half removed under its name."""
    partial = _aside(path, "partial")
    perform(os.rename, path, partial)
    sync(path.parent)
    _delete(partial)


def recover(directory: Path) -> None:
    """Clears what killed processes left anywhere under `directory`, where no other process may be writing.

    Half-made content goes. What was being replaced goes if the new is in its place, else it returns there.
    """
    for entry in sorted(directory.rglob(".*")):
        match = _ASIDE.fullmatch(entry.name)
        if match and match["role"] == "partial":
            _delete(entry)
        elif match:
            _restore(entry, entry.with_name(match["name"]))


def _aside(path: Path, role: str) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.{role}")


def _restore(replaced: Path, path: Path) -> None:
    if path.exists():
        _delete(replaced)
    elif replaced.exists():
        perform(os.rename, replaced, path)
        sync(path.parent)


def _delete(path: Path) -> None:
    """Deletes a file or a tree; it may be missing."""
    if path.is_dir() and not path.is_symlink():
        for entry in sorted(path.iterdir()):
            _delete(entry)
        perform(os.rmdir, path)
    elif path.exists() or path.is_symlink():
        perform(os.unlink, path)


# Content


def encode_json(value: Any, indent: int | None = None) -> str:
    """ASCII JSON that reads back to the same bits; TrainingError names the first non-finite number."""
    key = _non_finite(value, "")
    if key is not None:
        raise TrainingError(
            f"{key}: only finite numbers are written. Lower the learning rate, the usual cause, and go on"
            " from the last checkpoint."
        )
    return json.dumps(value, allow_nan=False, indent=indent)


def _non_finite(value: Any, key: str) -> str | None:
    """The first number that is not finite, as "key = value"."""
    if isinstance(value, float):
        return None if math.isfinite(value) else f"{key} = {value}"
    if isinstance(value, list | tuple):
        value = dict(enumerate(value))
    items = value.items() if isinstance(value, Mapping) else ()
    faults = (_non_finite(item, f"{key}.{name}" if key else str(name)) for name, item in items)
    return next((fault for fault in faults if fault is not None), None)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
