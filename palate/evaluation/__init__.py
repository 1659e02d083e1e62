"""Measuring: win rates with intervals, and what a judge is worth on held-out pairs."""

from palate.evaluation.comparison import Comparison, WinRate, by_group, compare, win_rate
from palate.evaluation.preference import Accuracy, preference_accuracy

__all__ = ["Accuracy", "Comparison", "WinRate", "by_group", "compare", "preference_accuracy", "win_rate"]
