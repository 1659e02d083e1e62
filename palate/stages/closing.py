"""The last words of a command: the verdict, a table of scores, five pairs of answers, the files, what to do next."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from palate.report import chosen_samples
from palate.report.rounds import FIGURES, ROUNDS, spelt
from palate.report.words import shortened

NEXT = {"sft": "reward", "reward": "align", "align": "evaluate"}


def closing_words(run: Path) -> RenderableType:
    """What a person should read when the command is done."""
    if (run / ROUNDS).exists():
        return closing_rounds(run)
    record = json.loads((run / "run.json").read_text())
    done = [stage for stage, entry in record["stages"].items() if entry["status"] == "done"]
    parts: list[RenderableType] = [Text()]
    results = run / "evaluate" / "results.json"
    if "evaluate" in done and results.exists():
        parts += evaluation(json.loads(results.read_text()), run)
    parts.append(written(run, record))
    parts.append(Text.assemble(("Next: ", "bold"), following(run, record["command"])))
    return Group(*parts)


def closing_rounds(run: Path) -> RenderableType:
    """The same of a run of several rounds: what became of its figures, and where all of it stands."""
    summary = json.loads((run / "summary.json").read_text())
    numbers = [entry["round"] for entry in json.loads((run / ROUNDS).read_text())["rounds"]]
    table = Table(title="Round by round", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for name in ("", *(f"round {number}" for number in numbers)):
        table.add_column(name, justify="right" if name else "left")
    for name, title in FIGURES.items():
        found = [summary.get(f"round/{number}/{name}") for number in numbers]
        if any(figure is not None for figure in found):
            table.add_row(title, *("" if figure is None else spelt(name, figure) for figure in found))
    files = ["recipe.toml", "feedback.sqlite", ROUNDS, "summary.json", "report.html"]
    files += [f"rounds/{number}" for number in numbers]
    return Group(
        Text(),
        table,
        Text(),
        Text.assemble(("Written: ", "bold"), f"{run}/ ", ", ".join(files)),
        Text.assemble(("Next: ", "bold"), f"open {run / 'report.html'}"),
    )


def following(run: Path, command: Sequence[str]) -> str:
    """What to do next: after a single stage the same command for the stage after it, else look at the report."""
    stage = command[1] if len(command) > 1 else ""
    if stage not in NEXT:
        return f"open {run / 'report.html'}"
    return shlex.join(["palate", NEXT[stage], *(word for word in command[2:] if word != "--fresh")])


def evaluation(results: dict[str, Any], run: Path) -> list[RenderableType]:
    """The verdict, the scores by kind of prompt, and the answers side by side."""
    parts: list[RenderableType] = [Text(results["verdict"], style="bold")]
    if results["attainable"] is not None:
        parts.append(Text(truth(results)))
    return [*parts, Text(), by_group_table(results), Text(), samples_table(run), Text()]


def truth(results: dict[str, Any]) -> str:
    """What only the testbed knows: how much could have been reached, and which answers are right."""
    attainable, best, right = results["attainable"]["win_rate"], results["best_of_n"], results["correct"]
    told = f"{results['win_rate']['estimate'] / attainable:.0%} of that was reached"
    if best["share_of_way"] is not None:
        told += f", and {best['share_of_way']:.0%} of the way from SFT to best-of-{best['n']} by gold"
    return (
        f"An always perfect answerer would win {attainable:.0%}: {told}. Right answers: {right['before']:.0%} before, "
        f"{right['after']:.0%} after."
    )


def by_group_table(results: dict[str, Any]) -> Table:
    """Mean score before and after for each kind of prompt."""
    table = Table(title="Score before and after", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for name in ("prompts", "count", "before", "after", "preferred"):
        table.add_column(name, justify="left" if name == "prompts" else "right")
    overall = {
        "name": "all",
        "count": results["prompts"],
        **results["score"],
        "win_rate": results["win_rate"]["estimate"],
    }
    groups = [group for group in results["groups"] if group["name"] != "all"]
    for group in [*groups, overall]:
        table.add_row(
            Text(group["name"]),
            str(group["count"]),
            f"{group['before']:z.2f}",
            f"{group['after']:z.2f}",
            f"{group['win_rate']:.0%}",
            style="bold" if group is overall else "",
        )
    return table


def samples_table(run: Path) -> Table:
    """Five prompts with both answers, chosen from the whole range of outcomes, losses included."""
    table = Table(title="Side by side", title_justify="left", box=None, padding=(0, 2, 1, 0))
    table.add_column("prompt", ratio=3)
    table.add_column("before", ratio=4)
    table.add_column("after", ratio=4)
    for sample in chosen_samples(run):
        table.add_row(
            Text(shortened(sample.prompt)),
            Text(f"{shortened(sample.before)}  ({sample.score_before:z.2f})"),
            Text(f"{shortened(sample.after)}  ({sample.score_after:z.2f})"),
        )
    return table


def written(run: Path, record: dict[str, Any]) -> Text:
    """The files that the run holds."""
    files = [file for entry in record["stages"].values() for file in entry.get("files", [])]
    names = ["recipe.toml", "run.json", "summary.json", "report.html", *files]
    return Text.assemble(("Written: ", "bold"), f"{run}/ ", ", ".join(name for name in names if (run / name).exists()))
