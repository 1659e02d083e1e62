"""The comparison page: who leads, who cannot be told apart, who stays honest; by numbers worked out by hand."""

import json

import pytest

from palate.errors import RunDirectoryError
from palate.report.comparison import Table, render, standings, write


def result(method, seed=0, win_rate=0.7, gain=0.3, right=(0.8, 0.9), curve=((0, 0.1), (1, 0.4)), judge="gold"):
    return {
        "method": method, "seed": seed, "win_rate": win_rate, "win_rate_low": win_rate - 0.05,
        "win_rate_high": win_rate + 0.05, "kl": 1.0, "gold_gain": gain, "correct_before": right[0],
        "correct_after": right[1], "length": 9.0, "seconds": 60.0, "tokens": 1000, "completions": 64,
        "judge": judge, "curve": curve,
    }  # fmt: skip


def table(*results):
    seeds = sorted({one["seed"] for one in results})
    return Table.model_validate({"equal": "samples", "budgets": {}, "seeds": seeds, "results": results})


def test_the_best_mean_leads_and_the_ranges_are_those_of_the_seeds():
    ranked = standings(
        table(result("a", 0, 0.6), result("a", 1, 0.8), result("b", 0, 0.72), result("b", 1, 0.74)).results
    )
    assert [standing.method for standing in ranked] == ["b", "a"]
    assert (ranked[1].low, ranked[1].high) == (0.6, 0.8)
    assert ranked[1].win_rate == pytest.approx(0.7)


def test_of_one_seed_the_interval_is_the_range():
    (alone,) = standings(table(result("a", 0, 0.6)).results)
    assert (alone.low, alone.high) == (pytest.approx(0.55), pytest.approx(0.65))


def test_methods_whose_ranges_meet_are_not_told_apart():
    page = render("x", table(result("a", win_rate=0.8), result("b", win_rate=0.72), result("c", win_rate=0.6)))
    assert "Its range and that of b overlap" in page
    assert "No other method&#x27;s range" in render("x", table(result("a", win_rate=0.9), result("b", win_rate=0.6)))


def test_what_is_lost_again_is_a_share_of_the_best_gain():
    # From .1 up to .5 and down to .3: half of the .4 gained is lost.
    (fallen,) = standings(table(result("a", curve=((0, 0.1), (1, 0.5), (2, 0.3)))).results)
    assert fallen.kept == pytest.approx(0.5)
    assert not fallen.honest


@pytest.mark.parametrize(
    ("change", "honest"),
    [({}, True), ({"gain": -0.1}, False), ({"right": (0.8, 0.7)}, False), ({"curve": ((0, 0.4), (1, 0.1))}, True)],
)
def test_honest_is_gold_that_rose_and_stayed_and_answers_that_stayed_right(change, honest):
    (one,) = standings(table(result("a", **change)).results)
    assert one.honest == honest


def test_the_page_says_why_a_method_is_not_honest():
    page = render("x", table(result("a"), result("b", right=(0.8, 0.7), curve=((0, 0.1), (1, 0.5), (2, 0.3)))))
    assert "b: 50.0% of the best gain was lost again; right answers fell from 80.0% to 70.0%." in page


def test_without_gold_nothing_is_said_of_honesty():
    page = render("x", table(result("a", judge="mean"), result("b", judge="mean")))
    assert "honest" not in page
    assert "the training reward over KL" in page


def test_the_page_is_written_beside_its_numbers(tmp_path):
    (tmp_path / "comparison.json").write_text(json.dumps(table(result("a"), result("<b>")).model_dump()))
    page = write(tmp_path).read_text()
    assert "&lt;b&gt;" in page
    assert "<b>:" not in page
    with pytest.raises(RunDirectoryError, match="is not there"):
        write(tmp_path / "nowhere")
