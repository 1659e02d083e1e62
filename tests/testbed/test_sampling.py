"""The embedded base model as sampler and as trainer: what it writes does not depend on its company, and both agree."""

import pytest
import torch

from palate import testbed
from palate.data.layout import packed, padded
from palate.engine.forward import completion_logprobs
from palate.engine.generation import Sampling, generate
from palate.engine.seeding import uniforms
from palate.models import load_causal

LENGTH = 12


@pytest.fixture(scope="module")
def loaded():
    return load_causal(testbed.base_model())


def written(loaded, rows, *, slots=None, side=None):
    """What the model writes to rows of prompts, all decoded together, in groups of `side`, or by turns in `slots`."""
    model, chat, _ = loaded
    prompts = testbed.prompts("heldout")
    parts = [rows] if side is None else [rows[start : start + side] for start in range(0, len(rows), side)]
    found = []
    for part in parts:
        u = uniforms(0, 0, part, [0] * len(part), LENGTH)
        ids = [chat.encode_prompt(prompts[row % len(prompts)]) for row in part]
        done = generate(model, ids, u=u, eos_id=chat.eos_id, pad_id=chat.pad_id, sampling=Sampling(), slots=slots)
        found += [line[kept].tolist() for line, kept in zip(done.ids, done.mask, strict=True)]
    return found


def test_a_thousand_rows_are_what_they_are_in_any_company(loaded):
    rows = list(range(1000))
    together = written(loaded, rows)
    assert len({tuple(one) for one in together}) > 100
    for other in (written(loaded, rows, slots=96), written(loaded, rows, side=125)):
        alike = sum(one == another for one, another in zip(together, other, strict=True))
        assert alike >= 999


@pytest.mark.parametrize(("dtype", "most"), [("float32", 1e-5), ("float64", 1e-10)])
def test_sampler_and_trainer_agree_on_every_log_probability(dtype, most):
    model, chat, _ = load_causal(testbed.base_model(), dtype=dtype)
    prompts = [chat.encode_prompt(prompt) for prompt in testbed.prompts("heldout")[:48]]
    u = uniforms(1, 0, range(48), [0] * 48, LENGTH)
    for temperature in (1.0, 0.7):
        sampling = Sampling(temperature=temperature)
        done = generate(model, prompts, u=u, eos_id=chat.eos_id, pad_id=chat.pad_id, sampling=sampling)
        layouts = (packed(prompts, done.ids, done.mask), padded(prompts, done.ids, done.mask, pad_id=chat.pad_id))
        for layout in layouts:
            with torch.no_grad():
                found, _ = completion_logprobs(model, layout, temperature)
            assert float((found - done.logprobs).abs().max()) < most
