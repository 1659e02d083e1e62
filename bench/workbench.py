"""One measurement from beginning to end: models, inputs, the matrix rate, the sides in turn, their numbers."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench import inputs, operations
from bench.shapes import Shape, shape_of
from bench.side import Job
from bench.sides import PEERS, SCRATCH, Peer, Run, alternate, execute, python_of
from bench.table import (
    Greedy,
    Ratios,
    Sample,
    Summary,
    compare_greedy,
    duration,
    median_seconds,
    plain,
    ratios,
    summarise,
)

SEED = 0
# The tasks in which rows are learnt from rather than written.
SUPERVISED = ("sft", "reward", "dpo")
# A rollout whose rows end early has this many times more prompts than rows decoded at a time.
QUEUE = 8

Say = Callable[[str], None]


@dataclass(frozen=True)
class Measurement:
    """What is to be measured, as the command line says it."""

    task: str
    model: str
    ending: str
    device: str
    threads: int
    rounds: int
    critic: str
    iterations: int
    batch: int
    new_tokens: int

    @property
    def name(self) -> str:
        """A name for files."""
        shared = "-shared" if self.critic == "shared" else ""
        return f"{self.task}-{self.model}-{self.ending}-{self.device}{shared}"

    @property
    def shape(self) -> Shape:
        """The model's shape."""
        return shape_of(self.model, self.device)

    @property
    def supervised(self) -> bool:
        """Whether rows are learnt from rather than written."""
        return self.task in SUPERVISED

    @property
    def step_tokens(self) -> int:
        """Tokens of one optimiser step, about: the height of its matrix products."""
        if self.supervised:
            return self.batch * sum(inputs.ROW_TOKENS) // 2
        return max(self.batch // 4, 1) * (sum(inputs.PROMPT_TOKENS) // 2 + self.new_tokens)


def prepare(wanted: Measurement) -> Job:
    """Writes models and inputs; returns the job that reads them."""
    place = SCRATCH / "work" / wanted.name
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    ending = "full" if wanted.supervised else wanted.ending
    execute(sys.executable, "bench.models", wanted.model, wanted.device, ending, SEED, place, threads=wanted.threads)
    warm_up = 3 if wanted.supervised else 1
    inputs.write(_rows(wanted, warm_up + wanted.iterations), place / "inputs.jsonl")
    return Job(
        policy=str(place / "policy"),
        reward=str(place / "reward"),
        inputs=str(place / "inputs.jsonl"),
        device=wanted.device,
        threads=wanted.threads,
        seed=SEED,
        warm_up=warm_up,
        iterations=wanted.iterations,
        batch=wanted.batch,
        new_tokens=wanted.new_tokens,
        critic=wanted.critic,
    )


def _rows(wanted: Measurement, steps: int) -> list[dict[str, Any]]:
    vocabulary = wanted.shape.vocabulary
    if wanted.task == "sft":
        return inputs.demonstrations(steps * wanted.batch, vocabulary, SEED)
    if wanted.task in ("reward", "dpo"):
        return inputs.pairs(steps * wanted.batch, vocabulary, SEED)
    queue = QUEUE if wanted.task == "rollout" and wanted.ending == "early" else 1
    return inputs.prompts(queue * wanted.batch, vocabulary, SEED)


def matrix_rates(wanted: Measurement) -> dict[str, float]:
    """Operations a second, by kind of product."""
    line = execute(
        sys.executable,
        "bench.machine",
        wanted.device,
        wanted.threads,
        wanted.step_tokens,
        wanted.shape.hidden,
        threads=wanted.threads,
    )
    return json.loads(line)


def side(name: str, python: str, module: str, job: Job, say: Say) -> Callable[[int], Run]:
    """One side, to be called once a round; the round's number seeds its sampling."""

    def run(number: int) -> Run:
        place = Path(job.inputs).parent
        path = place / f"{name}.json"
        replace(job, seed=number, greedy=str(place / f"{name}-greedy.json")).save(path)
        done = Run.parse(execute(python, module, path, threads=job.threads))
        say(f"round {number + 1}, {name}: {duration(median_seconds(done))} an iteration")
        return done

    return run


def useful_tokens(task: str) -> Callable[[Sample], int]:
    """What is counted: the real tokens that were trained on, prompts included; in a rollout those that were written."""
    if task == "rollout":
        return lambda sample: sample["completion_tokens"]
    return lambda sample: sample["prompt_tokens"] + sample["completion_tokens"]


def useful_operations(wanted: Measurement, ours: bool) -> Callable[[Sample], float]:
    """The operations of an iteration's useful work."""

    def count(sample: Sample) -> float:
        completions = sample["completion_tokens"]
        documents = sample["prompt_tokens"] + completions
        if wanted.task in ("sft", "dpo"):
            return operations.sft(wanted.shape, documents, completions)
        if wanted.task == "reward":
            return operations.reward(wanted.shape, documents)
        if wanted.task == "rollout":
            return operations.rollout(wanted.shape, documents, completions)
        return operations.ppo(
            wanted.shape,
            documents,
            completions,
            epochs=Job.epochs,
            old_logprobs=ours,
            shared_critic=ours and wanted.critic == "shared",
        )

    return count


@dataclass(frozen=True)
class Result:
    """A measurement's numbers, and the document that holds every one of them."""

    ours: Summary
    peer: Summary | None
    ratio: Ratios | None
    greedy: Greedy | None
    rates: Mapping[str, float]
    document: dict[str, Any]


def compare(wanted: Measurement, with_peer: bool, say: Say) -> Result:
    """Ours and the peer in turn, `rounds` times, on the same models and inputs."""
    peer = PEERS[wanted.task] if with_peer else None
    peer_python = None if peer is None else python_of(peer, say)
    job = prepare(wanted)
    before = matrix_rates(wanted)
    sides = [side("palate", sys.executable, f"bench.ours.{wanted.task}", job, say)]
    if peer is not None and peer_python is not None:
        sides.append(side("peer", peer_python, peer.module, job, say))
    rounds = alternate(sides, wanted.rounds)
    rates = _best(before, matrix_rates(wanted))
    summaries = [
        summarise(runs, useful_tokens(wanted.task), useful_operations(wanted, ours=index == 0), max(rates.values()))
        for index, runs in enumerate(zip(*rounds, strict=True))
    ]
    ours, theirs = summaries[0], summaries[1] if peer is not None else None
    ratio = None if theirs is None else ratios(ours, theirs, [(one[0], one[1]) for one in rounds])
    greedy = _greedy(Path(job.inputs).parent) if peer is not None and wanted.task == "rollout" else None
    document = {
        **described(wanted, rates),
        "peer": None if peer is None else peer.name,
        "summary": {"palate": plain(ours), "peer": plain(theirs), "ratio": plain(ratio), "greedy": plain(greedy)},
        "rounds": [_round(runs, peer) for runs in rounds],
    }
    return Result(ours, theirs, ratio, greedy, rates, document)


def described(wanted: Measurement, rates: Mapping[str, float]) -> dict[str, Any]:
    """What was measured, and on what."""
    return {
        "measurement": plain(wanted),
        "parameters": wanted.shape.parameters,
        "machine": {"platform": platform.platform(), "processor": processor(), "cores": os.cpu_count()},
        "matrix_rate": dict(rates),
    }


def processor() -> str:
    """The processor's name, where the machine tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _round(runs: Sequence[Run], peer: Peer | None) -> dict[str, Any]:
    names = ["palate"] if peer is None else ["palate", "peer"]
    return {name: {"samples": list(run.samples), **run.about} for name, run in zip(names, runs, strict=True)}


def _best(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    return {name: max(one[name], other[name]) for name in one}


def _greedy(place: Path) -> Greedy:
    mine = json.loads((place / "palate-greedy.json").read_text(encoding="utf-8"))
    theirs = json.loads((place / "peer-greedy.json").read_text(encoding="utf-8"))
    return compare_greedy(mine["ids"], theirs["ids"], theirs["gaps"])
