"""Runs sides as processes: ours in this Python, a peer in its own environment, one after the other in turn."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
SCRATCH = ROOT / ".bench"


class SideFailed(Exception):
    """A side's process ended with an error; the message ends with the last lines it wrote."""


@dataclass(frozen=True)
class Peer:
    """Who we are measured against: its name, its module here, its environment (none: this Python)."""

    name: str
    module: str
    environment: str | None = None


PEERS: Mapping[str, Peer] = {
    "ppo": Peer("TRL 1.12", "bench.peers.trl_ppo", "trl-1.12"),
    "sft": Peer("TRL 1.16", "bench.peers.trl_sft", "trl-1.16"),
    "reward": Peer("TRL 1.16", "bench.peers.trl_reward", "trl-1.16"),
    "dpo": Peer("TRL 1.16", "bench.peers.trl_dpo", "trl-1.16"),
    "rollout": Peer("generate", "bench.peers.transformers_generate"),
}


@dataclass(frozen=True)
class Run:
    """One process of one side: its iterations' lines, and what its last line says of the whole."""

    samples: tuple[dict[str, Any], ...]
    about: dict[str, Any]

    @classmethod
    def parse(cls, text: str) -> Run:
        """The lines that a side printed; ValueError where the last one is missing."""
        lines = [json.loads(line) for line in text.splitlines()]
        if not lines or "memory" not in lines[-1]:
            raise ValueError("a side ends with a line that tells its memory; this one stopped before")
        return cls(tuple(lines[:-1]), lines[-1])

    @property
    def timed(self) -> tuple[dict[str, Any], ...]:
        """The iterations after the warm-up."""
        return tuple(sample for sample in self.samples if not sample["warm_up"])


def variable(environment: str) -> str:
    """The environment variable that names an environment's Python: "trl-1.12" → PALATE_BENCH_TRL_1_12."""
    return "PALATE_BENCH_" + environment.upper().replace("-", "_").replace(".", "_")


def python_of(peer: Peer, say: Callable[[str], None]) -> str:
    """The Python that runs a peer; its environment is made under `.bench/` where there is none yet."""
    if peer.environment is None:
        return sys.executable
    given = os.environ.get(variable(peer.environment))
    if given is not None:
        return given
    place = SCRATCH / peer.environment
    python = place / ("Scripts" if os.name == "nt" else "bin") / "python"
    ready = place / ".ready"  # an installation that was cut off must not count
    if not ready.exists():
        say(f"Making the environment of {peer.name} in {place}: this downloads torch once.")
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(place)], check=True)
        needs = ROOT / "bench" / "peers" / f"{peer.environment}.txt"
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--requirement", str(needs)], check=True)
        ready.touch()
    return str(python)


def execute(python: str, module: str, *arguments: object, threads: int) -> str:
    """Runs a module of `bench` with this many threads, away from the network; returns what it printed."""
    count = str(threads)
    settings = {
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TRL_EXPERIMENTAL_SILENCE": "1",
    }
    command = [python, "-m", module, *map(str, arguments)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **settings}, capture_output=True, text=True, encoding="utf-8"
    )
    if done.returncode != 0:
        last = "\n".join(done.stderr.splitlines()[-25:])
        raise SideFailed(f"{' '.join(command)} ended with code {done.returncode}:\n{last}")
    return done.stdout


def alternate(sides: Sequence[Callable[[int], Run]], rounds: int) -> list[tuple[Run, ...]]:
    """Runs each side once a round, in order: what slows the machine for a while slows all of them.

    A side is called with the number of the round.
    """
    return [tuple(side(number) for side in sides) for number in range(rounds)]
