"""Programs in a process of their own: what they see, and what is left of them."""

import os
import time
from pathlib import Path

import pytest

from palate.rewards.program import Limits, run_program

LIMITS = Limits(seconds=1, megabytes=512)


def test_a_program_sees_no_environment_no_input_and_an_empty_directory(monkeypatch):
    monkeypatch.setenv("SECRET_KEY", "42")
    program = "import os, sys\nprint(open(os.devnull).read(), sys.stdin.read())"
    tests = "assert 'SECRET_KEY' not in os.environ and os.listdir() == [] and sys.flags.isolated"
    assert run_program(program, tests, {}, LIMITS) == 1.0


def test_what_it_wrote_is_gone(tmp_path):
    told = tmp_path / "told"
    program = f"import os\nopen('left', 'w').write('x')\nopen({str(told)!r}, 'w').write(os.getcwd())"
    assert run_program(program, "", {}, LIMITS) == 1.0
    assert not Path(told.read_text()).exists()


def test_its_children_end_with_it(tmp_path):
    told = tmp_path / "told"
    sleep = "[sys.executable, '-c', 'import time; time.sleep(60)']"
    child = f"import os, subprocess, sys\nchild = subprocess.Popen({sleep})\n"
    tell = f"open({str(told)!r}, 'w').write(str(child.pid))\n"
    for rest, outcome in (("", 1.0), ("import time\ntime.sleep(60)", None)):
        assert run_program(child + tell + rest, "", {}, LIMITS) == outcome
        assert ended(int(told.read_text()))


@pytest.mark.parametrize(
    "reply",
    [
        "5",
        "null",
        "[]",
        "{}",
        "not JSON",
        '"high"',
        "true",
        "NaN",
        "1e999",
        '{"score": 1.0}',
        "[" * 50_000,
    ],
)
def test_a_reply_of_another_shape_tells_nothing(reply):
    write = f"import os\nfor descriptor in range(20):\n    try: os.write(descriptor, {reply!r}.encode())\n"
    assert run_program(f"{write}    except OSError: pass\nos._exit(0)", "", {}, LIMITS) is None


def ended(process: int) -> bool:
    """Whether a process is gone, or dead and not yet buried, within five seconds."""
    for _ in range(100):
        state = Path(f"/proc/{process}/stat")
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False
