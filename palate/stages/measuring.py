"""What every way of alignment is measured by: the reference that never moves, and what the policy writes beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from statistics import fmean

import torch
from torch import Tensor

from palate.algorithms.online import Online
from palate.data.layout import packed, padded
from palate.engine.forward import completion_logprobs
from palate.engine.interfaces import Completions, Reward
from palate.errors import RecipeError, TrainingError
from palate.models import load_causal, weight_hash
from palate.recipe import TESTBED
from palate.rewards import judged
from palate.stages.context import Context
from palate.stages.judges import gold_reward, own_unit
from palate.stages.material import Loaded, data_files, load_policy


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


@torch.no_grad()
def log_ratios(
    policy: Loaded, reference: Loaded, completions: Completions, temperature: float, batch: int = 64
) -> Tensor:
    """log π(y) − log π_ref(y) of each completion, [B], in nats; its mean over the policy's own is KL(π ‖ π_ref)."""
    ids, mask = completions.ids, completions.mask
    packing = policy.model.supports_packing and reference.model.supports_packing
    gaps = torch.zeros(len(ids), dtype=torch.float64)
    for rows in torch.arange(len(ids)).split(batch):
        prompts, some = [completions.prompt_ids[row] for row in rows.tolist()], (ids[rows], mask[rows])
        layout = packed(prompts, *some) if packing else padded(prompts, *some, pad_id=policy.chat.pad_id)
        layout = layout.to(ids.device)
        own, theirs = (completion_logprobs(one.model, layout, temperature)[0] for one in (policy, reference))
        gaps[rows] = (own - theirs).sum(dim=1).double().cpu()
    return gaps


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
    kl = log_ratios(policy, reference, completions, context.align.loop.sampling.temperature).tolist()
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
                "kl": kl[index],
                "finish": "eos" if ids[-1] == policy.chat.eos_id else "length",
                "ids": ids,
            }
        )
    return rows


def told(rows: Sequence[dict]) -> dict[str, float]:
    """Means over such rows, under the names that the online loop's metrics have."""
    names = rows[0]["scores"]
    return {
        **{f"score/{name}": fmean([row["scores"][name] for row in rows]) for name in names},
        "kl/sequence": fmean([row["kl"] for row in rows]),
        "length/mean": fmean([len(row["ids"]) for row in rows]),
        "length/eos_rate": fmean([float(row["finish"] == "eos") for row in rows]),
    }


def sample_rows(rows: Sequence[dict], step: int, count: int = 4) -> Iterator[dict]:
    """A few of the rows for `samples.jsonl`, without their ids."""
    for row in rows[:count]:
        yield {"step": step} | {name: value for name, value in row.items() if name not in ("step", "ids")}
