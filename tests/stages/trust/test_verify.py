"""`palate verify` on this machine: every property holds, and a broken one is found."""

import pytest
import torch

from palate.stages.trust import verify


@pytest.mark.parametrize("name", verify.CHECKS)
def test_every_property_holds(name):
    expected, observed, holds = verify.CHECKS[name]()
    assert holds, f"{name}: expected {expected}, observed {observed}"


def test_a_wrong_gradient_is_found(monkeypatch):
    monkeypatch.setattr(verify, "expected_gradient", lambda kind: torch.ones(3, dtype=torch.float64))
    _, _, holds = verify.CHECKS["k2 in the loss: ∇KL(π‖π_ref)"]()
    assert not holds
