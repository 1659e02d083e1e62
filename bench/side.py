"""What both sides of a comparison share: the job they read, the meter that times an iteration, the lines they print.

A side is a process. It reads one job from a JSON file, prints one JSON line an iteration on its standard output, and
a last line with its memory. What libraries print goes to standard error.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

LIBRARIES = ("torch", "transformers", "trl", "accelerate", "palate")


@dataclass(frozen=True)
class Job:
    """One side's work. What a task does not speak of, it leaves aside.

    `policy` and `reward` are Hugging Face directories and `inputs` a file of JSON lines; `batch` counts prompts, rows
    or pairs an iteration (in a rollout: how many are decoded at a time); `greedy` is the file that a rollout writes
    its greedy completions to.
    """

    policy: str
    reward: str
    inputs: str
    device: str
    threads: int
    seed: int
    warm_up: int
    iterations: int
    batch: int
    new_tokens: int
    critic: str = "own"
    epochs: int = 4
    minibatches: int = 4
    learning_rate: float = 1e-6
    greedy: str = ""

    @property
    def dtype(self) -> str:
        """float32 on the CPU, bfloat16 on a GPU."""
        return "bfloat16" if self.device == "cuda" else "float32"

    def rows(self) -> list[dict[str, Any]]:
        """The inputs, in order."""
        return [json.loads(line) for line in Path(self.inputs).read_text(encoding="utf-8").splitlines()]

    def save(self, path: Path) -> None:
        """Writes the job for `load`."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Job:
        """The job that `save` wrote."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))


class Meter:
    """Times iterations and says what the machine did meanwhile; the first `warm_up` of them are marked as such.

    `start` begins an iteration, `lap` ends it, hands its line to `emit` and begins the next.
    """

    def __init__(self, job: Job, emit: Callable[[Mapping[str, Any]], None]):
        self._job, self._emit = job, emit
        self._done = 0
        self._memory_before = peak_memory("cpu")
        self.start()

    def start(self) -> None:
        """Forgets the time since the last lap."""
        self._mark = self._read()
        self._load = os.getloadavg()[0]

    def lap(self, *, prompt_tokens: int, completion_tokens: int, **facts: Any) -> None:
        """Ends an iteration that worked on this many real tokens; `facts` go into its line as they are."""
        now = self._read()
        seconds, own, busy = (end - begin for end, begin in zip(now, self._mark, strict=True))
        self._emit(
            {
                "seconds": seconds,
                "prompt_tokens": prompt_tokens,
                "completion_tokens": completion_tokens,
                "warm_up": self._done < self._job.warm_up,
                "own_cores": own / seconds,
                "other_cores": max(busy - own, 0.0) / seconds,
                "load_before": self._load,
                **facts,
            }
        )
        self._done += 1
        self.start()

    def close(self) -> None:
        """Prints memory in bytes, `memory_before` being what the process held before it loaded a model, and
        versions."""
        self._emit(
            {
                "memory": peak_memory(self._job.device),
                "memory_before": self._memory_before if self._job.device == "cpu" else 0,
                "versions": versions(),
            }
        )

    def _read(self) -> tuple[float, float, float]:
        if self._job.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter(), time.process_time(), busy_seconds()


def busy_seconds() -> float:
    """Processor seconds that all processes of the machine have used since it started; 0 where it does not tell."""
    try:
        numbers = [int(number) for number in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError):
        return 0.0
    idle, waiting = numbers[3:5]
    return (sum(numbers) - idle - waiting) / os.sysconf("SC_CLK_TCK")


def peak_memory(device: str) -> int:
    """The most memory this process has held, in bytes: resident on the CPU, allocated by torch on a GPU.

    A child process starts from its parent's peak, so whoever starts a side must be small.
    """
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def versions() -> dict[str, str]:
    """The versions of Python and of the libraries that are installed here."""
    found = {"python": sys.version.split()[0]}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def serve(run: Callable[[Job, Meter], None]) -> None:
    """Runs a side as the process it is: job file in the first argument, lines on standard output."""
    job = Job.load(Path(sys.argv[1]))
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def emit(line: Mapping[str, Any]) -> None:
        print(json.dumps(line), file=lines, flush=True)

    torch.set_num_threads(job.threads)
    torch.manual_seed(job.seed)
    meter = Meter(job, emit)
    run(job, meter)
    meter.close()
