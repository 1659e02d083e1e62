"""The gate that every judge's numbers pass: one finite number a completion, or an error that names the culprit."""

from __future__ import annotations

import torch
from torch import Tensor

from palate.engine.interfaces import Completions, Reward
from palate.errors import PalateError, RewardError


def checked_scores(reward: Reward, completions: Completions) -> Tensor:
    """The reward's scores [B] in float32 on the completions' device.

    Raises RewardError, naming the reward, prompt and completion, when it raises or returns anything else.
    """
    count = len(completions.texts)
    try:
        scores = reward.score(completions)
    except PalateError:
        raise
    except Exception as error:
        raise RewardError(
            f"The reward {reward.name!r} raised {type(error).__name__}: {error}. It was given {count} completions, the "
            f"first {shown(completions, 0)}. A reward must return one finite number for each. Nothing that was saved "
            "is lost: mend the reward and run the same command again."
        ) from error
    if scores.shape != (count,):
        raise RewardError(
            f"The reward {reward.name!r} returned {scores.numel()} number{'s' if scores.numel() != 1 else ''} for "
            f"{count} completions, the first {shown(completions, 0)}. It must return exactly one for each, in their "
            "order. Look for a filter or an early return."
        )
    scores = scores.to(dtype=torch.float32, device=completions.ids.device)
    bad = (~torch.isfinite(scores)).nonzero().flatten()
    if len(bad):
        row = int(bad[0])
        raise RewardError(
            f"The reward {reward.name!r} gave {float(scores[row])} to {shown(completions, row)}. Every score must be a "
            "finite number of single precision. Return one for such a completion too, for example the lowest."
        )
    return scores


def shown(completions: Completions, row: int) -> str:
    """A completion and its prompt as an error names them."""
    return f"{completions.texts[row][:80]!r} (to the prompt {completions.prompts[row].text[:80]!r})"
