"""The model card: `align/model/README.md`, as Hugging Face reads it, made from the report alone and without network."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from palate.report.content import Report
from palate.report.findings import judge_name
from palate.report.words import change, number, percent, percent_range

# A name that the hub could know; a path with more parts, or a word of Palate's own, it could not.
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")

_LIMITS = """\
## What alignment by preferences does not fix

- **Knowledge.** Training moves the model among answers that it could already give. What it never learnt it still does
  not know, and it may say it more pleasantly.
- **The raters' own biases.** The model was taught what its judges prefer: their tastes, their blind spots, and the
  share of their judgements that was noise.
- **Other prompts.** The figures above hold for prompts like those that were trained and tested on. Other languages,
  longer conversations and other subjects were not shown to be any better than before.
- **Adversarial use.** Somebody who looks for a prompt that breaks the model will find one. Preferences are no defence.
- **Truthfulness where raters cannot check.** An answer that sounds right is preferred to one that is, wherever the
  judge cannot tell them apart. Training on such judgements teaches to sound right.
- **Judgement of the result.** A win rate is the opinion of one judge on one set of prompts. It is no measure of safety.
"""


def card(report: Report) -> str:
    """The card: what the model is, whose taste it has, how it was made, what was measured, and what it is not."""
    name = _inline(report.manifest.name or "unnamed run")
    parts = (
        _front_matter(report),
        f"# {name}\n\n{_line(report.verdict.headline)} {' '.join(map(_line, report.verdict.grounds))}",
        "Made with Palate. Load it with `transformers`: `AutoModelForCausalLM.from_pretrained(...)`.",
        "## Base model and data\n\n" + "\n".join(f"- {sentence}" for sentence in _sources(report)),
        "## How it was made\n\n" + "\n".join(f"- {sentence}" for sentence in _method(report)),
        "## Figures\n\n" + _figures(report),
        _cautions(report),
        _LIMITS,
    )
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def _front_matter(report: Report) -> str:
    """YAML whose values are written as JSON, which YAML reads as it is."""
    tags = ["palate", "rlhf", "preference-alignment", *filter(None, [report.algorithm])]
    entries: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": tags}
    if _HUB_NAME.fullmatch(report.base_model):
        entries["base_model"] = report.base_model
    lines = "".join(f"{key}: {json.dumps(value)}\n" for key, value in entries.items())
    return f"---\n{lines}---"


def _sources(report: Report) -> Iterator[str]:
    yield f"Base model: {_inline(report.base_model)}." if report.base_model else "Base model: made from scratch."
    yield from map(_line, report.lineage)
    for path, digest in report.manifest.data.items():
        yield f"File {_inline(path)}, SHA-256 {_inline(digest)}."


def _method(report: Report) -> Iterator[str]:
    manifest = report.manifest
    if report.algorithm:
        aligned = manifest.stages.get("align")
        steps = f", {aligned.steps:,} iterations" if aligned is not None and aligned.steps else ""
        yield f"Algorithm: {_inline(report.algorithm)}{steps}, seed {manifest.seed}."
    if report.watch is not None and report.watch.told:
        yield _line(report.watch.told)
    if manifest.palate:
        versions = ", ".join(
            f"{_line(name)} {_line(version)}" for name, version in manifest.versions.items() if version
        )
        yield f"Software: palate {_line(manifest.palate)}, {versions}."
    yield "Every setting stands in `recipe.toml` of the run directory, every figure in its `report.json`."


def _figures(report: Report) -> str:
    rows = list(_measured(report))
    if not rows:
        return "This model has not been evaluated."
    table = "\n".join(f"| {name} | {value} | {interval} |" for name, value, interval in rows)
    judge = f"\n\nJudge: {_line(judge_name(report.results))}." if report.results is not None else ""
    return f"| Figure | Value | 95% interval |\n|---|---|---|\n{table}{judge}"


def _measured(report: Report) -> Iterator[tuple[str, str, str]]:
    results, figures = report.results, report.figures
    start, label = report.manifest.start, report.manifest.start_label.replace("Before", "before")
    if results is not None:
        rate, controlled = results.win_rate, results.length_controlled
        yield f"Win rate over {start}", percent(rate.estimate), percent_range(rate.low, rate.high)
        if controlled is not None and controlled.estimate is not None:
            interval = percent_range(controlled.low, controlled.high)
            yield "Win rate at equal length", percent(controlled.estimate), interval
        yield f"Mean score, {label} → aligned", change(results.score.before, results.score.after), ""
        yield f"Length in tokens, {label} → aligned", change(results.length.before, results.length.after), ""
        for name, found in (
            ("Correct answers", results.correct),
            ("Capability questions", results.capability),
            ("Unusual prompts whose answer degenerates", results.unusual),
        ):
            if found is not None:
                yield f"{name}, {label} → aligned", f"{percent(found.before)} → {percent(found.after)}", ""
        if results.perplexity is not None:
            before, after = results.perplexity.before, results.perplexity.after
            yield f"Perplexity of held-out text, {label} → aligned", change(before, after), ""
        if results.kl is not None:
            yield f"KL from {start}, nats a completion", number(results.kl), ""
    if "reward/accuracy" in figures:
        low, high = figures.get("reward/accuracy_low"), figures.get("reward/accuracy_high")
        interval = "" if low is None or high is None else percent_range(low, high)
        yield "Reward model: accuracy on held-out pairs", percent(figures["reward/accuracy"]), interval


def _cautions(report: Report) -> str:
    if not report.cautions:
        return ""
    return "## Before you believe it\n\n" + "\n".join(f"- {_line(sentence)}" for sentence in report.cautions)


def _line(text: object) -> str:
    """Foreign text on one line of Markdown, no markup in it taken as such."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(str(text).split()))


def _inline(text: object) -> str:
    """Foreign text as inline code on one line."""
    return f"`{' '.join(str(text).replace('`', chr(39)).split())}`"
