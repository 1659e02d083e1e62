"""The charts: well-formed, the same each time, in the page's colours, and right in what they draw."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable

import matplotlib
import pytest

from palate.evaluation import Peak
from palate.evaluation.calibration import Bin
from palate.report import charts
from palate.report.reading import Series, WinRate

PEAK = Peak(1.2, 1.0, 1.5, 0.4, 0.3, 0.5)
BIN = Bin(0.7, 0.6, 0.5, 0.68, 40)
SERIES = Series((1.0, 2.0, 3.0), (0.5, 0.25, 2.0))
DRAWINGS: dict[str, Callable[[str], str]] = {
    "curve": lambda words: charts.curve("c", words, SERIES, spread=SERIES, target=1.0),
    "training": lambda words: charts.training_curve("t", words, SERIES),
    "over kl": lambda words: charts.over_kl(
        "k", words, [charts.Track("ours", SERIES, (0.1, 0.1, 0.1), SERIES)], peak=PEAK, kept=1.0
    ),
    "reliability": lambda words: charts.reliability("r", words, [BIN], [BIN]),
    "intervals": lambda words: charts.intervals(
        "i", words, [charts.Interval("ours", 0.7, 0.6, 0.8), charts.Interval("other", 0.5)]
    ),
    "outcomes": lambda words: charts.outcomes("o", words, WinRate(0.75, 0.7, 0.8, 6, 3, 1)),
}


@pytest.fixture(params=DRAWINGS, ids=str)
def draw(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """Each kind of chart in turn, given its description."""
    return DRAWINGS[request.param]


def test_a_chart_is_named_and_well_formed(draw: Callable[[str], str]) -> None:
    root = ElementTree.fromstring(draw("a < b & “c”").replace("xlink:href", "href"))
    title = next(element for element in root if element.tag.endswith("title"))
    assert title.text == "a < b & “c”"
    assert root.attrib["aria-labelledby"] == title.attrib["id"]
    assert root.attrib["role"] == "img"
    assert "width" not in root.attrib


def test_a_chart_is_the_same_each_time_whatever_the_user_configured(draw: Callable[[str], str]) -> None:
    first = draw("words")
    with matplotlib.rc_context({"axes.linewidth": 5, "font.family": "serif", "path.snap": False}):
        assert draw("words") == first


def test_a_chart_takes_its_colours_from_the_page(draw: Callable[[str], str]) -> None:
    svg = draw("words")
    assert "var(--" in svg
    assert not re.search(r"#[0-9a-f]{6}\b(?!-)", svg.replace("url(#", "").replace('href="#', ""))


def test_ids_are_used_once_and_every_reference_is_met(draw: Callable[[str], str]) -> None:
    svg = draw("words")
    ids = re.findall(r'\bid="([^"]+)"', svg)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"url\(#([^)]+)\)", svg)) | set(re.findall(r'href="#([^"]+)"', svg)) <= set(ids)


def test_two_charts_share_no_id() -> None:
    first, second = (set(re.findall(r'\bid="([^"]+)"', charts.curve(name, "d", SERIES))) for name in "ab")
    assert first and not first & second


def test_text_stays_text() -> None:
    svg = charts.curve("kl", "d", SERIES, target=1.5)
    assert "target 1.50" in svg and ">2.00<" in svg and "iteration" in svg


def test_one_point_and_flat_series_are_drawn() -> None:
    assert "<svg" in charts.curve("a", "d", Series((1.0,), (0.0,)), from_zero=True)
    assert "<svg" in charts.training_curve("a", "d", Series((1.0, 2.0), (3.0, 3.0)))
    assert "<svg" in charts.outcomes("a", "d", WinRate(0.5, 0.0, 1.0, 0, 0, 0))


def test_the_outcome_bar_is_as_wide_as_its_counts() -> None:
    # 6 wins, 3 ties and 1 loss: the bars' left and right edges stand at 0, .6, .9 and 1 of the width.
    svg = charts.outcomes("o", "d", WinRate(0.75, 0.7, 0.8, 6, 3, 1))
    bars = re.findall(r'<path d="M ([\d.]+) [\d.]+ \nL ([\d.]+) [^"]+z\n" clip-path', svg)
    edges = [(float(left), float(right)) for left, right in bars]
    width = edges[-1][1] - edges[0][0]
    shares = [(right - left) / width for left, right in edges]
    assert shares == pytest.approx([0.6, 0.3, 0.1], abs=1e-4)
    assert "6 wins · 60.0%" in svg and "3 ties · 30.0%" in svg and "1 losses · 10.0%" in svg


def test_the_peak_is_told_as_kl_and_only_where_it_was_measured() -> None:
    # √KL = 1.2 is a KL of 1.44; looks that end at KL 1 never reached it.
    near, far = Series((0.0, 1.0), (0.0, 1.0)), Series((0.0, 1.0, 3.0), (0.0, 1.0, 0.5))
    assert "peak 1.44" in charts.over_kl("a", "d", [charts.Track("gold", far)], peak=PEAK)
    assert "peak" not in charts.over_kl("a", "d", [charts.Track("gold", near)], peak=PEAK)
    assert "kept" not in charts.over_kl("a", "d", [charts.Track("gold", far)])


def test_a_reliability_curve_may_lack_its_second_half() -> None:
    assert "<svg" in charts.reliability("r", "d", [BIN], [])
