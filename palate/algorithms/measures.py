"""What the online loop tells of an iteration: scores, KL, lengths, entropy, the critic. All figures are masked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from palate.engine.experience import Experience, Scored
from palate.ops import explained_variance, masked_mean


def score_metrics(parts: Mapping[str, Tensor], name: str) -> dict[str, float]:
    """The judges' raw numbers [B] by name, those of the training reward `name` in detail."""
    raw = parts[name]
    quantiles = torch.quantile(raw.double(), torch.tensor([0.1, 0.9], dtype=torch.float64, device=raw.device))
    return {
        "score/mean": float(raw.mean()),
        "score/std": float(raw.std(unbiased=False)),
        "score/p10": float(quantiles[0]),
        "score/p90": float(quantiles[1]),
        **{f"score/{part}": float(numbers.mean()) for part, numbers in parts.items()},
    }


def reward_metrics(scored: Scored, kl: Tensor, coef: float) -> dict[str, float]:
    """The score less the price of its KL [B], the KL itself, and what scores are compared with."""
    figures = {
        "reward/mean": float((scored.scores - coef * kl).mean()),
        "kl/sequence": float(kl.mean()),
        "kl/token": float(kl.sum() / scored.rollout.mask.sum()),
        "kl/coef": coef,
    }
    for name in scored.signals.keys() & {"baseline", "greedy"}:
        figures["baseline/mean"] = float(scored.signals[name].mean())
    return figures


def sequence_kl(scored: Scored) -> Tensor:
    """The k1 estimate of KL(π_old ‖ π_ref) of each completion: Σ_t log π_old − log π_ref, [B], in nats."""
    gap = scored.old_logprobs - scored.signals["reference"]
    return torch.where(scored.rollout.mask, gap, 0).sum(dim=1)


def clearly_negative(kl: Tensor) -> bool:
    """Whether the mean of sequence KLs [B] lies below 0 by more than two standard errors."""
    return len(kl) > 1 and float(kl.mean() + 2 * kl.std() / math.sqrt(len(kl))) < 0


def rollout_metrics(scored: Scored, entropy: Tensor) -> dict[str, float]:
    """Entropy, lengths, perplexity under the reference, and how far sampler and trainer are apart."""
    rollout = scored.rollout
    lengths = rollout.lengths.double()
    gap = (rollout.sampler_logprobs - scored.old_logprobs).abs().max()
    return {
        "entropy": float(masked_mean(entropy, rollout.mask)),
        "length/mean": float(lengths.mean()),
        "length/std": float(lengths.std(unbiased=False)),
        "length/p90": float(torch.quantile(lengths, 0.9)),
        "length/eos_rate": float(rollout.ended.double().mean()),
        "perplexity": math.exp(-float(masked_mean(scored.signals["reference"], rollout.mask))),
        "sampler/gap_max": float(gap),
    }


def experience_metrics(scored: Scored, experience: Experience) -> dict[str, float]:
    """Spread of the advantages and, where there is a critic, how much of the returns' variance it explains."""
    if len(experience.rows) == 0:
        return {}
    mask = scored.rollout.mask[experience.rows]
    figures = {"advantage/std": float(experience.advantages[mask].std(unbiased=False))}
    if "returns" in experience.targets and "old_values" in experience.targets:
        targets = experience.targets
        explained = float(explained_variance(values=targets["old_values"], returns=targets["returns"], mask=mask))
        if math.isfinite(explained):  # returns that are all alike leave nothing to explain
            figures["value/explained_variance"] = explained
    return figures


def mean(rows: Sequence[Mapping[str, float]], name: str) -> float:
    """The mean of one figure over rows."""
    return sum(row[name] for row in rows) / len(rows)
