"""What stages work on: records by section, the models that earlier stages left, examples that fit, samples.

Wherever a section's data is `testbed`, the records come from the embedded world instead of a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from transformers import PreTrainedTokenizerBase

from palate import testbed
from palate.algorithms.objectives import Example
from palate.data.chat import ChatFormat
from palate.data.checks import split_by_prompt
from palate.data.conversion import converted
from palate.data.recognition import Dataset, read
from palate.data.recognition import Mapping as ColumnMapping
from palate.data.rows import Kind
from palate.engine.generation import Generated, Sampling, generate
from palate.engine.interfaces import Completions
from palate.engine.seeding import derive, uniforms
from palate.errors import DataError, RecipeError
from palate.models.causal import CausalLM
from palate.models.loading import load_causal
from palate.models.scratch import scratch_model
from palate.models.trunk import recompute_layers
from palate.recipe import MIXED, TESTBED, Files, Model, Recipe, files_of
from palate.records import Demonstration, PreferencePair, Prompt
from palate.stages.context import Context

Record = TypeVar("Record", Demonstration, PreferencePair, Prompt)

SECTIONS = ("sft", "reward", "align", "evaluate")

# The name under which the files of align.mix stand among the run's data.
MIX = "align.mix"
# And those of evaluate.capability.
CAPABILITY = "evaluate.capability"


@dataclass(frozen=True)
class Loaded:
    """A language model with its chat format and tokenizer."""

    model: CausalLM
    chat: ChatFormat
    tokenizer: PreTrainedTokenizerBase


# ---- records


def kind_of(recipe: Recipe, section: str) -> Kind:
    """What a section's data must be."""
    if section == "align":
        return recipe.align.asks if recipe.align is not None else "prompts"
    if section == "reward":
        kinds = {"pairs": "pairs", "regression": "ratings"}
        return "pairs" if recipe.reward is None else kinds.get(recipe.reward.objective, "rankings")
    kinds: dict[str, Kind] = {"sft": "demonstrations", "evaluate": "prompts"}
    return kinds[section]


def data_files(recipe: Recipe, section: str) -> Files:
    """What a section names as its data."""
    part = getattr(recipe, section)
    if section == "align":
        return part.files
    return part.prompts if section == "evaluate" else part.data


def read_data(recipe: Recipe, sections: Sequence[str] = SECTIONS) -> tuple[dict[str, tuple[Dataset, ...]], Recipe]:
    """The sections' data files (held-out ones under "SECTION.heldout"), and the recipe with the mappings found
    pinned in it."""
    data: dict[str, tuple[Dataset, ...]] = {}
    for section in sections:
        part = getattr(recipe, section)
        if part is None:
            continue
        if data_files(recipe, section) != TESTBED:
            data[section] = read_section(recipe, section)
            pinned = replace(part, mapping=data[section][0].mapping.to_dict())
            recipe = replace(recipe, **{section: pinned})
        if getattr(part, "heldout", None) is not None:
            data[heldout_of(section)] = read_files(part.heldout, kind_of(recipe, section), part.on_bad, None)
        if getattr(part, "capability", None) is not None:
            data[CAPABILITY] = read_files(part.capability, "prompts", part.on_bad, None)
        mix = getattr(part, "mix", None)
        if mix is not None and mix.data != MIXED:
            data[MIX] = read_files(mix.data, "demonstrations", part.on_bad, None)
    return data, recipe


def read_section(recipe: Recipe, section: str) -> tuple[Dataset, ...]:
    """The files that a section names as its data."""
    part = getattr(recipe, section)
    mapping = None if part.mapping is None else ColumnMapping.from_dict(part.mapping)
    return read_files(data_files(recipe, section), kind_of(recipe, section), part.on_bad, mapping)


def mixed(context: Context) -> tuple[Demonstration, ...]:
    """The demonstrations that alignment learns beside its reward."""
    if MIX in context.data:
        return records_of(context.data[MIX])
    files = context.data.get("sft")
    if files is None and context.sft.data != TESTBED:
        files = read_section(context.recipe, "sft")
    return generated(context.recipe, "sft") if files is None else records_of(files)


def heldout_of(section: str) -> str:
    """The name under which a section's held-out files stand among the run's data."""
    return f"{section}.heldout"


def read_files(files: Files, kind: Kind, on_bad: Any, mapping: ColumnMapping | None) -> tuple[Dataset, ...]:
    """The files of one setting; all are read as the first of them is."""
    read_so_far: list[Dataset] = []
    for file in files_of(files):
        read_so_far.append(read(file, kind, on_bad=on_bad, mapping=mapping))
        mapping = read_so_far[0].mapping
    return tuple(read_so_far)


def stage_records(context: Context, section: str) -> tuple[Any, ...]:
    """A section's records, with a sentence on what was left out."""
    files = context.data.get(section)
    if files is None:
        return generated(context.recipe, section)
    for file in files:
        if file.skipped:
            line, reason = file.skipped[0]
            count = f"{len(file.skipped)} bad row{'s' if len(file.skipped) > 1 else ''}"
            context.say(f"{section}: {file.path}: {count} left out. The first is line {line}: {reason}")
        if file.dropped_equal:
            count = f"{file.dropped_equal} pair{'s' if file.dropped_equal > 1 else ''}"
            context.say(f"{section}: {file.path}: {count} with two equal sides left out.")
    return records_of(files)


def records_of(files: Sequence[Dataset]) -> tuple[Any, ...]:
    """The records of several files, one after the other."""
    return tuple(record for file in files for record in file.records)


def generated(recipe: Recipe, section: str) -> tuple[Any, ...]:
    """A section's records from the embedded world."""
    kind = kind_of(recipe, section)
    if kind == "prompts":
        return asked(testbed.prompts("known" if section == "align" else "heldout"), recipe.testbed.tasks)
    # One crowd: alignment learns from the same demonstrations and pairs as the stage that is named after them.
    source = "sft" if kind == "demonstrations" else "reward"
    world, seed = recipe.testbed, derive(recipe.run.seed, "testbed", source) % 2**32
    if kind == "demonstrations":
        return testbed.demonstrations(world.demonstrations, seed)
    pairs = testbed.pairs(world.pairs, seed, annotator(recipe), split="known")
    return pairs if kind == "pairs" else tuple(one for pair in pairs for one in converted([pair], kind, "worst"))


def asked(prompts: Sequence[Prompt], tasks: Sequence[str]) -> tuple[Prompt, ...]:
    """The testbed's questions of these kinds, all of them where none is named."""
    kinds = sorted({str(prompt.fields["task"]) for prompt in prompts})
    unknown = [task for task in tasks if task not in kinds]
    if unknown:
        raise RecipeError(
            f"testbed.tasks names {unknown[0]!r}. The kinds of questions are {', '.join(kinds)}. Correct the name."
        )
    return tuple(prompt for prompt in prompts if not tasks or prompt.fields["task"] in tasks)


def annotator(recipe: Recipe) -> testbed.Annotator:
    """The testbed's annotator as the recipe wants it."""
    return testbed.Annotator(biases=recipe.testbed.biases, random_labels=recipe.testbed.random_labels)


def split(context: Context, section: str, records: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
    """Training and held-out records: a file of their own, the testbed's held-out phrasings, or a share by prompt."""
    part = getattr(context.recipe, section)
    if part.heldout is not None:
        return records, records_of(context.data[heldout_of(section)])
    if part.data == TESTBED and section == "reward":
        seed = derive(context.seed, "testbed", "heldout pairs") % 2**32
        # The controls' coin-tossing annotators label the training pairs only: accuracy is against honest ones.
        honest = testbed.Annotator(biases=context.recipe.testbed.biases)
        return records, testbed.pairs(context.recipe.testbed.heldout_pairs, seed, honest, split="heldout")
    train, heldout = split_by_prompt(records, part.heldout_fraction, context.seed)
    if not train or not heldout:
        raise DataError(
            f"a share of {part.heldout_fraction:g} of {len(records)} rows, held out by prompt, left {len(train)} to "
            f"train on and {len(heldout)} to test on. Both need at least one. Give more rows, another "
            f"{section}.heldout_fraction, or a file as {section}.heldout.",
            files_of(part.data)[0],
        )
    return train, heldout


def fitting(
    context: Context, section: str, examples: Sequence[Example], records: Sequence[Any], limit: int | None
) -> list[Example]:
    """The examples that fit the model's context; too long a row is bad: it stops the run, or is left out and
    counted."""
    long = [index for index, example in enumerate(examples) if limit is not None and example.longest > limit]
    if long and (getattr(context.recipe, section).on_bad == "stop" or len(long) == len(examples)):
        first = long[0]
        record = records[first]
        raise DataError(
            f"prompt and completion have {examples[first].longest} tokens, but the model's context is {limit} "
            f"({len(long)} of {len(examples)} rows are too long). A row must fit whole. Shorten it, use a longer "
            f'context, or set {section}.on_bad = "skip".',
            *place_of(context, section, record),
        )
    if long:
        context.say(
            f"{section}: {len(long)} of {len(examples)} rows are longer than the context of {limit} tokens and were "
            "left out."
        )
    dropped = set(long)
    return [example for index, example in enumerate(examples) if index not in dropped]


def fitting_prompts(
    context: Context, section: str, policy: Loaded, prompts: Sequence[Prompt], length: int
) -> list[Prompt]:
    """The prompts that leave room for a completion of `length` tokens; a longer one is a bad row."""
    limit = policy.model.context
    if limit is None:
        return list(prompts)
    room = limit - length
    lengths = [len(policy.chat.encode_prompt(prompt)) for prompt in prompts]
    long = [index for index, count in enumerate(lengths) if count > room]
    if long and (getattr(context.recipe, section).on_bad == "stop" or len(long) == len(prompts)):
        raise DataError(
            f"a prompt has {lengths[long[0]]} tokens, but the model's context of {limit} less max_new_tokens = "
            f"{length} leaves {room} ({len(long)} of {len(prompts)} prompts are too long). A prompt must leave room "
            f'for a whole answer. Shorten it, lower align.max_new_tokens, or set {section}.on_bad = "skip".',
            *place_of(context, section, prompts[long[0]]),
        )
    if long:
        context.say(f"{section}: {len(long)} of {len(prompts)} prompts leave no room for an answer and were left out.")
    return [prompt for prompt, count in zip(prompts, lengths, strict=True) if count <= room]


def place_of(context: Context, section: str, record: Any) -> tuple[str | None, int | None]:
    """The file and line that a record came from."""
    for file in (*context.data.get(section, ()), *context.data.get(heldout_of(section), ())):
        if any(record is known for known in file.records):
            prompt = record if isinstance(record, Prompt) else record.prompt
            return str(file.path), prompt.line or None
    return None, None


# ---- models


def source_of(model: Model) -> str | Path:
    """The directory or hub name of the model that a run is given; RecipeError where it makes one from nothing."""
    if model.path is None:
        raise RecipeError(
            "[model.scratch] was given without [sft]. A model from nothing must be trained first. Add a section [sft]."
        )
    return testbed.base_model() if model.path == TESTBED else model.path


def start_model(context: Context) -> Loaded:
    """The model that the recipe starts from."""
    model = context.recipe.model
    if model.scratch is not None:
        shape = model.scratch
        made = scratch_model(
            scratch_texts(context),
            hidden=shape.hidden,
            layers=shape.layers,
            heads=shape.heads,
            vocabulary=shape.vocabulary,
            context=shape.context,
            seed=derive(context.seed, "scratch model") % 2**32,
        )
        made[0].to(context.device)
        return as_recipe_wants(context, Loaded(*made))
    return as_recipe_wants(context, Loaded(*load_causal(source_of(model), device=context.device)))


def as_recipe_wants(context: Context, loaded: Loaded) -> Loaded:
    """The model, computing its layers again on the way back where the recipe says so."""
    if context.recipe.model.gradient_checkpointing:
        recompute_layers(loaded.model.trunk)
    return loaded


def scratch_texts(context: Context) -> list[str]:
    """The run's own text, which a scratch tokenizer learns from: demonstrations, or else the chosen replies."""
    section = "sft" if context.recipe.sft is not None else "reward"
    if getattr(context.recipe, section) is None:
        raise RecipeError(
            "[model.scratch] was given without [sft] or [reward]. A scratch tokenizer is trained on the run's own "
            "text, and there "
            "is none. Add one of these sections, or start from a model's path."
        )
    files = context.data.get(section)
    records = generated(context.recipe, section) if files is None else records_of(files)
    texts: list[str] = []
    for item in records:
        texts += [message.content for message in item.prompt.messages]
        texts.append(item.completion if isinstance(item, Demonstration) else item.chosen)
    return texts


def policy_path(context: Context) -> str | Path:
    """Where the policy stands that reward and align start from: the run's SFT model, or the model it was given."""
    saved = context.place("sft", "model")
    if context.recipe.sft is not None or saved.exists():
        return saved
    return source_of(context.recipe.model)


def load_policy(context: Context) -> Loaded:
    """The SFT model, or the model that the run was given."""
    return as_recipe_wants(context, Loaded(*load_causal(policy_path(context), device=context.device)))


# ---- samples


def evenly(count: int, total: int) -> tuple[list[int], list[int]]:
    """`count` of `total` prompts by place, and which sample of its prompt each is: evenly spread, since files are often
    sorted by kind."""
    if count <= total:
        return [index * total // count for index in range(count)], [0] * count
    return [index % total for index in range(count)], [index // total for index in range(count)]


def sample(
    loaded: Loaded,
    prompts: Sequence[Prompt],
    *,
    seed: int,
    samples: Sequence[int],
    rows: Sequence[int],
    length: int,
    sampling: Sampling,
    slots: int = 128,
) -> tuple[Completions, Generated]:
    """One completion for each (row, sample), `slots` at a time: row indexes `prompts`, and the numbers drawn depend on
    the two alone."""
    ids = [tuple(loaded.chat.encode_prompt(prompts[row])) for row in rows]
    drawn = generate(
        loaded.model,
        ids,
        u=uniforms(seed, 0, rows, samples, length),
        eos_id=loaded.chat.eos_id,
        pad_id=loaded.chat.pad_id,
        sampling=sampling,
        slots=slots,
    )
    texts = tuple(
        loaded.chat.decode(row[:count].tolist())
        for row, count in zip(drawn.ids, drawn.mask.sum(dim=1).tolist(), strict=True)
    )
    return Completions(tuple(prompts[row] for row in rows), tuple(ids), drawn.ids, drawn.mask, texts), drawn
