"""Every algorithm of the online loop: its optimum, its advantages and losses by hand, what must not matter."""

import copy
import json
import math
from dataclasses import replace
from typing import ClassVar

import pytest
import torch

from palate.algorithms.leash import KL
from palate.algorithms.loop_state import LoopState
from palate.algorithms.online import Online, OnlineLoop
from palate.algorithms.parts import whole_completions
from palate.algorithms.policies import ALGORITHMS, DAPO, GRPO, GSPO, PPO, REINFORCE, RLOO, DrGRPO, ReMax
from palate.algorithms.shaping import Shaping
from palate.engine.experience import Denominators, Experience, Outputs, Rollout, Scored
from palate.engine.optimiser import Optimiser
from palate.errors import RecipeError
from palate.ops import Moments
from palate.recipe import recipe_from
from palate.records import Prompt
from palate.settings import build
from palate.testbed.enumerable import (
    BETA,
    REFERENCE,
    REWARDS,
    TabularCodec,
    TabularCritic,
    TabularPolicy,
    TabularReward,
    forward_optimum,
    optimum,
    total_variation,
)

NONE = Moments(*torch.zeros(3, dtype=torch.float64))
K1 = KL(kind="fixed", coef=BETA)
NAMES = sorted(ALGORITHMS)


def loop_of(algorithm, *, reward=None, seed=0, eos_id=None, prompts=1, **settings) -> OnlineLoop:
    """A loop over the enumerable policy: 128 completions an iteration, one token each."""
    each = settings.get("samples") or algorithm.samples
    base = {
        "iterations": 60,
        "batch": 128 // each,
        "max_new_tokens": 1,
        "learning_rate": 0.05,
        "shaping": Shaping(normalise="none", missing_eos_penalty=0.0),
        "optimiser": Optimiser(schedule="linear"),
    }
    return OnlineLoop(
        policy=TabularPolicy(REFERENCE),
        reference=TabularPolicy(REFERENCE),
        critic=TabularCritic() if "critic" in algorithm.needs else None,
        reward=reward or TabularReward(),
        algorithm=algorithm,
        prompts=tuple(Prompt.of(f"? {number}") for number in range(prompts)),
        prompt_ids=tuple((0,) * (1 + number % 3) for number in range(prompts)),
        codec=TabularCodec(eos_id=eos_id),
        settings=Online(**{**base, **settings}),
        critic_learning_rate=0.05,
        seed=seed,
    )


def run(loop, iterations=None, state=None, steppers=None):
    steppers, state, rows = steppers or loop.steppers(), state or loop.start(NONE), []
    for _ in range(iterations or loop.settings.iterations):
        done = loop.iterate(state, steppers)
        state = done.state
        rows.append({name: value for name, value in done.row.items() if not name.startswith("time/")})
    return state, rows, steppers


# ---- known optima


@pytest.mark.parametrize("name", sorted({*ALGORITHMS} - {"ppo", "dapo", "gspo"}))
def test_with_k1_in_the_reward_it_reaches_the_known_optimum(name):
    # PPO stands in test_online; DAPO and GSPO divide by the group's standard deviation, and have another optimum.
    algorithm = GRPO(std=False, kl=K1) if name == "grpo" else ALGORITHMS[name](kl=K1)
    loop = loop_of(algorithm, iterations=100 if algorithm.minibatches == 1 else 40)
    run(loop)
    assert total_variation(loop.policy.probabilities, optimum(REFERENCE, REWARDS, BETA)[0]) < 0.03


def test_the_optimum_of_the_other_direction_by_hand():
    # β = 3/2, π_ref = (1/2, 1/2), r = (1, 0): μ = 2 gives ¾/(2 − 1) + ¾/(2 − 0) = ¾ + ⅜ > 1, and the root of
    # ¾/(μ − 1) + ¾/μ = 1, μ² − 2.5·μ + ¾ = 0, is μ = (2.5 + √3.25)/2 = 2.15139, so π = (.65139, .34861).
    found = forward_optimum((0.5, 0.5), (1.0, 0.0), 1.5)
    torch.testing.assert_close(found, torch.tensor([0.65139, 0.34861], dtype=torch.float64), atol=1e-5, rtol=0)


# Where each estimator in the loss leads, for the weight it really has.
IN_THE_LOSS = {
    "k2": lambda beta: optimum(REFERENCE, REWARDS, beta)[0],
    "k3": lambda beta: forward_optimum(REFERENCE, REWARDS, beta),
}


@pytest.mark.parametrize("estimator", IN_THE_LOSS)
def test_kl_in_the_loss_leads_to_its_own_optimum(estimator):
    kl = KL(kind="fixed", coef=BETA, place="loss", estimator=estimator)
    loop = loop_of(RLOO(kl=kl), iterations=120)
    run(loop)
    assert total_variation(loop.policy.probabilities, IN_THE_LOSS[estimator](BETA)) < 0.03


@pytest.mark.parametrize("estimator", IN_THE_LOSS)
def test_beside_a_group_mean_kl_in_the_loss_acts_at_more_than_its_price(estimator):
    # The group's mean holds 1/G of each score itself, so the gradient of the score shrinks by (G − 1)/G, that of the KL
    # does not: with G = 4, β acts as 4/3·β, which is .1 of total variation away from β.
    kl = KL(kind="fixed", coef=BETA, place="loss", estimator=estimator)
    loop = loop_of(GRPO(std=False, minibatches=1, kl=kl), samples=4, iterations=120)
    run(loop)
    target = IN_THE_LOSS[estimator]
    assert total_variation(loop.policy.probabilities, target(BETA * 4 / 3)) < 0.03
    assert total_variation(target(BETA), target(BETA * 4 / 3)) > 0.06


def test_a_leash_that_would_not_hold_is_refused():
    with pytest.raises(ValueError, match="k1 in the loss holds nothing back, as its expected gradient"):
        KL(place="loss")
    with pytest.raises(ValueError, match="k3 in the reward holds nothing back near the reference"):
        KL(estimator="k3")
    with pytest.raises(RecipeError, match=r"align\.grpo\.kl = .*k1 in the loss.* is zero; take k2"):
        build(GRPO, {"kl": {"estimator": "k1"}}, "align.grpo")


# ---- advantages by hand


def scored(scores, groups, *, lengths=None, gaps=None, dense=None, **signals) -> Scored:
    """Completions whose every token is `gaps` nats likelier than under the reference."""
    count = len(scores)
    lengths = torch.tensor(lengths or [2] * count)
    mask = torch.arange(4) < lengths.unsqueeze(1)
    old = torch.where(mask, -1.0 + torch.tensor(gaps or [0.0] * count).unsqueeze(1), 0.0)
    rollout = Rollout(
        row_ids=torch.zeros(count, dtype=torch.int64),
        group_ids=torch.tensor(groups),
        ids=torch.zeros(mask.shape, dtype=torch.int64),
        mask=mask,
        sampler_logprobs=old,
        finish=("eos",) * count,
        version=0,
        limit=4,
    )
    reference = torch.where(mask, torch.tensor(-1.0), 0.0)
    dense = torch.zeros(mask.shape) if dense is None else torch.tensor(dense)
    return Scored(rollout, torch.tensor(scores), dense, {}, old, {"reference": reference, **signals})


def first_tokens(experience: Experience) -> list[float]:
    return experience.advantages[:, 0].tolist()


FREE = KL(kind="fixed", coef=0.0)


def test_groups_go_by_their_ids_wherever_they_stand():
    # Groups {1, 2, 6} and {0, 0, 3}, shuffled. Leave-one-out of the first: 1 − 4, 2 − 3.5, 6 − 1.5; of the second:
    # 0 − 1.5, 0 − 1.5, 3 − 0. Means 3 and 1, variances 7 and 3.
    given = scored([6.0, 0.0, 1.0, 3.0, 0.0, 2.0], [5, 2, 5, 2, 2, 5])
    assert first_tokens(RLOO(kl=FREE).assign(given, 0.0)) == pytest.approx([4.5, -1.5, -3, 3, -1.5, -1.5])
    assert first_tokens(DrGRPO().assign(given, 0.0)) == pytest.approx([3, -1, -2, 2, -1, -1])
    scale = [math.sqrt(7) + 1e-4, math.sqrt(3) + 1e-4]
    expected = [3 / scale[0], -1 / scale[1], -2 / scale[0], 2 / scale[1], -1 / scale[1], -1 / scale[0]]
    for algorithm in (GRPO(), GSPO(), DAPO(overlong=0.0)):
        assert first_tokens(algorithm.assign(given, 0.0)) == pytest.approx(expected, rel=1e-5)


def test_the_kl_is_paid_in_the_return_or_not_at_all():
    # Two tokens, .5 nats each, at .1 a nat: a return .1 lower. Leave-one-out of (.9, 2): ∓1.1; of (1, 2): ∓1.
    given = scored([1.0, 2.0], [0, 0], gaps=[0.5, 0.0])
    assert first_tokens(RLOO().assign(given, 0.1)) == pytest.approx([-1.1, 1.1])
    with_values = replace(given, signals={**given.signals, "critic": torch.zeros(2, 4)})
    a2c = ALGORITHMS["a2c"]
    assert first_tokens(a2c().assign(with_values, 0.1)) == pytest.approx([0.9, 2])
    assert first_tokens(a2c(kl=KL(place="loss", estimator="k2")).assign(with_values, 0.1)) == [1, 2]
    in_the_loss = RLOO(kl=KL(place="loss", estimator="k3")).assign(given, 0.1)
    assert first_tokens(in_the_loss) == [-1.0, 1.0]
    assert in_the_loss.targets["kl_coef"].eq(0.1).all() and set(in_the_loss.targets) == {"reference", "kl_coef"}


def test_baselines_by_hand():
    given = scored([1.0, 3.0], [0, 1], baseline=torch.tensor([0.5, 0.5]), greedy=torch.tensor([2.0, -1.0]))
    assert first_tokens(REINFORCE(kl=FREE).assign(given, 0.0)) == [0.5, 2.5]
    assert first_tokens(ReMax(kl=FREE).assign(given, 0.0)) == [-1.0, 4.0]


def test_rewards_to_go_by_hand():
    # One nat a token at .5: rewards (−.5, −.5 + 2) and, of one token, (1 − .5). To go: 1, 1.5; .5. Mean 1, variance ¼.
    given = scored([2.0, 1.0], [0, 1], gaps=[1.0, 1.0], lengths=[2, 1])
    experience = ALGORITHMS["reinforce_plus_plus"]().assign(given, 0.5)
    assert experience.advantages.flatten().tolist() == pytest.approx([0, 1, 0, 0, -1, 0, 0, 0], abs=1e-6)


def test_a_dense_reward_comes_where_it_was_earned():
    # A score of 3, of which 1 was earned with the first token: λ = 1 and a critic of zeros leave what is still to come.
    given = scored([3.0], [0], dense=[[1.0, 0.0, 0.0, 0.0]], critic=torch.zeros(1, 4))
    experience = ALGORITHMS["a2c"](kl=FREE).assign(given, 0.0)
    assert experience.advantages.tolist() == [[3.0, 2.0, 0.0, 0.0]]
    assert first_tokens(REINFORCE(kl=FREE).assign(replace(given, signals={**given.signals, "baseline": 0.0}), 0.0)) == [
        3
    ]


@pytest.mark.parametrize("name", ["rloo", "grpo", "dr_grpo", "gspo"])
@pytest.mark.parametrize("place", ["reward", "loss"])
def test_a_group_of_equal_scores_has_exactly_no_advantage(name, place):
    kl = KL(kind="fixed", coef=0.0) if place == "reward" else KL(kind="fixed", place="loss", estimator="k2")
    given = scored([0.9] * 14, [3] * 14, gaps=[0.1 * row for row in range(14)])
    experience = ALGORITHMS[name](kl=kl).assign(given, kl.coef)
    assert experience.advantages.dtype == torch.float32 and experience.advantages.eq(0).all()


def test_dapo_leaves_out_flat_groups_and_penalises_length():
    # Limit 4, the last half of it penalised: 3 tokens lose ½, 4 lose 1. So of the groups {1, 1}, {1, 1} with lengths
    # {2, 2}, {2, 3} only the second teaches: scores 1 and ½, mean ¾, standard deviation √⅛.
    given = scored([1.0, 1.0, 1.0, 1.0], [0, 1, 0, 1], lengths=[2, 2, 2, 3])
    algorithm = DAPO(overlong=0.5)
    assert algorithm.teaching(given.rollout, given.scores).tolist() == [False, True, False, True]
    experience = algorithm.assign(given, 0.0)
    assert experience.rows.tolist() == [1, 3]
    expected = 0.25 / (math.sqrt(0.125) + 1e-4)
    assert first_tokens(experience) == pytest.approx([expected, -expected], rel=1e-5)


# ---- losses by hand


def batch_of(advantages, mask, old, **targets) -> Experience:
    return Experience(torch.arange(len(mask)), old, advantages, targets)


def outputs_of(logprobs) -> Outputs:
    return Outputs(logprobs, torch.zeros_like(logprobs), torch.zeros_like(logprobs))


RAGGED = torch.tensor([[True, True, True], [True, False, False]])


@pytest.mark.parametrize(
    ("algorithm", "value"),
    [
        (RLOO(reduction="token", kl=FREE), -4 / 4),
        (RLOO(reduction="sequence", kl=FREE), (-5 / 3 + 1) / 2),
        (RLOO(reduction="fixed", kl=FREE), -4 / 6),
        (GRPO(kl=FREE), (-5 / 3 + 1) / 2),
        (DrGRPO(), -4 / 6),
        (DAPO(), -4 / 4),
    ],
)
def test_what_a_loss_is_divided_by(algorithm, value):
    # On the policy itself the surrogate is −Â: −2, −1, −2 and 1. Its sum is −4, over 4 tokens or 2 · 3 places; the
    # rows' means are −5/3 and 1.
    advantages = torch.tensor([[2.0, 1.0, 2.0], [-1.0, 0.0, 0.0]])
    old = torch.where(RAGGED, torch.tensor(-1.0), 0.0)
    batch = batch_of(advantages, RAGGED, old)
    losses = algorithm.loss(outputs_of(old), batch, RAGGED, Denominators(4, 2, 3))
    assert float(losses.total) == pytest.approx(value)


def test_gspo_by_hand():
    # Log-ratios (.3, 0, 0): geometric mean e^.1 = 1.105, above 1.1 and A > 0, so the clip holds at 1.1·2, and the first
    # row has no gradient. The second, e^−.05 with A = 2: −2·e^−.05, its gradient the same over its one token.
    old = torch.tensor([[-2.0, -1.0, -3.0], [-0.5, 0.0, 0.0]], dtype=torch.float64)
    gap = torch.tensor([[0.3, 0.0, 0.0], [-0.05, 9.0, 9.0]], dtype=torch.float64)
    logprobs = (old + gap).requires_grad_()
    advantages = torch.where(RAGGED, torch.tensor(2.0, dtype=torch.float64), 0.0)
    losses = GSPO(clip=(0.1, 0.1)).loss(
        outputs_of(logprobs), batch_of(advantages, RAGGED, old), RAGGED, Denominators(4, 2, 3)
    )
    pulled = 2 * math.exp(-0.05)
    assert losses.total.item() == pytest.approx(-(2.2 + pulled) / 2)
    assert losses.figures["clip_fraction"].item() == pytest.approx(3 / 4)
    losses.total.backward()
    assert logprobs.grad.flatten().tolist() == pytest.approx([0, 0, 0, -pulled / 2, 0, 0])


def test_the_leash_in_the_loss_by_hand():
    # x = ln 2 at one token of two, 0 at the other: k3 = ½ − 1 + ln 2, k2 = ½·ln² 2; at β = .1, over two tokens.
    mask = torch.tensor([[True, True]])
    reference = torch.tensor([[-1.0, -1.0]])
    logprobs = torch.tensor([[-1.0 + math.log(2), -1.0]])
    for estimator, k in (("k3", math.log(2) - 0.5), ("k2", math.log(2) ** 2 / 2)):
        algorithm = RLOO(kl=KL(place="loss", estimator=estimator))
        targets = {"reference": reference, "kl_coef": torch.full((1, 2), 0.1)}
        batch = batch_of(torch.zeros(1, 2), mask, logprobs, **targets)
        losses = algorithm.loss(outputs_of(logprobs), batch, mask, Denominators(2, 1, 2))
        assert float(losses.total) == pytest.approx(0.1 * k / 2, rel=1e-6)
        assert float(losses.figures["loss/kl"]) == float(losses.total)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("place", ["reward", "loss"])
def test_masked_tokens_have_no_gradient(name, place):
    generator = torch.Generator().manual_seed(0)
    kl = KL() if place == "reward" else KL(place="loss", estimator="k3")
    shape = RAGGED.shape
    random = {key: torch.randn(shape, generator=generator) for key in ("advantages", "old", "reference", "returns")}
    logprobs, values = (torch.randn(shape, generator=generator).requires_grad_() for _ in range(2))
    targets = {"returns": random["returns"], "old_values": random["returns"] / 2}
    targets |= {"reference": random["reference"], "kl_coef": torch.full(shape, 0.1)}
    batch = Experience(torch.arange(2), random["old"], torch.where(RAGGED, random["advantages"], 0), targets)
    extra = {"entropy_weight": 0.1} if "critic" in ALGORITHMS[name].needs else {}
    losses = ALGORITHMS[name](kl=kl, **extra).loss(
        Outputs(logprobs, -logprobs, values), batch, RAGGED, Denominators(4, 2, 3)
    )
    losses.total.backward()
    assert logprobs.grad[~RAGGED].eq(0).all() and logprobs.grad[RAGGED].ne(0).any()
    if "critic" in ALGORITHMS[name].needs:
        assert values.grad[~RAGGED].eq(0).all() and values.grad[RAGGED].ne(0).any()


# ---- on the loop

# Completions of up to four tokens that end with id 2, to prompts of one to three tokens.
RAGGED_LOOP = {"eos_id": 2, "max_new_tokens": 4, "prompts": 7, "iterations": 6}


@pytest.mark.parametrize("name", NAMES)
def test_micro_batches_and_padding_change_nothing(name, monkeypatch):
    rows = []
    for micro_tokens, packing in ((10_000, True), (12, True), (60, False)):
        loop = loop_of(ALGORITHMS[name](), micro_tokens=micro_tokens, **RAGGED_LOOP)
        for model in filter(None, (loop.policy, loop.reference, loop.critic)):
            monkeypatch.setattr(type(model), "supports_packing", packing)
            model.double()
        rows.append(run(loop, 3)[1][-1])
    for other in rows[1:]:
        for figure in rows[0].keys() - {"tokens/padded", "tokens/useful"}:
            assert other[figure] == pytest.approx(rows[0][figure], rel=1e-6, abs=1e-9), figure


@pytest.mark.parametrize("name", NAMES)
def test_the_first_ratio_is_exactly_one(name):
    _, rows, _ = run(loop_of(ALGORITHMS[name](), **RAGGED_LOOP), 3)
    assert all(row["ratio/first"] == 1.0 for row in rows)


@pytest.mark.parametrize("name", NAMES)
def test_it_resumes_to_the_bit(name):
    whole, cut, fresh = (loop_of(ALGORITHMS[name](), **RAGGED_LOOP) for _ in range(3))
    _, expected, _ = run(whole, 4)
    state, _, steppers = run(cut, 2)
    saved = copy.deepcopy({actor: stepper.saved(actor) for actor, stepper in steppers.items()})
    again = fresh.steppers()
    for actor, stepper in again.items():
        stepper.restore(actor, *saved[actor])
    state = LoopState.from_json(json.loads(json.dumps(state.to_json())), type(state.kl), state.tensors())
    _, rows, _ = run(fresh, 2, state, again)
    assert rows == expected[2:]
    assert torch.equal(fresh.policy.table, whole.policy.table)


def test_the_running_mean_follows_the_returns():
    # In the first iteration, the batch's own mean; then .9 of what was known and .1 of what came.
    loop = loop_of(REINFORCE(kl=FREE))
    state, rows, steppers = run(loop, 1)
    assert rows[0]["baseline/mean"] == pytest.approx(rows[0]["score/mean"])
    assert state.baseline == pytest.approx(rows[0]["score/mean"])
    after, more, _ = run(loop, 1, state, steppers)
    assert more[0]["baseline/mean"] == pytest.approx(state.baseline)
    assert after.baseline == pytest.approx(0.9 * state.baseline + 0.1 * more[0]["score/mean"])


def test_greedy_scores_are_those_of_the_likeliest_completion():
    # The reference's likeliest id is 0, whose reward is 1, until the policy prefers id 1, whose reward is 2.
    _, rows, _ = run(loop_of(ReMax(kl=FREE)))
    assert rows[0]["baseline/mean"] == 1.0 and rows[-1]["baseline/mean"] == 2.0


def test_samples_are_what_the_algorithm_asks_for_unless_set():
    assert loop_of(GRPO(), samples=None, batch=2).samples == 8
    assert run(loop_of(RLOO(), samples=None, batch=2), 1)[1][0]["length/mean"] == 1
    assert loop_of(GRPO(), samples=3, batch=2).samples == 3
    with pytest.raises(RecipeError, match=r'samples = 1 was given with algorithm = "grpo".* leave it out for 8'):
        recipe_from({"model": {"path": "m"}, "align": {"prompts": "p.jsonl", "algorithm": "grpo", "samples": 1}})


# ---- groups that teach nothing


class Constant:
    """A reward that is all the same but for one id."""

    name = "constant"

    def __init__(self, special: int | None):
        self.special = special

    def score(self, completions):
        return (
            (completions.ids[:, 0] == self.special).float()
            if self.special is not None
            else torch.ones(len(completions.ids))
        )


def dapo_loop(special, refills=3, **settings):
    return loop_of(DAPO(refills=refills, overlong=0.0), reward=Constant(special), samples=2, batch=16, **settings)


def test_flat_groups_are_dropped_and_others_drawn():
    # A pair differs in whether it is id 2 (of probability .2) with probability .32: of 16 groups some five remain, and
    # three refills of what is lacking leave about 16·.68⁴ = 3.4 of 16 open.
    gathered = dapo_loop(2).gather(dapo_loop(2).start(NONE))
    kept, drawn = gathered.kept.rollout, gathered.drawn.rollout
    assert drawn.rows > 32 and 12 < kept.rows <= 32
    for group in kept.group_ids.unique().tolist():
        assert gathered.scores[kept.group_ids == group].unique().tolist() == [0, 1]
    # Every sample of the one prompt has its own random numbers, refills included.
    assert drawn.group_ids.unique(return_counts=True)[1].eq(2).all()
    once = dapo_loop(2, refills=1).gather(dapo_loop(2).start(NONE)).drawn.rollout.ids
    assert not torch.equal(once[32:], once[: len(once) - 32])
    none = dapo_loop(2, refills=0).gather(dapo_loop(2, refills=0).start(NONE))
    assert none.drawn.rollout.rows == 32 and none.kept.rollout.rows < kept.rows
    assert torch.equal(none.drawn.rollout.ids, drawn.ids[:32])


def test_refills_go_on_through_the_prompts():
    loop = dapo_loop(2, prompts=1000)
    gathered = loop.gather(loop.start(NONE))
    rows = gathered.drawn.rollout.row_ids[::2]
    assert len(rows.unique()) == len(rows) == gathered.cursor.position


def test_exactly_what_is_lacking_is_drawn():
    # Of sixteen groups of eight, with the likeliest id at ½, the one that is flat with this seed is drawn again.
    loop = loop_of(DAPO(overlong=0.0), samples=8, batch=16)
    gathered = loop.gather(loop.start(NONE))
    assert (gathered.drawn.rollout.rows, gathered.kept.rollout.rows) == (17 * 8, 16 * 8)


def test_an_iteration_without_a_lesson_is_harmless_and_says_so():
    loop = dapo_loop(None, refills=2)
    before = loop.policy.table.detach().clone()
    state, (row,), _ = run(loop, 1)
    assert row["groups/drawn"] == 48 and row["groups/kept"] == 0 and row["updates"] == 0
    assert "loss/policy" not in row and row["score/mean"] == 1 and math.isfinite(row["kl/sequence"])
    assert torch.equal(loop.policy.table, before) and state.iteration == 1


def test_dapo_learns_from_what_is_left():
    # Only the rare id is rewarded; most groups are flat at first.
    loop = dapo_loop(2, iterations=25)
    _, rows, _ = run(loop)
    assert rows[-1]["score/mean"] > rows[0]["score/mean"] + 0.5
    assert all(row["ratio/first"] == 1.0 for row in rows if row["updates"])


class Dropping:
    """PPO that leaves out, when it assigns, every completion that begins with id 0."""

    needs: ClassVar = frozenset({"reference", "critic"})
    samples: ClassVar = 1
    epochs, minibatches, target_kl, kl = 2, 3, None, K1

    def assign(self, scored, kl_coef):
        everything = PPO(kl=K1).assign(scored, kl_coef)
        return everything.take((scored.rollout.ids[:, 0] != 0).nonzero().squeeze(1))

    def loss(self, outputs, batch, mask, denominators):
        # What was dropped is masked, and counts nowhere.
        assert int(mask.sum()) <= denominators.tokens == denominators.rows
        return PPO(kl=K1).loss(outputs, batch, mask, denominators)


def test_rows_may_be_dropped_when_assigning():
    loop = loop_of(Dropping(), eos_id=None)
    _, rows, _ = run(loop, 2)
    assert rows[0]["ratio/first"] == 1.0 and rows[0]["updates"] == 6


def test_a_dropped_row_gives_no_gradient():
    # Advantage 1 for all completions but those that begin with id 0, which are dropped: at the first step the gradient
    # of −mean log π is Σ over the rest of (π − onehot)/n, so id 0 is pushed down by exactly π_0.
    class Kept(Dropping):
        epochs = minibatches = 1
        needs: ClassVar = frozenset({"reference"})

        def assign(self, scored, kl_coef):
            given = whole_completions(scored, torch.ones(scored.rollout.rows), {})
            return given.take((scored.rollout.ids[:, 0] != 0).nonzero().squeeze(1))

        def loss(self, outputs, batch, mask, denominators):
            return RLOO(kl=FREE).loss(outputs, batch, mask, denominators)

    loop = loop_of(Kept())
    loop.policy.table.register_hook(lambda gradient: gradients.append(gradient.clone()))
    gradients: list[torch.Tensor] = []
    run(loop, 1)
    assert sum(gradients)[0].item() == pytest.approx(REFERENCE[0], rel=1e-5)
