"""The verifier on GSM8K: every worked solution gives the answer that its row knows, and another row's does not."""

import json
import os
from pathlib import Path

import pytest

from palate.rewards.answers import last_number

DATA = Path(os.environ.get("PALATE_DATA", Path(__file__).parents[3] / "shared" / "data")) / "gsm8k" / "test.jsonl"


@pytest.mark.skipif(not DATA.exists(), reason="needs GSM8K below PALATE_DATA")
def test_a_worked_solution_gives_its_own_answer():
    solutions = [json.loads(line)["answer"] for line in DATA.read_text(encoding="utf-8").splitlines()]
    for solution in solutions:
        steps, _, answer = solution.rpartition("####")
        wanted = last_number(answer)
        assert wanted is not None and wanted == float(answer.replace(",", ""))
        assert last_number(solution) == wanted
        assert last_number(f"{steps} The answer is ${answer.strip()}.") == wanted
        assert last_number(f"{steps} \\boxed{{{answer.strip()}}}") == wanted
        assert last_number(f"#### {float(wanted) + 1}") != wanted
