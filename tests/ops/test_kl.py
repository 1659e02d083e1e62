"""KL estimators by enumeration of three ids, the exact value, and controllers against a solvable model."""

import json
import math
from dataclasses import FrozenInstanceError, asdict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from palate.ops import AdaptiveKL, BudgetKL, DualKL, FixedKL, exact_kl, kl_estimate

POLICY = torch.tensor([0.2, 0.7, 0.1], dtype=torch.float64)
REFERENCE = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
KL = 0.2 * math.log(0.4) + 0.7 * math.log(7 / 3) + 0.1 * math.log(0.5)


def test_estimators_by_hand():
    # π = 2·ref, so x = ln 2 and e⁻ˣ = ½; π = ½·ref, so x = −ln 2 and e⁻ˣ = 2.
    x = torch.tensor([math.log(2), -math.log(2)], dtype=torch.float64)
    ln2 = math.log(2)
    expected = {
        "k1": [ln2, -ln2],
        "k2": [ln2**2 / 2, ln2**2 / 2],
        "k3": [ln2 - 0.5, 1 - ln2],
        "abs": [ln2, ln2],
    }
    for kind, values in expected.items():
        estimate = kl_estimate(logprobs=x - 3, ref_logprobs=torch.full_like(x, -3), kind=kind)
        assert estimate.tolist() == pytest.approx(values, rel=1e-14)


@pytest.mark.parametrize("kind", ["k1", "k3"])
def test_k1_and_k3_are_unbiased(kind):
    estimates = kl_estimate(logprobs=POLICY.log(), ref_logprobs=REFERENCE.log(), kind=kind)
    assert (POLICY * estimates).sum().item() == pytest.approx(KL, rel=1e-14)


@given(st.floats(-30, 30), st.floats(-30, 30))
def test_k3_is_never_negative(logprob, ref_logprob):
    pair = torch.tensor([logprob, ref_logprob], dtype=torch.float64)
    assert kl_estimate(logprobs=pair[0], ref_logprobs=pair[1], kind="k3").item() >= 0


def expected_gradient_in_the_loss(kind: str) -> list[float]:
    """Gradient in the logits of Σ_y π(y)·k(y), the weights π(y) held fixed, as a sampled loss holds them."""
    logits = POLICY.log().requires_grad_()
    estimates = kl_estimate(logprobs=torch.log_softmax(logits, 0), ref_logprobs=REFERENCE.log(), kind=kind)
    return torch.autograd.grad((POLICY * estimates).sum(), logits)[0].tolist()


def test_k1_in_the_loss_has_no_expected_gradient():
    # Σ_y π(y)·∇log π(y) = ∇Σ_y π(y) = ∇1 = 0.
    assert expected_gradient_in_the_loss("k1") == pytest.approx([0, 0, 0], abs=1e-15)


def test_k2_in_the_loss_has_the_gradient_of_the_reverse_kl():
    # ∂KL(π‖ref)/∂z_j = π_j·(log π_j/ref_j − KL).
    ratios = [math.log(0.4), math.log(7 / 3), math.log(0.5)]
    expected = [p * (ratio - KL) for p, ratio in zip([0.2, 0.7, 0.1], ratios, strict=True)]
    assert expected_gradient_in_the_loss("k2") == pytest.approx(expected, rel=1e-13)


def test_k3_in_the_loss_has_the_gradient_of_the_forward_kl():
    # ∂KL(ref‖π)/∂z_j = −∂Σ_y ref_y·log π_y/∂z_j = π_j − ref_j.
    assert expected_gradient_in_the_loss("k3") == pytest.approx([-0.3, 0.4, -0.1], rel=1e-13)


def expected_gradient_in_the_reward(kind: str) -> list[float]:
    """Gradient in the logits of Σ_y π(y)·k(y), k held fixed, as the policy gradient of a reward k holds it."""
    logits = POLICY.log().requires_grad_()
    estimates = kl_estimate(logprobs=POLICY.log(), ref_logprobs=REFERENCE.log(), kind=kind)
    return torch.autograd.grad((torch.softmax(logits, 0) * estimates).sum(), logits)[0].tolist()


def test_k1_in_the_reward_has_the_gradient_of_the_reverse_kl():
    expected = [p * (math.log(p / q) - KL) for p, q in zip([0.2, 0.7, 0.1], [0.5, 0.3, 0.2], strict=True)]
    assert expected_gradient_in_the_reward("k1") == pytest.approx(expected, rel=1e-13)


def test_k3_in_the_reward_has_the_difference_of_both_gradients():
    # Σ_y ∇π·(ref/π − 1 + log π/ref): the last term gives ∇KL(π‖ref), the first Σ_y ref·∇log π = −∇KL(ref‖π).
    reverse = [p * (math.log(p / q) - KL) for p, q in zip([0.2, 0.7, 0.1], [0.5, 0.3, 0.2], strict=True)]
    forward = [-0.3, 0.4, -0.1]
    expected = [one - other for one, other in zip(reverse, forward, strict=True)]
    assert expected_gradient_in_the_reward("k3") == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize(("kind", "order"), [("k1", 1), ("k2", 2), ("k3", 2)])
def test_near_the_reference_only_k1_in_the_reward_holds(kind, order):
    # A step of size h from the reference: the gradient of k1 shrinks with h, those of k2 and k3 with h².
    sizes = []
    for step in (1e-2, 1e-3):
        policy = torch.softmax(REFERENCE.log() + step * torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64), 0)
        logits = policy.log().requires_grad_()
        estimates = kl_estimate(logprobs=policy.log(), ref_logprobs=REFERENCE.log(), kind=kind)
        sizes.append(torch.autograd.grad((torch.softmax(logits, 0) * estimates).sum(), logits)[0].norm().item())
    assert math.log10(sizes[0] / sizes[1]) == pytest.approx(order, abs=0.05)


# ---- two tokens of two ids: first [2], second [2, 2] given the first; one number a token.


def log_chains(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Token log-probabilities of the four sequences, [4, 2]."""
    head, tail = torch.log_softmax(first, 0), torch.log_softmax(second, 1)
    return torch.stack([head.repeat_interleave(2), tail.flatten()], dim=1)


FIRST = torch.tensor([0.3, -0.4], dtype=torch.float64)
SECOND = torch.tensor([[0.5, 0.1], [-0.7, 0.2]], dtype=torch.float64)
TWO_REFERENCE = log_chains(torch.zeros_like(FIRST), torch.tensor([[0.0, 1.0], [3.0, 0.0]], dtype=torch.float64))


def gradients(loss) -> list[float]:
    """Gradient of `loss(logs [4, 2])` in all six logits."""
    first, second = FIRST.clone().requires_grad_(), SECOND.clone().requires_grad_()
    logs = log_chains(first, second)
    found = torch.autograd.grad(loss(logs), (first, second), allow_unused=True)
    return torch.cat([(torch.zeros(1) if one is None else one).flatten() for one in found]).tolist()


PROBABILITIES = log_chains(FIRST, SECOND).sum(1).exp()


def in_the_loss(kind: str) -> list[float]:
    """Expected gradient of the sum over tokens of k(x_t), sequences drawn from π."""
    return gradients(
        lambda logs: (PROBABILITIES * kl_estimate(logprobs=logs, ref_logprobs=TWO_REFERENCE, kind=kind).sum(1)).sum()
    )


def whole_kl(logs: torch.Tensor) -> torch.Tensor:
    """KL(π‖ref) of sequences, exactly."""
    return (logs.sum(1).exp() * (logs - TWO_REFERENCE).sum(1)).sum()


def each_token(logs: torch.Tensor, forward: bool) -> torch.Tensor:
    """The KL at each token exactly, first tokens weighted as they come, their probability held fixed."""
    pairs = logs.view(2, 2, 2), TWO_REFERENCE.view(2, 2, 2)
    p, q = pairs[::-1] if forward else pairs
    first = (p[:, 0, 0].exp() * (p[:, 0, 0] - q[:, 0, 0])).sum()
    second = (p[:, :, 1].exp() * (p[:, :, 1] - q[:, :, 1])).sum(1)
    return first + (torch.softmax(FIRST, 0) * second).sum()


def test_on_two_tokens_k1_in_the_loss_still_has_no_gradient():
    assert in_the_loss("k1") == pytest.approx([0] * 6, abs=1e-15)


def test_on_two_tokens_token_level_k2_is_a_partial_gradient():
    # It leaves out how the first token changes what the second will cost: E[∇log π_1·x_2], which is not zero.
    found = in_the_loss("k2")
    assert found == pytest.approx(gradients(lambda logs: each_token(logs, forward=False)), rel=1e-12)
    whole = gradients(whole_kl)
    assert found[2:] == pytest.approx(whole[2:], rel=1e-12)
    weight = PROBABILITIES * (log_chains(FIRST, SECOND) - TWO_REFERENCE)[:, 1]
    left_out = gradients(lambda logs: (weight * logs[:, 0]).sum())
    assert [one + other for one, other in zip(found, left_out, strict=True)] == pytest.approx(whole, rel=1e-12)
    assert max(map(abs, left_out)) > 0.01


def test_on_two_tokens_k2_of_the_whole_sequence_is_the_gradient():
    def sequence_k2(logs):
        x = logs.sum(1)
        return (PROBABILITIES * kl_estimate(logprobs=x, ref_logprobs=TWO_REFERENCE.sum(1), kind="k2")).sum()

    assert gradients(sequence_k2) == pytest.approx(gradients(whole_kl), rel=1e-12)


def test_on_two_tokens_k3_pulls_at_each_token_towards_the_reference():
    assert in_the_loss("k3") == pytest.approx(gradients(lambda logs: each_token(logs, forward=True)), rel=1e-12)


def test_on_two_tokens_k1_in_the_reward_is_the_gradient():
    x = (log_chains(FIRST, SECOND) - TWO_REFERENCE).sum(1)
    assert gradients(lambda logs: (logs.sum(1).exp() * x).sum()) == pytest.approx(gradients(whole_kl), rel=1e-12)


def test_an_unknown_estimator_is_refused():
    with pytest.raises(ValueError, match="'k4'"):
        kl_estimate(logprobs=POLICY, ref_logprobs=REFERENCE, kind="k4")


def test_exact_kl_and_its_direction():
    assert exact_kl(logits=POLICY.log() + 1, ref_logits=REFERENCE.log() - 2).item() == pytest.approx(KL, rel=1e-14)
    backwards = 0.5 * math.log(2.5) + 0.3 * math.log(3 / 7) + 0.2 * math.log(2)
    assert exact_kl(logits=REFERENCE.log(), ref_logits=POLICY.log()).item() == pytest.approx(backwards, rel=1e-14)


def test_exact_kl_with_forbidden_ids():
    forbidden = torch.tensor([0.0, 0.0, -math.inf], dtype=torch.float64).requires_grad_()
    open_to_all = torch.zeros(3, dtype=torch.float64)
    kl = exact_kl(logits=forbidden, ref_logits=open_to_all)
    assert kl.item() == pytest.approx(math.log(1.5), rel=1e-14)
    kl.backward()
    assert forbidden.grad is not None
    assert forbidden.grad.tolist() == pytest.approx([0, 0, 0], abs=1e-15)  # stationary: uniform on what is allowed
    assert exact_kl(logits=forbidden, ref_logits=forbidden).item() == 0
    assert exact_kl(logits=open_to_all, ref_logits=forbidden).item() == math.inf


def test_exact_kl_derivative():
    logits = torch.randn(2, 2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert gradcheck(
        lambda p, q: exact_kl(logits=p, ref_logits=q),
        (logits[0].requires_grad_(), logits[1].requires_grad_()),
    )


def test_adaptive_controller_by_hand():
    controller = AdaptiveKL(coef=0.1, target=6, horizon=10_000)
    # e = 7/6 − 1 = 1/6: 0.1·(1 + 256/60000).
    assert controller.update(kl=7.0, samples=256).coef == pytest.approx(0.1 * (1 + 256 / 60_000), rel=1e-14)
    # Far above and far below, e stops at ±0.2: 0.1·(1 ± 0.00512).
    assert controller.update(kl=60.0, samples=256).coef == pytest.approx(0.100512, rel=1e-14)
    assert controller.update(kl=-1.0, samples=256).coef == pytest.approx(0.099488, rel=1e-14)
    assert controller.update(kl=6.0, samples=256) == controller


def test_adaptive_pace_is_one_of_episodes_whatever_the_batch():
    # Either way 2,000 episodes at e = 0.2 over a horizon of 10,000: a factor near exp(0.04).
    small = large = AdaptiveKL(coef=0.1, target=6.0, horizon=10_000)
    for _ in range(200):
        small = small.update(kl=12.0, samples=10)
    for _ in range(5):
        large = large.update(kl=12.0, samples=400)
    assert small.coef == pytest.approx(0.1 * math.exp(0.04), rel=1e-4)
    assert large.coef == pytest.approx(small.coef, rel=1e-3)


def test_adaptive_coefficient_never_reaches_zero():
    with pytest.raises(ValueError, match=r"horizon is 10 .* above a fifth"):
        AdaptiveKL(coef=0.1, target=6.0, horizon=10).update(kl=0.0, samples=50)


def kl_of_the_optimum(coef: float) -> float:
    """KL(π*‖ref) where π* ∝ ref·exp(r/coef), rewards 1, 2, 0: where a policy trained to the end stands."""
    logits = REFERENCE.log() + torch.tensor([1.0, 2.0, 0.0], dtype=torch.float64) / max(coef, 1e-3)
    return exact_kl(logits=logits, ref_logits=REFERENCE.log()).item()


def test_dual_by_hand():
    controller = DualKL(coef=0.1, target=5, rate=0.02)
    assert controller.update(kl=6.0, samples=1).coef == pytest.approx(0.1 + 0.02 * 0.2, rel=1e-14)
    assert controller.update(kl=100.0, samples=1).coef == pytest.approx(0.12, rel=1e-14)
    assert controller.update(kl=-100.0, samples=1).coef == pytest.approx(0.08, rel=1e-14)
    assert DualKL(coef=0.01, target=5.0, rate=0.02).update(kl=0.0, samples=1).coef == 0.0


@pytest.mark.parametrize(
    "controller",
    [DualKL(coef=5.0, target=0.3, rate=0.05), AdaptiveKL(coef=5.0, target=0.3, horizon=400)],
    ids=["dual", "adaptive"],
)
def test_a_binding_constraint_is_met(controller):
    for _ in range(400):
        controller = controller.update(kl=kl_of_the_optimum(controller.coef), samples=100)
    assert kl_of_the_optimum(controller.coef) == pytest.approx(0.3, rel=1e-3)


def test_a_slack_constraint_is_let_go_and_taken_up_at_once():
    # With no penalty at all the best policy always writes the second id: KL = log(1/.3) = 1.2 < 2.
    controller = DualKL(coef=1.0, target=2.0, rate=0.05)
    for _ in range(200):
        controller = controller.update(kl=kl_of_the_optimum(controller.coef), samples=100)
    assert controller.coef == 0
    assert controller.update(kl=3.0, samples=100).coef == pytest.approx(0.025, rel=1e-12)


def test_fixed_and_budget_keep_their_coefficient():
    assert FixedKL(0.05).update(kl=100.0, samples=64) == FixedKL(0.05)
    budget = BudgetKL(coef=0, budget=10)
    assert budget.update(kl=100.0, samples=64) == budget
    assert [budget.exceeded(kl) for kl in (-1.0, 10.0, 10.1)] == [False, False, True]


CONTROLLERS = [
    FixedKL(0.1),
    AdaptiveKL(0.1, 6.0, 10_000),
    BudgetKL(0.1, 10.0),
    DualKL(0.1, 5.0, 0.01),
]


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_controllers_are_frozen_and_survive_json(controller):
    assert type(controller)(**json.loads(json.dumps(asdict(controller)))) == controller
    with pytest.raises(FrozenInstanceError):
        controller.coef = 1.0


@pytest.mark.parametrize("controller", CONTROLLERS)
@pytest.mark.parametrize("coef", [-0.1, math.nan, math.inf])
def test_a_bad_coefficient_is_refused(controller, coef):
    with pytest.raises(ValueError, match="coef is"):
        type(controller)(**(asdict(controller) | {"coef": coef}))


@pytest.mark.parametrize("controller", CONTROLLERS[1:])
def test_other_bad_numbers_are_refused(controller):
    for name in asdict(controller).keys() - {"coef"}:
        with pytest.raises(ValueError, match=f"{name} is 0"):
            type(controller)(**(asdict(controller) | {name: 0}))


@pytest.mark.parametrize("kl", [math.nan, math.inf])
def test_a_divergence_that_is_no_number_is_refused(kl):
    for controller in (CONTROLLERS[1], CONTROLLERS[3]):
        with pytest.raises(ValueError, match="kl is"):
            controller.update(kl=kl, samples=1)
    with pytest.raises(ValueError, match="kl is"):
        BudgetKL(0.1, 10.0).exceeded(kl)
