"""Whose taste a model was taught, in sentences: read from the recipe and the counts that the stages left."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

# What a recipe writes for the embedded world.
_TESTBED = "testbed"


def lineage(recipe: Mapping[str, Any], figures: Mapping[str, float]) -> tuple[str, ...]:
    """Where demonstrations, preferences, rewards and the final verdict came from, and how many of each."""
    return (*_demonstrations(recipe, figures), *_preferences(recipe, figures), *_rewards(recipe), *_judge(recipe))


def algorithm_of(recipe: Mapping[str, Any]) -> str:
    """The algorithm of alignment by name; empty where nothing was aligned."""
    return str(_table(recipe, "align").get("algorithm", ""))


def base_model(recipe: Mapping[str, Any]) -> str:
    """The model that the run started from, as the recipe names it; empty where it was made from nothing."""
    return str(_table(recipe, "model").get("path") or "")


def _demonstrations(recipe: Mapping[str, Any], figures: Mapping[str, float]) -> Iterator[str]:
    if "sft" in recipe:
        where = _files(_table(recipe, "sft").get("data"))
        source = "the testbed’s own writers" if where == _TESTBED else where
        yield f"Demonstrations: {_count(figures, 'sft/demonstrations')}from {source}."


def _preferences(recipe: Mapping[str, Any], figures: Mapping[str, float]) -> Iterator[str]:
    count = _count(figures, "reward/pairs")
    where = _files(_table(recipe, "reward").get("data"))
    if "reward" in recipe and where == _TESTBED:
        yield f"Preferences: {count}pairs judged by {_annotators(_table(recipe, 'testbed'))}, not by people."
    elif "reward" in recipe:
        raters = figures.get("reward/raters")
        people = "" if raters is None else f", by {raters:,.0f} raters"
        what = "ratings" if _table(recipe, "reward").get("objective") == "regression" else "comparisons"
        # Where rounds stand, a round's pairs name their votes (palate/stages/rounds.py writes them there).
        parts = PurePath(where).parts
        whose = (
            "Each row names its rater and its votes."
            if parts[-1:] == ("pairs.jsonl",) and parts[-3:-2] == ("rounds",)
            else "Who judged them is not recorded in the files."
        )
        yield f"Preferences: {count}{what} from {where}{people}. {whose}"
    align = _table(recipe, "align")
    if align.get("data"):
        yield f"Alignment learnt from {_files(align['data'])} without a reward model."


def _annotators(testbed: Mapping[str, Any]) -> str:
    if testbed.get("random_labels"):
        return "the testbed’s simulated annotators, who tossed a coin"
    biases = _table(testbed, "biases")
    if not biases:
        return "the testbed’s simulated annotators, who prefer by its known truth, with noise"
    named = ", ".join(f"{name} {weight}" for name, weight in sorted(biases.items()))
    return f"the testbed’s simulated annotators, who prefer by its known truth and were given biases ({named})"


def _rewards(recipe: Mapping[str, Any]) -> Iterator[str]:
    align = _table(recipe, "align")
    if not align or align.get("data"):
        return
    tables = align.get("rewards") or [{"source": align.get("reward", "model")}]
    named = [_source(place) for table in tables for place in _listed(table.get("source"))]
    yield f"Alignment optimised {', '.join(dict.fromkeys(named))}."


def _source(place: str) -> str:
    words = {"model": "this run’s reward model", "gold": "the testbed’s own truth"}
    if place in words:
        return words[place]
    if ".py:" in place:
        return f"the function {place}"
    return f"the reward model {place}" if "/" in place else f"the rule “{place}”"


def _judge(recipe: Mapping[str, Any]) -> Iterator[str]:
    judges = {
        "gold": "the testbed’s own truth",
        "heldout-reward": "a second reward model, trained on pairs that the first never saw",
        "reward": "the reward that alignment optimised, which is no independent judge",
    }
    judge = _table(recipe, "evaluate").get("judge")
    if judge:
        yield f"The final verdict is by {judges.get(judge, judge)}."


def _table(recipe: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = recipe.get(name)
    return found if isinstance(found, dict) else {}


def _listed(value: object) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list | tuple) else [str(value)]


def _files(value: object) -> str:
    return ", ".join(_listed(value)) if value else "nowhere"


def _count(figures: Mapping[str, float], name: str) -> str:
    return f"{figures[name]:,.0f} " if name in figures else ""
