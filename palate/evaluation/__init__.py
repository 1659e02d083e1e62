"""Measuring: win rates with intervals, and what a judge is worth on held-out pairs."""

from palate.evaluation.comparison import Comparison, WinRate, by_group, compare, win_rate
from palate.evaluation.preference import Accuracy, likeliest_gain, preference_accuracy, preference_loss

__all__ = [
    "Accuracy",
    "Comparison",
    "WinRate",
    "by_group",
    "compare",
    "likeliest_gain",
    "preference_accuracy",
    "preference_loss",
    "win_rate",
]
