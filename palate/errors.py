"""Every error that Palate raises on purpose, and the exit code each one ends a command with.

    PalateError                 exit 1   the root: catch this to catch all of ours
    ├── UsageError              exit 2   the command or call was wrong
    │   ├── RecipeError         exit 2   a recipe or setting: unknown key, value out of range, missing section
    │   ├── DataError           exit 2   a data file: carries the path and, where there is one, the line
    │   └── ModelError          exit 2   a model directory: missing, a pickle, not a reward model, another tokenizer
    ├── StoreError              exit 1   feedback could not be stored; what was stored before is whole
    ├── EndpointError           exit 1   a model's endpoint refuses to answer, or does not answer at all
    ├── RunDirectoryError       exit 2   the run directory is locked, or holds something else
    ├── CheckpointError         exit 1   a checkpoint could not be written, or none on disk is whole
    ├── TrainingError           exit 1   training cannot go on: non-finite numbers, sampler and trainer disagree
    ├── RewardError             exit 1   a reward raised, or returned something that is no list of finite numbers
    └── StageStopped            exit 3   a stage's verdict stopped the run

A message says what was given, the rule it broke, and what to do, in that order.
"""

from __future__ import annotations

from pathlib import Path


class PalateError(Exception):
    """The root of Palate's errors."""

    exit_code = 1


class UsageError(PalateError):
    """The command or call was wrong; nothing was written."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe or setting is wrong: unknown key, value out of range, missing section."""


class DataError(UsageError):
    """A data file is wrong; `path` and, where one row is to blame, `line` (1-based) say where."""

    def __init__(self, message: str, path: str | Path | None = None, line: int | None = None):
        self.path = None if path is None else Path(path)
        self.line = line
        where = "" if path is None else f"{path}, line {line}: " if line is not None else f"{path}: "
        super().__init__(where + message)


class ModelError(UsageError):
    """A model directory cannot be used."""


class StoreError(PalateError):
    """Feedback could not be stored: the disk is full, the file is no store of ours; what was stored before is whole."""


class EndpointError(PalateError):
    """A model's endpoint refuses to answer, or does not answer at all; what it answered before is kept."""


class RunDirectoryError(PalateError):
    """The run directory is in use by another process, or is not one of ours."""

    exit_code = 2


class CheckpointError(PalateError):
    """A checkpoint could not be written, or no whole one is left to read."""


class TrainingError(PalateError):
    """Training cannot go on: a non-finite number, or sampler and trainer disagree."""


class RewardError(PalateError):
    """A reward raised, or returned something that is not one finite number a completion."""


class StageStopped(PalateError):
    """A stage's verdict ended the run."""

    exit_code = 3
