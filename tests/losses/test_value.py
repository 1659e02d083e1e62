"""The clipped critic's loss, case by case."""

import pytest
import torch
from torch.autograd import gradcheck

from palate.losses import clipped_value

# value, old value, return, loss, gradient in the value; clip .5
CASES = [
    (1.2, 1.0, 3.0, 1.62, -1.8),  # inside: ½·1.8²
    (2.0, 1.0, 3.0, 1.125, 0.0),  # moved towards the return past the clip: ½·(1.5 − 3)², no reason to go on
    (0.0, 1.0, 3.0, 4.5, -3.0),  # moved away from it: ½·(0 − 3)² > ½·(.5 − 3)², pulled back
    (4.0, 1.0, 3.0, 1.125, 0.0),  # past the return as well: the clipped error is the larger
]


def loss(values: torch.Tensor) -> torch.Tensor:
    old_values, returns = (torch.tensor(x, dtype=torch.float64) for x in list(zip(*CASES, strict=True))[1:3])
    return clipped_value(values=values, old_values=old_values, returns=returns, clip=0.5)


def test_by_hand():
    values, _, _, losses, gradients = zip(*CASES, strict=True)
    x = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    assert loss(x).tolist() == pytest.approx(losses, rel=1e-14)
    assert torch.autograd.grad(loss(x).sum(), x)[0].tolist() == pytest.approx(gradients, rel=1e-14)
    assert gradcheck(loss, x)


def test_a_wide_clip_is_plain_half_squared_error():
    x = torch.tensor([1.0, -2.0], dtype=torch.float64)
    found = clipped_value(values=x, old_values=-x, returns=torch.zeros_like(x), clip=100)
    assert torch.equal(found, 0.5 * x.square())


def test_a_negative_clip_is_refused():
    x = torch.zeros(1)
    with pytest.raises(ValueError, match="clip is -1"):
        clipped_value(values=x, old_values=x, returns=x, clip=-1)
