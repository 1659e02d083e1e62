"""report.json: the page is made from it alone, so each figure of the page is in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from palate.report import build, write
from palate.report.content import POINTS, SCHEMA, from_json, report_of, thinned, to_json
from palate.report.page import render
from palate.report.reading import Series, read

MakeRun = Callable[..., Path]
STAGES = ("sft", "reward", "align", "evaluate")


@pytest.mark.parametrize("count", range(5))
def test_the_page_is_made_from_report_json_alone(make_run: MakeRun, count: int) -> None:
    directory = make_run(STAGES[:count])
    write(directory)
    kept = from_json((directory / "report.json").read_bytes())
    assert render(kept) == (directory / "report.html").read_text(encoding="utf-8") == build(directory)


def test_names_of_report_json_are_stable(make_run: MakeRun) -> None:
    directory = make_run()
    write(directory)
    held = json.loads((directory / "report.json").read_bytes())
    assert held["schema_version"] == SCHEMA == 1
    assert set(held) == {
        *("schema_version", "manifest", "verdict", "headline", "cautions", "figures", "results", "reward", "watch"),
        *("monitors", "curves", "independent", "kl_target", "compared", "samples", "algorithm", "base_model"),
        *("lineage", "recipe"),
    }
    assert held["figures"] == json.loads((directory / "summary.json").read_bytes())
    assert held["results"]["win_rate"]["estimate"] == held["figures"]["align/win_rate"] == 0.80875
    assert held["watch"]["conclusion"]["fits"]["heldout"]["peak"]["distance"] == pytest.approx(1.0, abs=0.1)
    assert [one["kind"] for one in held["samples"]][-1] == "flagged"
    assert held["algorithm"] == "ppo" and held["base_model"] == "testbed"


def test_any_text_survives(make_run: MakeRun) -> None:
    directory = make_run()
    path = directory / "evaluate" / "comparisons.jsonl"
    row = json.loads(path.read_text().splitlines()[0]) | {"after": "a\ud800\u2028\x00é"}
    path.write_text(json.dumps(row) + "\n")
    report = report_of(read(directory))
    assert to_json(report).isascii()
    assert from_json(to_json(report)) == report
    assert report.samples[0].after == "a\ud800\u2028\x00é"


def test_a_long_curve_is_thinned_to_means_and_keeps_its_end() -> None:
    # 1,000 points in windows of three: 334 means, the last of the one point that is left.
    long = Series(tuple(map(float, range(1000))), tuple(map(float, range(1000))))
    short = thinned(long)
    assert len(short.y) == 334 <= POINTS
    assert (short.y[0], short.y[-1], short.x[0], short.x[-1]) == (1.0, 999.0, 2.0, 999.0)
    assert thinned(short) == short


def test_a_recipe_that_is_no_toml_says_nothing_of_lineage(make_run: MakeRun) -> None:
    directory = make_run()
    (directory / "recipe.toml").write_text("not toml [")
    report = report_of(read(directory))
    assert (report.lineage, report.algorithm, report.base_model) == ((), "", "")
