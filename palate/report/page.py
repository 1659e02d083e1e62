"""The page itself: verdict, cautions, gates, evidence, lineage, commands; no script, nothing loaded."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence

from palate.algorithms.direct import DIRECT
from palate.algorithms.makers import MAKERS
from palate.algorithms.policies import ALGORITHMS
from palate.evaluation import Check
from palate.report import evidence
from palate.report.content import Report
from palate.report.elements import absent, document, mark, section, table, under, with_interval
from palate.report.reading import STAGES, Stage
from palate.report.words import date, duration, escaped, written

_TASKS = {
    "sft": "Learned from demonstrations",
    "reward": "Learned to score from preference pairs",
    "align": "Optimised the policy against the scores",
    "evaluate": "Compared the aligned model with the one before",
}
_UNITS = {"align": "iterations", "evaluate": "prompts"}
_LEVELS = {"pass": "passed", "warn": "warned", "stop": "stop"}


def render(report: Report) -> str:
    """The whole page of a run."""
    name = escaped(report.manifest.name or "unnamed run")
    return document(f"{name} · Palate report", _head(report, name) + "\n" + "\n".join(_sections(report)))


def _sections(report: Report) -> Iterator[str]:
    if report.cautions:
        items = "".join(f"<li>{escaped(sentence)}</li>" for sentence in report.cautions)
        yield section("Before you believe it", f'<ul class="cautions">{items}</ul>')
    yield section("Stages and what was asked of them", _gates(report))
    yield section("Before and after", evidence.evaluation(report))
    if report.samples:
        yield section("Answers side by side", evidence.side_by_side(report))
    yield section("Reward against KL", evidence.over_optimisation(report))
    yield section("Signs of a gamed reward", evidence.monitors(report))
    yield section("Alignment", evidence.alignment(report))
    yield section("Reward model", evidence.reward_model(report))
    yield section("Supervised fine-tuning", evidence.fine_tuning(report))
    yield section("Whose taste it is", _lineage(report))
    yield section("Time and machine", _machine(report))
    yield section("Do it again", _commands(report))


def _head(report: Report, name: str) -> str:
    verdict = report.verdict
    grounds = "".join(f'<p class="grounds">{escaped(sentence)}</p>' for sentence in verdict.grounds)
    cells = "".join(
        f'<div><dt>{escaped(figure.name)}</dt><dd class="value">{escaped(figure.value)}</dd>'
        f'<dd class="note">{escaped(figure.note)}</dd></div>'
        for figure in report.headline
    )
    return f"""<header>
<p class="eyebrow">Palate report · {name} · {escaped(date(report.manifest.created))}</p>
<div class="verdict {verdict.tone}">
<h1>{escaped(verdict.headline)}</h1>
{grounds}
</div>
<dl class="cells">{cells}</dl>
</header>"""


# ---- stages and gates


def _gates(report: Report) -> str:
    """A table of stages by what was asked of each: a heading row for the stage, then its checks, doubts first."""
    recorded = report.manifest.stages
    names = (*STAGES, *(name for name in recorded if name not in STAGES))
    rows = [row for name in names for row in _stage(name, recorded.get(name), report.figures)]
    return table("gates", ("Stage and check", "Measured", "Asked", "Verdict"), rows, numbers=0)


def _stage(name: str, stage: Stage | None, figures: Mapping[str, float]) -> Iterator[Sequence[str]]:
    if stage is None:
        yield name, "", '<span class="muted">not run</span>'
        return
    checks = stage.verdict.checks if stage.verdict is not None else ()
    told = [_TASKS.get(name, "")]
    told += [f"{stage.steps:,} {_UNITS.get(name, 'steps')}"] if stage.steps else []
    told += [] if stage.seconds is None else [duration(stage.seconds)]
    told += [] if checks else [_key_figure(name, figures)]
    asked = {check.reason for check in checks}
    reasons = stage.verdict.reasons if stage.verdict is not None else ()
    other = "".join(under(reason) for reason in (*reasons, stage.reason) if reason and reason not in asked)
    yield escaped(name), f"{', '.join(filter(None, told))}{other}", _level(stage)
    for check in sorted(checks, key=lambda check: ("stop", "warn", "pass").index(check.level)):
        yield _check(check, figures)


def _level(stage: Stage) -> str:
    if stage.status != "done" or stage.verdict is None:
        return mark("stop" if stage.status in ("failed", "stopped") else "", stage.status)
    level = stage.verdict.level
    return mark(level, _LEVELS[level] + (", forced" if stage.forced else ""))


def _check(check: Check, figures: Mapping[str, float]) -> tuple[str, ...]:
    value = _figure(check.figure, check.value, figures)
    doubt = "" if check.level == "pass" else f"{check.reason} {check.advice}".strip()
    return escaped(check.name), value, escaped(check.rule) + under(doubt), mark(check.level, _LEVELS[check.level])


def _key_figure(stage: str, figures: Mapping[str, float]) -> str:
    shown = {
        "sft": ("held-out perplexity", "sft/heldout_perplexity"),
        "reward": ("accuracy", "reward/accuracy"),
        "align": ("KL in nats", "align/kl_final"),
        "evaluate": ("win rate", "align/win_rate"),
    }
    label, name = shown.get(stage, ("", ""))
    return f"{label} {_figure(name, figures[name], figures)}" if name in figures else ""


def _figure(name: str, value: float, figures: Mapping[str, float]) -> str:
    """A figure as its name wants it, with its interval where it has one."""
    low, high = figures.get(f"{name}_low"), figures.get(f"{name}_high")
    if low is None or high is None:
        return written(name, value)
    return with_interval(written(name, value), f"{written(name, low)} to {written(name, high)}")


# ---- where it came from


def _lineage(report: Report) -> str:
    """Whose preferences, which files, which runs."""
    manifest = report.manifest
    sentences = "".join(f"<li>{escaped(sentence)}</li>" for sentence in report.lineage)
    rows = [(f"<code>{escaped(path)}</code>", f"<code>{escaped(digest)}</code>") for path, digest in _files(report)]
    parents = "".join(f"<li>{escaped(_parent(parent))}</li>" for parent in manifest.parents)
    parts = (
        f"<ul>{sentences}</ul>" if sentences else "",
        table("files", ("File", "SHA-256"), rows, numbers=0) if rows else "",
        f"<h3>Rests on other runs</h3>\n<ul>{parents}</ul>" if parents else "",
    )
    return "\n".join(filter(None, parts)) or absent("The run directory does not say.")


def _files(report: Report) -> Iterator[tuple[str, object]]:
    yield from report.manifest.data.items()
    yield from report.manifest.rewards.items()


def _parent(parent: object) -> str:
    return f"{parent.get('model', '')} of {parent.get('run', '')}" if isinstance(parent, dict) else str(parent)


def _machine(report: Report) -> str:
    manifest = report.manifest
    seconds = [(name, stage.seconds) for name, stage in manifest.stages.items() if stage.seconds is not None]
    total = sum(second for _, second in seconds)
    times = ", ".join(f"{name} {duration(second)}" for name, second in seconds)
    versions = {"palate": manifest.palate, **manifest.versions}
    facts = (
        ("Time", f"{duration(total)} in all: {times}" if seconds else None),
        ("Hardware", _hardware(manifest.hardware)),
        ("Threads", manifest.threads),
        ("Versions", ", ".join(f"{name} {version}" for name, version in versions.items() if version)),
        ("Commit", manifest.git_commit),
        ("Seed", manifest.seed),
    )
    told = "".join(f"<dt>{name}</dt><dd>{escaped(value)}</dd>" for name, value in facts if value not in (None, ""))
    return f'<dl class="facts">{told}</dl>'


def _hardware(hardware: Mapping[str, object]) -> str:
    units = {"cores": " cores", "memory_gb": " GB memory"}
    return ", ".join(f"{value}{units.get(name, '')}" for name, value in hardware.items() if value is not None)


def _commands(report: Report) -> str:
    again = f"palate run runs/{report.manifest.name or 'NAME'}/recipe.toml --fresh"
    given = shlex.join(report.manifest.command)
    commands = [("The command that was given", given), ("The same from the recipe below", again)]
    parts = [f"<h3>{title}</h3>\n<pre>{escaped(command)}</pre>" for title, command in commands if command]
    if report.recipe:
        parts.append("<h3>Recipe, resolved</h3>")
        parts.append(f'<pre class="recipe">{escaped(_used(report.recipe, report.algorithm))}</pre>')
        parts.append('<p class="note">Without the settings of methods that were not used; recipe.toml has them.</p>')
    return "\n".join(parts)


def _used(recipe: str, algorithm: str) -> str:
    """The recipe without the tables of other methods."""
    others = {*ALGORITHMS, *DIRECT, *MAKERS} - {algorithm}
    tables = re.split(r"^(?=\[)", recipe, flags=re.MULTILINE)
    return "".join(table for table in tables if _method_of(table) not in others)


def _method_of(table: str) -> str:
    """The method whose settings a table of a recipe holds, empty where it holds others."""
    found = re.match(r"\[align\.(\w+)", table)
    return found[1] if found else ""
