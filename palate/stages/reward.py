"""Stage `reward`: from preference pairs to a reward model that scores in log-odds, 0 for what the SFT model writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from palate import testbed
from palate.algorithms.objectives import Example, Order, Preference, examples_of
from palate.algorithms.supervised import SupervisedLoop, collate, micro_batches
from palate.data.chat import ChatFormat
from palate.data.checks import check_records, length_bias, shared_prompts, split_by_prompt
from palate.data.conversion import best_pair
from palate.engine.files import make_directory
from palate.engine.generation import Sampling
from palate.engine.seeding import derive, generator
from palate.errors import DataError
from palate.evaluation import likeliest_gain, preference_accuracy, preference_loss
from palate.models import RewardModel, load_causal, save_reward_model
from palate.recipe import Reward
from palate.records import PreferencePair, Ranking
from palate.rewards import ModelReward, checked_scores
from palate.stages.context import Context, Outcome
from palate.stages.material import (
    Loaded,
    as_recipe_wants,
    evenly,
    fitting,
    load_policy,
    place_of,
    sample,
    split,
    stage_records,
)
from palate.stages.saving import save_whole

# The judge of the evaluation learns from its own share of the pairs, which the reward model never sees.
JUDGE_SHARE = 0.3

# How long a completion may be that only serves to centre scores.
REFERENCE_TOKENS = 64


Judged = PreferencePair | Ranking


@dataclass(frozen=True)
class Trained:
    """A reward model as it was saved, its scores of the held-out pairs, and how it came about."""

    chosen: list[float]
    rejected: list[float]
    steps: int
    pairs: int


def run(context: Context) -> Outcome:
    """Trains, calibrates and saves `reward/model` (and `reward/judge/model` where the evaluation needs one), and
    measures."""
    train, judged, heldout = divided(context, stage_records(context, "reward"))
    concerns = data_concerns([*train, *judged], heldout) if "reward" in context.data else []
    heldout = compared(heldout)
    if judged:
        _train(context, judged, heldout, "reward", "judge")
    trained = _train(context, train, heldout, "reward")
    chosen, rejected = trained.chosen, trained.rejected
    accuracy = preference_accuracy(chosen, rejected)
    longer = length_bias(heldout).figures["accuracy"]
    length = max(longer, 1 - longer)  # a judge of length alone may also prefer the shorter
    if accuracy.low <= length:
        concerns.append(
            f"its accuracy of {accuracy.estimate:.3f} is not clearly above that of a judge who only counts length "
            f"({length:.3f})"
        )
    figures = {
        "pairs": trained.pairs,
        "heldout": len(chosen),
        "heldout_loss": preference_loss(chosen, rejected),
        "accuracy": accuracy.estimate,
        "accuracy_low": accuracy.low,
        "accuracy_high": accuracy.high,
        "length_accuracy": length,
        "mean_chosen": sum(chosen) / len(chosen),
        "mean_rejected": sum(rejected) / len(rejected),
        "margin": (sum(chosen) - sum(rejected)) / len(chosen),
    }
    if "gold" in heldout[0].prompt.fields:
        figures |= testbed.expected_accuracy(heldout, chosen, rejected)
    return Outcome(figures, tuple(concerns), trained.steps)


def divided(context: Context, records: Sequence[Judged]) -> tuple[Sequence[Judged], Sequence[Judged], Sequence[Judged]]:
    """The rows that the reward model learns from, those of the evaluation's judge (none where it needs none), and
    the held-out ones; no prompt is in two of them."""
    train, heldout = split(context, "reward", records)
    evaluate = context.recipe.evaluate
    if evaluate is None or evaluate.judge != "heldout-reward":
        return train, (), heldout
    known, judged = split_by_prompt(train, JUDGE_SHARE, derive(context.seed, "judge") % 2**32)
    if not known or not judged:
        raise DataError(
            f"setting aside {JUDGE_SHARE:.0%} of {len(train)} pairs, by prompt, for the evaluation's own judge left "
            f"{len(known)} to the reward model and {len(judged)} to the judge. Both need at least one. Give more "
            "pairs, or leave out [evaluate].",
            *place_of(context, "reward", records[0])[:1],
        )
    return known, judged, heldout


def compared(records: Sequence[Judged]) -> list[PreferencePair]:
    """One comparison a row: of a ranking its best reply against another, so that rows count alike."""
    pairs = (record if isinstance(record, PreferencePair) else best_pair(record, "random") for record in records)
    return [pair for pair in pairs if pair is not None]


def objective_of(settings: Reward, chat: ChatFormat) -> Preference | Order:
    """What the reward model learns by."""
    if settings.objective == "pairs":
        return Preference(chat)
    by = "plackett-luce" if settings.objective == "plackett-luce" else "pairs"
    return Order(chat, by=by, ties=settings.ties)


def data_concerns(train: Sequence[Judged], heldout: Sequence[Judged]) -> list[str]:
    """What the checks of the data warn of."""
    findings = [*check_records(train), shared_prompts(train, heldout)]
    return [finding.message for finding in findings if finding.level == "warn"]


def _train(context: Context, records: Sequence[Judged], heldout: Sequence[PreferencePair], *place: str) -> Trained:
    """Trains one reward model in its own directory, gives its score unit and zero, and saves it."""
    settings = context.reward
    policy = load_policy(context)
    trunk = (
        policy
        if settings.model is None
        else as_recipe_wants(context, Loaded(*load_causal(settings.model, device=context.device)))
    )
    objective = objective_of(settings, trunk.chat)
    examples = fitting(context, "reward", examples_of(objective, records), records, trunk.model.context)
    examples = [example for example in examples if len(set(example.completions)) > 1]
    model = RewardModel.on(trunk.model, pooling=settings.pooling, generator=generator(context.seed, *place, "head"))
    model.to(context.device)
    make_directory(context.place(*place))
    loop = SupervisedLoop(
        model, objective, examples, settings.loop, derive(context.seed, *place) % 2**32, trunk.chat.pad_id
    )
    steps = loop.train(context.checkpoints(*place), context.metrics(*place), context.watch(" ".join(place)))
    reward = ModelReward("reward_model", model, trunk.chat, policy.chat.fingerprint != trunk.chat.fingerprint)
    chosen, rejected = score_pairs(context, reward, heldout)
    gain = likeliest_gain(chosen, rejected)
    bias = -gain * _reference_mean(context, reward, policy, records)
    calibrated = model.calibrated(gain, bias)
    save_whole(context.place(*place, "model"), lambda path: save_reward_model(calibrated, trunk.tokenizer, path))
    return Trained(
        [gain * score + bias for score in chosen], [gain * score + bias for score in rejected], steps, len(examples)
    )


def _reference_mean(context: Context, reward: ModelReward, policy: Loaded, records: Sequence[Judged]) -> float:
    """The mean score of what the policy answers to the records' prompts."""
    prompts = list(dict.fromkeys(record.prompt for record in records))
    room = [prompt for prompt in prompts if fits(policy, prompt)] or prompts
    rows, samples = evenly(context.reward.reference_samples, len(room))
    completions, _ = sample(
        policy,
        room,
        seed=derive(context.seed, "reference samples"),
        rows=rows,
        samples=samples,
        length=REFERENCE_TOKENS,
        sampling=Sampling(),
    )
    return float(checked_scores(reward, completions).double().mean())


def fits(policy: Loaded, prompt) -> bool:
    """Whether the model's context has room for an answer to the prompt."""
    context = policy.model.context
    return context is None or len(policy.chat.encode_prompt(prompt)) < context


@torch.no_grad()
def score_pairs(
    context: Context, reward: ModelReward, pairs: Sequence[PreferencePair]
) -> tuple[list[float], list[float]]:
    """The scores of both sides of every pair, in order."""
    objective = Preference(reward.chat)
    examples: Sequence[Example] = fitting(context, "reward", examples_of(objective, pairs), pairs, context_of(reward))
    scores: list[float] = []
    limit = context.reward.loop.micro_tokens
    for part in micro_batches(examples, limit):
        batch = collate(part, pad_id=reward.chat.pad_id, packing=reward.model.supports_packing)
        scores += reward.model.scores(batch.layout.to(context.device)).tolist()
    return scores[0::2], scores[1::2]


def context_of(reward: ModelReward) -> int | None:
    """The longest prompt and completion that the reward model reads."""
    return getattr(reward.model.trunk.config, "max_position_embeddings", None)
