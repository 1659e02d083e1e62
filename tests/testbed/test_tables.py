"""The tables of docs/testbed.md are those that the code generates."""

from __future__ import annotations

from pathlib import Path

import pytest

from palate.testbed import tables
from palate.testbed.gold import correct, gold
from palate.testbed.world import question

PAGE = Path(__file__).parents[2] / "docs" / "testbed.md"


@pytest.mark.parametrize("table", [tables.task_table, tables.bias_table, tables.gold_table, tables.manner_table])
def test_the_page_shows_the_table_as_it_is_now(table):
    current = table()
    assert current in PAGE.read_text(encoding="utf-8"), f"put this into docs/testbed.md:\n{current}"


def test_ten_prompts_cover_every_task_in_ten_manners():
    assert len(tables.SHOWN) == len(tables.MANNERS) == 10
    assert len({question(text).fact.task for text in tables.SHOWN}) == 9


@pytest.mark.parametrize("text", tables.SHOWN)
def test_the_direct_manner_is_perfect_and_every_other_is_less(text):
    asked = question(text)
    golds = {manner: gold(text, tables.in_manner(asked, manner)) for manner in tables.MANNERS}
    declines = asked.fact.task == "declined"
    assert golds["direct"] == 1
    assert all(value < 1 for manner, value in golds.items() if manner not in ("direct", "refusing"))
    assert (golds["refusing"] == 1) == declines
    assert golds["wrong"] == min(golds.values())
    assert not correct(text, tables.in_manner(asked, "wrong"))
