"""Single questions to saved models: write completions, give log-probabilities, give scores, compare two models.

Each reads JSON lines and returns rows to be written as JSON lines.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from palate import testbed
from palate.data.chat import ChatFormat
from palate.data.layout import completions as right_padded
from palate.data.layout import padded
from palate.data.recognition import read
from palate.engine.forward import completion_logprobs
from palate.engine.generation import Sampling
from palate.engine.interfaces import Completions, Reward
from palate.engine.seeding import derive
from palate.errors import DataError, UsageError
from palate.evaluation import POINTS, compare, length_controlled, win_rate, win_rate_bootstrap
from palate.evaluation.comparison import Outcome
from palate.models import load_causal, load_reward_model
from palate.recipe import TESTBED
from palate.records import Prompt
from palate.rewards import ModelReward, checked_scores
from palate.stages.judges import gold_reward
from palate.stages.material import Loaded, sample

BATCH = 32


def generate(
    model: str, prompts: str | Path, *, sampling: Sampling, length: int, samples: int, seed: int
) -> Iterator[dict[str, Any]]:
    """For each prompt of a file, `samples` completions with their token ids and log-probabilities.

    The numbers drawn for a row depend on the seed, its place in the file and the sample's number alone.
    """
    for _, rows in _sampled(Loaded(*load_causal(model)), prompts, sampling, length, samples, seed):
        yield from rows


def best_of_n(
    model: str, prompts: str | Path, *, reward: str, n: int, sampling: Sampling, length: int, seed: int
) -> Iterator[dict[str, Any]]:
    """For each prompt of a file, that of the n completions of `generate` which a reward-model directory scores best,
    with its score; the first of those that tie."""
    loaded = Loaded(*load_causal(model))
    scorer, chat, _ = load_reward_model(reward)
    judge = ModelReward("reward_model", scorer, chat, rereads=chat.fingerprint != loaded.chat.fingerprint)
    for completions, rows in _sampled(loaded, prompts, sampling, length, n, seed):
        scores = checked_scores(judge, completions).tolist()
        for start in range(0, len(rows), n):
            best = max(range(start, start + n), key=scores.__getitem__)
            yield rows[best] | {"score": scores[best]}


def _sampled(
    loaded: Loaded, prompts: str | Path, sampling: Sampling, length: int, samples: int, seed: int
) -> Iterator[tuple[Completions, list[dict[str, Any]]]]:
    """Completions of some prompts at a time, those of one prompt together, and what is told of each."""
    records = _prompts(loaded, prompts)
    for start in range(0, len(records), BATCH):
        rows = [row for row in range(start, min(start + BATCH, len(records))) for _ in range(samples)]
        numbers = [number for _ in range(start, min(start + BATCH, len(records))) for number in range(samples)]
        written, drawn = sample(
            loaded, records, seed=seed, rows=rows, samples=numbers, length=length, sampling=sampling
        )
        counts = drawn.mask.sum(dim=1).tolist()
        yield (
            written,
            [
                {
                    "prompt": records[row].text,
                    "sample": numbers[index],
                    "completion": written.texts[index],
                    "finish": drawn.finish[index],
                    "prompt_ids": list(written.prompt_ids[index]),
                    "ids": drawn.ids[index, : counts[index]].tolist(),
                    "logprobs": drawn.logprobs[index, : counts[index]].tolist(),
                }
                for index, row in enumerate(rows)
            ],
        )


@torch.no_grad()
def logprobs(model: str, file: str | Path) -> Iterator[dict[str, Any]]:
    """For each {prompt, completion} of a file, the completion's token ids and their log-probabilities, EOS included."""
    loaded = Loaded(*load_causal(model))
    records = read(file, "demonstrations").records
    for record in records:
        _must_fit(loaded.chat, loaded.model.context, record.prompt, [record.completion], file)
    for start in range(0, len(records), BATCH):
        some = records[start : start + BATCH]
        written = [loaded.chat.encode_completion(record.completion) for record in some]
        ids, mask = right_padded(written, loaded.chat.pad_id)
        prompts = [loaded.chat.encode_prompt(record.prompt) for record in some]
        layout = padded(prompts, ids, mask, pad_id=loaded.chat.pad_id)
        values, _ = completion_logprobs(loaded.model, layout, temperature=1.0)
        for index, record in enumerate(some):
            count = len(written[index])
            yield {
                "prompt": record.prompt.text,
                "completion": record.completion,
                "ids": written[index],
                "logprobs": values[index, :count].tolist(),
            }


def score(model: str, file: str | Path) -> Iterator[dict[str, Any]]:
    """For each {prompt, completion} of a file its score; for each {prompt, chosen, rejected} both scores."""
    loaded, chat, _ = load_reward_model(model)
    reward = ModelReward("reward_model", loaded, chat)
    data = read(file)
    sides = {"pairs": ("chosen", "rejected"), "demonstrations": ("completion",)}.get(data.mapping.kind)
    if sides is None:
        raise DataError(
            "a reward model scores completions, and this file holds prompts alone. Add completions to its rows.",
            file,
        )
    context = getattr(loaded.trunk.config, "max_position_embeddings", None)
    for record in data.records:
        _must_fit(chat, context, record.prompt, [getattr(record, side) for side in sides], file)
    for start in range(0, len(data.records), BATCH):
        some = data.records[start : start + BATCH]
        scores = {side: _scores(reward, [(record.prompt, getattr(record, side)) for record in some]) for side in sides}
        for index, record in enumerate(some):
            texts = {side: getattr(record, side) for side in sides}
            named = {("score" if side == "completion" else f"score_{side}"): scores[side][index] for side in sides}
            yield {"prompt": record.prompt.text, **texts, **named}


def _scores(reward: ModelReward, rows: Sequence[tuple[Prompt, str]]) -> list[float]:
    ids, mask = right_padded([reward.chat.encode_completion(text) for _, text in rows], reward.chat.pad_id)
    prompt_ids = tuple(tuple(reward.chat.encode_prompt(prompt)) for prompt, _ in rows)
    seen = Completions(tuple(prompt for prompt, _ in rows), prompt_ids, ids, mask, tuple(text for _, text in rows))
    return checked_scores(reward, seen).tolist()


def winrate(
    before: str,
    after: str,
    *,
    judge: str,
    prompts: str | Path,
    sampling: Sampling,
    length: int,
    seed: int,
    samples: int = 1,
) -> dict[str, Any]:
    """How often a judge prefers the second model's answers to the first's, both sampled alike, `samples` a prompt.

    The judge is a reward-model directory, or `gold` with the prompts `testbed`, its held-out questions. Lengths are in
    characters, since tokens of two models may differ.
    """
    judged = _judge(judge, prompts)
    scores: list[list[float]] = []
    lengths: list[list[int]] = []
    rows: list[int] = []
    for path in (before, after):
        model = Loaded(*load_causal(path))
        records = _prompts(model, prompts)
        rows = [row for row in range(len(records)) for _ in range(samples)]
        numbers = list(range(samples)) * len(records)
        written, _ = sample(
            model,
            records,
            seed=derive(seed, "win rate"),
            rows=rows,
            samples=numbers,
            length=length,
            sampling=sampling,
        )
        scores.append(checked_scores(judged(model), written).tolist())
        lengths.append([len(text) for text in written.texts])
    return {
        **_won(rows, scores, lengths),
        "prompts": len(rows) // samples,
        "samples": samples,
        **{f"score_{side}": fmean(some) for side, some in zip(("before", "after"), scores, strict=True)},
        **{f"length_{side}": fmean(some) for side, some in zip(("before", "after"), lengths, strict=True)},
    }


def _won(rows: Sequence[int], scores: Sequence[Sequence[float]], lengths: Sequence[Sequence[int]]) -> dict[str, Any]:
    """The win rate of the second over the first and its intervals, at equal length too where that can be told."""
    outcomes: list[Outcome] = [compare(first, second) for first, second in zip(*scores, strict=True)]
    rate = win_rate(outcomes, rows)
    low, high = win_rate_bootstrap(outcomes, rows)
    told: dict[str, Any] = {
        "win_rate": rate.estimate,
        "low": rate.low,
        "high": rate.high,
        "bootstrap_low": low,
        "bootstrap_high": high,
        "wins": rate.wins,
        "ties": rate.ties,
        "losses": rate.losses,
    }
    longer = [second - first for first, second in zip(*lengths, strict=True)]
    controlled = length_controlled([POINTS[outcome] for outcome in outcomes], longer, rows)
    if controlled is not None:
        told["length_controlled"] = controlled.estimate
        told |= {"length_controlled_low": controlled.low, "length_controlled_high": controlled.high}
    return told


def _judge(judge: str, prompts: str | Path) -> Callable[[Loaded], Reward]:
    """What makes the judge of a model's answers; UsageError where gold is asked about other prompts than its own."""
    if judge == "gold":
        if str(prompts) != TESTBED:
            raise UsageError(
                f"The judge gold was given with the prompts {prompts}. Gold knows the testbed's questions only. Take a "
                f"reward model as judge, or --prompts {TESTBED}."
            )
        return lambda model: gold_reward()
    loaded, chat, _ = load_reward_model(judge)
    return lambda model: ModelReward("judge", loaded, chat, rereads=chat.fingerprint != model.chat.fingerprint)


def _prompts(loaded: Loaded, file: str | Path) -> Sequence[Prompt]:
    """The prompts of a file, or the testbed's held-out ones; DataError where one leaves no room for an answer."""
    records: Sequence[Prompt] = testbed.prompts("heldout") if str(file) == TESTBED else read(file, "prompts").records
    must_leave_room(loaded, records, file)
    return records


def must_leave_room(loaded: Loaded, prompts: Sequence[Prompt], file: str | Path) -> None:
    """DataError where one of a file's prompts leaves the model no room for an answer."""
    for prompt in prompts:
        length, context = len(loaded.chat.encode_prompt(prompt)), loaded.model.context
        if context is not None and length >= context:
            raise DataError(
                f"a prompt has {length} tokens, and the model's context of {context} must hold an answer too. Shorten "
                "the prompt, or use a model with a longer context.",
                file,
                prompt.line or None,
            )


def _must_fit(chat: ChatFormat, context: int | None, prompt: Prompt, replies: Sequence[str], file: str | Path) -> None:
    length = len(chat.encode_prompt(prompt)) + max(len(chat.encode_completion(reply)) for reply in replies)
    if context is not None and length > context:
        raise DataError(
            f"prompt and completion have {length} tokens, but the model's context is {context}. A row must fit whole. "
            "Shorten it, or use a model with a longer context.",
            file,
            prompt.line or None,
        )


def json_lines(rows: Iterator[dict[str, Any]]) -> Iterator[str]:
    """Each row as one line of JSON."""
    for row in rows:
        yield json.dumps(row, ensure_ascii=False, allow_nan=False)
