"""The page itself: verdict, cautions, stages, evidence, and how to reproduce; no script, nothing loaded."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping

from palate.report import evidence
from palate.report.elements import document, section, table
from palate.report.findings import cautions, figures, finding
from palate.report.reading import STAGES, Run, Stage
from palate.report.words import date, duration, escaped, number, percent, percent_range

_TASKS = {
    "sft": "Learned from demonstrations",
    "reward": "Learned to score from preference pairs",
    "align": "Optimised the policy against the scores",
    "evaluate": "Compared the aligned model with the SFT model",
}
_UNITS = {"align": "iterations", "evaluate": "prompts"}
_LEVELS = {"pass": "passed", "warn": "warned", "stop": "stopped the run"}


def render(run: Run) -> str:
    """The whole page of a run."""
    name = escaped(run.manifest.name or "unnamed run")
    return document(f"{name} · Palate report", _head(run, name) + "\n" + "\n".join(_sections(run)))


def _sections(run: Run) -> Iterator[str]:
    if doubts := cautions(run):
        items = "".join(f"<li>{escaped(sentence)}</li>" for sentence in doubts)
        yield section("Before you believe it", f'<ul class="cautions">{items}</ul>')
    yield section("Stages", _stages(run))
    yield section("Before and after", evidence.evaluation(run))
    if run.comparisons:
        yield section("Five prompts, both answers", evidence.side_by_side(run.comparisons))
    yield section("Alignment", evidence.alignment(run))
    yield section("Reward model", evidence.reward_model(run))
    yield section("Supervised fine-tuning", evidence.fine_tuning(run))
    yield section("Reproduce it", _reproduction(run))


def _head(run: Run, name: str) -> str:
    verdict = finding(run)
    grounds = "".join(f'<p class="grounds">{escaped(sentence)}</p>' for sentence in verdict.grounds)
    cells = "".join(
        f'<div><dt>{escaped(figure.name)}</dt><dd class="value">{escaped(figure.value)}</dd>'
        f'<dd class="note">{escaped(figure.note)}</dd></div>'
        for figure in figures(run)
    )
    return f"""<header>
<p class="eyebrow">Palate report · {name} · {escaped(date(run.manifest.created))}</p>
<div class="verdict {verdict.tone}">
<h1>{escaped(verdict.headline)}</h1>
{grounds}
</div>
<dl class="cells">{cells}</dl>
</header>"""


def _stages(run: Run) -> str:
    recorded = run.manifest.stages
    names = (*STAGES, *(name for name in recorded if name not in STAGES))
    rows = [_stage(name, recorded.get(name), run.summary) for name in names]
    return table("stages", ("Stage", "What it did", "Key figure", "Verdict", "Time"), rows, numbers=1)


def _stage(name: str, stage: Stage | None, summary: Mapping[str, float]) -> tuple[str, ...]:
    if stage is None:
        return (name, "", "", '<span class="muted">not run</span>', "")
    task = _TASKS.get(name, "")
    if stage.steps:
        task += f", {stage.steps:,} {_UNITS.get(name, 'steps')}"
    level = stage.verdict.level if stage.status == "done" and stage.verdict is not None else None
    mark = level or ("stop" if stage.status in ("failed", "stopped") else "")
    verdict = f'<span class="mark {mark}">{_LEVELS[level] if level else stage.status}</span>'
    time = "" if stage.seconds is None else duration(stage.seconds)
    return (escaped(name), task, _key_figure(name, summary), verdict, time)


def _key_figure(stage: str, summary: Mapping[str, float]) -> str:
    figures = {
        "sft": ("held-out perplexity", "sft/heldout_perplexity", number),
        "reward": ("accuracy", "reward/accuracy", percent),
        "align": ("KL in nats", "align/kl_final", number),
        "evaluate": ("win rate", "align/win_rate", percent),
    }
    label, name, written = figures.get(stage, ("", "", number))
    if name not in summary:
        return ""
    low, high = summary.get(f"{name}_low"), summary.get(f"{name}_high")
    interval = ""
    if low is not None and high is not None:
        interval = f' <span class="interval">({percent_range(low, high)})</span>'
    return f"{label} {written(summary[name])}{interval}"


def _reproduction(run: Run) -> str:
    parts = []
    if run.manifest.command:
        parts.append(f"<h3>Command</h3>\n<pre>{escaped(shlex.join(run.manifest.command))}</pre>")
    if run.recipe:
        parts.append(f'<h3>Recipe, resolved</h3>\n<pre class="recipe">{escaped(run.recipe)}</pre>')
    facts = "".join(
        f"<dt>{name}</dt><dd>{escaped(value)}{f' <code>{escaped(digest)}</code>' if digest else ''}</dd>"
        for name, value, digest in _facts(run)
        if value not in (None, "")
    )
    return "\n".join((*parts, f'<h3>Made with</h3>\n<dl class="facts">{facts}</dl>'))


def _facts(run: Run) -> Iterator[tuple[str, object, object]]:
    """What the run depended on: a name, a value, and a hash where there is one."""
    manifest = run.manifest
    versions = {"palate": manifest.palate, **manifest.versions}
    yield "Versions", ", ".join(f"{name} {version}" for name, version in versions.items() if version), ""
    yield "Hardware", _hardware(manifest.hardware), ""
    yield "Threads", manifest.threads, ""
    yield "Seed", manifest.seed, ""
    yield "Commit", manifest.git_commit, ""
    for path, digest in manifest.data.items():
        yield "Data", path, digest
    for name, stage in manifest.stages.items():
        yield "Stage", name, stage.digest
    for parent in manifest.parents:
        yield "Parent", parent, ""


def _hardware(hardware: Mapping[str, object]) -> str:
    units = {"cores": " cores", "memory_gb": " GB memory"}
    return ", ".join(f"{value}{units.get(name, '')}" for name, value in hardware.items() if value is not None)
