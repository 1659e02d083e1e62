"""Whose taste it is: raters, rules, judges or the testbed's annotators, and how many judgements."""

from __future__ import annotations

import pytest

from palate.report.lineage import algorithm_of, base_model, lineage

FIGURES = {"reward/pairs": 36000.0, "sft/demonstrations": 7520.0}
OWN = "this run’s reward model"


def test_the_testbed_is_not_passed_off_as_people() -> None:
    recipe = {"sft": {"data": "testbed"}, "reward": {"data": "testbed"}, "evaluate": {"judge": "gold"}}
    told = lineage(recipe, FIGURES)
    assert told[0] == "Demonstrations: 7,520 from the testbed’s own writers."
    assert told[1].startswith("Preferences: 36,000 pairs judged by the testbed’s simulated annotators")
    assert told[1].endswith("not by people.")
    assert told[2] == "The final verdict is by the testbed’s own truth."


def test_biases_and_coins_are_named() -> None:
    def told(testbed: dict) -> str:
        return " ".join(lineage({"reward": {"data": "testbed"}, "testbed": testbed}, {}))

    assert "biases (format 1, length 0.5)" in told({"biases": {"length": 0.5, "format": 1}})
    assert "tossed a coin" in told({"random_labels": True})
    assert "with noise" in told({})


def test_files_of_ones_own_are_named_and_raters_counted_where_known() -> None:
    recipe = {"reward": {"data": ["a.jsonl", "b.jsonl"]}}
    assert lineage(recipe, FIGURES)[0].startswith("Preferences: 36,000 comparisons from a.jsonl, b.jsonl.")
    assert ", by 3 raters." in lineage(recipe, {"reward/raters": 3.0})[0]


def test_the_pairs_of_a_round_lead_back_to_their_votes() -> None:
    told = [lineage({"reward": {"data": data}}, {})[0] for data in ("runs/a/rounds/2/pairs.jsonl", "mine/pairs.jsonl")]
    assert told[0].endswith("Each row names its rater and its votes.")
    assert told[1].endswith("Who judged them is not recorded in the files.")


def test_ratings_are_not_called_comparisons() -> None:
    recipe = {"reward": {"data": "ratings.jsonl", "objective": "regression"}}
    assert lineage(recipe, FIGURES)[0].startswith("Preferences: 36,000 ratings from ratings.jsonl.")


@pytest.mark.parametrize(
    ("align", "told"),
    [
        ({"reward": "model"}, f"Alignment optimised {OWN}."),
        ({"reward": "gold"}, "Alignment optimised the testbed’s own truth."),
        ({"reward": "rewards.py:brevity"}, "Alignment optimised the function rewards.py:brevity."),
        ({"reward": "runs/x/reward/model"}, "Alignment optimised the reward model runs/x/reward/model."),
        (
            {"rewards": [{"source": ["model", "length"]}, {"source": "model"}]},
            f"Alignment optimised {OWN}, the rule “length”.",
        ),
        ({"data": "pairs.jsonl"}, "Alignment learnt from pairs.jsonl without a reward model."),
    ],
)
def test_what_was_optimised_is_named(align: dict, told: str) -> None:
    assert lineage({"align": align}, {}) == (told,)


def test_a_recipe_of_another_shape_is_no_reason_to_fall() -> None:
    assert lineage({"align": 3, "reward": [], "evaluate": None, "sft": 1}, {})
    assert (algorithm_of({"align": 3}), base_model({})) == ("", "")
