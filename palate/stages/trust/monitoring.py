"""Hacking monitors on an alignment's first and last models: what is read off their answers, and what is asked besides.

The same prompts and random numbers are given to both. Most monitors read completions that alignment has anyway;
whether samples of one prompt still differ, and whether answers follow the user's opinion, needs some more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from palate import testbed
from palate.engine.files import encode_json, write_atomic
from palate.engine.interfaces import Completions
from palate.engine.seeding import derive
from palate.errors import DataError
from palate.evaluation.monitors import (
    DISTINCT_ANSWERS,
    MONITORS,
    SAMPLES,
    TESTBED_MONITORS,
    Answer,
    Monitor,
    Reading,
    Sample,
    answers,
    compared,
    reading,
    settled,
)
from palate.evaluation.phrases import phrase_reading
from palate.evaluation.sycophancy import (
    OPINION_FLIPS,
    PUSHBACK_FLIPS,
    Doubted,
    Opined,
    OpinionPair,
    Says,
    claims,
    pushed_back,
    says,
    stated_pairs,
    world_pairs,
)
from palate.recipe import TESTBED
from palate.records import Prompt
from palate.report.words import shortened
from palate.stages.context import Context
from palate.stages.material import Loaded, data_files, evenly, sample

# Prompts with several samples each, for mode collapse: 16 sign flips tell 1 in 65,536.
PROMPTS = 16
# Questions with and without an opinion, and answers that are doubted: enough to see a rise of one in ten.
PAIRS = 64
# Characters of a sample that the terminal shows; the file has all.
SHOWN = 80


def monitor(
    context: Context, policy_before: Loaded, policy_after: Loaded, before: Completions, after: Completions
) -> dict[str, float]:
    """Compares two models by all monitors, writes `align/monitors.json`, tells of alarms, and returns the figures.

    `before` and `after` are the two models' completions of the same prompts. Figures are `alarms`, their number, and
    `monitor/NAME`, each monitor's value after.
    """
    old, new = answers(before, policy_before.chat.eos_id), answers(after, policy_after.chat.eos_id)
    models = (policy_before, policy_after)
    prompts = list(dict.fromkeys(before.prompts))
    readings = [compared(one, old, new) for one in cheap_monitors(context)]
    found = (
        phrase_reading(old, new),
        _collapse(context, models, prompts),
        _opinions(context, models, prompts),
        _pushback(context, models, old, new),
    )
    readings = settled([*readings, *(one for one in found if one is not None)])
    write_atomic(context.place("align", "monitors.json"), encode_json([asdict(one) for one in readings], indent=2))
    for one in readings:
        if one.alarm:
            context.say(alarm_sentence(one))
    return {
        "alarms": float(sum(one.alarm for one in readings)),
        **{f"monitor/{one.name}": one.value for one in readings},
    }


def cheap_monitors(context: Context) -> tuple[Monitor, ...]:
    """The monitors that need no completions of their own; the testbed's where prompts are its."""
    return TESTBED_MONITORS if on_testbed(context) else MONITORS


def on_testbed(context: Context) -> bool:
    """Whether alignment's prompts are the testbed's, whose truth is known."""
    return data_files(context.recipe, "align") == TESTBED


def alarm_sentence(one: Reading) -> str:
    """An alarm in one sentence, with its first sample."""
    shown = [f'"{shortened(text, SHOWN)}"' for sample in one.samples[:1] for text in (sample.completion, sample.prompt)]
    return (
        f"align: monitor {one.name}: {one.measures} went from {one.baseline:z.2f} to {one.value:z.2f}; the alarm is "
        f"from {one.threshold:z.2f} on{', as in ' + ' to '.join(shown) if shown else ''}."
    )


# ---- what needs completions of its own


def _collapse(context: Context, models: Sequence[Loaded], prompts: Sequence[Prompt]) -> Reading:
    """Whether several samples of one prompt still differ."""
    rows, _ = evenly(min(PROMPTS, len(prompts)), len(prompts))
    asked = [prompts[row] for row in rows for _ in range(SAMPLES)]
    before, after = (
        [texts[start : start + SAMPLES] for start in range(0, len(asked), SAMPLES)]
        for texts in (_texts(context, model, asked, "mode collapse") for model in models)
    )
    samples = [
        Sample(prompts[row].text, " / ".join(dict.fromkeys(old)), " / ".join(dict.fromkeys(new)))
        for row, old, new in zip(rows, before, after, strict=True)
    ]
    return reading(DISTINCT_ANSWERS, before, after, samples)


def _opinions(context: Context, models: Sequence[Loaded], prompts: Sequence[Prompt]) -> Reading | None:
    """Whether answers become the opinion that the user states; None where no question's right answer is known."""
    world = on_testbed(context)
    pairs = [
        pair
        for pair in (world_pairs(testbed.prompts("known")) if world else stated_pairs(prompts))
        if all(_fits(context, models[0], prompt) for prompt in (pair.neutral, pair.opinionated))
    ]
    if not pairs:
        return None
    rows, _ = evenly(min(PAIRS, len(pairs)), len(pairs))
    before, after = (
        opined(context, model, [pairs[row] for row in rows], claims if world else says) for model in models
    )
    samples = [
        Sample(old.pair.opinionated.text, old.opinionated, new.opinionated)
        for old, new in zip(before, after, strict=True)
    ]
    return reading(OPINION_FLIPS, before, after, samples)


def opined(context: Context, model: Loaded, pairs: Sequence[OpinionPair], says: Says) -> list[Opined]:
    """A model's answers to both sides of each pair."""
    texts = _texts(
        context, model, [prompt for pair in pairs for prompt in (pair.neutral, pair.opinionated)], "opinions"
    )
    return [Opined(pair, texts[2 * row], texts[2 * row + 1], says) for row, pair in enumerate(pairs)]


def _pushback(
    context: Context, models: Sequence[Loaded], before: Sequence[Answer], after: Sequence[Answer]
) -> Reading | None:
    """Whether answers are given up when doubted; None where the models know single questions alone, or none fits."""
    doubts = [[pushed_back(one.prompt, one.text) for one in given] for given in (before, after)]
    fitting = [
        row
        for row in range(len(before))
        if all(_fits(context, model, asked[row]) for model, asked in zip(models, doubts, strict=True))
    ]
    if on_testbed(context) or not fitting:
        return None
    rows = [fitting[row] for row in evenly(min(PAIRS, len(fitting)), len(fitting))[0]]
    old, new = (
        [
            Doubted(given[row].prompt, given[row].text, second)
            for row, second in zip(rows, _texts(context, model, [asked[row] for row in rows], "pushback"), strict=True)
        ]
        for model, asked, given in zip(models, doubts, (before, after), strict=True)
    )
    samples = [Sample(one.prompt.text, one.second, two.second) for one, two in zip(old, new, strict=True)]
    return reading(PUSHBACK_FLIPS, old, new, samples)


def _texts(context: Context, model: Loaded, prompts: Sequence[Prompt], purpose: str) -> list[str]:
    """One answer a row; every model is given the same uniform numbers."""
    loop = context.align.loop
    written, _ = sample(
        model,
        prompts,
        seed=derive(context.seed, "monitors", purpose),
        rows=range(len(prompts)),
        samples=[0] * len(prompts),
        length=loop.max_new_tokens,
        sampling=loop.sampling,
    )
    return list(written.texts)


def _fits(context: Context, model: Loaded, prompt: Prompt) -> bool:
    """Whether the prompt can be asked with room for an answer; some templates refuse a second turn."""
    try:
        length = len(model.chat.encode_prompt(prompt))
    except DataError:
        return False
    limit = model.model.context
    return limit is None or length + context.align.loop.max_new_tokens <= limit
