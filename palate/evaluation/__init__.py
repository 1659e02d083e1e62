"""Measuring: win rates with intervals, and what a judge is worth on held-out pairs."""

from palate.evaluation.bestofn import best_of_n_worth
from palate.evaluation.ceiling import Ceiling, Votes, known_ceiling, noise_ceiling, votes_of
from palate.evaluation.comparison import (
    POINTS,
    Comparison,
    WinRate,
    by_group,
    compare,
    win_rate,
    win_rate_bootstrap,
)
from palate.evaluation.learning import Slope, loss_slope, perplexity, unigram_loss
from palate.evaluation.lengths import LengthControlled, length_controlled
from palate.evaluation.monitors import MONITORS, TESTBED_MONITORS, Monitor, alarms
from palate.evaluation.overoptimisation import Decision, Fit, Look, Peak, fit_looks, fit_points, past_peak
from palate.evaluation.preference import Accuracy, likeliest_gain, preference_accuracy, preference_loss
from palate.evaluation.probes import PROBES, Probe, Probed, contrasts, probed
from palate.evaluation.resampling import bootstrap_interval
from palate.evaluation.rewardreport import AnswerReport, RewardReport, reward_figures, reward_report
from palate.evaluation.unusual import degenerate, unusual_prompts
from palate.evaluation.verdicts import Check, Level, worst

__all__ = [
    "MONITORS",
    "POINTS",
    "PROBES",
    "TESTBED_MONITORS",
    "Accuracy",
    "AnswerReport",
    "Ceiling",
    "Check",
    "Comparison",
    "Decision",
    "Fit",
    "LengthControlled",
    "Level",
    "Look",
    "Monitor",
    "Peak",
    "Probe",
    "Probed",
    "RewardReport",
    "Slope",
    "Votes",
    "WinRate",
    "alarms",
    "best_of_n_worth",
    "bootstrap_interval",
    "by_group",
    "compare",
    "contrasts",
    "degenerate",
    "fit_looks",
    "fit_points",
    "known_ceiling",
    "length_controlled",
    "likeliest_gain",
    "loss_slope",
    "noise_ceiling",
    "past_peak",
    "perplexity",
    "preference_accuracy",
    "preference_loss",
    "probed",
    "reward_figures",
    "reward_report",
    "unigram_loss",
    "unusual_prompts",
    "votes_of",
    "win_rate",
    "win_rate_bootstrap",
    "worst",
]
