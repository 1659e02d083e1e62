"""What a run would do and cost, before it does: stages, steps, tokens, memory and time.

Time is arithmetic over the machine's matrix rate, measured for a moment: a forward pass takes 2 operations a
parameter and token, a forward and backward pass 6. Small models reach less than the rate; the estimate allows for
that by `EFFICIENCY`, and is meant to tell minutes from hours.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from rich.table import Table

from palate.algorithms.direct import DIRECT
from palate.algorithms.makers import MAKERS
from palate.models import load_causal
from palate.recipe import FEEDBACK, Align, Recipe
from palate.stages.context import device_of, use_threads
from palate.stages.material import generated, read_data, records_of, source_of
from palate.stages.run import STAGES, rests_on

# The share of the matrix rate that training small models reached on two cores, attention and overhead included.
EFFICIENCY = 0.25
BYTES_A_PARAMETER = 16  # float32 weights, gradients and Adam's two moments


@dataclass(frozen=True, slots=True)
class Cost:
    """One stage's work."""

    stage: str
    what: str
    operations: float
    parameters: int


def estimate(recipe: Recipe, only: str | None = None) -> Table:
    """A table of the stages with rows, memory and time."""
    use_threads(recipe.run)
    if only is not None:
        rests_on(recipe, only)  # which says so where the recipe has no such stage
        recipe = replace(recipe, **{name: None for name in STAGES if name != only})
    rounds = "" if recipe.rounds is None else f", the first of {recipe.rounds.number} rounds"
    if recipe.reward is not None and recipe.reward.data == FEEDBACK:
        recipe = replace(recipe, reward=None)  # how much it will be is for those to say who vote
    data, recipe = read_data(recipe)
    parameters = model_parameters(recipe)
    rate = matrix_rate(device_of(recipe.run))
    table = Table(
        box=None,
        padding=(0, 2, 0, 0),
        title=f"Plan of run {recipe.run.name!r}{rounds}; nothing was done",
        title_justify="left",
    )
    for name, side in (("stage", "left"), ("what", "left"), ("memory", "right"), ("time", "right")):
        table.add_column(name, justify=side)  # pyright: ignore[reportArgumentType]
    total = 0.0
    for cost in costs(recipe, {name: records_of(files) for name, files in data.items()}, parameters):
        seconds = cost.operations / (EFFICIENCY * rate)
        total += seconds
        table.add_row(cost.stage, cost.what, f"{cost.parameters * BYTES_A_PARAMETER / 1e6:.0f} MB", spoken(seconds))
    table.add_row("all", f"{parameters / 1e6:.1f} M parameters, {rate / 1e9:.0f} GFLOP/s measured", "", spoken(total))
    return table


def costs(recipe: Recipe, data: dict[str, Sequence], parameters: int) -> list[Cost]:
    """The work of every stage in the recipe; tokens are taken as a quarter of the characters."""
    found = []
    rows = {
        name: data.get(name) or generated(recipe, name)
        for name in ("sft", "reward", "align", "evaluate")
        if getattr(recipe, name) is not None
    }
    for name in ("sft", "reward"):
        section = getattr(recipe, name)
        if section is not None:
            tokens = section.loop.epochs * sum(characters(row) for row in rows[name]) / 4
            found.append(
                Cost(
                    name,
                    f"{len(rows[name])} rows, {section.loop.epochs} epoch{'s' if section.loop.epochs > 1 else ''}",
                    6 * parameters * tokens,
                    parameters,
                )
            )
    if recipe.align is not None:
        found.append(alignment(recipe.align, rows["align"], parameters))
    if recipe.evaluate is not None:
        count = min(recipe.evaluate.count, len(rows["evaluate"]))
        length = recipe.align.loop.max_new_tokens if recipe.align else 64
        found.append(Cost("evaluate", f"{count} prompts, both models", 8 * parameters * count * 2 * length, parameters))
    return found


def alignment(align: Align, rows: Sequence, parameters: int) -> Cost:
    """The work of alignment, by whichever of the three ways."""
    loop, method = align.loop, align.method
    judges = sum(len(source.models) for source in align.sources) if align.judged else 0
    prompt = sum(characters(getattr(row, "prompt", row)) for row in rows) / 4 / len(rows)
    if align.algorithm in DIRECT:
        # The reference reads every row once.
        tokens = sum(map(characters, rows)) / 4
        what = f"{len(rows)} rows, {method.loop.epochs} epoch{'s' if method.loop.epochs > 1 else ''}"
        return Cost("align", what, (6 * method.loop.epochs + 2) * parameters * tokens, 2 * parameters)
    if align.algorithm in MAKERS:
        # Generation, scoring passes (policy, reference, reward models), and updates on what is kept or paired.
        documents = method.rounds * (method.prompts or len(rows)) * method.samples
        passes = 2 + (2 + judges) * 2 + method.loop.epochs * 6 * min(1, getattr(method, "keep", 2) / method.samples)
        what = f"{method.rounds} rounds, {documents} completions"
        return Cost("align", what, passes * parameters * documents * (prompt + loop.max_new_tokens), 2 * parameters)
    # Generation, scoring passes (policy, reference, critic, reward models), and the updates of policy and critic.
    documents = loop.iterations * loop.batch * align.samples
    passes = 2 + (3 + judges) * 2 + method.epochs * 2 * 6
    what = f"{loop.iterations} iterations of {loop.batch * align.samples} completions"
    return Cost("align", what, passes * parameters * documents * (prompt + loop.max_new_tokens), 3 * parameters)


def characters(row) -> int:
    """Characters of a record that a model would read."""
    prompt = getattr(row, "prompt", row)
    texts = [getattr(row, name, "") for name in ("completion", "chosen", "rejected")]
    return sum(len(message.content) for message in prompt.messages) * max(sum(map(bool, texts)), 1) + sum(
        map(len, texts)
    )


def model_parameters(recipe: Recipe) -> int:
    """Parameters of the model that the run starts from."""
    shape = recipe.model.scratch
    if shape is not None:
        return shape.vocabulary * shape.hidden + shape.layers * 12 * shape.hidden**2
    model, _, _ = load_causal(source_of(recipe.model))
    return sum(parameter.numel() for parameter in model.parameters())


def matrix_rate(device: torch.device, size: int = 512, seconds: float = 0.3) -> float:
    """Floating-point operations a second of matrix products, measured for a moment."""
    left = torch.randn(size, size, device=device)
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        float((left @ left)[0, 0])
        count += 1
    return count * 2 * size**3 / (time.perf_counter() - began)


def spoken(seconds: float) -> str:
    """Seconds as a person would say them."""
    if seconds < 90:
        return f"about {max(seconds, 1):.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"
