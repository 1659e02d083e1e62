"""The model card: readable by the hub's own reader without network, whole, and deaf to markup."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import ModelCard

from palate.report import write

MakeRun = Callable[..., Path]


def card_of(directory: Path) -> str:
    """The card that the report writes."""
    write(directory)
    return (directory / "align" / "model" / "README.md").read_text(encoding="utf-8")


def test_the_hub_reads_its_front_matter(make_run: MakeRun) -> None:
    data = ModelCard(card_of(make_run())).data.to_dict()
    assert data["library_name"] == "transformers" and data["pipeline_tag"] == "text-generation"
    assert data["tags"] == ["palate", "rlhf", "preference-alignment", "ppo"]
    assert "base_model" not in data  # the testbed is no name of the hub's


def test_a_base_model_of_the_hub_is_named(make_run: MakeRun) -> None:
    directory = make_run()
    recipe = directory / "recipe.toml"
    recipe.write_text(recipe.read_text().replace('path = "testbed"', 'path = "org/name-1B"'))
    assert ModelCard(card_of(directory)).data.to_dict()["base_model"] == "org/name-1B"


def test_it_says_what_was_measured_and_what_is_not_fixed(make_run: MakeRun) -> None:
    card = card_of(make_run())
    for words in (
        "| Win rate over the SFT model | 80.9% | 76.8–84.7% |",
        "| Win rate at equal length | 79.0% | 74.5–83.1% |",
        "| Reward model: accuracy on held-out pairs | 71.2% | 69.9–72.5% |",
        "36,000 pairs judged by the testbed’s simulated annotators",
        "## What alignment by preferences does not fix",
        "Knowledge",
        "own biases",
        "Other prompts",
        "Adversarial use",
        "Truthfulness where raters cannot check",
        "812 pairs hold contradicting labels",
        "9f2c9f2c",
    ):
        assert words in card


def test_a_model_that_was_not_evaluated_says_so(make_run: MakeRun) -> None:
    assert "This model has not been evaluated." in card_of(make_run(["align"]))


def test_there_is_no_card_before_the_model_is_whole(make_run: MakeRun) -> None:
    directory = make_run()
    run = json.loads((directory / "run.json").read_text())
    run["stages"]["align"]["status"] = "running"
    (directory / "run.json").write_text(json.dumps(run))
    write(directory)
    assert list((directory / "align" / "model").iterdir()) == []


def test_foreign_text_stays_text(make_run: MakeRun) -> None:
    directory = make_run()
    run = json.loads((directory / "run.json").read_text())
    run["name"] = "a`b\n# Heading <script>"
    run["stages"]["reward"]["verdict"]["reasons"] = ["see <script> [link](http://x)\n## Heading"]
    (directory / "run.json").write_text(json.dumps(run))
    lines = card_of(directory).splitlines()
    assert "# `a'b # Heading <script>`" in lines
    assert r"- Stage reward: see \<script\> \[link\](http://x) \#\# Heading." in lines
    assert "## Heading" not in lines


def test_a_run_without_fine_tuning_is_compared_with_the_model_before(make_run: MakeRun) -> None:
    directory = make_run(["align", "evaluate"])
    card = card_of(directory)
    assert "prefers the aligned model to the model before." in card
    assert "| Win rate over the model before |" in card and "| Mean score, before → aligned |" in card
    page = (directory / "report.html").read_text(encoding="utf-8")
    assert "Aligned against the model before" in page and "KL from the model before" in page
    for text in (card, page):
        assert "SFT" not in text
