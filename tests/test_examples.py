"""The examples are run, as a user would: by path, from a recipe."""

import json
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_an_algorithm_of_ones_own_aligns(finished, tmp_path, palate_command):
    recipe = tmp_path / "own.toml"
    recipe.write_text(
        f"""
        [run]
        name = "own"
        threads = 1
        device = "cpu"
        [model]
        path = "{finished.run}/sft/model"
        [align]
        prompts = "{finished.recipe.parent}/prompts.jsonl"
        reward = "{finished.run}/reward/model"
        algorithm = "{EXAMPLES}/algorithm.py:AWR"
        settings = {{ temperature = 0.5 }}
        iterations = 3
        batch = 4
        max_new_tokens = 8
        """
    )
    result = palate_command("align", recipe, "--runs", tmp_path / "runs", "--force")
    assert result.code == 0, result.err
    rows = [json.loads(line) for line in (tmp_path / "runs/own/align/metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 3
    assert all(row["ratio/first"] == 1.0 and row["grad_norm"] > 0 for row in rows)
    code = (EXAMPLES / "algorithm.py").read_text().split("@record\n")[1]
    assert len([line for line in code.splitlines() if line.strip()]) <= 30
