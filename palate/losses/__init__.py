"""Losses as pure functions of tensors: minimised, unreduced, without state."""

from palate.losses.language import negative_log_likelihood
from palate.losses.policy import clipped_surrogate
from palate.losses.reward import bradley_terry, plackett_luce
from palate.losses.value import clipped_value

__all__ = [
    "bradley_terry",
    "clipped_surrogate",
    "clipped_value",
    "negative_log_likelihood",
    "plackett_luce",
]
