"""What every way of alignment is measured by: the reference that never moves, and what the policy writes beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import fmean

import torch
from torch import Tensor

from palate.algorithms.online import Online
from palate.data.layout import completions as right_padded
from palate.data.layout import packed, padded
from palate.engine.forward import completion_logprobs
from palate.engine.interfaces import Completions, Reward
from palate.errors import RecipeError, TrainingError
from palate.evaluation import perplexity
from palate.models import load_causal, weight_hash
from palate.recipe import TESTBED
from palate.records import Prompt
from palate.rewards import judged
from palate.stages.context import Context
from palate.stages.judges import gold_reward, own_unit
from palate.stages.material import Loaded, data_files, load_policy
from palate.stages.trust.monitoring import monitor

# Enough for a mean over some thousand tokens.
PROMPTS_READ = 256

# The figures of a stage's start and end, by the metrics that they are.
ENDS = {
    "kl": "kl/sequence",
    "score": "score/mean",
    "length": "length/mean",
    "entropy": "entropy",
    "eos_rate": "length/eos_rate",
}
# Those of its end alone.
FINAL = {
    "kl_token_final": "kl/token",
    "perplexity_final": "perplexity",
    "explained_variance_final": "value/explained_variance",
}


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


@contextmanager
def unmoved(reference: Loaded) -> Iterator[None]:
    """Sees to it that the reference is, after the block, what it was before; TrainingError where it is not."""
    frozen = weight_hash(reference.model)
    yield
    if weight_hash(reference.model) != frozen:
        raise TrainingError(
            "The reference model's weights changed during alignment. KL to a moving reference means nothing. This "
            "is a bug, in Palate "
            "or in the algorithm you brought: something trained or overwrote the reference."
        )


def onlookers(context: Context) -> tuple[Reward, ...]:
    """Judges that look on and are logged: gold, on the testbed, where it is not itself among the rewards."""
    rewarded = context.align.judged and any(source.name == "gold" for source in context.align.sources)
    return (gold_reward(),) if data_files(context.recipe, "align") == TESTBED and not rewarded else ()


def normalising(settings: Online, reward: Reward) -> Online:
    """The settings with `shaping.normalise` decided by the judge where the recipe leaves it open.

    A reward model's scores are log-odds of being preferred, and a rule's lie between −1 and 1: rescaling would blow up
    one that tells nothing apart. A function's unit is anybody's guess, and so would be the price of a nat.
    """
    if settings.shaping.normalise is not None:
        return settings
    chosen = "none" if own_unit(reward) else "reference"
    return replace(settings, shaping=replace(settings.shaping, normalise=chosen))


@dataclass(frozen=True, slots=True)
class Reading:
    """What policy and reference make of completions, summed over the tokens of each, [B], in nats.

    `kl` is log π(y) − log π_ref(y), whose mean over the policy's own is KL(π ‖ π_ref); `reference` is log π_ref(y);
    `entropy` is that of the policy's distributions.
    """

    kl: Tensor
    reference: Tensor
    entropy: Tensor


@torch.no_grad()
def reading(
    policy: Loaded, reference: Loaded, completions: Completions, temperature: float, batch: int = 64
) -> Reading:
    """Reads completions with both models at the temperature that they were drawn at."""
    ids, mask = completions.ids, completions.mask
    packing = policy.model.supports_packing and reference.model.supports_packing
    sums = torch.zeros(3, len(ids), dtype=torch.float64)
    for rows in torch.arange(len(ids)).split(batch):
        prompts, some = [completions.prompt_ids[row] for row in rows.tolist()], (ids[rows], mask[rows])
        layout = packed(prompts, *some) if packing else padded(prompts, *some, pad_id=policy.chat.pad_id)
        layout = layout.to(ids.device)
        own, entropy = completion_logprobs(policy.model, layout, temperature)
        theirs, _ = completion_logprobs(reference.model, layout, temperature)
        for place, tokens in enumerate((own - theirs, theirs, entropy)):
            sums[place, rows] = tokens.sum(dim=1).double().cpu()
    return Reading(*sums)


def log_ratios(policy: Loaded, reference: Loaded, completions: Completions, temperature: float) -> Tensor:
    """log π(y) − log π_ref(y) of each completion, [B], in nats."""
    return reading(policy, reference, completions, temperature).kl


@torch.no_grad()
def prompt_loss(policy: Loaded, prompts: Sequence[Prompt], batch: int = 64) -> float | None:
    """The mean −log π of a prompt's token given those before it, in nats, over at most 256 of the prompts.

    Prompts unlike any that a model learnt from are unlikely to it. None where no prompt has two tokens.
    """
    count = min(PROMPTS_READ, len(prompts))
    rows = [policy.chat.encode_prompt(prompts[index * len(prompts) // count]) for index in range(count)]
    rows = [row for row in rows if len(row) > 1]
    total, tokens = 0.0, 0
    for start in range(0, len(rows), batch):
        some = rows[start : start + batch]
        ids, mask = right_padded([row[1:] for row in some], policy.chat.pad_id)
        layout = padded([row[:1] for row in some], ids, mask, pad_id=policy.chat.pad_id)
        logprobs, _ = completion_logprobs(policy.model, layout.to(next(policy.model.parameters()).device), 1.0)
        total -= float(logprobs.double().sum())
        tokens += int(mask.sum())
    return total / tokens if tokens else None


def judged_rows(
    context: Context,
    policy: Loaded,
    reference: Loaded,
    completions: Completions,
    judges: Sequence[Reward],
) -> list[dict]:
    """What is to be told of each of the policy's completions: texts, scores by name, KL, and why it ended.

    Where the method asks for a reward, that is the first of the judges, and a row's `score` is its number.
    """
    read = reading(policy, reference, completions, context.align.loop.sampling.temperature)
    parts = {name: scores.tolist() for judge in judges for name, scores in judged(judge, completions).parts.items()}
    rows = []
    for index, prompt in enumerate(completions.prompts):
        ids = completions.ids[index][completions.mask[index]].tolist()
        rows.append(
            {
                "prompt": prompt.text,
                "completion": completions.texts[index],
                **({"score": parts[judges[0].name][index]} if context.align.judged else {}),
                "scores": {name: scores[index] for name, scores in parts.items()},
                "kl": float(read.kl[index]),
                "entropy": float(read.entropy[index]) / len(ids),
                "reference": float(read.reference[index]) / len(ids),
                "finish": "eos" if ids[-1] == policy.chat.eos_id else "length",
                "ids": ids,
            }
        )
    return rows


def told(rows: Sequence[dict]) -> dict[str, float]:
    """Means over such rows, under the names that the online loop's metrics have."""
    names = rows[0]["scores"]
    tokens = sum(len(row["ids"]) for row in rows)
    entropy, reference = (
        sum(row[name] * len(row["ids"]) for row in rows) / tokens for name in ("entropy", "reference")
    )
    return {
        **{f"score/{name}": fmean([row["scores"][name] for row in rows]) for name in names},
        "kl/sequence": fmean([row["kl"] for row in rows]),
        "kl/token": sum(row["kl"] for row in rows) / tokens,
        "entropy": entropy,
        "perplexity": perplexity(-reference),
        "length/mean": fmean([len(row["ids"]) for row in rows]),
        "length/eos_rate": fmean([float(row["finish"] == "eos") for row in rows]),
    }


def sample_rows(rows: Sequence[dict], step: int, count: int = 4) -> Iterator[dict]:
    """A few of the rows for `samples.jsonl`, without their ids."""
    left_out = ("step", "ids", "entropy", "reference")
    for row in rows[:count]:
        yield {"step": step} | {name: value for name, value in row.items() if name not in left_out}


def ends(first: Mapping[str, float], last: Mapping[str, float]) -> dict[str, float]:
    """A stage's figures from the rows of metrics at its start and its end; what a row lacks is left out."""
    both = {
        f"{short}_{when}": row[name]
        for short, name in ENDS.items()
        for when, row in (("initial", first), ("final", last))
        if name in first and name in last
    }
    return both | {figure: last[name] for figure, name in FINAL.items() if name in last}


def closing_figures(
    context: Context,
    policy: Loaded,
    prompts: Sequence[Prompt],
    answers: tuple[Completions, Completions],
    rows: tuple[Mapping[str, float], Mapping[str, float]],
) -> dict[str, float]:
    """The figures that every way of alignment ends with.

    `answers` are those of the policy as the stage began and of `policy` to the same prompts, `rows` its metrics at
    both ends.
    """
    start = load_policy(context)
    asked = prompt_loss(start, prompts)
    return {
        **ends(*rows),
        **({} if asked is None else {"prompt_loss": asked}),
        **monitor(context, start, policy, *answers),
    }
