"""`palate verify`: what is true exactly, checked on this machine, a line a property with expected and observed.

Each check computes its expectation by another road than the code it checks: enumeration, a closed form, or the plain
way of doing the same.
"""

from __future__ import annotations

import copy
import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from palate import testbed
from palate.algorithms.makers import best_of_n_kl, best_of_n_kl_bound
from palate.algorithms.objectives import Imitation, examples_of
from palate.algorithms.online import Online, OnlineLoop
from palate.algorithms.policies import KL, PPO
from palate.algorithms.shaping import Shaping
from palate.algorithms.supervised import collate
from palate.data.layout import padded
from palate.engine.forward import completion_logprobs
from palate.engine.generation import Generated, Sampling, generate
from palate.engine.optimiser import Optimiser
from palate.engine.seeding import uniforms
from palate.losses import bradley_terry, clipped_surrogate
from palate.models import load_causal
from palate.ops import Moments, exact_kl, kl_estimate
from palate.records import Prompt
from palate.stages.judges import gold_reward
from palate.stages.material import Loaded
from palate.testbed import enumerable


@dataclass(frozen=True, slots=True)
class Finding:
    """One property: what must be, what is, and whether it holds."""

    name: str
    expected: str
    observed: str
    holds: bool
    seconds: float


Check = Callable[[], tuple[str, str, bool]]


def findings() -> Iterator[Finding]:
    """Every property, as soon as it is checked."""
    for name, check in CHECKS.items():
        began = time.perf_counter()
        expected, observed, holds = check()
        yield Finding(name, expected, observed, holds, time.perf_counter() - began)


# ---- optimum


def tabular_loop(policy: enumerable.TabularPolicy, iterations: int) -> OnlineLoop:
    """PPO on the enumerable policy: one completion token over three ids."""
    return OnlineLoop(
        policy=policy,
        reference=enumerable.TabularPolicy(enumerable.REFERENCE),
        critic=enumerable.TabularCritic(),
        reward=enumerable.TabularReward(),
        algorithm=PPO(kl=KL(kind="fixed", coef=enumerable.BETA)),
        prompts=(Prompt.of("?"),),
        prompt_ids=((0,),),
        codec=enumerable.TabularCodec(),
        settings=Online(
            iterations=iterations,
            batch=128,
            max_new_tokens=1,
            learning_rate=0.05,
            shaping=Shaping(normalise="none", missing_eos_penalty=0.0),
            optimiser=Optimiser(schedule="linear"),
        ),
        critic_learning_rate=0.05,
        seed=0,
    )


def iterate(loop: OnlineLoop, count: int) -> list[dict[str, float]]:
    """The metrics of the loop's first iterations."""
    steppers, state = loop.steppers(), loop.start(Moments(*torch.zeros(3, dtype=torch.float64)))
    rows = []
    for _ in range(count):
        done = loop.iterate(state, steppers)
        state = done.state
        rows.append(done.row)
    return rows


def ppo_reaches_the_optimum() -> tuple[str, str, bool]:
    """PPO, KL in the reward, against π* ∝ π_ref·exp(r/β)."""
    policy = enumerable.TabularPolicy(enumerable.REFERENCE)
    iterate(tabular_loop(policy, 60), 60)
    best, _ = enumerable.optimum(enumerable.REFERENCE, enumerable.REWARDS, enumerable.BETA)
    distance = enumerable.total_variation(policy.probabilities, best)
    return (
        f"{shown(best)}, total variation < .03",
        f"{shown(policy.probabilities)}, {distance:.4f}",
        distance < 0.03,
    )


def value_of_the_optimum() -> tuple[str, str, bool]:
    """E[r] − β·KL(π* ‖ π_ref) is β·log Z."""
    best, value = enumerable.optimum(enumerable.REFERENCE, enumerable.REWARDS, enumerable.BETA)
    reference = torch.tensor(enumerable.REFERENCE, dtype=torch.float64)
    kl = float(exact_kl(logits=best.log(), ref_logits=reference.log()))
    reached = float((best * torch.tensor(enumerable.REWARDS)).sum()) - enumerable.BETA * kl
    return f"{value:.10f}", f"{reached:.10f}", math.isclose(reached, value, rel_tol=1e-12)


def best_of_n() -> tuple[str, str, bool]:
    """The exact KL of best-of-4 against its bound log n − (n − 1)/n."""
    policy, rewards = (
        torch.tensor(numbers, dtype=torch.float64) for numbers in (enumerable.REFERENCE, enumerable.REWARDS)
    )
    kl, bound = float(best_of_n_kl(policy, rewards, 4)), best_of_n_kl_bound(4)
    return f"≤ {bound:.4f}", f"{kl:.4f}", kl <= bound


# ---- gradients


def expected_gradient(kind: str) -> Tensor:
    """Σ_y π(y)·∇kind(x_y), the loss's gradient in expectation, by enumeration; x = log π − log π_ref."""
    logits = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor(enumerable.REFERENCE, dtype=torch.float64).log()
    logprobs = torch.log_softmax(logits, dim=0)
    estimates = kl_estimate(logprobs=logprobs, ref_logprobs=reference, kind=kind)
    return torch.autograd.grad((logprobs.exp().detach() * estimates).sum(), logits)[0]


def true_gradient(forward: bool) -> Tensor:
    """∇KL(π‖π_ref), or ∇KL(π_ref‖π), at the same point."""
    logits = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor(enumerable.REFERENCE, dtype=torch.float64).log()
    pair = {"logits": logits, "ref_logits": reference} if forward else {"logits": reference, "ref_logits": logits}
    return torch.autograd.grad(exact_kl(**pair), logits)[0]


def gradient_check(kind: str, expected: Callable[[], Tensor]) -> Check:
    """The expected gradient of an estimator in the loss."""

    def check() -> tuple[str, str, bool]:
        wanted, found = expected(), expected_gradient(kind)
        return shown(wanted), shown(found), bool(torch.allclose(wanted, found, atol=1e-12))

    return check


def token_k2_is_partial() -> tuple[str, str, bool]:
    """On sequences of two tokens, Σ_t k2 per token lacks what a token changes in the states after it (2506.09477)."""
    generator = torch.Generator().manual_seed(1)
    tables = [torch.randn(4, 3, generator=generator, dtype=torch.float64) for _ in range(2)]
    logits = tables[0].requires_grad_()

    def sequence(table: Tensor, first: int, second: int) -> tuple[Tensor, Tensor]:
        rows = torch.log_softmax(table, dim=1)
        return rows[0, first], rows[1 + first, second]

    token = whole = torch.zeros((), dtype=torch.float64)
    kl = torch.zeros((), dtype=torch.float64)
    for first, second in itertools.product(range(3), range(3)):
        policy, reference = sequence(logits, first, second), sequence(tables[1], first, second)
        gaps = [one - other for one, other in zip(policy, reference, strict=True)]
        weight = (policy[0] + policy[1]).exp()
        token = token + weight.detach() * sum(0.5 * gap**2 for gap in gaps)
        whole = whole + weight.detach() * 0.5 * (gaps[0] + gaps[1]) ** 2
        kl = kl + weight * (gaps[0] + gaps[1])
    by_token, by_sequence, true = (
        torch.autograd.grad(term, logits, retain_graph=True)[0] for term in (token, whole, kl)
    )
    holds = bool(torch.allclose(by_sequence, true)) and not torch.allclose(by_token, true, atol=1e-3)
    observed = f"sequence {float((by_sequence - true).norm()):.1e}, token {float((by_token - true).norm()):.2f}"
    return "distance from ∇KL: sequence-level k2 0, token-level k2 not 0", observed, holds


def sequence_kl_is_the_sum() -> tuple[str, str, bool]:
    """KL of two-token sequences = KL of the first token + expected KL of the second, by enumeration."""
    generator = torch.Generator().manual_seed(2)
    policy, reference = (torch.randn(4, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    p, q = torch.log_softmax(policy, dim=1), torch.log_softmax(reference, dim=1)
    joint = sum(
        float((p[0, a] + p[1 + a, b]).exp() * (p[0, a] + p[1 + a, b] - q[0, a] - q[1 + a, b]))
        for a, b in itertools.product(range(3), range(3))
    )
    tokens = exact_kl(logits=policy, ref_logits=reference)
    summed = float(tokens[0] + (p[0].exp() * tokens[1:]).sum())
    return f"{joint:.12f}", f"{summed:.12f}", math.isclose(joint, summed, rel_tol=1e-12)


def clipped_token() -> tuple[str, str, bool]:
    """Ratio 1.3, advantage −3, ε .2: −min(−3.9, −3.6) = 3.9, with its gradient alive."""
    logprob = torch.tensor(1.3, dtype=torch.float64).log().requires_grad_()
    zero, advantage = torch.zeros((), dtype=torch.float64), torch.tensor(-3.0, dtype=torch.float64)
    loss = clipped_surrogate(logprobs=logprob, old_logprobs=zero, advantages=advantage, clip=0.2)
    gradient = float(torch.autograd.grad(loss, logprob)[0])
    value = float(loss.detach())
    holds = math.isclose(value, 3.9) and math.isclose(gradient, 3.9)
    return "loss 3.9, gradient 3.9", f"loss {value:.6g}, gradient {gradient:.6g}", holds


def even_scores_cost_log_two() -> tuple[str, str, bool]:
    """Bradley-Terry between equal scores."""
    loss = float(
        bradley_terry(chosen=torch.zeros(1, dtype=torch.float64), rejected=torch.zeros(1, dtype=torch.float64))
    )
    return f"ln 2 = {math.log(2):.12f}", f"{loss:.12f}", math.isclose(loss, math.log(2), rel_tol=1e-12)


# ---- the testbed's model


def base(dtype: torch.dtype = torch.float32) -> Loaded:
    """The embedded base model."""
    loaded = Loaded(*load_causal(testbed.base_model()))
    loaded.model.to(dtype)
    return loaded


def sampled(loaded: Loaded, rows: list[int], length: int = 32) -> tuple[list[list[int]], Generated]:
    """Prompts of the testbed by row, and the model's completions."""
    prompts = testbed.prompts("known")
    ids = [loaded.chat.encode_prompt(prompts[row % len(prompts)]) for row in rows]
    u = uniforms(0, 0, rows, [0] * len(rows), length)
    return ids, generate(
        loaded.model, ids, u=u, eos_id=loaded.chat.eos_id, pad_id=loaded.chat.pad_id, sampling=Sampling()
    )


@torch.no_grad()
def sampler_gap(dtype: torch.dtype) -> float:
    """The largest difference between the sampler's log-probabilities and the trainer's, over rows of many lengths."""
    loaded = base(dtype)
    prompts, generated = sampled(loaded, list(range(64)))
    layout = padded(prompts, generated.ids, generated.mask, pad_id=loaded.chat.pad_id)
    trained, _ = completion_logprobs(loaded.model, layout, temperature=1.0)
    return float((generated.logprobs - trained).abs().max())


def sampler_is_the_trainer(dtype: torch.dtype, bound: float) -> Check:
    """Sampler and trainer on the embedded model."""

    def check() -> tuple[str, str, bool]:
        gap = sampler_gap(dtype)
        return f"≤ {bound:g} nats", f"{gap:.1e}", gap <= bound

    return check


def rows_do_not_depend_on_their_batch() -> tuple[str, str, bool]:
    """The same rows sampled together and in fours."""
    loaded, rows = base(), list(range(512))
    _, together = sampled(loaded, rows)
    same = 0
    for start in range(0, len(rows), 4):
        _, few = sampled(loaded, rows[start : start + 4])
        for index in range(4):
            ours, theirs = (
                few.ids[index][few.mask[index]],
                together.ids[start + index][together.mask[start + index]],
            )
            same += int(torch.equal(ours, theirs))
    return "≥ 99.9 % of rows identical", f"{same} of {len(rows)}", same >= 0.999 * len(rows)


def padding_changes_nothing(dtype: torch.dtype, bound: float) -> Check:
    """Loss and gradient of 24 demonstrations: one by one, padded together, and packed."""

    def check() -> tuple[str, str, bool]:
        loaded = base(dtype)
        objective = Imitation(loaded.chat)
        examples = examples_of(objective, testbed.demonstrations(24, 0))
        count = sum(objective.count(example) for example in examples)
        gradients = []
        for groups, packing in (
            ([[example] for example in examples], False),
            ([examples], False),
            ([examples], True),
        ):
            model = copy.deepcopy(loaded.model)
            for group in groups:
                batch = collate(group, pad_id=loaded.chat.pad_id, packing=packing)
                (objective.evaluate(model, batch).losses.sum() / count).backward()
            held = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
            gradients.append(torch.cat([gradient.flatten() for gradient in held]))
        gap = max(float((other - gradients[0]).norm() / gradients[0].norm()) for other in gradients[1:])
        return f"relative change of the gradient ≤ {bound:g}", f"{gap:.1e}", gap <= bound

    return check


def first_ratio_is_one() -> tuple[str, str, bool]:
    """PPO on the embedded model, at temperature .7."""
    loaded = base()
    prompts = testbed.prompts("known")[:64]
    loop = OnlineLoop(
        policy=loaded.model,
        reference=copy.deepcopy(loaded.model),
        critic=enumerable.TabularCritic(),
        reward=gold_reward(),
        algorithm=PPO(),
        prompts=prompts,
        prompt_ids=[loaded.chat.encode_prompt(prompt) for prompt in prompts],
        codec=loaded.chat,
        settings=Online(
            iterations=2,
            batch=32,
            max_new_tokens=24,
            sampling=Sampling(temperature=0.7),
            shaping=Shaping(normalise="batch"),
        ),
        critic_learning_rate=1e-3,
        seed=0,
    )
    rows = iterate(loop, 2)
    first, later = [row["ratio/first"] for row in rows], [row["ratio/mean"] for row in rows]
    holds = all(ratio == 1.0 for ratio in first) and all(ratio != 1.0 for ratio in later)
    return (
        "first 1 exactly, later ones moving",
        f"first {first}, mean {[round(ratio, 5) for ratio in later]}",
        holds,
    )


def going_on_is_exact() -> tuple[str, str, bool]:
    """Six iterations in one go, and three, a restart from what is saved, and three."""
    whole, cut, again = (enumerable.TabularPolicy(enumerable.REFERENCE) for _ in range(3))
    iterate(tabular_loop(whole, 6), 6)
    loop = tabular_loop(cut, 6)
    steppers, state = loop.steppers(), loop.start(Moments(*torch.zeros(3, dtype=torch.float64)))
    for _ in range(3):
        state = loop.iterate(state, steppers).state
    saved = copy.deepcopy({name: stepper.saved(name) for name, stepper in steppers.items()})
    loop = tabular_loop(again, 6)
    steppers = loop.steppers()
    for name, stepper in steppers.items():
        stepper.restore(name, *saved[name])
    for _ in range(3):
        state = loop.iterate(state, steppers).state
    same = torch.equal(whole.table, again.table)
    return "equal to the bit", "equal" if same else "different", same


def shown(numbers: Tensor) -> str:
    """A vector to four digits."""
    return "[" + ", ".join(f"{number:.4f}" for number in numbers.tolist()) + "]"


CHECKS: dict[str, Check] = {
    "PPO on the enumerable policy reaches π* ∝ π_ref·exp(r/β)": ppo_reaches_the_optimum,
    "The optimum is worth β·log Z": value_of_the_optimum,
    "Best-of-4: KL ≤ log n − (n − 1)/n": best_of_n,
    "k1 in the loss: expected gradient": gradient_check("k1", lambda: torch.zeros(3, dtype=torch.float64)),
    "k2 in the loss: ∇KL(π‖π_ref)": gradient_check("k2", lambda: true_gradient(True)),
    "k3 in the loss: ∇KL(π_ref‖π)": gradient_check("k3", lambda: true_gradient(False)),
    "k2 over two tokens": token_k2_is_partial,
    "Sequence KL is the sum of token KLs": sequence_kl_is_the_sum,
    "One clipped token": clipped_token,
    "Bradley-Terry between equals": even_scores_cost_log_two,
    "Sampler and trainer agree, float64": sampler_is_the_trainer(torch.float64, 1e-10),
    "Sampler and trainer agree, float32": sampler_is_the_trainer(torch.float32, 1e-5),
    "Samples do not depend on their batch": rows_do_not_depend_on_their_batch,
    "Padding, packing and batches change nothing, float64": padding_changes_nothing(torch.float64, 1e-10),
    "Padding, packing and batches change nothing, float32": padding_changes_nothing(torch.float32, 1e-6),
    "The first ratio of PPO": first_ratio_is_one,
    "A run that goes on from a checkpoint": going_on_is_exact,
}
