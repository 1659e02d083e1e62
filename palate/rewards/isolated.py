"""A user's function in a process of its own, so that one that hangs, or takes its process down, ends nothing else."""

from __future__ import annotations

import pickle
import subprocess
import sys
import tempfile
import weakref
from multiprocessing.connection import Pipe
from pathlib import Path
from typing import Any

from palate.rewards.program import kill_group

_WORKER = Path(__file__).with_name("isolated_worker.py")

# The process ends itself when its time is over, and says where it was; this much later it is ended from outside.
_GRACE = 3.0


class Unanswered(Exception):
    """The function gave no answer; the text says how: raised …, did not return …, ended its process …."""


class IsolatedFunction:
    """Calls `file.py:function` in another process, which is kept between calls and has `seconds` for each.

    Raises Unanswered where the function raises, hangs, ends its process, or returns what cannot be passed on; the next
    call begins a new process.
    """

    def __init__(self, specification: str, seconds: float):
        self.specification = specification
        self.seconds = seconds
        self._process: _Process | None = None

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """What the function returns."""
        if self._process is None:
            self._process = _Process(self.specification, self.seconds)
            weakref.finalize(self, self._process.end)
        said = self._process.ask((arguments, named))
        if said is None:
            how = self._process.end()
            self._process = None
            raise Unanswered(how)
        kind, value = said
        if kind == "raised":
            raise Unanswered(value)
        return value


class _Process:
    """The other process, and the line to it."""

    def __init__(self, specification: str, seconds: float):
        self.seconds = seconds
        self.last_words = tempfile.TemporaryFile()  # noqa: SIM115
        self.line, far = Pipe()
        with far:
            descriptors = (far.fileno(), self.last_words.fileno())
            # `-c` and not the file itself: a script's directory would stand first on its path.
            start = "import runpy, sys; runpy.run_path(sys.argv[1], run_name='__main__')"
            self.process = subprocess.Popen(
                [sys.executable, "-c", start, str(_WORKER), *map(str, descriptors)],
                stdin=subprocess.DEVNULL,
                pass_fds=descriptors,
                start_new_session=True,
            )
        self._send((sys.path, specification, seconds))

    def ask(self, question: Any) -> Any:
        """The other side's answer, None where it gave none in time or is no more."""
        try:
            self._send(question)
            if not self.line.poll(self.seconds + _GRACE):
                return None
            return pickle.loads(self.line.recv_bytes())
        except (EOFError, OSError):
            return None
        except Exception as error:  # what a class of the user's does when it is unpickled
            return "raised", f"returned what cannot be passed on ({type(error).__name__}: {error})"

    def end(self) -> str:
        """Ends the process with its children; says how it had ended by itself."""
        kill_group(self.process)
        code = self.process.wait()
        self.line.close()
        if self.last_words.closed:
            return ""
        self.last_words.seek(0)
        trace = self.last_words.read().decode(errors="replace")
        self.last_words.close()
        if trace or code == -9:
            return f"did not return within {self.seconds:g} s{_place(trace)}"
        return f"ended its process ({f'signal {-code}' if code < 0 else f'exit code {code}'})"

    def _send(self, message: Any) -> None:
        self.line.send_bytes(pickle.dumps(message))


def _place(trace: str) -> str:
    """Where a traceback of faulthandler was, innermost first."""
    for line in trace.splitlines():
        if line.startswith("  File "):
            return f" (it was at{line.strip().removeprefix('File').replace(chr(34), '')})"
    return ""
