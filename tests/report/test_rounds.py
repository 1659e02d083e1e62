"""The page over all rounds: every round's figures beside the others', whose votes, why there; a pure function."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from palate.errors import RunDirectoryError
from palate.report import write
from palate.report.rounds import last_round

VOTES = {
    "first_event": 1,
    "last_event": 81,
    "items": 40,
    "slices": {"random": 13, "uncertain": 27},
    "fresh": 39,
    "all": 40,
    "raters": {"ada <b>": {"kind": "human", "votes": 40}},
    "ties": 3,
    "thumbs_unused": 2,
}
PAIRS = {
    "train": 1037,
    "heldout": 204,
    "first_data": 1004,
    "fresh": 33,
    "fresh_heldout": 4,
    "weights": {"1": 0.5, "2": 1.0},
    "sha256": "0123456789abcdef" * 4,
}
AIM = {"shares": {"random": 0.34, "uncertain": 0.66}, "why": ["The monitor length went from 10 to 30 <script>."]}


def told(number: int, **facts: Any) -> dict[str, Any]:
    return {"round": number, "directory": f"rounds/{number}", "model": "a" * 64, **facts}


@pytest.fixture
def rounds(tmp_path: Path, write_run: Callable[..., Path]) -> Path:
    """Two finished rounds and a third that waits for its votes."""
    for number in (1, 2):
        run = write_run(tmp_path / "many" / "rounds" / str(number))
        summary = json.loads((run / "summary.json").read_text())
        summary |= {"align/gold_final": 0.31 * number, "align/win_rate": 0.6 + 0.1 * number}
        (run / "summary.json").write_text(json.dumps(summary))
    known = [told(1), told(2, aim=AIM, votes=VOTES, pairs=PAIRS), told(3, aim=AIM, model=None)]
    (tmp_path / "many" / "rounds.json").write_text(json.dumps({"rounds": known}))
    (tmp_path / "many" / "run.json").write_text(json.dumps({"name": "many", "created": "2026-11-21T00:00:00+00:00"}))
    return tmp_path / "many"


def test_the_page_shows_every_round_beside_the_others(rounds: Path) -> None:
    page = write(rounds).read_text()
    assert "2 of 3 rounds done" in page
    assert "0.31 in round 1, 0.62 in round 2" in page
    assert "70.0% in round 1, 80.0% in round 2" in page
    for number in (1, 2):
        assert f'href="rounds/{number}/report.html"' in page
    assert 'href="rounds/3/report.html"' not in page
    assert page.count('<svg class="chart"') >= 2


def test_the_page_says_whose_votes_why_and_what_became_of_them(rounds: Path) -> None:
    page = write(rounds).read_text()
    assert "ada &lt;b&gt; (human): 40" in page
    assert "40 pairs: 13 random, 27 uncertain" in page
    assert "length went from 10 to 30 &lt;script&gt;." in page
    assert "33 to learn from, 4 held out; unused: 3 ties, 2 thumbs unused" in page
    assert "1 to 81" in page and "round 1: 0.5, round 2: 1" in page
    assert "1,037 pairs, 1,004 of them from the first round’s data" in page
    assert "votes are awaited" in page  # the third round's


def test_nothing_is_fetched_and_nothing_runs(rounds: Path) -> None:
    page = write(rounds).read_text()
    assert "http://" not in page.replace("http://www.w3.org", "") and "https://" not in page
    assert "<script" not in page


def test_the_same_directory_gives_the_same_page(rounds: Path) -> None:
    assert write(rounds).read_bytes() == write(rounds).read_bytes()


def test_before_the_first_votes_there_is_a_page(tmp_path: Path) -> None:
    (tmp_path / "rounds.json").write_text(json.dumps({"rounds": [told(1, model=None, aim=AIM)]}))
    (tmp_path / "run.json").write_text("{}")
    page = write(tmp_path).read_text()
    assert "0 of 1 rounds done" in page and "No votes yet." in page


@pytest.mark.parametrize("text", ["{", '{"rounds": [{"round": "one"}]}'])
def test_what_is_no_record_of_rounds_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "rounds.json").write_text(text)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(RunDirectoryError, match="could not be read"):
        write(tmp_path)


def test_the_last_round_is_found(rounds: Path, tmp_path: Path) -> None:
    assert last_round(rounds) == rounds / "rounds/2"
    assert last_round(tmp_path) == tmp_path
