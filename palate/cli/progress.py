"""What a person sees while a stage runs: a bar with the time left on a terminal, plain lines elsewhere.

Ctrl-C is heard here: the first asks the loop to save and stop, the second stops at once.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

# A line this often where there is no terminal.
LINES_EVERY_SECONDS = 15.0

_SHOWN = {
    "loss": "loss",
    "accuracy": "accuracy",
    "score/mean": "score",
    "score/gold": "gold",
    "kl/sequence": "KL",
    "length/mean": "length",
    "tokens": "tokens",
    "cost": "cost",
}


class Interruption:
    """Whether Ctrl-C was pressed."""

    def __init__(self) -> None:
        self.heard = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hears SIGINT and SIGTERM while the block runs."""
        before = {number: signal.signal(number, self._hear) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _hear(self, number: int, frame: Any) -> None:
        if self.heard:
            raise KeyboardInterrupt
        self.heard = True
        # Not print(): the signal may fall into the middle of one.
        os.write(2, b"\npalate: stopping at the next step, with everything saved; Ctrl-C again stops at once.\n")


class Watcher:
    """The onlooker of one phase of a run."""

    def __init__(self, phase: str, console: Console, interruption: Interruption):
        self.phase, self.console, self.interruption = phase, console, interruption
        self.total = self.done = self.first = 0
        self.began = self.told = 0.0
        self.bar: Progress | None = None

    def begin(self, total: int, done: int) -> None:
        """Starts the bar, or the first line, at step `done` of `total`."""
        self.total, self.done, self.first = total, done, done
        self.began = self.told = time.monotonic()
        if done:
            self.say(f"{self.phase}: going on from step {done} of {total}.")
        if self.console.is_terminal and done < total:
            self.bar = Progress(
                TextColumn("{task.description:<13}"),
                BarColumn(bar_width=28),
                TextColumn("{task.completed}/{task.total}"),
                TimeRemainingColumn(compact=True),
                TextColumn("{task.fields[figures]}"),
                console=self.console,
            )
            self.task = self.bar.add_task(self.phase, total=total, completed=done, figures="")
            self.bar.start()

    def advance(self, row: Mapping[str, float]) -> None:
        """Moves on by one step."""
        self.done += 1
        figures = "  ".join(f"{short} {row[name]:.3g}" for name, short in _SHOWN.items() if name in row)
        last = self.done == self.total
        if self.bar is not None:
            self.bar.update(self.task, completed=self.done, figures=figures)
            if last:
                self.bar.stop()
        elif last or time.monotonic() - self.told > LINES_EVERY_SECONDS:
            self.told = time.monotonic()
            self.console.print(f"{self.phase}: {self.done}/{self.total}, {self._left()}  {figures}", highlight=False)

    def _left(self) -> str:
        spent = time.monotonic() - self.began
        left = spent / max(self.done - self.first, 1) * (self.total - self.done)
        return f"{spent:.0f} s" if self.done == self.total else f"about {left:.0f} s left"

    def say(self, sentence: str) -> None:
        """Prints a sentence above the bar."""
        self.console.print(sentence, highlight=False, markup=False)

    def stopping(self) -> bool:
        """Whether Ctrl-C was pressed."""
        return self.interruption.heard

    def check(self) -> None:
        """Stops the loop, all being saved, when Ctrl-C was pressed."""
        if self.interruption.heard:
            if self.bar is not None:
                self.bar.stop()
            self.say(f"{self.phase}: saved at step {self.done} of {self.total}.")
            raise KeyboardInterrupt
