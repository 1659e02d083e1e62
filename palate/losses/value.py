"""The critic's loss, one number a token."""

import torch
from jaxtyping import Float
from torch import Tensor


def clipped_value(
    *,
    values: Float[Tensor, "*shape"],
    old_values: Float[Tensor, "*shape"],
    returns: Float[Tensor, "*shape"],
    clip: float | int,
) -> Float[Tensor, "*shape"]:
    """Half the larger squared error of the value and of the value kept within `clip` of the old one.

    ½·max((V − R)², (clip(V, V_old − c, V_old + c) − R)²)

    The value clipping of PPO's first implementation, written down by Engstrom et al., arXiv 2005.12729, §3.
    `clip` is in units of the return. Raises ValueError for a negative clip.
    """
    if not clip >= 0:
        raise ValueError(f"clip is {clip}; it is how far a value may move from the old one, so give 0 or more.")
    clipped = values.clamp(old_values - clip, old_values + clip)
    return 0.5 * torch.maximum((values - returns).square(), (clipped - returns).square())
