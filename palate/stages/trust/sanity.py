"""Whether alignment is given what the stages before it knew, asked once as it begins.

Can its reward read what the policy writes? A reward model whose weights and tokenizer do not belong together, or that
was trained on another template or with labels the wrong way round, loads and gives numbers like any other. What it
cannot do is tell an answer to a prompt from an answer to another one, and that needs no labels.

Are its prompts of a kind that was seen? Those of another language or kind are known by their spelling, for which no
model is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from statistics import fmean

from palate import testbed
from palate.engine.interfaces import Completions, Reward
from palate.ops import wilson_interval
from palate.recipe import TESTBED
from palate.records import Prompt
from palate.rewards import checked_scores
from palate.stages.context import Context
from palate.stages.material import evenly, read_section, records_of

# Runs of four characters: a word or a join of two, in any script.
RUN = 4
# Some thousand prompts hold nearly every run that their kind has.
PROMPTS_SEEN = 4096
# One in ten of the prompts that were seen is set aside, to say how new prompts of the same kind are.
ASIDE = 10


def told_apart(context: Context, reward: Reward, answers: Completions) -> dict[str, float]:
    """How often the reward gives an answer more than an answer to another prompt, with its interval.

    `answers` are the policy's as the stage begins. Each is compared with the one half of all rows away, so that files
    sorted by kind pair unlike prompts; equal texts are left out, equal scores are half. Empty where a reward is not a
    model, which need not read the prompt, and where no two answers differ.
    """
    if not all(source.models for source in context.align.sources):
        return {}
    count = len(answers.texts)
    others = [(row + count // 2) % count for row in range(count)]
    elsewhere = replace(
        answers,
        ids=answers.ids[others],
        mask=answers.mask[others],
        texts=tuple(answers.texts[row] for row in others),
    )
    gaps = (checked_scores(reward, answers) - checked_scores(reward, elsewhere)).tolist()
    told = [gap for gap, own, other in zip(gaps, answers.texts, elsewhere.texts, strict=True) if own != other]
    if not told:
        return {}
    ties = sum(gap == 0 for gap in told)
    wins = sum(gap > 0 for gap in told) + ties / 2
    low, high = wilson_interval(wins, len(told), ties=ties)
    return {
        "mismatched_accuracy": wins / len(told),
        "mismatched_accuracy_low": low,
        "mismatched_accuracy_high": high,
    }


def novelty(context: Context, prompts: Sequence[Prompt]) -> dict[str, float]:
    """How much of the prompts was never seen by SFT and the reward model: the mean share of a prompt's runs of four
    characters, and, to compare it with, that of prompts of theirs which were set aside. Empty where they saw none."""
    seen = _seen(context)
    aside, known = seen[::ASIDE], _runs(text for index, text in enumerate(seen) if index % ASIDE)
    if not known:
        return {}
    return {
        "prompt_novelty": _unseen(_some([prompt.text for prompt in prompts]), known),
        "prompt_novelty_usual": _unseen(aside, known),
    }


def _seen(context: Context) -> list[str]:
    """Prompts of the run's demonstrations and preference data, each once."""
    found: dict[str, None] = {}
    for section in ("sft", "reward"):
        part = getattr(context.recipe, section)
        if part is not None:
            files = context.data.get(section)
            if files is None and part.data != TESTBED:  # the stage alone, which does not rest on this section
                files = read_section(context.recipe, section)
            # Whatever the embedded world generates asks these.
            asked = testbed.prompts("known") if files is None else [record.prompt for record in records_of(files)]
            found |= dict.fromkeys(prompt.text for prompt in asked)
    return _some(list(found))


def _some(texts: Sequence[str]) -> list[str]:
    """At most as many texts as are looked at, spread over all."""
    return [texts[row] for row in evenly(min(PROMPTS_SEEN, len(texts)), len(texts))[0]]


def _runs(texts: Iterable[str]) -> set[str]:
    return {text[start : start + RUN] for text in texts for start in range(max(1, len(text) - RUN + 1))}


def _unseen(texts: Sequence[str], known: set[str]) -> float:
    """The mean over texts of the share of their runs that are not known."""
    return fmean(len(runs - known) / len(runs) for runs in (_runs([text]) for text in texts))
