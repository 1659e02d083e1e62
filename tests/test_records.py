"""Records that would say something impossible cannot be made."""

from __future__ import annotations

import math

import pytest

from palate.errors import DataError
from palate.records import PreferencePair, Prompt, Ranking, Rating

QUESTION = Prompt.of("Q")


@pytest.mark.parametrize("ranks", [(0, 1, 2), (2, 0, 1), (0, 0, 0), (1, 0, 0)])
def test_ranks_count_from_the_best_and_may_tie(ranks: tuple[int, ...]) -> None:
    assert Ranking(QUESTION, ("a", "b", "c"), ranks).ranks == ranks


@pytest.mark.parametrize("ranks", [(1, 2, 3), (0, 2, 2), (-1, 0, 1), (0, 1, 3), (0, 1, 10**12)])
def test_ranks_with_a_gap_are_refused(ranks: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="they count from 0, the best, without a gap"):
        Ranking(QUESTION, ("a", "b", "c"), ranks)


@pytest.mark.parametrize(("completions", "ranks"), [((), ()), (("a",), (0,)), (("a", "b"), (0,)), (("a",), (0, 1))])
def test_a_ranking_has_two_completions_and_a_rank_for_each(
    completions: tuple[str, ...], ranks: tuple[int, ...]
) -> None:
    with pytest.raises(DataError, match=f"has {len(completions)} completions and {len(ranks)} ranks"):
        Ranking(QUESTION, completions, ranks)


@pytest.mark.parametrize("scores", [{}, {"a": math.nan}, {"a": 1.0, "b": math.inf}])
def test_a_rating_has_finite_scores(scores: dict[str, float]) -> None:
    with pytest.raises(DataError, match="it needs at least one, and every one finite"):
        Rating(QUESTION, "A", scores)


def test_records_can_be_counted_in_sets() -> None:
    assert len({Rating(QUESTION, "A", {"a": 1.0}), Rating(QUESTION, "A", {"a": 1.0})}) == 1


@pytest.mark.parametrize("weight", [-0.5, math.nan, math.inf])
def test_a_pair_weighs_a_finite_number_from_0_up(weight: float) -> None:
    with pytest.raises(DataError, match="how much the pair counts"):
        PreferencePair(QUESTION, "A", "B", weight=weight)
