"""Saves a checkpoint again and again, each time killed at another disk operation; a test runs it and looks.

    python killed_saves.py BASE OUT STEP [BASE OUT STEP …]

Every `OUT/WHEN-N` is a copy of BASE in which saving STEP died before, half-way through or after operation N.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from palate.engine import files
from palate.engine.checkpoint import Checkpoints


class Killer:
    """Takes the place of `files.perform` and kills this process at one operation."""

    def __init__(self, when: str, number: int):
        self.when, self.number, self.seen = when, number, 0

    def __call__(self, operation: Callable[..., Any], *arguments: Any) -> Any:
        self.seen += 1
        if self.seen == self.number and self.when == "half":
            half_way(operation, *arguments)
        if self.seen == self.number and self.when != "after":
            os.kill(os.getpid(), signal.SIGKILL)
        result = operation(*arguments)
        if self.seen == self.number:
            os.kill(os.getpid(), signal.SIGKILL)
        return result


def half_way(operation: Callable[..., Any], *arguments: Any) -> None:
    """What a write has done when it is cut short; every other operation is done or not done."""
    if operation is os.write:
        os.write(arguments[0], arguments[1][: len(arguments[1]) // 2])
    if operation is save_file:
        save_file(*arguments)
        os.truncate(arguments[1], Path(arguments[1]).stat().st_size // 2)


def kill_everywhere(base: Path, out: Path, step: int) -> None:
    for when in ("before", "half", "after"):
        for number in itertools.count(1):
            place = out / f"{when}-{number}"
            shutil.copytree(base, place)
            child = os.fork()
            if child == 0:
                files.perform = Killer(when, number)
                Checkpoints(place, keep=2).save(step, {"weight": torch.full((3,), float(step))}, {"step": step})
                os._exit(0)
            if os.waitpid(child, 0)[1] == 0:
                shutil.rmtree(place)  # it lived: there is no operation of this number
                break


if __name__ == "__main__":
    for first in range(1, len(sys.argv), 3):
        kill_everywhere(Path(sys.argv[first]), Path(sys.argv[first + 1]), int(sys.argv[first + 2]))
