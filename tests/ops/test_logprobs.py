"""Log-probabilities and entropies by hand; the chunked path equals the plain one in less memory."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from palate.ops import entropy_from_logits, fused_logprobs, token_logprobs

LOGITS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log() + 7.0  # a constant in all logits cancels


def projection(seed: int, tokens: int, width: int, vocabulary: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, width, generator=generator, dtype=torch.float64)
    weight = torch.randn(vocabulary, width, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, vocabulary, (tokens,), generator=generator)
    return hidden.requires_grad_(), weight.requires_grad_(), labels


def plain(hidden, weight, labels, temperature):
    logits = hidden @ weight.T
    logprobs = token_logprobs(logits=logits, labels=labels, temperature=temperature)
    return logprobs, entropy_from_logits(logits=logits / temperature)


def test_log_probability_of_the_label():
    logprobs = token_logprobs(logits=LOGITS.expand(3, 3), labels=torch.arange(3))
    assert logprobs.exp().tolist() == pytest.approx([0.5, 0.3, 0.2], rel=1e-14)


def test_temperature_divides_logits():
    # T = ½ squares the odds: .25, .09, .04 of .38.
    logprobs = token_logprobs(logits=LOGITS.expand(3, 3), labels=torch.arange(3), temperature=0.5)
    assert logprobs.exp().tolist() == pytest.approx([25 / 38, 9 / 38, 4 / 38], rel=1e-14)


@pytest.mark.parametrize("temperature", [0, -1.0, math.nan])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    hidden, weight, labels = projection(0, 3, 2, 4)
    with pytest.raises(ValueError, match=r"temperature is .* above 0"):
        token_logprobs(logits=hidden @ weight.T, labels=labels, temperature=temperature)
    with pytest.raises(ValueError, match=r"temperature is .* above 0"):
        fused_logprobs(hidden=hidden, weight=weight, labels=labels, temperature=temperature, chunk=2)


def test_forbidden_ids_have_probability_zero_and_finite_gradients():
    logits = torch.tensor([1.0, 1.0, -math.inf, 1.0, 1.0, -math.inf], requires_grad=True)
    entropy = entropy_from_logits(logits=logits)
    assert entropy.item() == pytest.approx(math.log(4), rel=1e-6)
    logprob = token_logprobs(logits=logits, labels=torch.tensor(0))
    assert logprob.item() == pytest.approx(-math.log(4), rel=1e-6)
    (entropy + logprob).backward()
    # At the uniform distribution the entropy is stationary; ∂log p_0/∂z = (1[0] − p).
    assert logits.grad is not None
    assert logits.grad.tolist() == pytest.approx([0.75, -0.25, 0, -0.25, -0.25, 0], abs=1e-6)


def test_bfloat16_logits_are_normalised_in_float32():
    logits = torch.randn(5, 100, generator=torch.Generator().manual_seed(0)).bfloat16()
    labels = torch.arange(5)
    expected = token_logprobs(logits=logits.double(), labels=labels)
    logprobs = token_logprobs(logits=logits, labels=labels)
    assert logprobs.dtype == torch.float32
    assert torch.allclose(logprobs.double(), expected, rtol=0, atol=1e-6)


def test_large_logits_keep_their_digits():
    # The gap is 1 whatever the offset: p = σ(1).
    logprob = token_logprobs(logits=torch.tensor([30001.0, 30000.0]), labels=torch.tensor(0))
    assert logprob.item() == pytest.approx(-math.log(1 + math.exp(-1)), rel=1e-6)


def test_entropy_derivative():
    logits = torch.randn(2, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert gradcheck(lambda z: entropy_from_logits(logits=z), logits.requires_grad_())


@given(
    seed=st.integers(0, 10**6),
    tokens=st.integers(0, 7),
    chunk=st.integers(1, 9),
    temperature=st.sampled_from([0.7, 1, 1.3]),
)
def test_fused_equals_plain_in_value_and_gradient(seed, tokens, chunk, temperature):
    hidden, weight, labels = projection(seed, tokens, 3, 5)
    outward = torch.randn(2, tokens, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    expected = torch.stack(plain(hidden, weight, labels, temperature))
    fused = torch.stack(
        fused_logprobs(hidden=hidden, weight=weight, labels=labels, temperature=temperature, chunk=chunk)
    )
    assert torch.allclose(fused, expected, rtol=0, atol=1e-10)
    wanted = torch.autograd.grad((expected * outward).sum(), (hidden, weight))
    found = torch.autograd.grad((fused * outward).sum(), (hidden, weight))
    for one, other in zip(found, wanted, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-10)


def test_fused_derivative_by_finite_differences():
    hidden, weight, labels = projection(3, 4, 2, 3)

    def outputs(h, w):
        return fused_logprobs(hidden=h, weight=w, labels=labels, temperature=0.8, chunk=3)

    assert gradcheck(outputs, (hidden, weight))


@pytest.mark.parametrize("output", [0, 1])
def test_either_output_alone_has_its_gradient(output):
    hidden, weight, labels = projection(4, 5, 3, 6)
    wanted = torch.autograd.grad(plain(hidden, weight, labels, 1.0)[output].sum(), weight)[0]
    fused = fused_logprobs(hidden=hidden, weight=weight, labels=labels, temperature=1.0, chunk=2)
    assert torch.allclose(torch.autograd.grad(fused[output].sum(), weight)[0], wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize("frozen", [0, 1])
def test_what_is_frozen_gets_no_gradient_and_the_other_its_own(frozen):
    inputs = list(projection(5, 5, 3, 6))
    hidden, weight, labels = inputs
    wanted = torch.autograd.grad(plain(hidden, weight, labels, 1.0)[0].sum(), inputs[1 - frozen])[0]
    inputs[frozen] = inputs[frozen].detach()
    hidden, weight, labels = inputs
    logprobs, _ = fused_logprobs(hidden=hidden, weight=weight, labels=labels, temperature=1.0, chunk=2)
    logprobs.sum().backward()
    assert inputs[frozen].grad is None
    assert torch.allclose(inputs[1 - frozen].grad, wanted, rtol=0, atol=1e-10)


def test_same_bits_with_and_without_gradient():
    hidden, weight, labels = (x.detach() for x in projection(6, 33, 8, 50))
    hidden, weight = hidden.float(), weight.float()
    with torch.no_grad():
        without = fused_logprobs(hidden=hidden, weight=weight, labels=labels, temperature=1.0, chunk=8)
    with_gradient = fused_logprobs(
        hidden=hidden.requires_grad_(),
        weight=weight.requires_grad_(),
        labels=labels,
        temperature=1.0,
        chunk=8,
    )
    for one, other in zip(with_gradient, without, strict=True):
        assert torch.equal(one, other)


class LargestTensor(TorchDispatchMode):
    """Notes the number of elements of the largest tensor that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(made) if isinstance(leaf, torch.Tensor)]
        self.elements = max(self.elements, *sizes, 0)
        return made


def test_full_logits_are_never_held():
    tokens, width, vocabulary, chunk = 60, 4, 50, 6
    hidden, weight, labels = projection(7, tokens, width, vocabulary)
    with LargestTensor() as fused:
        logprobs, entropy = fused_logprobs(hidden=hidden, weight=weight, labels=labels, temperature=0.9, chunk=chunk)
        (logprobs + entropy).sum().backward()
    with LargestTensor() as full:
        plain(hidden, weight, labels, 0.9)[0].sum().backward()
    assert full.elements == tokens * vocabulary
    assert fused.elements == chunk * vocabulary


def test_bfloat16_in_float32_out():
    hidden, weight, labels = (x.detach() for x in projection(8, 20, 8, 30))
    hidden, weight = hidden.bfloat16().requires_grad_(), weight.bfloat16().requires_grad_()
    logprobs, entropy = fused_logprobs(hidden=hidden, weight=weight, labels=labels, temperature=1.0, chunk=7)
    expected = token_logprobs(logits=(hidden @ weight.T).double(), labels=labels)
    assert logprobs.dtype == entropy.dtype == torch.float32
    # The product itself is bfloat16, with a row count of its own: one step of it at a logit of 10 is 2⁻⁴.
    assert torch.allclose(logprobs.double(), expected, rtol=0, atol=2**-4)
    (logprobs.sum() + entropy.sum()).backward()
    assert hidden.grad is not None
    assert weight.grad is not None
    assert hidden.grad.dtype == weight.grad.dtype == torch.bfloat16


def test_bad_chunk_and_mixed_dtypes_are_refused():
    hidden, weight, labels = projection(9, 3, 2, 4)
    with pytest.raises(ValueError, match="chunk is 0"):
        fused_logprobs(hidden=hidden, weight=weight, labels=labels, temperature=1.0, chunk=0)
    with pytest.raises(ValueError, match="one dtype"):
        fused_logprobs(hidden=hidden.bfloat16(), weight=weight, labels=labels, temperature=1.0, chunk=1)
