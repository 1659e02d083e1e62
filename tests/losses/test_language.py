"""The supervised loss: each token's surprise in nats, nothing from padding."""

import math

import pytest
import torch

from palate.losses import negative_log_likelihood


def test_value_and_gradient_beside_nan():
    logprobs = torch.tensor([[math.log(0.5), math.log(0.25), math.nan]], requires_grad=True)
    loss = negative_log_likelihood(logprobs=logprobs, mask=torch.tensor([[True, True, False]]))
    assert loss[0].tolist() == pytest.approx([math.log(2), math.log(4), 0], rel=1e-6)
    loss.sum().backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [[-1, -1, 0]]
