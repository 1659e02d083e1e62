"""Rewards of one's own: functions of strings, given in a recipe by path: `reward = "examples/rewards.py:brevity"`."""

from __future__ import annotations

from typing import Any


def brevity(prompts: list[str], completions: list[str], **fields: Any) -> list[float]:
    """Fewer words are better, an empty answer is worst: −words/10, and −10 for nothing."""
    return [-len(words) / 10 if (words := text.split()) else -10.0 for text in completions]


def exact(prompts: list[str], completions: list[str], *, answer: list[str], **fields: Any) -> list[float]:
    """1 where the completion is the row's column `answer`, apart from case and outer blanks; else 0."""
    return [
        float(text.strip().lower() == wanted.strip().lower()) for text, wanted in zip(completions, answer, strict=True)
    ]
