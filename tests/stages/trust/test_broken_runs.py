"""The doctor on real runs, broken on purpose and healthy: minutes for each seed.

`PALATE_DOCTOR_SEEDS` names other seeds, `PALATE_DOCTOR_RUNS` a directory whose finished runs are reused. Thresholds
were fixed on seeds 0 and 1: other seeds are the test.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SEEDS = os.environ.get("PALATE_DOCTOR_SEEDS", "2").split(",")


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_the_doctor_names_the_broken_stage_and_no_other(seed, tmp_path):
    runs = os.environ.get("PALATE_DOCTOR_RUNS", str(tmp_path))
    script = Path(__file__).with_name("broken_runs.py")
    command = [sys.executable, str(script), "--seeds", seed, "--runs", runs]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == 15 + 1  # nine broken, three healthy, three of another strength; the count
