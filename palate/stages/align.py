"""Stage `align`: from the SFT model to the aligned one, beside a reference that never moves; the online loop's way."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from palate.algorithms.auxiliary import Auxiliary
from palate.algorithms.direct import DIRECT
from palate.algorithms.makers import MAKERS
from palate.algorithms.objectives import Imitation, examples_of
from palate.algorithms.online import LoopState, OnlineLoop
from palate.engine.checkpoint import Checkpoint, Checkpoints
from palate.engine.interfaces import Completions, Reward
from palate.engine.metrics import JsonLines
from palate.engine.optimiser import Stepper
from palate.engine.seeding import derive, generator
from palate.models import Critic, SharedCritic, save_causal
from palate.models.trunk import recompute_layers
from palate.ops import Moments
from palate.rewards import ModelReward
from palate.stages import direct, making
from palate.stages.context import Context, Outcome
from palate.stages.judges import NO_MOMENTS, moments_on, reward_of, sampled
from palate.stages.material import Loaded, fitting_prompts, load_policy, mixed, stage_records
from palate.stages.saving import save_whole
from palate.stages.trust.anchor import anchor_of
from palate.stages.trust.measuring import closing_figures, normalising, onlookers, reference_of, unmoved
from palate.stages.trust.sanity import novelty, told_apart
from palate.stages.trust.watching import PAST, Watched, Watcher, distance_of, watcher_of

# So many iterations in a row with a KL clearly below 0 are no accident.
NEGATIVE_KL_ITERATIONS = 5


def run(context: Context) -> Outcome:
    """Aligns by the recipe's algorithm and saves `align/model`."""
    if context.align.algorithm in DIRECT:
        return direct.run(context)
    return making.run(context) if context.align.algorithm in MAKERS else _online(context)


def _online(context: Context) -> Outcome:
    policy = load_policy(context)
    reference = reference_of(context)
    with unmoved(reference):
        loop = _loop(context, policy, reference)
        watcher = watcher_of(context, policy, reference, loop.reward, loop.prompts)
        before = watcher.answers(policy)
        state, watched, concerns = _iterate(context, loop, policy, watcher, before)
        if watched.looks[-1].step < state.iteration:  # no look of the schedule, so a longer run will not remember it
            watched = watcher.look(watched, policy, state.iteration, watcher.answers(policy))
    taken = watcher.taken(watched)
    if taken.step < state.iteration:
        policy.model.load_state_dict(watched.best)
    save_whole(context.place("align", "model"), lambda place: save_causal(policy.model, policy.tokenizer, place))
    stopped = state.ended is not None and state.ended.startswith(PAST)
    watcher.report(watched, stopped)
    rows = list(context.metrics("align").rows())
    # An iteration's row is of the policy that it began with: the one after has that of the model taken.
    last = rows[min(taken.step, len(rows) - 1)]
    figures = {
        "iterations": len(rows),
        "kl_max": max(row["kl/sequence"] for row in rows),
        **closing_figures(context, policy, loop.prompts, (before, watcher.answers(policy)), (rows[0], last)),
        **watcher.figures(watched, stopped),
        **told_apart(context, loop.reward, before),
        **novelty(context, loop.prompts),
    }
    if context.align.anchor:
        figures["anchor_rise"] = last["anchor/rise"]
    if state.ended is not None:
        context.say(f"align: stopped after {len(rows)} iterations: {state.ended}.")
        concerns = (*concerns, f"stopped early: {state.ended}")
    if taken.step < len(rows):
        context.say(f"align: went back to the model after iteration {taken.step}, the best by {watcher.judged_by}.")
        if not stopped:
            concerns = (*concerns, f"the last model was worse than that after iteration {taken.step}, which was taken")
    return Outcome(figures, concerns, loop.settings.iterations)


def _loop(context: Context, policy: Loaded, reference: Loaded) -> OnlineLoop:
    settings = context.align
    prompts = stage_records(context, "align")
    kept = fitting_prompts(context, "align", policy, prompts, settings.loop.max_new_tokens)
    reward = reward_of(context, policy, kept)
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
        judges=onlookers(context),
        sampler=copy.deepcopy(policy.model) if settings.loop.asynchronous else None,
        auxiliary=_auxiliary(context, policy),
    )


# ---- actors


def _auxiliary(context: Context, policy: Loaded) -> Auxiliary | None:
    """What the recipe mixes into every update."""
    mix = context.align.mix
    if mix is None:
        return None
    objective, records = Imitation(policy.chat), mixed(context)
    limit = policy.model.context
    examples = [one for one in examples_of(objective, records) if limit is None or one.longest <= limit]
    return Auxiliary(objective, examples, mix.weight, mix.batch_tokens, policy.chat.pad_id)


def _critic(context: Context, policy: Loaded, reward: Reward) -> Critic | SharedCritic | None:
    method = context.align.method
    if "critic" not in method.needs:
        return None
    settings = method.critic
    random = generator(context.seed, "critic head")
    if settings.trunk == "policy":
        return SharedCritic(policy.model, generator=random).to(context.device)
    if settings.init == "reward" and isinstance(reward, ModelReward) and not reward.rereads:
        critic = Critic.from_reward_model(reward.model)
        if context.recipe.model.gradient_checkpointing:
            recompute_layers(critic.trunk)
        return critic
    return Critic.on(policy.model, generator=random)


# ---- iterating


@dataclass(frozen=True)
class Saved:
    """Where the loop's state goes to and comes from."""

    checkpoints: Checkpoints
    metrics: JsonLines
    samples: JsonLines
    points: JsonLines
    device: torch.device

    def save(self, state: LoopState, steppers: Mapping[str, Stepper], watched: Watched) -> None:
        """Makes rows durable, then the checkpoint that counts on them."""
        for rows in (self.metrics, self.samples, self.points):
            rows.sync()
        tensors = state.tensors() | watched.tensors()
        plain: dict[str, Any] = {"loop": state.to_json(), "looks": len(watched.looks)}
        for name, stepper in steppers.items():
            held, plain[name] = stepper.saved(name)
            tensors |= held
        self.checkpoints.save(state.iteration, tensors, plain)

    def restore(self, found: Checkpoint, start: LoopState, steppers: Mapping[str, Stepper]) -> LoopState:
        """The state at a checkpoint, weights and optimisers put back."""
        tensors, plain = found.tensors(), found.state
        for name, stepper in steppers.items():
            stepper.restore(name, tensors, plain[name])
        return LoopState.from_json(plain["loop"], type(start.kl), tensors, self.device)


def _iterate(
    context: Context, loop: OnlineLoop, policy: Loaded, watcher: Watcher, before: Completions
) -> tuple[LoopState, Watched, tuple[str, ...]]:
    """Iterates to the end, looking on the way; `before` is what the policy answers as the stage begins."""
    settings = context.align
    saved = Saved(
        context.checkpoints("align"),
        context.metrics("align"),
        JsonLines(context.place("align", "samples.jsonl")),
        watcher.points,
        context.device,
    )
    anchor = anchor_of(context, policy)
    steppers = loop.steppers()
    found = saved.checkpoints.latest()
    for rows in (saved.metrics, saved.samples):
        rows.cut_after(found.step if found else 0)
    watched = watcher.restored(found)
    if found is None:
        state = loop.start(reference_moments(context, loop, policy))
        watched = watcher.look(watched, policy, 0, before)
    else:
        state = saved.restore(found, loop.start(NO_MOMENTS), steppers)
    onlooker = context.watch("align")
    onlooker.begin(settings.loop.iterations, state.iteration)
    warned = False
    while state.iteration < settings.loop.iterations and state.ended is None:
        done = loop.iterate(state, steppers)
        held = {} if anchor is None else anchor.figures(policy.model)
        state, row = _held(done.state, held, settings.anchor_limit), done.row | held
        saved.metrics.append(row)
        for sample in done.samples:
            saved.samples.append(sample)
        if watcher.due(watched, row):
            reached = max(watched.reached, distance_of(row))
            watched = watcher.look(watched, policy, state.iteration, watcher.answers(policy), reached)
            state = watcher.judged(watched, state)
        onlooker.advance(row)
        if state.negative_kl == NEGATIVE_KL_ITERATIONS and not warned:
            onlooker.say(NEGATIVE_KL)
            warned = True
        over = state.iteration == settings.loop.iterations or state.ended is not None
        if over or state.iteration % settings.checkpoint_every == 0 or onlooker.stopping():
            saved.save(state, steppers, watched)
        onlooker.check()
    return state, watched, (NEGATIVE_KL,) if warned else ()


def _held(state: LoopState, figures: Mapping[str, float], limit: float | None) -> LoopState:
    """The state, ended where demonstrations have become less likely than the anchor's limit allows."""
    rise = figures.get("anchor/rise", 0.0)
    if state.ended is not None or limit is None or rise <= limit:
        return state
    return replace(state, ended=f"the loss of held-out demonstrations rose by {rise:.3f} nats, more than {limit:g}")


NEGATIVE_KL = (
    f"The KL to the reference was below 0 for {NEGATIVE_KL_ITERATIONS} iterations, which a true KL never is. Its "
    "usual causes: samples that were "
    "truncated (top-k, top-p) or forced to a minimum length, a temperature that sampling and log-probabilities do "
    "not share, or "
    "padding or EOS that sampler and trainer treat differently."
)


def reference_moments(context: Context, loop: OnlineLoop, policy: Loaded) -> Moments:
    """Moments of the judge's numbers on completions of the policy as the stage begins, frozen from then on."""
    if loop.settings.shaping.normalise != "reference":
        return NO_MOMENTS
    return moments_on(loop.reward, sampled(context, policy, loop.prompts))
