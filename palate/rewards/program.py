"""Programs that a policy wrote, run in a process of their own with limits of time and memory.

The limits keep an honest mistake (an endless loop, a huge list) from hurting. They are no security boundary: a program
that means harm can read what this user can read, reach the network, and leave a process behind.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_RUNNER = Path(__file__).with_name("program_runner.py")

# A program that sleeps uses no processor time: it may take so many times its share by the clock.
PATIENCE = 4.0


@dataclass(frozen=True, slots=True)
class Limits:
    """`seconds` of processor time, and `PATIENCE` times as many by the clock; `megabytes` of address space."""

    seconds: int
    megabytes: int


def run_program(program: str, tests: str, names: Mapping[str, str], limits: Limits) -> float | None:
    """Runs a program and then tests in one fresh interpreter; both see `names`.

    Returns the score where the tests came to their end, and None where the program failed, failed a test, went beyond
    its limits, or wrote something else in place of the reply.
    """
    clock = PATIENCE * limits.seconds
    given = {"program": program, "tests": tests, "names": dict(names), "seconds": limits.seconds, "clock": clock}
    given["bytes"] = limits.megabytes * 2**20
    with tempfile.TemporaryDirectory(prefix="palate-", ignore_cleanup_errors=True) as place:
        process = subprocess.Popen(
            [sys.executable, "-I", str(_RUNNER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=place,
            env={"PATH": os.defpath, "HOME": place, "TMPDIR": place, "LANG": "C.UTF-8"},
            start_new_session=True,
        )
        with process:
            try:
                told, _ = process.communicate(json.dumps(given).encode(), timeout=clock + 5)
            except subprocess.TimeoutExpired:
                told = b""
            finally:
                kill_group(process)
    return _understood(told)


def _understood(told: bytes) -> float | None:
    try:
        reply = json.loads(told)
    except (ValueError, RecursionError):
        return None
    return reply if isinstance(reply, float) and math.isfinite(reply) else None


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Ends a process that leads a session, with all the children it has there."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
