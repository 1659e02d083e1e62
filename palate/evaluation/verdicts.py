"""A verdict: what was asked of a stage's figures, which of it held, and what to do where it did not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Level = Literal["pass", "warn", "stop"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was asked of a figure: `figure` is its name in summary.json, `rule` what was asked of it.

    `reason` is one sentence with the figures; `advice` says what to do, and is empty where the check passed.
    """

    name: str
    level: Level
    figure: str
    value: float
    rule: str
    reason: str
    advice: str


def worst(checks: Iterable[Check]) -> Level:
    """The gravest level among checks: stop over warn over pass, which is also that of none."""
    found = {check.level for check in checks}
    return "stop" if "stop" in found else "warn" if "warn" in found else "pass"
