"""The reference pages are held to the code: their names exist, their recipes can be built."""

from __future__ import annotations

import importlib
import re
import tomllib
from functools import reduce
from pathlib import Path

import pytest

from palate.recipe import recipe_from

DOCS = Path(__file__).parent.parent / "docs"
GLOSSARY = (DOCS / "glossary.md").read_text(encoding="utf-8")
PIPELINES = (DOCS / "published-pipelines.md").read_text(encoding="utf-8")
NAMES = sorted(set(re.findall(r"`(palate(?:\.\w+)+)`", GLOSSARY + PIPELINES)))
RECIPES = re.findall(r"```toml\n(.*?)```", PIPELINES, flags=re.DOTALL)
PAPERS = ("stiennon", "instructgpt", "hh", "llama2")


def found(name: str) -> object:
    """The module or attribute of that dotted name."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            module = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        return reduce(getattr, parts[end:], module)
    raise ModuleNotFoundError(name)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_in_the_reference_pages_exists(name: str) -> None:
    assert found(name) is not None


def test_the_pages_name_much_of_the_code() -> None:
    assert len(NAMES) > 35


@pytest.mark.parametrize(("paper", "text"), list(zip(PAPERS, RECIPES, strict=True)), ids=PAPERS)
def test_a_recipe_of_a_paper_can_be_built(paper: str, text: str) -> None:
    recipe = recipe_from(tomllib.loads(text))
    assert recipe.sft and recipe.reward and recipe.align and recipe.evaluate
    assert recipe.reward.loop.epochs == 1  # what all four have in common
    assert recipe.align.ppo.kl.kind == "fixed"
    episodes = {"stiennon": 1_000_000, "instructgpt": 256_000}
    if paper in episodes:
        assert recipe.align.loop.iterations * recipe.align.loop.batch == pytest.approx(episodes[paper], rel=1e-3)


def test_minibatches_of_64_out_of_512() -> None:
    for text in (RECIPES[1], RECIPES[3]):
        align = recipe_from(tomllib.loads(text)).align
        assert align is not None and align.loop.batch / align.ppo.minibatches == 64


def test_the_numbers_of_the_glossary_follow_from_its_formulas() -> None:
    agreement = 0.73
    ceiling = (1 + (2 * agreement - 1) ** 0.5) / 2
    assert f"between\n  73 % and {100 * ceiling:.0f} %" in GLOSSARY
    # ln 64 − 63/64 = 4.159 − 0.984 = 3.175
    assert "3.2 nats for n = 64" in GLOSSARY
