"""The gate that every judge's numbers pass: one finite number a completion, or an error that names the culprit."""

from __future__ import annotations

import torch
from torch import Tensor

from palate.engine.interfaces import Completions, DetailedReward, Judgement, Reward
from palate.errors import PalateError, RewardError


def checked_scores(reward: Reward, completions: Completions) -> Tensor:
    """The reward's scores [B] in float32 on the completions' device.

    Raises RewardError, naming the reward, prompt and completion, when it raises or returns anything else.
    """
    return judged(reward, completions).scores


def judged(reward: Reward, completions: Completions) -> Judgement:
    """All that the reward says of the completions, in float32 on their device; its own scores are among the parts.

    Raises RewardError, naming the reward, prompt and completion, when it raises or returns anything but finite numbers,
    one a completion, or one a token in a dense part.
    """
    try:
        said = reward.judge(completions) if isinstance(reward, DetailedReward) else Judgement(reward.score(completions))
    except PalateError:
        raise
    except Exception as error:
        raise failure(reward.name, f"raised {type(error).__name__}: {error}", completions) from error
    scores = finite(reward.name, said.scores, completions)
    parts = {name: finite(name, numbers, completions) for name, numbers in said.parts.items()}
    dense = None if said.dense is None else _checked_tokens(reward.name, said.dense, completions)
    return Judgement(scores, {**parts, reward.name: scores}, dense)


def failure(name: str, what: str, completions: Completions, row: int = 0) -> RewardError:
    """The error of a reward that gave no numbers at all; `row` is the completion to blame, or the first of several."""
    count = len(completions.texts)
    given = f"{count} completions, the first" if count > 1 else "the completion"
    return RewardError(
        f"The reward {name!r} {what}. It was given {given} {shown(completions, row)}. A reward must return one finite "
        "number for each. Nothing that was saved is lost: mend the reward and run the same command again."
    )


def shown(completions: Completions, row: int) -> str:
    """A completion and its prompt as an error names them."""
    return f"{completions.texts[row][:80]!r} (to the prompt {completions.prompts[row].text[:80]!r})"


def finite(name: str, scores: Tensor, completions: Completions) -> Tensor:
    """The scores [B] in float32 on the completions' device; RewardError where they are not one finite number each."""
    count = len(completions.texts)
    if scores.shape != (count,):
        raise RewardError(
            f"The reward {name!r} returned {scores.numel()} number{'s' if scores.numel() != 1 else ''} for "
            f"{count} completions, the first {shown(completions, 0)}. It must return exactly one for each, in their "
            "order. Look for a filter or an early return."
        )
    scores = scores.to(dtype=torch.float32, device=completions.ids.device)
    bad = (~torch.isfinite(scores)).nonzero().flatten()
    if len(bad):
        row = int(bad[0])
        raise RewardError(
            f"The reward {name!r} gave {float(scores[row])} to {shown(completions, row)}. Every score must be a "
            "finite number of single precision. Return one for such a completion too, for example the lowest."
        )
    return scores


def _checked_tokens(name: str, dense: Tensor, completions: Completions) -> Tensor:
    mask = completions.mask
    if dense.shape != mask.shape:
        raise RewardError(
            f"The reward {name!r} returned a dense part of shape {list(dense.shape)} for completions of shape "
            f"{list(mask.shape)}. It must hold one number for every token. Make it like the completions' mask."
        )
    dense = dense.to(dtype=torch.float32, device=mask.device)
    bad = ((~torch.isfinite(dense)) | ((dense != 0) & ~mask)).any(dim=1).nonzero().flatten()
    if len(bad):
        raise RewardError(
            f"The reward {name!r} gave tokens of {shown(completions, int(bad[0]))} a number that is not finite, or one "
            "behind its end. Every token's part must be a finite number, and 0 in the padding. Mask what it returns."
        )
    return dense
