"""Checks of data: each counts what it says it counts, and warns only where it should."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.data.checks import (
    Finding,
    alike_labels,
    check_records,
    check_tokens,
    contradictory_feedback,
    contradictory_pairs,
    duplicates,
    equal_after_truncation,
    equal_pairs,
    length_bias,
    long_prompts,
    missing_eos,
    one_sided_labels,
    shared_prompts,
    split_by_prompt,
    tied_rankings,
    truncation,
)
from palate.errors import UsageError
from palate.records import Demonstration, Feedback, PreferencePair, Prompt, Ranking

EOS = 0


@dataclass(frozen=True)
class Ids:
    prompt: tuple[int, ...]
    completions: tuple[tuple[int, ...], ...] = ()


def pair(chosen: str, rejected: str, prompt: str = "Q") -> PreferencePair:
    return PreferencePair(Prompt.of(prompt), chosen, rejected)


def counted(finding: Finding) -> tuple[str, float, float]:
    return finding.level, finding.figures["count"], finding.figures["rows"]


def test_equal_pairs() -> None:
    assert counted(equal_pairs([pair("a", "a"), pair("a", "b")])) == ("warn", 1, 2)
    assert counted(equal_pairs([pair("a", "b")])) == ("info", 0, 1)


def test_duplicates_count_repetitions_and_ignore_lines_and_fields() -> None:
    once = Demonstration(Prompt(Prompt.of("Q").messages, {"task": "t"}, line=4), "A")
    again = Demonstration(Prompt.of("Q"), "A")
    assert counted(duplicates([once, again, again, Demonstration(Prompt.of("Q"), "B")])) == ("warn", 2, 4)
    assert counted(duplicates([Prompt.of("Q"), Prompt.of("R")])) == ("info", 0, 2)


def test_a_twentieth_of_repetitions_is_tolerated() -> None:
    prompts = [Prompt.of(str(number)) for number in range(95)]
    assert counted(duplicates([*prompts, *prompts[:5]])) == ("info", 5, 100)
    assert counted(duplicates([*prompts[:94], *prompts[:6]])) == ("warn", 6, 100)


def test_contradictory_pairs_are_the_same_texts_turned_round_on_the_same_prompt() -> None:
    turned = [pair("a", "b"), pair("b", "a")]
    assert counted(contradictory_pairs([*turned, pair("a", "c")])) == ("warn", 2, 3)
    assert counted(contradictory_pairs([pair("a", "b"), pair("a", "b")])) == ("info", 0, 2)
    assert counted(contradictory_pairs([pair("a", "b"), pair("b", "a", prompt="R")])) == ("info", 0, 2)
    assert counted(contradictory_pairs([pair("a", "a")])) == ("info", 0, 1)


def test_shared_prompts() -> None:
    train = [pair("a", "b", "Q"), pair("a", "b", "R")]
    heldout = [Prompt.of("R"), Prompt.of("S"), Prompt.of("R")]
    assert counted(shared_prompts(train, heldout)) == ("warn", 2, 3)
    assert counted(shared_prompts(train, heldout[1:2])) == ("info", 0, 1)


def test_length_bias_counts_ties_half() -> None:
    # 6 longer, 3 shorter, 1 tie: (6 + ½)/10. Wilson with z = 1.959964, z² = 3.841459: centre
    # (.65 + .192073)/1.384146 = .608370; half width 1.959964·√(.65·.35/10 + 3.841459/400)/1.384146 = .254699.
    pairs = [pair("aa", "b")] * 6 + [pair("a", "bb")] * 3 + [pair("a", "b")]
    figures = length_bias(pairs).figures
    assert figures["accuracy"] == 0.65
    assert (figures["low"], figures["high"]) == (
        pytest.approx(0.353671, abs=1e-5),
        pytest.approx(0.863069, abs=1e-5),
    )
    assert (figures["longer"], figures["ties"], figures["rows"]) == (6, 1, 10)


@pytest.mark.parametrize(
    ("longer", "level"), [(500, "info"), (560, "info"), (600, "warn"), (400, "warn"), (440, "info")]
)
def test_length_bias_warns_when_the_interval_leaves_the_fair_range(longer: int, level: str) -> None:
    # With n = 1000 the interval is about ±3 points: only 60 % and 40 % lie clear of 45 % to 55 %.
    pairs = [pair("aa", "b")] * longer + [pair("a", "bb")] * (1000 - longer)
    assert length_bias(pairs).level == level


def test_length_bias_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="No pairs"):
        length_bias([])


@pytest.mark.parametrize(
    ("pairs", "rule"),
    [
        ([pair("a" * (number + 2), "b") for number in range(20)], "always the longer"),
        ([pair("a", "b" * (number + 2)) for number in range(20)], "always the shorter"),
        ([pair("a" * 9, "b" * number) for number in range(1, 21)], "the chosen text is always the same"),
        ([pair("a" * number, "b" * 9) for number in range(1, 21)], "the rejected text is always the same"),
    ],
)
def test_alike_labels_are_named(pairs: list[PreferencePair], rule: str) -> None:
    assert alike_labels(pairs).level == "warn"
    assert rule in alike_labels(pairs).message
    assert alike_labels(pairs[:19]).level == "info"  # too few to say
    other = [*pairs, pair("x" * 5, "y" * 5)]
    assert alike_labels(other).level == "info"


def test_missing_eos_wants_exactly_one_at_the_end() -> None:
    good, none, twice, inside, nothing = (5, EOS), (5, 6), (5, EOS, EOS), (EOS, 5), ()
    assert counted(missing_eos([Ids((1,), (good, good))], EOS)) == ("info", 0, 2)
    for bad in (none, twice, inside, nothing):
        assert counted(missing_eos([Ids((1,), (good, bad))], EOS)) == ("warn", 1, 2)


def test_long_prompts_leave_no_room_for_one_token() -> None:
    rows = [Ids((1,) * 7), Ids((1,) * 8), Ids((1,) * 9)]
    assert counted(long_prompts(rows, 8)) == ("warn", 2, 3)
    assert counted(long_prompts(rows, 10)) == ("info", 0, 3)


@pytest.mark.parametrize("completions", [((2,) * 5, (3,) * 6), ((2,) * 6, (3,) * 5)])
def test_truncation_of_either_side_counts(completions: tuple[tuple[int, ...], ...]) -> None:
    row = Ids((1,) * 4, completions)  # 4 + 5 and 4 + 6
    assert counted(truncation([row], 10)) == ("info", 0, 1)
    assert counted(truncation([row], 9)) == ("warn", 1, 1)


def test_equal_after_truncation() -> None:
    row = Ids((1,) * 4, ((5, 6, 7, EOS), (5, 6, 8, EOS)))  # the sides part at the third token
    assert counted(equal_after_truncation([row], 7)) == ("info", 0, 1)
    assert counted(equal_after_truncation([row], 6)) == ("warn", 1, 1)
    assert counted(equal_after_truncation([row], 3)) == ("warn", 1, 1)
    assert counted(equal_after_truncation([Ids((1,) * 4, ((5,),)), Ids((1,))], 3)) == ("info", 0, 2)


def test_all_checks_that_apply_are_made() -> None:
    of_pairs = [finding.name for finding in check_records([pair("a", "b")])]
    assert of_pairs == ["duplicates", "equal_pairs", "contradictory_pairs", "length_bias", "alike_labels"]
    assert [finding.name for finding in check_records([Prompt.of("Q")])] == ["duplicates"]
    with_context = [finding.name for finding in check_tokens([Ids((1,))], eos_id=EOS, context=8)]
    assert with_context == ["missing_eos", "long_prompts", "truncation", "equal_after_truncation"]
    assert [finding.name for finding in check_tokens([Ids((1,))], eos_id=EOS, context=None)] == ["missing_eos"]


@given(st.lists(st.text(max_size=3)), st.lists(st.text(max_size=3)), st.floats(0, 0.999), st.integers())
def test_split_keeps_prompts_together_and_moves_nobody(
    texts: list[str], more: list[str], fraction: float, seed: int
) -> None:
    records = [pair(str(number), "x", text) for number, text in enumerate(texts)]
    train, heldout = split_by_prompt(records, fraction, seed)
    assert sorted(map(id, (*train, *heldout))) == sorted(map(id, records))
    assert shared_prompts(train, heldout).figures["count"] == 0
    grown = [Prompt.of(text) for text in (*more, *texts)]
    larger_train, larger_heldout = split_by_prompt(grown, fraction, seed)
    assert {record.prompt.text for record in train} <= {prompt.text for prompt in larger_train}
    assert {record.prompt.text for record in heldout} <= {prompt.text for prompt in larger_heldout}


def test_split_holds_out_the_fraction_and_depends_on_the_seed() -> None:
    prompts = [Prompt.of(f"question {number}") for number in range(10_000)]
    _, heldout = split_by_prompt(prompts, 0.2, seed=0)
    assert abs(len(heldout) - 2000) < 200  # the standard deviation is √(10,000 · .2 · .8) = 40
    _, other = split_by_prompt(prompts, 0.2, seed=1)
    shared = {prompt.text for prompt in heldout} & {prompt.text for prompt in other}
    assert abs(len(shared) - 400) < 100  # independent: a fifth of a fifth
    _, wider = split_by_prompt(prompts, 0.4, seed=0)
    assert {prompt.text for prompt in heldout} <= {prompt.text for prompt in wider}


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_a_wrong_fraction_is_refused(fraction: float) -> None:
    with pytest.raises(UsageError, match="at least 0 and below 1"):
        split_by_prompt([], fraction, seed=0)


def judged(completion: str, desirable: bool) -> Feedback:
    return Feedback(Prompt.of("Q"), completion, desirable)


def ranked(*ranks: int) -> Ranking:
    return Ranking(Prompt.of("Q"), tuple("a" * (1 + place) for place in range(len(ranks))), ranks)


def test_contradictory_feedback_is_no_repetition() -> None:
    rows = [judged("a", True), judged("a", False), judged("b", True)]
    assert counted(contradictory_feedback(rows)) == ("warn", 2, 3)
    assert counted(duplicates(rows)) == ("info", 0, 3)
    assert counted(contradictory_feedback([judged("a", True), judged("b", False)])) == ("info", 0, 2)


def test_one_sided_labels() -> None:
    assert one_sided_labels([judged("a", True), judged("b", True)]).level == "warn"
    assert one_sided_labels([judged("a", False)]).level == "warn"
    both = one_sided_labels([judged("a", True), judged("b", False), judged("c", False)])
    assert (both.level, both.figures) == ("info", {"desirable": 1, "rows": 3})


def test_tied_rankings() -> None:
    some = tied_rankings([ranked(0, 0), ranked(0, 1, 1), ranked(0, 1, 2)])
    assert (some.level, some.figures) == ("info", {"tied": 1, "partly": 2, "rows": 3})
    assert tied_rankings([ranked(0, 0)]).level == "warn"


def test_checks_of_feedback_and_rankings() -> None:
    assert [finding.name for finding in check_records([judged("a", True)])] == [
        "duplicates",
        "contradictory_feedback",
        "one_sided_labels",
    ]
    # The best is the shortest in one ranking and the longest in the other; the worst stands against it.
    found = check_records([ranked(0, 1, 2), ranked(2, 1, 0)])
    assert [finding.name for finding in found] == ["duplicates", "tied_rankings", "length_bias"]
    assert found[2].figures["accuracy"] == 0.5
    assert [finding.name for finding in check_records([ranked(0, 0)])] == ["duplicates", "tied_rankings"]


def test_the_length_bias_of_rankings_is_that_of_the_best_against_the_worst() -> None:
    rankings = [Ranking(Prompt.of(f"Q{number}"), ("aa", "aaa", "a"), (0, 1, 2)) for number in range(20)]
    (bias,) = [finding for finding in check_records(rankings) if finding.name == "length_bias"]
    assert bias.figures["accuracy"] == 1.0  # against the second best it would be 0
