"""The command `palate collect`: from model directories and a file of prompts to a store of items that people judge."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from palate import testbed
from palate.collect.candidates import Drawing
from palate.collect.judgements import Item, Mode
from palate.collect.selection import SLICES, Selection
from palate.collect.store import Store
from palate.data.recognition import read
from palate.engine.interfaces import Onlooker
from palate.engine.seeding import permutation
from palate.errors import UsageError
from palate.models import load_reward_model
from palate.recipe import TESTBED, Run
from palate.records import Prompt
from palate.rewards import ModelReward
from palate.stages.context import device_of
from palate.stages.estimate import EFFICIENCY, characters, matrix_rate, spoken
from palate.stages.people.collecting import FOOLING, Gathered, Writer, gather, samples_at, writer_of
from palate.stages.tools import must_leave_room

# Prompts that candidates are drawn for, where there are more: enough for the focused slices to choose among.
PROMPTS_A_QUESTION = 4


def collect(
    models: Sequence[str | Path],
    prompts: str | Path,
    out: str | Path,
    *,
    drawing: Drawing,
    selection: Selection,
    mode: Mode = "pair",
    rewards: Sequence[str | Path] = (),
    overlap: int = 1,
    repeats: float = 0.0,
    seed: int = 0,
    round: int = 1,
    watch: Callable[[str], Onlooker],
) -> tuple[Gathered, int]:
    """Fills a store with what to ask about the answers of model directories; also how many of the items are new.

    The prompts are those of a file, or the testbed's, of many a random few. Raises UsageError where the store's items
    of this round and mode were collected otherwise, as their propensities would no longer be true.
    """
    if Path(out).exists():
        Store(out).close()  # what is no store is refused before the work
    asking, writers, judges = _loaded(models, prompts, rewards, selection, mode, seed)
    found = gather(
        writers,
        asking,
        drawing=drawing,
        selection=selection,
        mode=mode,
        rewards=judges,
        overlap=overlap,
        repeats=repeats,
        seed=seed,
        round=round,
        watch=watch,
    )
    if not found.items:
        raise UsageError(
            f"{found.drawn} completions of {found.prompts} prompts hold no two that differ, so there is nothing to "
            f"ask in the mode {mode!r}. Draw more samples, at a higher temperature or from more models."
        )
    with Store(out) as store:
        _must_agree(store, found.items, mode, round)
        return found, store.add_items(found.items)


def plan(
    models: Sequence[str | Path],
    prompts: str | Path,
    *,
    drawing: Drawing,
    selection: Selection,
    mode: Mode = "pair",
    rewards: Sequence[str | Path] = (),
    seed: int = 0,
) -> list[str]:
    """What `collect` would do and cost, in sentences; nothing is sampled or written."""
    asking, writers, judges = _loaded(models, prompts, rewards, selection, mode, seed)
    each = sum(samples_at(temperature, drawing) for temperature in drawing.temperatures)
    tokens = sum(map(characters, asking)) / 4 / len(asking) + drawing.max_new_tokens
    weights = sum(parameter.numel() for one in writers for parameter in one.loaded.model.parameters())
    judging = sum(parameter.numel() for one in judges for parameter in one.model.parameters()) * len(writers)
    # A forward pass takes 2 operations a parameter and token; probes score as much again as there are prompts.
    operations = 2 * tokens * len(asking) * (each * weights + (each + len(FOOLING)) * judging)
    seconds = operations / (EFFICIENCY * matrix_rate(device_of(Run())))
    shares = _shares(selection) if judges else "all at random, as there is no reward model"
    return [
        f"{len(asking)} prompts, {len(writers)} model{'s' * (len(writers) != 1)}, {each} samples of each: "
        f"{len(asking) * len(writers) * each} completions of at most {drawing.max_new_tokens} tokens, "
        f"{spoken(seconds)}.",
        f"At most {selection.count} items of mode {mode}, at most {selection.per_prompt} a prompt: {shares}.",
        "Nothing was done.",
    ]


def told(found: Gathered, new: int, selection: Selection) -> list[str]:
    """What was collected, in sentences."""
    slices = ", ".join(f"{found.slices[name]} {name}" for name in SLICES if name in found.slices)
    hidden = len(found.items) - sum(found.slices.values())
    fooled = f", and {found.fooled} more with an edit that the reward model likes better" * bool(found.fooled)
    spent = "".join(f" {name} took {seconds:.1f} s." for name, seconds in found.seconds.items())
    lines = [
        f"{found.prompts} prompts, {found.drawn} completions, {found.distinct} of them different: {found.possible} "
        f"questions are possible{fooled}.{spent}",
        f"{len(found.items)} items: {slices}{f', and {hidden} hidden repetitions' * bool(hidden)}. {new} are new.",
    ]
    if sum(found.slices.values()) < min(selection.count, found.possible + found.fooled):
        lines.append(
            f"{selection.count} were wanted; with at most {selection.per_prompt} a prompt there are no more. Give more "
            "prompts or samples, or raise --per-prompt."
        )
    return lines


def _shares(selection: Selection) -> str:
    whole = selection.random + selection.uncertain + selection.adversarial
    return ", ".join(f"{getattr(selection, name) / whole:.0%} {name}" for name in SLICES)


def _loaded(
    models: Sequence[str | Path],
    prompts: str | Path,
    rewards: Sequence[str | Path],
    selection: Selection,
    mode: Mode,
    seed: int,
) -> tuple[list[Prompt], list[Writer], list[ModelReward]]:
    """The prompts to ask with, and the models."""
    if not models and mode != "demonstration":
        raise UsageError(
            f"No model was given, and items of mode {mode!r} show what models wrote. Name at least one, or collect "
            "demonstrations."
        )
    device = device_of(Run())
    writers = [writer_of(model, device=device) for model in models]
    records = testbed.prompts("known") if str(prompts) == TESTBED else read(prompts, "prompts").records
    for writer in writers:
        must_leave_room(writer.loaded, records, prompts)
    some = permutation(len(records), seed, "collect", "prompts")[: PROMPTS_A_QUESTION * selection.count].tolist()
    judges = [ModelReward(str(place), *load_reward_model(place, device=device)[:2]) for place in rewards]
    return [records[place] for place in some], writers, judges


def _must_agree(store: Store, items: Sequence[Item], mode: Mode, round: int) -> None:
    """UsageError where the store has other items of this round and mode than these: one round is one selection."""

    def written(some: Sequence[Item]) -> set[str]:
        return {json.dumps(item.to_json(), sort_keys=True) for item in some}

    collected = [one for one in store.items() if one.mode == mode and one.slice != "given"]
    stored = [one for one in collected if one.round == round]
    if stored and written(stored) != written(items):
        raise UsageError(
            f"{store.path} holds {len(stored)} items of round {round} and mode {mode!r} that were collected with other "
            "models, prompts or settings. A round is one selection, whose probabilities are recorded. Give the same "
            f"again, --round {max(one.round for one in collected) + 1}, or another --out."
        )
