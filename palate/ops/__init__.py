"""Pure tensor mathematics: no models, files, configuration, distribution, logging or global random state."""

from palate.ops.advantages import gae, group_normalised, group_rows, leave_one_out, whiten
from palate.ops.diagnostics import approx_kl, clip_fraction, clipped, explained_variance, wilson_interval
from palate.ops.kl import AdaptiveKL, BudgetKL, DualKL, FixedKL, exact_kl, kl_estimate
from palate.ops.logprobs import entropy_from_logits, fused_logprobs, token_logprobs
from palate.ops.masking import Moments, masked_mean, masked_var, moments, zero_masked
from palate.ops.reduce import reduce, sequence_mean
from palate.ops.shaping import shaped_rewards, soft_overlong

__all__ = [
    "AdaptiveKL",
    "BudgetKL",
    "DualKL",
    "FixedKL",
    "Moments",
    "approx_kl",
    "clip_fraction",
    "clipped",
    "entropy_from_logits",
    "exact_kl",
    "explained_variance",
    "fused_logprobs",
    "gae",
    "group_normalised",
    "group_rows",
    "kl_estimate",
    "leave_one_out",
    "masked_mean",
    "masked_var",
    "moments",
    "reduce",
    "sequence_mean",
    "shaped_rewards",
    "soft_overlong",
    "token_logprobs",
    "whiten",
    "wilson_interval",
    "zero_masked",
]
