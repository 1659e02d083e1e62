"""What is read from a run directory, and what becomes of what is missing, torn or wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from palate.errors import RunDirectoryError
from palate.report.findings import finding
from palate.report.reading import Series, read

MakeRun = Callable[..., Path]


def test_a_whole_run_is_read_without_notes(make_run: MakeRun) -> None:
    run = read(make_run())
    assert run.notes == ()
    assert run.results is not None and run.results.prompts == len(run.comparisons) == 400
    assert len(run.series("align", "kl/sequence").y) == 60
    assert run.summary["reward/accuracy"] == 0.712
    assert list(run.manifest.stages) == ["sft", "reward", "align", "evaluate"]


def test_missing_stages_are_empty(make_run: MakeRun) -> None:
    run = read(make_run(["sft"]))
    assert (run.results, run.comparisons, run.notes) == (None, (), ())
    assert run.series("align", "score/mean") == Series((), ())


def test_a_run_json_alone_is_enough(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    run = read(tmp_path)
    assert (run.recipe, run.summary, run.notes) == ("", {}, ())


def test_without_a_run_json_the_error_says_what_to_give(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(RunDirectoryError, match=r"is no run: it has no run\.json .* give the path of one"):
            read(place)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"stages": {"sft": {"status": "dancing"}}}'])
def test_with_a_damaged_run_json_the_error_says_how_to_mend_it(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(RunDirectoryError, match=r"its run\.json is damaged .* with --fresh"):
        read(tmp_path)


@pytest.mark.parametrize(
    "file", ["summary.json", "reward/report.json", "evaluate/results.json", "evaluate/comparisons.jsonl"]
)
def test_what_a_finished_stage_must_have_left_and_is_gone_is_noted(make_run: MakeRun, file: str) -> None:
    directory = make_run()
    (directory / file).unlink(missing_ok=True)
    assert f"{file} is missing: what it told is left out." in read(directory).notes


def test_lost_results_are_not_called_an_evaluation_that_was_never_done(make_run: MakeRun) -> None:
    directory = make_run()
    (directory / "evaluate" / "results.json").unlink()
    found = finding(read(directory))
    assert found.headline == "There is no verdict: the evaluation's results cannot be read."
    assert found.tone == "open" and "--fresh" in found.grounds[0]


def test_numbers_and_nesting_beyond_all_measure_are_left_out(make_run: MakeRun) -> None:
    directory = make_run()
    metrics, summary = directory / "align" / "metrics.jsonl", directory / "summary.json"
    whole = metrics.read_text()
    metrics.write_text('{"step": 1, "score/mean": 1' + "0" * 400 + "}\n" + '{"a":' * 100_000 + "\n" + whole)
    run = read(directory)
    assert run.series("align", "score/mean").y == read(make_run()).series("align", "score/mean").y
    assert run.notes[-1] == "1 lines of align/metrics.jsonl are not JSON and were left out."
    summary.write_text('{"reward/accuracy": 1' + "0" * 400 + ', "align/kl_final": 2}')
    assert read(directory).summary == {"align/kl_final": 2.0}
    summary.write_text("[" * 100_000)
    assert read(directory).summary == {}


def test_a_torn_last_line_is_forgiven_and_a_broken_one_inside_is_noted(make_run: MakeRun) -> None:
    directory = make_run()
    path = directory / "align" / "metrics.jsonl"
    whole = path.read_text()
    path.write_text(whole + '{"step": 61, "score/me')
    assert read(directory).notes == ()
    path.write_text("{broken\n" + whole)
    run = read(directory)
    assert run.notes == ("1 lines of align/metrics.jsonl are not JSON and were left out.",)
    assert len(run.series("align", "score/mean").y) == 60


def test_lines_end_at_newlines_only(make_run: MakeRun) -> None:
    directory = make_run()
    path = directory / "evaluate" / "comparisons.jsonl"
    row = json.loads(path.read_text().splitlines()[0]) | {"after": "one\u2028two"}
    path.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    assert [one.after for one in read(directory).comparisons] == ["one\u2028two"]


def test_a_series_holds_finite_numbers_only(make_run: MakeRun) -> None:
    directory = make_run()
    rows = [
        '{"step": 1, "a": 2}',
        '{"step": 2, "a": NaN}',
        '{"step": 3}',
        '{"a": 4}',
        '{"step": 5, "a": true}',
    ]
    (directory / "align" / "metrics.jsonl").write_text("\n".join([*rows, "7", '{"step": 6, "a": -1.5}', ""]))
    assert read(directory).series("align", "a") == Series((1.0, 6.0), (2.0, -1.5))


def test_wrong_results_and_comparisons_are_noted_and_left_out(make_run: MakeRun) -> None:
    directory = make_run()
    (directory / "evaluate" / "results.json").write_text('{"judge": "gold", "prompts": "many"}')
    with (directory / "evaluate" / "comparisons.jsonl").open("a") as file:
        file.write('{"prompt": "p", "outcome": "draw"}\n')
    run = read(directory)
    assert run.results is None and len(run.comparisons) == 400
    assert any(note.startswith("evaluate/results.json could not be read: prompts:") for note in run.notes)
    assert "1 rows of evaluate/comparisons.jsonl are not comparisons and were left out." in run.notes


@pytest.mark.parametrize(
    ("recipe", "target"),
    [
        ('[align]\nalgorithm = "ppo"\n[align.ppo.kl]\nkind = "adaptive"\ntarget = 6', 6.0),
        ('[align]\nalgorithm = "ppo"\n[align.ppo.kl]\nkind = "fixed"\ntarget = 6.0', None),
        ('[align]\nalgorithm = "rloo"\n[align.ppo.kl]\nkind = "dual"\ntarget = 6.0', None),
        ('[align]\nalgorithm = "a.py:Mine"\n[align.settings.kl]\nkind = "dual"\ntarget = 2.5', 2.5),
        ('[align]\nalgorithm = "ppo"\nppo = 3', None),
        ("[align]\nbatch = 64", None),
        ("align = 3", None),
        ("not toml [", None),
        ("", None),
    ],
)
def test_the_kl_target_comes_from_the_recipe(make_run: MakeRun, recipe: str, target: float | None) -> None:
    directory = make_run()
    (directory / "recipe.toml").write_text(recipe)
    assert read(directory).kl_target == target
