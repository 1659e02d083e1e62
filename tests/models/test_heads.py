"""Scalar heads: which hidden states they read, what they never see, and that copies are copies."""

import pytest
import torch

from palate.data.layout import completions, packed, padded
from palate.models import Critic, RewardModel, SharedCritic
from palate.models.trunk import trunk_states


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def layouts_of(model, documents, pad_id=0):
    prompts, replies = documents
    ids, mask = completions(replies, pad_id)
    one_each = padded(prompts, ids, mask, pad_id=pad_id)
    return [one_each, packed(prompts, ids, mask)] if model.supports_packing else [one_each]


def states_of(trunk, tokens):
    """Hidden states [N, H] of one document alone, from the trunk's own forward pass."""
    return trunk(input_ids=torch.tensor([tokens])).last_hidden_state[0]


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
@torch.no_grad()
def test_last_token_scores_by_hand(name, causal, documents):
    model = RewardModel.on(causal(name), pooling="last", generator=generator())
    for layout in layouts_of(model, documents):
        for row, (prompt, reply) in enumerate(zip(*documents, strict=True)):
            expected = states_of(model.trunk, prompt + reply)[-1] @ model.head
            torch.testing.assert_close(model.scores(layout)[row], expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_mean_scores_are_over_the_completion_alone(causal, documents):
    model = RewardModel.on(causal(), pooling="mean", generator=generator())
    for layout in layouts_of(model, documents):
        for row, (prompt, reply) in enumerate(zip(*documents, strict=True)):
            own = states_of(model.trunk, prompt + reply)[len(prompt) :]
            expected = own.mean(dim=0) @ model.head if reply else torch.tensor(0.0)
            torch.testing.assert_close(model.scores(layout)[row], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("pooling", ["last", "mean"])
@torch.no_grad()
def test_padding_changes_no_score_even_where_it_looks_like_the_stop_token(pooling, causal):
    # The replies end with the very id that fills the rows.
    model = RewardModel.on(causal("gpt2"), pooling=pooling, generator=generator())
    prompts, (ids, mask) = [[5, 6], [7]], completions([[8, 2], [9, 10, 11, 2]], pad_id=2)
    together = model.scores(padded(prompts, ids, mask, pad_id=2))
    alone = model.scores(padded(prompts[:1], ids[:1, :2], mask[:1, :2], pad_id=2))
    torch.testing.assert_close(together[:1], alone, atol=1e-6, rtol=0)
    assert torch.equal(together, model.scores(padded(prompts, ids, mask, pad_id=33)))


@torch.no_grad()
def test_stop_token_is_part_of_what_is_scored(causal):
    model = RewardModel.on(causal(), pooling="last", generator=generator())
    (ids, mask), prompts = completions([[8, 9, 2], [8, 9]], pad_id=0), [[5, 6], [5, 6]]
    ended, cut = model.scores(padded(prompts, ids, mask, pad_id=0))
    assert ended != cut


@torch.no_grad()
def test_calibration_shares_weights_and_replaces_itself(causal, documents):
    model = RewardModel.on(causal(), pooling="last", generator=generator())
    layout, *_ = layouts_of(model, documents)
    raw = model.scores(layout)
    calibrated = model.calibrated(2.0, -1.0)
    torch.testing.assert_close(calibrated.scores(layout), 2 * raw - 1)
    torch.testing.assert_close(calibrated.calibrated(3.0, 0.5).scores(layout), 3 * raw + 0.5)
    torch.testing.assert_close(model.scores(layout), raw)
    assert calibrated.head is model.head


@pytest.mark.parametrize("pooling", ["last", "mean"])
@torch.no_grad()
def test_several_heads_score_as_models_of_one_head_each(pooling, causal, documents):
    gains, biases = (2.0, -1.0, 0.5), (0.0, 1.0, -3.0)
    model = RewardModel.on(causal(), pooling=pooling, generator=generator(), heads=3).calibrated(gains, biases)
    assert model.members == 3
    for layout in layouts_of(model, documents):
        scores = model.scores(layout)
        assert scores.shape == (len(documents[0]), 3)
        for index, (gain, bias) in enumerate(zip(gains, biases, strict=True)):
            alone = RewardModel(model.trunk, model.head[index], pooling=pooling, gain=gain, bias=bias)
            torch.testing.assert_close(scores[:, index], alone.scores(layout), atol=1e-6, rtol=0)


def test_heads_of_an_ensemble_differ_and_those_of_attributes_are_no_ensemble(causal):
    team = RewardModel.on(causal(), pooling="last", generator=generator(), heads=2)
    assert not torch.equal(team.head[0], team.head[1])
    rated = RewardModel.on(causal(), pooling="last", generator=generator(), attributes=("helpful", "brief"))
    assert (rated.members, rated.attributes, rated.head.shape[0]) == (1, ("helpful", "brief"), 2)


@torch.no_grad()
def test_critic_from_an_ensemble_begins_with_the_mean_score(causal):
    model = RewardModel.on(causal(), pooling="last", generator=generator(), heads=2).calibrated((2.0, 3.0), (1.0, -2.0))
    critic = Critic.from_reward_model(model)
    ids, mask = completions([[8, 9, 10]], pad_id=0)
    value = critic.values(padded([[5, 6]], ids, mask, pad_id=0))[0, 2]
    ids, mask = completions([[8, 9]], pad_id=0)
    scores = model.scores(padded([[5, 6]], ids, mask, pad_id=0))[0]
    torch.testing.assert_close(value, scores.mean(), atol=1e-6, rtol=0)


def test_heads_are_drawn_from_their_generator_alone(causal):
    lm = causal()
    makers = [
        lambda seed: RewardModel.on(lm, pooling="last", generator=generator(seed)).head,
        lambda seed: Critic.on(lm, generator=generator(seed)).head,
        lambda seed: SharedCritic(lm, generator=generator(seed)).head,
    ]
    state = torch.get_rng_state()
    for make in makers:
        assert torch.equal(make(1), make(1))
        assert not torch.equal(make(1), make(2))
    assert torch.equal(state, torch.get_rng_state())


def test_head_has_the_spread_it_claims(causal):
    # 200 heads of 32 numbers: the standard deviation 1/√33 = 0.1741 is met to 2 % (its own error is 0.9 %).
    lm = causal()
    stream = generator(4)
    drawn = torch.cat([SharedCritic(lm, generator=stream).head.detach() for _ in range(200)])
    assert float(drawn.std()) == pytest.approx(33**-0.5, rel=0.02)
    assert abs(float(drawn.mean())) < 0.01


def test_trunks_are_copies(causal, documents):
    lm = causal()
    layout, *_ = layouts_of(lm, documents)
    reward = RewardModel.on(lm, pooling="last", generator=generator())
    critic = Critic.on(lm, generator=generator())
    before = [module.detach().clone() for module in (reward.scores(layout), critic.values(layout))]
    with torch.no_grad():
        for parameter in lm.parameters():
            parameter.zero_()
    assert torch.equal(before[0], reward.scores(layout))
    assert torch.equal(before[1], critic.values(layout))


@torch.no_grad()
def test_values_by_hand(causal, documents):
    critic = Critic.on(causal(), generator=generator())
    critic.bias.fill_(0.25)
    for layout in layouts_of(critic, documents):
        values = critic.values(layout)
        assert values.shape == layout.mask.shape
        assert bool((values[~layout.mask] == 0).all())
        for row, (prompt, reply) in enumerate(zip(*documents, strict=True)):
            before_each = states_of(critic.trunk, prompt + reply)[len(prompt) - 1 : -1]
            expected = before_each @ critic.head + 0.25
            torch.testing.assert_close(values[row, : len(reply)], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("shared", [False, True])
@torch.no_grad()
def test_a_value_never_sees_the_action_it_judges(shared, causal):
    # Changing completion token t leaves values up to t to the bit, and moves those after it.
    lm = causal("llama", torch.float64)
    critic = SharedCritic(lm, generator=generator()) if shared else Critic.on(lm, generator=generator())

    def values(reply):
        ids, mask = completions([reply], pad_id=0)
        layout = padded([[5, 6]], ids, mask, pad_id=0)
        return critic.values(layout, lm.hidden(layout, layout.predicting))[0]

    one, other = values([10, 11, 12, 13]), values([10, 44, 12, 13])
    assert torch.equal(one[:2], other[:2])
    assert not torch.isclose(one[2:], other[2:]).any()


@torch.no_grad()
def test_critic_from_a_reward_model_begins_with_its_score(causal):
    # The value before a token is the score that the text so far would get.
    model = RewardModel.on(causal(), pooling="last", generator=generator()).calibrated(2.0, -0.5)
    critic = Critic.from_reward_model(model)
    ids, mask = completions([[8, 9, 10]], pad_id=0)
    value = critic.values(padded([[5, 6]], ids, mask, pad_id=0))[0, 2]
    ids, mask = completions([[8, 9]], pad_id=0)
    score = model.scores(padded([[5, 6]], ids, mask, pad_id=0))[0]
    torch.testing.assert_close(value, score, atol=1e-6, rtol=0)


def test_shared_critic_teaches_the_policy(causal):
    lm = causal()
    critic = SharedCritic(lm, generator=generator())
    ids, mask = completions([[8, 9]], pad_id=0)
    layout = padded([[5, 6]], ids, mask, pad_id=0)
    critic.values(layout, lm.hidden(layout, layout.predicting)).sum().backward()
    assert lm.trunk.layers[0].mlp.up_proj.weight.grad.abs().sum() > 0
    assert critic.bias.grad == 2  # one for each of the two values


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_what_is_not_a_number_in_padding_poisons_no_gradient(pooling, causal, monkeypatch):
    # One row is padded to the other's length; its padding's states are made NaN on the way.
    model = RewardModel.on(causal(), pooling=pooling, generator=generator())
    ids, mask = completions([[8], [9, 10, 11]], pad_id=0)
    layout = padded([[5], [6]], ids, mask, pad_id=0)
    padding = torch.tensor([False, False, True, True, False, False, False, False])

    def poisoned(trunk, of, reading, read):
        return trunk_states(trunk, of, reading).masked_fill(padding[:, None], torch.nan)[read]

    monkeypatch.setattr("palate.models.heads.trunk_states", poisoned)
    scores = model.scores(layout)
    scores.sum().backward()
    assert bool(torch.isfinite(scores).all())
    assert all(bool(torch.isfinite(parameter.grad).all()) for parameter in model.parameters())


@torch.no_grad()
def test_scores_of_low_precision_models_keep_their_digits(causal):
    model = RewardModel.on(causal("llama", torch.bfloat16), pooling="last", generator=generator())
    ids, mask = completions([[8, 9]], pad_id=0)
    assert model.scores(padded([[5, 6]], ids, mask, pad_id=0)).dtype == torch.float32
