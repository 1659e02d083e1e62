"""What alignment cost elsewhere: held-out text, questions with known answers, prompts of a kind that nobody trained on.

Each is measured for the model before and the model after, in the same way.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from palate.data.chat import ChatFormat
from palate.engine.generation import Generated, Sampling
from palate.engine.interfaces import Completions
from palate.engine.seeding import derive
from palate.errors import DataError
from palate.evaluation import compare, degenerate, unusual_prompts, win_rate
from palate.evaluation import perplexity as perplexity_of
from palate.ops import wilson_interval
from palate.records import Message, Prompt
from palate.rewards.answers import is_number
from palate.rewards.rules import Answer
from palate.stages.context import Context
from palate.stages.material import CAPABILITY, Loaded, place_of, records_of, sample
from palate.stages.trust.anchor import held_out_text

# Demonstrations that the perplexity is measured on: its standard error is then a twentieth of the spread among them.
DEMONSTRATIONS = 400


# ---- held-out text


def perplexity(context: Context, before: Loaded, after: Loaded) -> dict[str, Any] | None:
    """exp(mean −log π) of a token of held-out demonstrations; None where the recipe has none."""
    if context.recipe.sft is None:
        return None
    text = held_out_text(context, before, DEMONSTRATIONS, context.sft.loop.micro_tokens)
    if text is None:
        return None
    figures = {name: perplexity_of(text.loss(one.model)) for name, one in (("before", before), ("after", after))}
    return figures | {"demonstrations": len(text.examples)}


# ---- capability


def questions(context: Context) -> tuple[tuple[Prompt, ...], Answer] | None:
    """The capability questions and the verifier of their answers: of numbers where every answer is one, else of words.

    None where the recipe names none. Raises DataError for a row without an answer.
    """
    if CAPABILITY not in context.data:
        return None
    asked: tuple[Prompt, ...] = records_of(context.data[CAPABILITY])
    numbers = all(is_number(str(prompt.fields.get("answer", ""))) for prompt in asked)
    verifier = Answer(match="number" if numbers else "text")
    for prompt in asked:
        try:
            verifier.wanted(prompt)
        except DataError as error:
            raise DataError(str(error), *place_of(context, CAPABILITY, prompt)) from error
    return asked, verifier


def capability(context: Context, before: Loaded, after: Loaded, length: int) -> dict[str, Any] | None:
    """The share of capability questions that each model's likeliest answer gets right; None where there are none.

    Questions that leave no room for an answer are left out, and it is said how many.
    """
    found = questions(context)
    if found is None:
        return None
    asked, verifier = found
    fitting = [prompt for prompt in asked if _tokens(before.chat, prompt) <= _room(before, length)]
    if len(fitting) < len(asked):
        out = len(asked) - len(fitting)
        context.say(
            f"evaluate: {out} of {len(asked)} capability questions leave no room for an answer and are left out."
        )
    if not fitting:
        return None
    right = [
        verifier.scores(_answered(context, model, fitting, length, Sampling(temperature=0))[0]).tolist()
        for model in (before, after)
    ]
    return changed(*right)


def changed(before: Sequence[float], after: Sequence[float]) -> dict[str, Any]:
    """Shares of right answers (1 is right, 0 wrong) and their difference, question by question, with its interval.

    The difference is 2·w − 1, w the win rate of after over before, where a question that both answer alike is a tie.
    """
    rate = win_rate(compare(*pair) for pair in zip(before, after, strict=True))
    return {
        "questions": len(before),
        "before": fmean(before),
        "after": fmean(after),
        "difference": 2 * rate.estimate - 1,
        "low": 2 * rate.low - 1,
        "high": 2 * rate.high - 1,
    }


# ---- unusual prompts


def unusual(
    context: Context, before: Loaded, after: Loaded, length: int
) -> tuple[dict[str, Any], list[dict[str, Any]]] | None:
    """The shares of unusual prompts whose answer degenerates, with Wilson's intervals and by kind, and every answer.

    A prompt too long for the context keeps its end, where the question stands; one that cannot be asked at all is left
    out. Both are counted. None where no prompt can be asked.
    """
    shipped = unusual_prompts()
    room = _room(before, length)
    fitted = [shortened(before.chat, prompt, room) for prompt in shipped]
    asked = [prompt for prompt in fitted if prompt is not None]
    if not asked:
        return None
    sides: list[tuple[tuple[str, ...], list[str | None]]] = []
    for model in (before, after):
        completions, drawn = _answered(context, model, asked, length, context.evaluate.sampling)
        sides.append((completions.texts, list(map(degenerate, completions.texts, drawn.finish))))
    rows = [
        {
            "kind": prompt.fields["kind"],
            "prompt": prompt.text,
            "before": sides[0][0][row],
            "after": sides[1][0][row],
            "flaw_before": sides[0][1][row],
            "flaw_after": sides[1][1][row],
        }
        for row, prompt in enumerate(asked)
    ]
    changed = sum(one is not None and one is not whole for one, whole in zip(fitted, shipped, strict=True))
    return _shares(rows) | {"shortened": changed, "left_out": len(shipped) - len(asked)}, rows


def shortened(chat: ChatFormat, prompt: Prompt, room: float) -> Prompt | None:
    """The prompt with as much of its end as `room` tokens hold; None where nothing of it can be asked."""
    text = prompt.text
    if _tokens(chat, prompt) <= room:
        return prompt
    ends = [replace(prompt, messages=(Message("user", text[start:]),)) for start in reversed(range(len(text)))]
    kept = bisect_right(ends, room, key=lambda end: _tokens(chat, end))
    return ends[kept - 1] if kept else None


def _room(model: Loaded, length: int) -> float:
    """Tokens that a prompt may have beside an answer of `length`."""
    return math.inf if model.model.context is None else model.model.context - length


def _tokens(chat: ChatFormat, prompt: Prompt) -> float:
    """How many tokens a prompt has, infinitely many where it cannot be asked."""
    try:
        return len(chat.encode_prompt(prompt))
    except DataError:
        return math.inf


def _shares(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {"prompts": len(rows)}
    for side in ("before", "after"):
        flawed = sum(row[f"flaw_{side}"] is not None for row in rows)
        low, high = wilson_interval(flawed, len(rows))
        found |= {side: flawed / len(rows), f"{side}_low": low, f"{side}_high": high}
    kinds = dict.fromkeys(row["kind"] for row in rows)
    return found | {"kinds": [_of_kind(kind, [row for row in rows if row["kind"] == kind]) for kind in kinds]}


def _of_kind(kind: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    shares = {side: fmean(row[f"flaw_{side}"] is not None for row in rows) for side in ("before", "after")}
    return {"name": kind, "count": len(rows), **shares}


def _answered(
    context: Context, model: Loaded, prompts: Sequence[Prompt], length: int, sampling: Sampling
) -> tuple[Completions, Generated]:
    """One answer a prompt; both models are given the same uniform numbers."""
    return sample(
        model,
        prompts,
        seed=derive(context.seed, "regression"),
        rows=range(len(prompts)),
        samples=[0] * len(prompts),
        length=length,
        sampling=sampling,
    )
