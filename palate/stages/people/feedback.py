"""Feedback between files and a store: `palate import` and `palate export`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar, get_args

from palate.collect.exchange import (
    Exported,
    Form,
    OnBad,
    event_lines,
    export,
    is_events,
    read_events,
    read_feedback,
)
from palate.collect.judgements import RaterKind
from palate.collect.store import Store
from palate.errors import UsageError

Row = TypeVar("Row")

# How many are stored in one transaction: whoever votes meanwhile waits no longer than for these.
BATCH = 500


def take_in(
    store: str | Path,
    files: Sequence[str | Path],
    *,
    rater: str | None = None,
    kind: str = "human",
    on_bad: str = "stop",
) -> Iterator[str]:
    """Stores what files say, each as soon as it is read, and tells what was new; the same again is stored once.

    UsageError for a kind of rater that is none; DataError for a file that cannot be read.
    """
    checked_kind: RaterKind = _one_of(kind, RaterKind, "--kind")
    checked_bad: OnBad = _one_of(on_bad, OnBad, "--on-bad")
    with Store(store) as opened:
        for file in files:
            if Path(file).expanduser().is_file() and is_events(file):
                yield f"{file}: {_restored(opened, file)}."
                continue
            found = read_feedback(file, rater=rater, kind=checked_kind, on_bad=checked_bad)
            items = sum(map(opened.add_items, _batches(found.items)))
            opened.add_raters(found.raters)
            judgements = sum(map(opened.record_all, _batches(found.judgements)))
            told = _counted(("items", items, len(found.items)), ("judgements", judgements, len(found.judgements)))
            yield f"{file}: {told}{_left_out(found.left_out)}."


def _restored(store: Store, file: str | Path) -> str:
    events = list(read_events(file))
    return _counted(("events", sum(map(store.add_events, _batches(events))), len(events)))


def give_out(store: str | Path, form: str, *, margin: bool = False) -> Exported:
    """What a store holds as the lines of a file; UsageError for a form that is none, or has no margins."""
    checked: Form = _one_of(form, Form, "--as")
    if margin and checked not in ("trl", "hh"):
        raise UsageError(f"--margin was given with --as {form}; margins are those of pairs, trl and hh. Leave it out.")
    with Store.existing(store) as opened:
        if checked == "events":
            return Exported(tuple(event_lines(opened.events())))
        return export(opened.items(), opened.judgements(), checked, raters=opened.raters(), margin=margin)


def told(exported: Exported, form: str) -> str:
    """How many rows there are, and what is not among them."""
    count = len(exported.lines) - (form == "csv")
    return f"{count} rows{_left_out(exported.left_out)}."


def _counted(*counts: tuple[str, int, int]) -> str:
    return ", ".join(
        f"{new} {name} stored" + (f" ({of - new} were there)" if of > new else "") for name, new, of in counts
    )


def _left_out(reasons: Mapping[str, int]) -> str:
    said = ", ".join(f"{reason} ({count})" for reason, count in reasons.items() if count)
    return f"; left out: {said}" if said else ""


def _batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    rest = iter(rows)
    while batch := list(islice(rest, BATCH)):
        yield batch


def _one_of(value: str, kinds: Any, option: str) -> Any:
    if value not in get_args(kinds):
        raise UsageError(f"{option} is {value!r}; it must be one of {', '.join(get_args(kinds))}. Correct it.")
    return value
