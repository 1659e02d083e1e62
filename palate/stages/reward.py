"""Stage `reward`: from preference pairs to a reward model that scores in log-odds, 0 for what the SFT model writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from palate import testbed
from palate.algorithms.objectives import Example, Order, Preference, Regression, examples_of
from palate.algorithms.supervised import SupervisedLoop, collate, held_out, micro_batches
from palate.data.chat import ChatFormat
from palate.data.checks import check_records, shared_prompts, split_by_prompt
from palate.data.conversion import best_pair, ranked
from palate.engine.files import make_directory
from palate.engine.generation import Sampling
from palate.engine.seeding import derive, generator
from palate.errors import DataError
from palate.evaluation import RewardReport, likeliest_gain, preference_loss, reward_figures
from palate.models import RewardModel, load_causal, save_reward_model
from palate.recipe import TESTBED, Reward
from palate.records import PreferencePair, Ranking, Rating
from palate.rewards import ModelReward
from palate.stages.context import Context, Outcome
from palate.stages.material import (
    Loaded,
    as_recipe_wants,
    evenly,
    fitting,
    load_policy,
    mixed,
    place_of,
    sample,
    split,
    stage_records,
)
from palate.stages.saving import save_whole
from palate.stages.trust.probing import examine, write

# The judge of the evaluation learns from its own share of the pairs, which the reward model never sees.
JUDGE_SHARE = 0.3

# How long a completion may be that only serves to centre scores.
REFERENCE_TOKENS = 64


Judged = PreferencePair | Ranking | Rating


# What a head gave the chosen and the rejected replies.
Sides = tuple[list[float], list[float]]


@dataclass(frozen=True)
class Trained:
    """A reward model as it was saved, the held-out pairs that it can read and its heads' scores of them, the gain in
    these where it is one, what else was measured, and how it came about."""

    reward: ModelReward
    heldout: list[PreferencePair]
    sides: list[Sides]
    gain: float
    figures: dict[str, float]
    steps: int
    pairs: int

    @property
    def chosen(self) -> list[float]:
        """The mean over the heads of the chosen side's scores."""
        return [sum(scores) / len(scores) for scores in zip(*(chosen for chosen, _ in self.sides), strict=True)]

    @property
    def rejected(self) -> list[float]:
        """The same of the rejected side."""
        return [sum(scores) / len(scores) for scores in zip(*(rejected for _, rejected in self.sides), strict=True)]


def run(context: Context) -> Outcome:
    """Trains, calibrates and saves `reward/model` (and `reward/judge/model` where the evaluation needs one), measures,
    and writes `reward/report.json`."""
    train, judged, heldout = divided(context, counted(context, "reward", stage_records(context, "reward")))
    concerns = data_concerns([*train, *judged], heldout) if "reward" in context.data else []
    rated(context, train)
    unseen, heldout = heldout, comparable(context, heldout)
    judge = _train(context, judged, heldout, unseen, "reward", "judge") if judged else None
    trained = _train(context, train, heldout, unseen, "reward")
    chosen, rejected = trained.chosen, trained.rejected
    report = _report(context, trained, judge, (train, judged))
    write(report, context.place("reward", "report.json"))
    figures = {
        "pairs": trained.pairs,
        "heldout": len(chosen),
        "heldout_loss": preference_loss(chosen, rejected),
        "mean_chosen": sum(chosen) / len(chosen),
        "mean_rejected": sum(rejected) / len(rejected),
        "margin": (sum(chosen) - sum(rejected)) / len(chosen),
        **trained.figures,
    }
    if _of_this_world(context):
        figures |= testbed.expected_accuracy(trained.heldout, chosen, rejected)
    named = {f"reward/{name}" if "/" in name else name: value for name, value in reward_figures(report).items()}
    if context.reward.attributes:  # ratings are no log-odds, and were not scaled to be
        named = {name: value for name, value in named.items() if not name.startswith("ece")}
    return Outcome(figures | named, tuple(concerns), trained.steps)


def _report(
    context: Context,
    trained: Trained,
    judge: Trained | None,
    learnt: tuple[Sequence[Judged], Sequence[Judged]],
) -> RewardReport:
    """What the reward model is worth; the judge, which learnt the second part of the pairs, is a member beside it."""
    train, judged = (compared(records, context.reward.attributes) for records in learnt)
    team = context.reward.heads > 1
    return examine(
        trained.reward,
        trained.heldout,
        trained.sides if team else [(trained.chosen, trained.rejected)],
        gain=trained.gain,
        seed=context.seed,
        annotator=testbed.Annotator(biases=context.recipe.testbed.biases) if _of_this_world(context) else None,
        repeated=[*train, *judged, *trained.heldout],
        train=train,
        answers=mixed(context) if context.recipe.sft is not None else (),
        others=[] if judge is None else [(judge.chosen, judge.rejected)],
    )


def _of_this_world(context: Context) -> bool:
    """Whether the held-out pairs are the testbed's, whose truth is known."""
    return context.reward.data == TESTBED and context.reward.heldout is None


def counted(context: Context, section: str, records: Sequence[Any]) -> Sequence[Any]:
    """A section's rows without the pairs of weight 0; DataError where nothing is left."""
    kept = [record for record in records if not (isinstance(record, PreferencePair) and record.weight == 0)]
    if not kept:
        raise DataError(
            "all pairs have the weight 0, which is that of a pair that is not there. Give those a weight above 0 that "
            "is to be learnt from.",
            *place_of(context, section, records[0])[:1],
        )
    return kept


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


def compared(records: Sequence[Judged], attributes: Sequence[str] = ()) -> list[PreferencePair]:
    """One comparison a row: of a ranking its best reply against another, so that rows count alike; of ratings, one for
    each prompt whose replies differ in the mean over `attributes`."""
    ratings = [record for record in records if isinstance(record, Rating)]
    rankings = [*ranked(ratings, attributes), *(record for record in records if not isinstance(record, Rating))]
    pairs = (record if isinstance(record, PreferencePair) else best_pair(record, "random") for record in rankings)
    return [pair for pair in pairs if pair is not None]


def comparable(context: Context, heldout: Sequence[Judged]) -> list[PreferencePair]:
    """The held-out comparisons; DataError where there are none, as with ratings of a single reply a prompt."""
    pairs = compared(heldout, context.reward.attributes)
    if not pairs:
        raise DataError(
            f"none of {len(heldout)} held-out rows prefers one reply to another: no prompt has two replies that are "
            f"rated differently on {', '.join(context.reward.attributes)}. Without one, nobody can say whether the "
            "reward model orders replies rightly. Give rows with several replies a prompt, as reward.heldout if need "
            "be.",
            *place_of(context, "reward", heldout[0])[:1],
        )
    return pairs


def rated(context: Context, train: Sequence[Judged]) -> None:
    """Raises DataError for an attribute that no row scores."""
    there = {name for record in train if isinstance(record, Rating) for name in record.scores}
    lacking = [name for name in context.reward.attributes if name not in there]
    if lacking:
        raise DataError(
            f"no row scores {lacking[0]!r}, which reward.attributes names. The rows score {', '.join(sorted(there))}. "
            "Name attributes that are there.",
            *place_of(context, "reward", train[0])[:1],
        )


def objective_of(settings: Reward, chat: ChatFormat) -> Preference | Order | Regression:
    """What the reward model learns by."""
    if settings.objective == "pairs":
        return Preference(chat, settings.heads)
    if settings.objective == "regression":
        return Regression(chat, settings.attributes)
    by = "plackett-luce" if settings.objective == "plackett-luce" else "pairs"
    return Order(chat, by=by, ties=settings.ties)


def data_concerns(train: Sequence[Judged], heldout: Sequence[Judged]) -> list[str]:
    """What the checks of the data warn of."""
    findings = [*check_records(train), shared_prompts(train, heldout)]
    return [finding.message for finding in findings if finding.level == "warn"]


def _train(
    context: Context,
    records: Sequence[Judged],
    heldout: Sequence[PreferencePair],
    unseen: Sequence[Judged],
    *place: str,
) -> Trained:
    """Trains one reward model in its own directory, gives its scores unit and zero, and saves it.

    Scores that were learnt from ratings have the unit and zero of these.
    """
    settings = context.reward
    policy = load_policy(context)
    trunk = (
        policy
        if settings.model is None
        else as_recipe_wants(context, Loaded(*load_causal(settings.model, device=context.device)))
    )
    objective = objective_of(settings, trunk.chat)
    examples = fitting(context, "reward", examples_of(objective, records), records, trunk.model.context)
    regressing = isinstance(objective, Regression)
    examples = [example for example in examples if regressing or len(set(example.completions)) > 1]
    model = RewardModel.on(
        trunk.model,
        pooling=settings.pooling,
        generator=generator(context.seed, *place, "head"),
        heads=settings.heads,
        attributes=settings.attributes,
    )
    model.to(context.device)
    make_directory(context.place(*place))
    loop = SupervisedLoop(
        model, objective, examples, settings.loop, derive(context.seed, *place) % 2**32, trunk.chat.pad_id
    )
    steps = loop.train(context.checkpoints(*place), context.metrics(*place), context.watch(" ".join(place)))
    reward = ModelReward("reward_model", model, trunk.chat, policy.chat.fingerprint != trunk.chat.fingerprint)
    heldout = readable(context, reward, heldout)
    found = score_pairs(context, reward, heldout)
    gains, biases = [1.0] * len(found), [0.0] * len(found)
    if not regressing:
        gains = [likeliest_gain(*scores) for scores in found]
        means = _reference_means(context, reward, policy, records)
        biases = [-gain * mean for gain, mean in zip(gains, means, strict=True)]
    single = model.head.dim() == 1
    calibrated = model.calibrated(*(scales[0] if single else tuple(scales) for scales in (gains, biases)))
    save_whole(context.place(*place, "model"), lambda path: save_reward_model(calibrated, trunk.tokenizer, path))
    return Trained(
        replace(reward, model=calibrated),
        heldout,
        [
            ([gain * score + bias for score in chosen], [gain * score + bias for score in rejected])
            for (chosen, rejected), gain, bias in zip(found, gains, biases, strict=True)
        ],
        gains[0] if single else 1.0,
        _explained(context, reward, objective, unseen) if isinstance(objective, Regression) else {},
        steps,
        len(examples),
    )


def _explained(
    context: Context, reward: ModelReward, objective: Regression, unseen: Sequence[Judged]
) -> dict[str, float]:
    """The share of each attribute's variance among held-out ratings that the scores explain, 1 − error/variance."""
    examples = fitting(context, "reward", examples_of(objective, unseen), unseen, context_of(reward))
    limit, pad_id = context.reward.loop.micro_tokens, reward.chat.pad_id
    errors = held_out(reward.model, objective, examples, limit=limit, pad_id=pad_id)
    labels = torch.tensor([example.labels for example in examples], dtype=torch.float64)
    explained = {}
    for name, given in zip(objective.attributes, labels.unbind(dim=1), strict=True):
        variance = float(given[~given.isnan()].var(unbiased=False)) if (~given.isnan()).any() else 0.0
        if variance > 0:
            explained[f"reward/explained/{name}"] = 1 - errors[f"error/{name}"] / variance
    return explained


def _reference_means(context: Context, reward: ModelReward, policy: Loaded, records: Sequence[Judged]) -> list[float]:
    """Each head's mean score of what the policy answers to the records' prompts."""
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
    return reward.columns(completions).double().mean(dim=0).tolist()


def fits(policy: Loaded, prompt) -> bool:
    """Whether the model's context has room for an answer to the prompt."""
    context = policy.model.context
    return context is None or len(policy.chat.encode_prompt(prompt)) < context


def readable(context: Context, reward: ModelReward, pairs: Sequence[PreferencePair]) -> list[PreferencePair]:
    """The pairs of which the reward model can read both sides; a longer one is a bad row."""
    limit = context_of(reward)
    examples = examples_of(Preference(reward.chat), pairs)
    fitting(context, "reward", examples, pairs, limit)
    return [pair for pair, example in zip(pairs, examples, strict=True) if limit is None or example.longest <= limit]


@torch.no_grad()
def score_pairs(context: Context, reward: ModelReward, pairs: Sequence[PreferencePair]) -> list[Sides]:
    """What each head gives both sides of every pair, in order."""
    examples: Sequence[Example] = examples_of(Preference(reward.chat), pairs)
    scores: list[Tensor] = []
    limit = context.reward.loop.micro_tokens
    for part in micro_batches(examples, limit):
        batch = collate(part, pad_id=reward.chat.pad_id, packing=reward.model.supports_packing)
        found = reward.model.scores(batch.layout.to(context.device))
        scores.append(found.reshape(len(found), -1).cpu())
    return [(head[0::2].tolist(), head[1::2].tolist()) for head in torch.cat(scores).unbind(dim=1)]


def context_of(reward: ModelReward) -> int | None:
    """The longest prompt and completion that the reward model reads."""
    return getattr(reward.model.trunk.config, "max_position_embeddings", None)
