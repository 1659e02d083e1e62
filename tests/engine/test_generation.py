"""Sampling: the inverse CDF takes every id by its probability and none without; rows stop where they must."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palate.engine.generation import Sampling, choose, generate, sample_ids, truncate
from palate.engine.seeding import uniforms
from palate.errors import ModelError
from palate.testbed.enumerable import TabularPolicy

LARGEST_U = float(torch.nextafter(torch.tensor(1.0, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64)))


def test_each_id_owns_its_interval():
    # Probabilities 1/2, 1/4, 1/4: the cumulative sums are 1/2, 3/4, 1, and u = 1/2 belongs to the second id.
    probabilities = torch.tensor([[0.5, 0.25, 0.25]])
    chosen = [int(sample_ids(probabilities, torch.tensor([u]))) for u in (0.0, 0.499, 0.5, 0.749, 0.75, 0.999)]
    assert chosen == [0, 0, 1, 1, 2, 2]


@given(
    st.lists(st.one_of(st.just(-torch.inf), st.floats(-30, 30)), min_size=2, max_size=40).filter(
        lambda logits: any(logit > -torch.inf for logit in logits)
    ),
    st.one_of(st.just(0.0), st.just(LARGEST_U), st.floats(0, 1, exclude_max=True)),
)
def test_no_id_of_probability_zero_and_no_index_past_the_end(logits, u):
    probabilities = torch.softmax(torch.tensor([logits]), dim=1)
    chosen = int(sample_ids(probabilities, torch.tensor([u], dtype=torch.float64)))
    assert 0 <= chosen < len(logits)
    assert probabilities[0, chosen] > 0


def test_frequencies_are_the_probabilities():
    # 40,000 stratified uniforms: each count is exact to one draw per border.
    probabilities = torch.tensor([0.1, 0.0, 0.6, 0.3])
    u = (torch.arange(40_000, dtype=torch.float64) + 0.5) / 40_000
    counts = torch.bincount(sample_ids(probabilities.expand(40_000, 4), u), minlength=4)
    assert (counts - torch.tensor([4000, 0, 24_000, 12_000])).abs().max() <= 1


def test_logprobs_are_those_of_the_tempered_policy():
    logits = torch.tensor([[1.0, 2.0, 3.0]])
    ids, logprobs = choose(logits, torch.tensor([0.999]), Sampling(temperature=0.5))
    # Temperature ½ doubles the logits: log softmax([2, 4, 6])[2] = −log(1 + e⁻² + e⁻⁴) = −0.14293.
    assert int(ids) == 2
    assert float(logprobs) == pytest.approx(-0.142932, abs=1e-5)


def test_temperature_zero_takes_the_likeliest():
    ids, _ = choose(torch.tensor([[0.1, 0.3, 0.2]]), torch.tensor([0.0]), Sampling(temperature=0))
    assert int(ids) == 1


def test_top_k_and_top_p_keep_what_they_say():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    assert truncate(logits, Sampling(top_k=2)).isfinite().tolist() == [[True, True, False, False]]
    # Mass before each id: 0, .5, .8, .95; top_p = .8 needs the first two only.
    assert truncate(logits, Sampling(top_p=0.79)).isfinite().tolist() == [[True, True, False, False]]


def test_a_row_ends_with_eos_or_at_its_length():
    policy = TabularPolicy((0.5, 0.5))
    u = torch.tensor([[0.9, 0.9, 0.9], [0.1, 0.9, 0.1]])  # id 1 above one half, id 0 below
    generated = generate(policy, [[0], [0]], u=u, eos_id=0, pad_id=1, sampling=Sampling())
    assert generated.ids.tolist() == [[1, 1, 1], [0, 1, 1]]
    assert generated.mask.tolist() == [[True, True, True], [True, False, False]]
    assert generated.finish == ("length", "eos")
    torch.testing.assert_close(generated.logprobs, generated.mask * torch.tensor(0.5).log())


def test_rows_that_leave_do_not_disturb_the_others():
    policy = TabularPolicy((0.2, 0.5, 0.3))
    u = uniforms(0, 0, list(range(40)), [0] * 40, 12)
    together = generate(policy, [[1]] * 40, u=u, eos_id=0, pad_id=2, sampling=Sampling())
    for row in range(40):
        alone = generate(policy, [[1]], u=u[row : row + 1], eos_id=0, pad_id=2, sampling=Sampling())
        length = int(together.mask[row].sum())
        assert alone.ids[0].tolist() == together.ids[row, :length].tolist()


class Unrefillable:
    """A decoder that cannot take new prompts, as those on transformers' cache."""

    def __init__(self, decoder):
        self._decoder = decoder
        self.step, self.keep = decoder.step, decoder.keep

    @property
    def logits(self):
        return self._decoder.logits


@pytest.mark.parametrize("slots", [1, 3, 7, 39, 40])
@pytest.mark.parametrize("refillable", [True, False])
def test_rows_that_wait_write_what_they_would_have_written_at_once(slots, refillable, monkeypatch):
    policy = TabularPolicy((0.2, 0.5, 0.3))
    prompts = [[1] * (1 + row % 5) for row in range(40)]
    u = uniforms(0, 0, list(range(40)), [0] * 40, 6)
    at_once = generate(policy, prompts, u=u, eos_id=0, pad_id=2, sampling=Sampling())
    if not refillable:
        monkeypatch.setattr(policy, "decoder", lambda some: Unrefillable(TabularPolicy.decoder(policy, some)))
    in_turn = generate(policy, prompts, u=u, eos_id=0, pad_id=2, sampling=Sampling(), slots=slots)
    assert torch.equal(in_turn.ids, at_once.ids)
    assert torch.equal(in_turn.mask, at_once.mask)
    assert torch.equal(in_turn.logprobs, at_once.logprobs)
    assert in_turn.finish == at_once.finish
    assert {"eos", "length"} == set(at_once.finish)


def test_a_prompt_that_fills_the_context_is_refused():
    policy = TabularPolicy((0.5, 0.5))
    policy.context = 3
    with pytest.raises(ModelError, match="3 tokens was given to a model whose context is 3"):
        generate(policy, [[0, 0, 0]], u=torch.zeros(1, 2), eos_id=None, pad_id=0, sampling=Sampling())
    generated = generate(policy, [[0, 0]], u=torch.zeros(1, 4), eos_id=None, pad_id=0, sampling=Sampling())
    assert generated.mask.sum() == 1


def test_uniforms_depend_on_their_names_alone():
    whole = uniforms(3, 7, [5, 6, 5], [0, 0, 1], 8)
    assert torch.equal(uniforms(3, 7, [6], [0], 8)[0], whole[1])
    assert torch.equal(uniforms(3, 7, [5], [1], 4)[0], whole[2, :4])
    assert len({tuple(row.tolist()) for row in torch.cat([whole, uniforms(3, 8, [5], [0], 8)])}) == 4
    assert whole.min() >= 0 and whole.max() < 1
