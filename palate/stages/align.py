"""Stage `align`: the online loop from the SFT model to the aligned one, under the leash of a reference that never
moves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from palate import testbed
from palate.algorithms.online import LoopState, Online, OnlineLoop
from palate.engine.checkpoint import Checkpoint, Checkpoints
from palate.engine.interfaces import Reward
from palate.engine.metrics import JsonLines
from palate.engine.optimiser import Stepper
from palate.engine.seeding import derive, generator
from palate.errors import RecipeError, TrainingError
from palate.models import Critic, SharedCritic, load_causal, load_reward_model, save_causal, weight_hash
from palate.ops import Moments, moments
from palate.rewards import FunctionReward, ModelReward, checked_scores
from palate.settings import load_symbol
from palate.stages.context import Context, Outcome
from palate.stages.material import Loaded, data_files, fitting_prompts, load_policy, sample, stage_records
from palate.stages.saving import save_whole

# So many iterations in a row with a KL clearly below 0 are no accident.
NEGATIVE_KL_ITERATIONS = 5


def run(context: Context) -> Outcome:
    """Aligns, saves `align/model`, and sees to it that the reference is what it was."""
    policy = load_policy(context)
    reference = reference_of(context)
    frozen = weight_hash(reference.model)
    loop = _loop(context, policy, reference)
    state, concerns = _iterate(context, loop, policy)
    if weight_hash(reference.model) != frozen:
        raise TrainingError(
            "The reference model's weights changed during alignment. KL to a moving reference means nothing. This "
            "is a bug, in Palate "
            "or in the algorithm you brought: something trained or overwrote the reference."
        )
    save_whole(context.place("align", "model"), lambda place: save_causal(policy.model, policy.tokenizer, place))
    rows = list(context.metrics("align").rows())
    figures = {
        "iterations": len(rows),
        "kl_initial": rows[0]["kl/sequence"],
        "kl_final": rows[-1]["kl/sequence"],
        "kl_max": max(row["kl/sequence"] for row in rows),
        "score_initial": rows[0]["score/mean"],
        "score_final": rows[-1]["score/mean"],
        "length_initial": rows[0]["length/mean"],
        "length_final": rows[-1]["length/mean"],
    }
    if state.ended is not None:
        context.say(f"align: stopped after {len(rows)} iterations: {state.ended}.")
        concerns = (*concerns, f"stopped early: {state.ended}")
    return Outcome(figures, concerns, loop.settings.iterations)


def _loop(context: Context, policy: Loaded, reference: Loaded) -> OnlineLoop:
    settings = context.align
    prompts = stage_records(context, "align")
    kept = fitting_prompts(context, "align", policy, prompts, settings.loop.max_new_tokens)
    reward = reward_of(context, policy)
    onlookers = () if not on_testbed(context) or reward.name == "gold" else (gold_reward(),)
    return OnlineLoop(
        policy=policy.model,
        reference=reference.model,
        critic=_critic(context, policy, reward),
        reward=reward,
        algorithm=settings.method,
        prompts=kept,
        prompt_ids=[tuple(policy.chat.encode_prompt(prompt)) for prompt in kept],
        codec=policy.chat,
        settings=normalising(settings.loop, reward),
        critic_learning_rate=settings.method.critic.learning_rate if "critic" in settings.method.needs else 0.0,
        seed=derive(context.seed, "align") % 2**32,
        judges=onlookers,
    )


def normalising(settings: Online, reward: Reward) -> Online:
    """The settings with `shaping.normalise` decided by the judge where the recipe leaves it open.

    A reward model's scores are log-odds of being preferred: rescaling them would blow up one that learnt nothing. A
    function's unit is anybody's guess, and so would be the price of a nat.
    """
    if settings.shaping.normalise is not None:
        return settings
    chosen = "none" if isinstance(reward, ModelReward) else "reference"
    return replace(settings, shaping=replace(settings.shaping, normalise=chosen))


def on_testbed(context: Context) -> bool:
    """Whether the prompts are the embedded world's, so that gold can look on."""
    return data_files(context.recipe, "align") == "testbed"


# ---- actors


def reference_of(context: Context) -> Loaded:
    """The frozen policy of the KL term, by the recipe: the SFT model, a snapshot of the start, or another directory."""
    name = context.align.reference
    loaded = load_policy(context) if name in ("sft", "start") else Loaded(*load_causal(name, device=context.device))
    if loaded.chat.fingerprint != load_policy(context).chat.fingerprint:
        raise RecipeError(
            f'align.reference = "{name}" has another tokenizer than the policy. KL compares probabilities of the '
            "same token ids. Give a reference with the policy's tokenizer."
        )
    loaded.model.requires_grad_(False)
    return loaded


def reward_of(context: Context, policy: Loaded) -> Reward:
    """The judge by the recipe: the run's reward model, gold, a directory, or a user's function."""
    name = context.align.reward
    if name == "gold":
        return gold_reward()
    if ".py:" in name:
        return FunctionReward(name.rpartition(":")[2], load_symbol(name, "reward"))
    place = context.place("reward", "model") if name == "model" else Path(name)
    return reward_model(context, place, policy)


def reward_model(context: Context, place: Path, policy: Loaded) -> ModelReward:
    """A reward model from disk, reading ids where it shares the policy's tokenizer and text where it does not."""
    model, chat, _ = load_reward_model(place, device=context.device)
    rereads = chat.fingerprint != policy.chat.fingerprint
    if rereads:
        context.say(
            f"The reward model {place} has its own tokenizer: it reads completions as text, through its own template."
        )
    return ModelReward("reward_model", model, chat, rereads)


def gold_reward() -> FunctionReward:
    """The testbed's truth."""
    return FunctionReward(
        "gold",
        lambda prompts, completions, **_: [
            testbed.gold(prompt, completion) for prompt, completion in zip(prompts, completions, strict=True)
        ],
    )


def _critic(context: Context, policy: Loaded, reward: Reward) -> Critic | SharedCritic | None:
    method = context.align.method
    if "critic" not in method.needs:
        return None
    settings = method.critic
    random = generator(context.seed, "critic head")
    if settings.trunk == "policy":
        return SharedCritic(policy.model, generator=random).to(context.device)
    if settings.init == "reward" and isinstance(reward, ModelReward) and not reward.rereads:
        return Critic.from_reward_model(reward.model)
    return Critic.on(policy.model, generator=random)


# ---- iterating


@dataclass(frozen=True)
class Saved:
    """Where the loop's state goes to and comes from."""

    checkpoints: Checkpoints
    metrics: JsonLines
    samples: JsonLines

    def save(self, state: LoopState, steppers: Mapping[str, Stepper]) -> None:
        """Makes rows durable, then the checkpoint that counts on them."""
        self.metrics.sync()
        self.samples.sync()
        tensors: dict[str, torch.Tensor] = {}
        plain: dict[str, Any] = {"loop": state.to_json()}
        for name, stepper in steppers.items():
            held, plain[name] = stepper.saved(name)
            tensors |= held
        self.checkpoints.save(state.iteration, tensors, plain)

    def restore(self, found: Checkpoint, start: LoopState, steppers: Mapping[str, Stepper]) -> LoopState:
        """The state at a checkpoint, weights and optimisers put back."""
        tensors, plain = found.tensors(), found.state
        for name, stepper in steppers.items():
            stepper.restore(name, tensors, plain[name])
        return LoopState.from_json(plain["loop"], type(start.kl))


def _iterate(context: Context, loop: OnlineLoop, policy: Loaded) -> tuple[LoopState, tuple[str, ...]]:
    settings = context.align
    saved = Saved(
        context.checkpoints("align"),
        context.metrics("align"),
        JsonLines(context.place("align", "samples.jsonl")),
    )
    steppers = loop.steppers()
    found = saved.checkpoints.latest()
    for rows in (saved.metrics, saved.samples):
        rows.cut_after(found.step if found else 0)
    if found is None:
        state = loop.start(reference_moments(context, loop, policy))
    else:
        state = saved.restore(found, loop.start(NO_MOMENTS), steppers)
    onlooker = context.watch("align")
    onlooker.begin(settings.loop.iterations, state.iteration)
    warned = False
    while state.iteration < settings.loop.iterations and state.ended is None:
        done = loop.iterate(state, steppers)
        state = done.state
        saved.metrics.append(done.row)
        for row in done.samples:
            saved.samples.append(row)
        onlooker.advance(done.row)
        if state.negative_kl == NEGATIVE_KL_ITERATIONS and not warned:
            onlooker.say(NEGATIVE_KL)
            warned = True
        over = state.iteration == settings.loop.iterations or state.ended is not None
        if over or state.iteration % settings.checkpoint_every == 0 or onlooker.stopping():
            saved.save(state, steppers)
        onlooker.check()
    return state, (NEGATIVE_KL,) if warned else ()


NEGATIVE_KL = (
    f"The KL to the reference was below 0 for {NEGATIVE_KL_ITERATIONS} iterations, which a true KL never is. Its "
    "usual causes: samples that were "
    "truncated (top-k, top-p) or forced to a minimum length, a temperature that sampling and log-probabilities do "
    "not share, or "
    "padding or EOS that sampler and trainer treat differently."
)

NO_MOMENTS = Moments(*torch.zeros(3, dtype=torch.float64))


def reference_moments(context: Context, loop: OnlineLoop, policy: Loaded) -> Moments:
    """Moments of the judge's numbers on completions of the policy as the stage begins, frozen from then on."""
    if loop.settings.shaping.normalise != "reference":
        return NO_MOMENTS
    count = context.align.reference_samples
    completions, _ = sample(
        policy,
        loop.prompts,
        seed=derive(context.seed, "score moments"),
        rows=[index % len(loop.prompts) for index in range(count)],
        samples=[index // len(loop.prompts) for index in range(count)],
        length=loop.settings.max_new_tokens,
        sampling=loop.settings.sampling,
    )
    scores = checked_scores(loop.reward, completions).double()
    return moments(scores, torch.ones_like(scores, dtype=torch.bool))
