"""The far side of `program.py`: limits itself, runs what standard input holds, and writes down how it ended.

It is run by path in an isolated interpreter (`python -I`) and imports nothing of Palate.
"""

import contextlib
import faulthandler
import json
import math
import os
import resource
import sys
from typing import Any

LARGEST_FILE = 16 * 2**20


def main() -> None:
    """Reads one program, runs it, and writes its score as JSON where standard output was."""
    given = json.load(sys.stdin)
    answer = os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    limit(given)
    told = result(given)
    os.write(answer, json.dumps(told).encode())
    os._exit(0)  # threads that the program left must not keep it alive


def limit(given: dict[str, Any]) -> None:
    """Takes away what the program must not use; what is over the limit is killed by the system."""
    faulthandler.dump_traceback_later(given["clock"], exit=True)
    resource.setrlimit(resource.RLIMIT_CPU, (given["seconds"], given["seconds"]))
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE, LARGEST_FILE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(ValueError, OSError):  # macOS knows no limit of memory
        resource.setrlimit(resource.RLIMIT_AS, (given["bytes"], given["bytes"]))


def result(given: dict[str, Any]) -> float | None:
    """The score that the tests set, 1 where they set none and came to their end, None where something failed."""
    scope: dict[str, Any] = {"__name__": "__main__", **given["names"]}
    try:
        exec(compile(given["program"], "completion", "exec"), scope)
        scope.pop("score", None)  # the program does not mark itself
        scope |= given["names"]
        exec(compile(given["tests"], "tests", "exec"), scope)
        score = float(scope.get("score", 1.0))
    except BaseException:
        return None
    return score if math.isfinite(score) else None


if __name__ == "__main__":
    main()
