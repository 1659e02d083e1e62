"""From what a recipe says of rewards to the judges that score completions.

What a reward is made of also says what must be there before the stage, which models it costs, and what it rests on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from palate import testbed
from palate.engine.files import encode_json, file_sha256, write_atomic
from palate.engine.interfaces import Completions, Reward
from palate.engine.seeding import derive
from palate.errors import DataError, RecipeError
from palate.models import load_reward_model
from palate.ops import Moments, moments
from palate.recipe import WATCHERS, Align
from palate.records import Prompt
from palate.rewards import (
    AttributeReward,
    EnsembleReward,
    FunctionReward,
    IsolatedFunction,
    ModelReward,
    RuleReward,
    Source,
    StepReward,
    Term,
    Verifier,
    WeightedReward,
    checked_scores,
)
from palate.rewards.combined import moments_from_json, moments_to_json
from palate.rewards.sources import WORDS, Function, Gold, Models
from palate.settings import load_symbol
from palate.stages.context import Context
from palate.stages.material import Loaded, evenly, generated, place_of, records_of, sample

# Where the moments stand that the rewards of a sum are normalised by; they are taken once.
MOMENTS = "rewards.json"


def reward_of(context: Context, policy: Loaded, prompts: Sequence[Prompt]) -> Reward:
    """The judge by the recipe: one reward as it is, or several as their weighted sum.

    What is normalised is so by moments on the policy's answers to `prompts`, taken at the first call and kept in the
    stage's directory.
    """
    sources = context.align.sources
    rewards = [_made(context, policy, source) for source in sources]
    if len(sources) == 1 and sources[0].common.weight == 1 and not _normalised(sources[0], 1):
        return rewards[0]
    known = _frozen(
        context,
        policy,
        prompts,
        {
            source.name: reward
            for source, reward in zip(sources, rewards, strict=True)
            if _normalised(source, len(sources))
        },
    )
    terms = zip(sources, rewards, strict=True)
    return WeightedReward(
        "sum", tuple(Term(reward, source.common.weight, known.get(source.name)) for source, reward in terms)
    )


def reward_model(context: Context, place: Path, policy: Loaded, name: str = "reward_model") -> ModelReward:
    """A reward model from disk, reading ids where it shares the policy's tokenizer and text where it does not."""
    model, chat, _ = load_reward_model(place, device=context.device)
    rereads = chat.fingerprint != policy.chat.fingerprint
    if rereads:
        context.say(
            f"The reward model {place} has its own tokenizer: it reads completions as text, through its own template."
        )
    return ModelReward(name, model, chat, rereads)


def gold_reward(name: str = "gold") -> FunctionReward:
    """The testbed's truth."""
    return FunctionReward(
        name,
        lambda prompts, completions, **_: [
            testbed.gold(prompt, completion) for prompt, completion in zip(prompts, completions, strict=True)
        ],
    )


def own_unit(reward: Reward) -> bool:
    """Whether a reward's numbers mean the same everywhere: log-odds, a sum that is normalised, a rule.

    A function's unit is anybody's guess, and ratings have that of whoever rated.
    """
    return not isinstance(reward, FunctionReward | StepReward | AttributeReward)


def sampled(context: Context, policy: Loaded, prompts: Sequence[Prompt]) -> Completions:
    """What the policy writes as the stage begins: the completions that rewards are normalised on."""
    settings = context.align
    rows, samples = evenly(settings.reference_samples, len(prompts))
    completions, _ = sample(
        policy,
        prompts,
        seed=derive(context.seed, "score moments"),
        rows=rows,
        samples=samples,
        length=settings.loop.max_new_tokens,
        sampling=settings.loop.sampling,
    )
    return completions


# What stands where nothing is normalised.
NO_MOMENTS = Moments(*torch.zeros(3, dtype=torch.float64))


def moments_on(reward: Reward, completions: Completions) -> Moments:
    """Moments of a reward's scores, in double precision."""
    scores = checked_scores(reward, completions).double()
    return moments(scores, torch.ones_like(scores, dtype=torch.bool))


# ---- before the first step


def check_rewards(context: Context) -> None:
    """Raises UsageError for a reward, or a judge beside it, that is not there."""
    if context.align.watch.judge not in WATCHERS:
        load_reward_model(context.align.watch.judge)
    for source in context.align.sources:
        if isinstance(source.settings, Function) and not callable(load_symbol(source.places[0], "reward")):
            raise RecipeError(
                f'{source.where} = "{source.places[0]}" was given, which is no function. A reward takes prompts and '
                "completions and returns one number for each completion. Name such a function."
            )
        for place in source.models:
            _must_be_reward_model(context, source, place)


def check_columns(context: Context, section: str) -> None:
    """Raises DataError for a row of the section's prompts that lacks what a verifier reads."""
    verifiers = [source.settings for source in context.align.sources if isinstance(source.settings, Verifier)]
    files = context.data.get(section)
    for verifier in verifiers:
        for prompt in generated(context.recipe, section) if files is None else records_of(files):
            try:
                verifier.wanted(prompt)
            except DataError as error:
                raise DataError(str(error), *place_of(context, section, prompt)) from error


def _must_be_reward_model(context: Context, source: Source, place: str) -> None:
    if place != "model":
        load_reward_model(place)
    elif context.recipe.reward is None and not context.place("reward", "model").exists():
        raise RecipeError(
            f'{source.where} = "model" was given, but this run has no reward model. Add a section [reward], or give a '
            "reward-model directory or file.py:function."
        )


# ---- what it rests on


def uses_run_model(align: Align) -> bool:
    """Whether alignment needs the reward model that this run trains."""
    return any("model" in source.models for source in align.sources)


def lineage(align: Align) -> tuple[dict[str, str], list[dict[str, str]]]:
    """Hashes of the files that the rewards are made of, by path, and the runs that they come from."""
    hashes: dict[str, str] = {}
    parents: dict[str, dict[str, str]] = {}
    for place in [place for source in align.sources for place in source.places if place not in WORDS]:
        path = Path(place.rpartition(":")[0] if ".py:" in place else place)
        for file in [path] if path.is_file() else sorted(path.glob("*.safetensors")):
            hashes[str(file)] = file_sha256(file)
        run = next((above for above in path.resolve().parents if (above / "run.json").is_file()), None)
        if path.exists() and run is not None:
            parents[str(path)] = {"run": str(run), "model": str(path)}
    return hashes, list(parents.values())


# ---- making them


def _made(context: Context, policy: Loaded, source: Source) -> Reward:
    settings = source.settings
    if isinstance(settings, Gold):
        return gold_reward(source.name)
    if isinstance(settings, Function):
        return _function(policy, source, settings)
    if isinstance(settings, Models):
        return _models(context, policy, source, settings)
    return RuleReward(source.name, settings)


def _function(policy: Loaded, source: Source, settings: Function) -> FunctionReward | StepReward:
    function: Callable[..., Any] = IsolatedFunction(source.places[0], settings.seconds)
    if settings.dense:
        return StepReward(source.name, function, policy.chat.decode, settings.options)
    return FunctionReward(source.name, function, settings.options)


def _models(context: Context, policy: Loaded, source: Source, settings: Models) -> Reward:
    places = [context.place("reward", "model") if place == "model" else Path(place) for place in source.models]
    members = [reward_model(context, place, policy, source.name) for place in places]
    attributes = {attribute for member in members for attribute in member.model.attributes}
    unknown = sorted(settings.weights.keys() - attributes)
    if unknown or (attributes and len(members) > 1):
        raise RecipeError(_MISPLACED.format(where=source.where, unknown=unknown, attributes=sorted(attributes)))
    if attributes:
        share = 1 / len(attributes)
        return AttributeReward(members[0], settings.weights or dict.fromkeys(members[0].model.attributes, share))
    if len(members) == 1 and members[0].model.members == 1:
        return members[0]
    return EnsembleReward(source.name, tuple(members), settings.combine, settings.penalty)


_MISPLACED = (
    "{where} gives weights for {unknown}, and its reward models score the attributes {attributes}. Weights are given "
    "to attributes that one reward model scores, and such a model is no member of an ensemble. Name its attributes, or "
    "give each such model a table of its own."
)


def _normalised(source: Source, count: int) -> bool:
    return count > 1 if source.common.normalise is None else source.common.normalise


def _frozen(
    context: Context, policy: Loaded, prompts: Sequence[Prompt], rewards: dict[str, Reward]
) -> dict[str, Moments]:
    """The rewards' moments, as they are on disk, or else taken now."""
    place = context.place("align", MOMENTS)
    if not rewards:
        return {}
    if place.exists():
        return moments_from_json(json.loads(place.read_bytes()))
    completions = sampled(context, policy, prompts)
    found = {name: moments_on(reward, completions) for name, reward in rewards.items()}
    for name, one in found.items():
        if float(one.variance(unbiased=False)) <= 1e-12:
            context.say(
                f"align: the reward {name!r} gave {float(one.mean):g} to each of {int(one.n)} completions of the "
                "policy as the stage begins. There is no deviation to divide by: it is centred and keeps its unit."
            )
    write_atomic(place, encode_json(moments_to_json(found)))
    return found
