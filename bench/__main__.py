"""The command line: `python -m bench ppo|sft|reward|dpo|rollout|scaling`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from bench import scaling
from bench.shapes import CPU_SHAPES
from bench.sides import PEERS, SCRATCH, SideFailed
from bench.table import Greedy, comparison
from bench.workbench import SUPERVISED, Measurement, compare

DEFAULTS = {"cpu": 64, "cuda": 256}
ROWS_A_STEP = 32
STEPS = 25


def parser() -> argparse.ArgumentParser:
    """What may be asked for."""
    made = argparse.ArgumentParser(prog="python -m bench", description="Palate and its peers, side by side.")
    made.add_argument("task", choices=[*PEERS, "scaling"], help="what is measured; scaling is our PPO iteration alone")
    made.add_argument("--peer", choices=["trl", "none"], default="trl", help="none measures Palate alone")
    made.add_argument(
        "--model",
        choices=list(CPU_SHAPES),
        default="small",
        help="0.86 or 24.6 million parameters; on cuda 0.5 or 1.5 billion",
    )
    made.add_argument(
        "--ending",
        choices=["early", "full"],
        default="early",
        help="completions end with probability 1/32 at each token, or never",
    )
    made.add_argument("--critic", choices=["own", "shared"], default="own", help="our critic's trunk in PPO")
    made.add_argument("--rounds", type=_positive, default=3, help="how often the sides take turns")
    made.add_argument("--iterations", type=_positive, help="timed iterations a round")
    made.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="float32 on cpu, bfloat16 on cuda")
    made.add_argument("--threads", type=_positive, default=os.cpu_count() or 1, help="threads of either side")
    made.add_argument("--out", type=Path, help="the JSON file with every sample (.bench/results/NAME.json)")
    return made


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def measurement(given: argparse.Namespace) -> Measurement:
    """The measurement that the arguments ask for."""
    supervised = given.task in SUPERVISED
    usual = STEPS if supervised else 2 if given.model == "large" else 3
    return Measurement(
        task=given.task,
        model=given.model,
        ending=given.ending,
        device=given.device,
        threads=given.threads,
        rounds=given.rounds,
        critic=given.critic,
        iterations=given.iterations or usual,
        batch=ROWS_A_STEP if supervised else DEFAULTS[given.device],
        new_tokens=DEFAULTS[given.device],
    )


def title(wanted: Measurement) -> str:
    """What the table shows, in one line."""
    millions = wanted.shape.parameters / 1e6
    return f"{wanted.name}: {millions:,.2f} M parameters, {wanted.threads} threads"


def rated(rates: Mapping[str, float]) -> str:
    """The matrix rates in a sentence; fractions are of the larger."""
    each = ", ".join(f"{rate / 1e9:,.0f} GFLOP/s at the {name} shape" for name, rate in rates.items())
    return f"Matrix products: {each}."


def told(greedy: Greedy) -> str:
    """The comparison of greedy tokens in a sentence."""
    return (
        f"Greedy: {greedy.rows} rows compared, {greedy.tokens:,} equal tokens, {greedy.differing} rows differ, "
        f"{greedy.parted_at_a_tie} part where the two best logits are within 1e-4."
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one measurement; 0 when done, 1 where a side failed."""
    given = parser().parse_args(arguments)
    wanted = measurement(given)
    console = Console()
    try:
        document = _run(wanted, given.peer != "none", console)
    except SideFailed as error:
        console.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        return 1
    out = given.out or SCRATCH / "results" / f"{wanted.name}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    console.print(f"Every sample: {out}", markup=False, highlight=False, soft_wrap=True)
    return 0


def _run(wanted: Measurement, with_peer: bool, console: Console) -> dict[str, Any]:
    def say(sentence: str) -> None:
        console.print(sentence, style="dim", markup=False, highlight=False, soft_wrap=True)

    if wanted.task == "scaling":
        lines, document = scaling.scale(wanted, say)
        console.print(scaling.table(lines))
        return document
    result = compare(wanted, with_peer, say)
    peer = PEERS[wanted.task].name if with_peer else ""
    console.print(comparison(title(wanted), result.ours, result.peer, peer, result.ratio))
    console.print(rated(result.rates), highlight=False, soft_wrap=True)
    if result.greedy is not None:
        console.print(told(result.greedy), highlight=False, soft_wrap=True)
    return result.document


if __name__ == "__main__":
    sys.exit(main())
