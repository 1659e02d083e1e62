"""Agreement: published examples, hand-derived ones, what holds for any table, and the real files of several raters."""

from __future__ import annotations

import gzip
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.collect.agreement import (
    agreement,
    cohen_kappa,
    fleiss_kappa,
    krippendorff_alpha,
    percent_agreement,
    table,
)
from palate.errors import UsageError
from palate.evaluation.resampling import bootstrap_interval, bootstrap_of_rows

DATA = Path(os.environ.get("PALATE_DATA", Path(__file__).parents[3] / "shared" / "data")) / "multi_annotator"
published = pytest.mark.skipif(
    not DATA.is_dir(), reason="the published multi-annotator files are not beside the checkout"
)

counted = st.lists(st.lists(st.integers(0, 4), min_size=3, max_size=3), min_size=2, max_size=20).map(np.array)


# ---- published examples


def test_fleiss_kappa_of_fourteen_raters():
    # The worked example of ten subjects, fourteen raters and five categories that is commonly given with Fleiss'
    # formula (Wikipedia, "Fleiss' kappa"): P̄ = .378, P̄ₑ = .213, κ = .210.
    counts = np.array(
        [
            [0, 0, 0, 0, 14],
            [0, 2, 6, 4, 2],
            [0, 0, 3, 5, 6],
            [0, 3, 9, 2, 0],
            [2, 2, 8, 1, 1],
            [7, 7, 0, 0, 0],
            [3, 2, 6, 3, 0],
            [2, 5, 3, 2, 2],
            [6, 5, 2, 1, 0],
            [0, 2, 2, 3, 7],
        ]
    )
    assert percent_agreement(counts) == pytest.approx(0.378, abs=5e-4)
    assert fleiss_kappa(counts) == pytest.approx(0.210, abs=5e-4)


def test_cohen_kappa_by_hand():
    # Fifty applications: both say yes to 20 and no to 15, one alone yes to 5, the other alone to 10. p₀ = .7; the one
    # says yes to half of them, the other to 60 %, so pₑ = .5·.6 + .5·.4 = .5, and κ = .2/.5.
    first = ["yes"] * 25 + ["no"] * 25
    second = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    assert cohen_kappa(first, second) == pytest.approx(0.4, rel=1e-12)
    assert cohen_kappa(second, first) == pytest.approx(0.4, rel=1e-12)
    assert np.isnan(cohen_kappa(["yes"] * 3, ["yes"] * 3))


def test_krippendorffs_own_example():
    # "Computing Krippendorff's Alpha-Reliability" (2011), section C: four observers, twelve units, missing data.
    # Nominal α = .743, ordinal .815.
    observers = ["1233214120..", "123322412500", ".33323422510", "123324412510"]
    units = [[observer[unit] for observer in observers if observer[unit] in "12345"] for unit in range(11)] + [["3"]]
    counts = table(units, "12345")
    assert krippendorff_alpha(counts) == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_alpha(counts, "ordinal") == pytest.approx(0.815, abs=5e-4)


# ---- by hand


def test_different_numbers_of_raters_by_hand():
    # Items aa, aab, b: the pairs agree in 1 of 1 and 1 of 3, P̄ = 2/3. Shares of a: 1, 2/3, 0, π = 5/9;
    # P̄ₑ = (25 + 16)/81 = 41/81, κ = (54 − 41)/(81 − 41) = 13/40. The lone b counts by chance only.
    counts = table(["aa", "aab", "b"], "ab")
    assert counts.tolist() == [[2, 0], [2, 1], [0, 1]]
    assert percent_agreement(counts) == pytest.approx(2 / 3, rel=1e-12)
    assert fleiss_kappa(counts) == pytest.approx(13 / 40, rel=1e-12)


def test_what_is_no_value_is_left_out():
    assert table([["a", "tie", "b"], ["tie"]], "ab").tolist() == [[1, 1], [0, 0]]


@given(counted.filter(lambda counts: (counts.sum(axis=1) > 1).any()))
def test_full_agreement_is_one_and_names_of_values_do_not_matter(counts):
    kappa, alpha = fleiss_kappa(counts), krippendorff_alpha(counts)
    turned = counts[:, ::-1]
    assert fleiss_kappa(turned) == pytest.approx(kappa, abs=1e-12, nan_ok=True)
    assert krippendorff_alpha(turned) == pytest.approx(alpha, abs=1e-12, nan_ok=True)
    assert percent_agreement(counts) <= 1
    alike = np.diag([3, 2, 5])
    assert (percent_agreement(alike), fleiss_kappa(alike), krippendorff_alpha(alike)) == (1.0, 1.0, 1.0)


@given(st.lists(st.permutations([2, 1, 0]), min_size=2, max_size=20))
def test_alpha_is_kappa_but_for_what_a_small_sample_is_worth(rows):
    # With the same number of raters for every item: 1 − α = (1 − κ)·(n − 1)/n for n ratings.
    counts = np.array(rows)
    n = counts.sum()
    assert krippendorff_alpha(counts) == pytest.approx(1 - (1 - fleiss_kappa(counts)) * (n - 1) / n, abs=1e-9)


def test_raters_who_toss_coins_agree_by_chance_alone():
    random = np.random.default_rng(0)
    heads = random.binomial(4, 0.3, 5000)
    counts = np.stack([heads, 4 - heads], axis=1)
    assert abs(fleiss_kappa(counts)) < 0.02 and abs(krippendorff_alpha(counts)) < 0.02


# ---- intervals


def test_drawing_rows_gives_the_interval_of_drawing_means():
    random = np.random.default_rng(1)
    values, groups = random.normal(size=60), random.integers(0, 15, 60).tolist()
    rows = bootstrap_of_rows(values[:, None], groups, lambda drawn: float(drawn.mean()))
    assert rows == pytest.approx(bootstrap_interval(values, groups), rel=1e-12)
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_of_rows(np.zeros((0, 2)), [], lambda drawn: 0.0)


def test_the_interval_of_kappa_covers_the_truth(monkeypatch):
    monkeypatch.setattr("palate.evaluation.resampling.DRAWS", 200)
    random = np.random.default_rng(2)
    # p uniform: two raters agree on E[p² + (1 − p)²] = 2/3, by chance on ½, κ = 1/3.
    covered = 0
    for _ in range(200):
        first = random.binomial(3, random.random(80))
        counts = np.stack([first, 3 - first], axis=1)
        low, high = bootstrap_of_rows(counts, range(80), fleiss_kappa)
        covered += low <= 1 / 3 <= high
    assert 0.91 <= covered / 200 <= 0.985


def test_twos_of_one_ranking_are_drawn_together():
    counts = np.repeat(np.array([[2, 0], [1, 1], [0, 2], [1, 1]] * 5), 6, axis=0)
    apart, together = agreement(counts), agreement(counts, np.repeat(np.arange(20), 6).tolist())
    assert apart.percent.estimate == together.percent.estimate
    assert (apart.items, together.items) == (120, 20)
    wide, narrow = (one.percent.high - one.percent.low for one in (together, apart))
    assert wide > 2 * narrow


def test_nothing_to_tell_from_chance_and_nothing_to_compare():
    found = agreement(table(["aaa", "aa"], "ab"))
    assert found.percent.estimate == 1.0 and found.fleiss is None and found.alpha is None
    with pytest.raises(UsageError, match="none has ratings of two raters"):
        agreement(table(["a", "b"], "ab"))
    # One item alone differs: many draws have no b at all, and count as no agreement beyond chance.
    rare = agreement(table(["aa"] * 9 + ["bb"], "ab"))
    assert rare.alpha is not None and (rare.alpha.estimate, rare.alpha.low) == (1.0, 0.0)


def test_the_same_ratings_have_the_same_interval():
    counts = table(["aab", "abb", "aaa", "bbb"] * 6, "ab")
    assert agreement(counts, ordered=counts) == agreement(counts, ordered=counts)


# ---- real raters


@published
def test_the_three_annotators_of_pandalm():
    """Fleiss' κ .858; α .8585, which is κ's relative: 1 − (1 − .8584)·2585/2586."""
    rows = map(json.loads, (DATA / "pandalm.jsonl").read_text().splitlines())
    counts = table([[row[f"annotator{number}"] for number in (1, 2, 3)] for row in rows], (1, 0, 2))
    found = agreement(counts)
    assert found.fleiss is not None and found.alpha is not None
    assert (found.items, found.ratings) == (862, 2586)
    assert found.fleiss.estimate == pytest.approx(0.858, abs=5e-4)
    assert found.alpha.estimate == pytest.approx(0.85846, abs=5e-6)
    assert 0.83 < found.alpha.low < 0.84 and 0.88 < found.alpha.high < 0.89


@published
def test_the_arguments_of_ukp(monkeypatch):
    """Five workers a pair of arguments, all 13,601 pairs: α with "equal" as a value of its own, and without it."""
    monkeypatch.setattr("palate.evaluation.resampling.DRAWS", 60)  # 13,601 items a draw
    with gzip.open(DATA / "ukp_convarg" / "judgments.jsonl.gz", "rt") as file:
        ratings = [[one["value"] for one in json.loads(line)["judgments"]] for line in file]
    found = agreement(table(ratings, ("a1", "equal", "a2")))
    decided = agreement(table(ratings, ("a1", "a2")))
    assert found.alpha is not None and decided.alpha is not None
    assert found.alpha.estimate == pytest.approx(0.269, abs=5e-4)
    assert decided.alpha.estimate == pytest.approx(0.438, abs=5e-4)
    assert (found.items, found.ratings) == (13_601, 67_858) and decided.items == 13_048
    for one in (found.alpha, decided.alpha):
        assert one.estimate - 0.02 < one.low < one.estimate < one.high < one.estimate + 0.02


def test_without_the_package_it_is_said_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "krippendorff", None)
    with pytest.raises(UsageError, match=r'pip install "palate\[label\]"'):
        krippendorff_alpha(np.array([[1, 1]]))
