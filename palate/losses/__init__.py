"""Losses as pure functions of tensors: minimised, unreduced, without state."""

from palate.losses.language import negative_log_likelihood
from palate.losses.policy import clipped_surrogate, policy_gradient
from palate.losses.preference import dpo, hinge, ipo, log_odds, orpo, simpo
from palate.losses.reward import (
    all_pairs,
    attribute_regression,
    bradley_terry,
    comparisons,
    davidson,
    plackett_luce,
    soft_bradley_terry,
)
from palate.losses.unpaired import kto
from palate.losses.value import clipped_value

__all__ = [
    "all_pairs",
    "attribute_regression",
    "bradley_terry",
    "clipped_surrogate",
    "clipped_value",
    "comparisons",
    "davidson",
    "dpo",
    "hinge",
    "ipo",
    "kto",
    "log_odds",
    "negative_log_likelihood",
    "orpo",
    "plackett_luce",
    "policy_gradient",
    "simpo",
    "soft_bradley_terry",
]
