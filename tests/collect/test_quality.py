"""Quality: every figure by hand on small stores, planted raters found and honest ones left alone, and a blind
comparison that may be watched."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from palate.collect.annotators import _gathered, above, annotators, below, outside
from palate.collect.enough import fit, learning_curve
from palate.collect.judgements import (
    Candidate,
    Item,
    Judgement,
    Order,
    Origin,
    Preference,
    Rater,
    Scores,
    Skipped,
    Thumb,
    Written,
)
from palate.collect.quality import MOST_PROMPTS, TYPICAL_PROMPTS, always_valid, comparison, quality
from palate.collect.votes import answered, degree, said, votes_of_judgements
from palate.errors import UsageError
from palate.evaluation import Votes, noise_ceiling
from palate.ops import wilson_interval
from palate.records import Prompt


def pair(name, first="short", second="a longer reply", **given):
    origins = given.pop("origins", ("left", "right"))
    texts = [Candidate(text, (Origin("model", origin),)) for text, origin in zip((first, second), origins, strict=True)]
    return Item(Prompt.of(name), tuple(texts), **given)


def vote(item, rater, answer, **given):
    answer = Preference(answer) if isinstance(answer, int) else answer
    return Judgement(f"{item.id}{rater}{len(given)}{given.get('at', 0)}", item.id, rater, answer, **given)


# ---- what answers say


def test_answers_as_values():
    assert said(Preference(-2)) == {("comparison", 0, 1): -1} and said(Preference(0)) == {("comparison", 0, 1): 0}
    # The second is best, the first and the third tie: the second beats both.
    assert said(Order((1, 0, 1))) == {("comparison", 0, 1): 1, ("comparison", 0, 2): 0, ("comparison", 1, 2): -1}
    assert said(Thumb(True)) == {("thumb",): 1} and said(Scores({"tone": 2.5})) == {("attribute", "tone"): 2.5}
    assert said(Written("text")) == said(Skipped()) == {}
    assert degree(Preference(-2), ("comparison", 0, 1)) == -2 and degree(Order((0, 1)), ("comparison", 0, 1)) == -1


def test_the_newest_answer_holds_and_skips_are_none():
    item = pair("q")
    first, second = vote(item, "Ada", -1), vote(item, "Ada", 1, at=2.0)
    found = answered([item], [first, second, vote(item, "Ben", Skipped("no idea")), vote(pair("unknown"), "Ada", 1)])
    assert found == {item.id: {"Ada": second}}


def test_votes_for_the_ceiling():
    items = [pair("q"), pair("hard", slice="uncertain"), pair("gold", expected=Preference(1)), pair("r", repeats="x")]
    ranking = Item(Prompt.of("k"), tuple(map(Candidate, "abc")), "ranking")
    told = [vote(item, rater, degree) for item in items for rater, degree in (("A", -1), ("B", 2), ("C", 0), ("D", 1))]
    told += [vote(ranking, "A", Order((0, 1, 2))), vote(ranking, "B", Order((0, 2, 1)))]
    assert votes_of_judgements([*items, ranking], told) == [Votes(1, 2, 1), Votes(2, 0), Votes(2, 0), Votes(1, 1)]


# ---- the report


def test_a_small_store_by_hand():
    items = [pair(f"q{row}") for row in range(4)]
    degrees = {"Ada": (-1, -1, 2, 1), "Ben": (-1, 1, 3, 0)}
    told = [vote(item, rater, row[place]) for rater, row in degrees.items() for place, item in enumerate(items)]
    found = quality(items, [*told, vote(items[0], "Cem", Skipped())])
    assert (found.items, found.judgements, found.skipped) == (4, 9, 1)
    assert found.agreements["comparisons"].percent.estimate == 0.5  # q0 and q2
    assert found.agreements["comparisons without ties"].percent.estimate == pytest.approx(2 / 3)
    assert found.agreements["comparisons"].ordinal is not None
    assert found.agreements["comparisons without ties"].ordinal is None
    assert found.ceiling is None and found.between == ()
    # q1 is split from −1 to 1, q3 from 1 to 0: as even, and less far apart.
    assert [(one.prompt, one.entropy, one.spread) for one in found.disagreements] == [
        ("q1", 1.0, 2.0),
        ("q3", 1.0, 1.0),
    ]
    assert [(one.rater, one.answer) for one in found.disagreements[0].said] == [
        ("Ada", Preference(-1)),
        ("Ben", Preference(1)),
    ]


def test_the_most_evenly_divided_items_come_first():
    items = [pair("one of three"), pair("even")]
    told = [vote(items[0], rater, degree) for rater, degree in (("A", -3), ("B", 3), ("C", 3))]
    told += [vote(items[1], rater, degree) for rater, degree in (("A", -1), ("B", 1))]
    found = quality(items, told).disagreements
    assert [one.prompt for one in found] == ["even", "one of three"]
    assert found[1].entropy == pytest.approx(math.log2(3) - 2 / 3)


def test_thumbs_and_ratings_have_agreement_too():
    thumbs = [Item(Prompt.of(f"q{row}"), (Candidate("a"),), "thumbs") for row in range(3)]
    ratings = [Item(Prompt.of(f"q{row}"), (Candidate("a"),), "rating") for row in range(3)]
    told = [vote(item, rater, Thumb(rater == "A" or row > 0)) for row, item in enumerate(thumbs) for rater in "AB"]
    told += [vote(item, rater, Scores({"tone": float(row)})) for row, item in enumerate(ratings) for rater in "AB"]
    found = quality([*thumbs, *ratings], told).agreements
    assert found["thumbs"].percent.estimate == pytest.approx(2 / 3) and found["thumbs"].ordinal is None
    tone = found["rating of tone"]
    assert tone.ordinal is not None and tone.ordinal.estimate == 1.0
    assert set(found) == {"thumbs", "rating of tone"}


def test_machines_are_compared_with_people_and_do_not_count_as_people():
    items = [pair(f"q{row}") for row in range(40)]
    told = [vote(item, "Ada", 1) for item in items]
    told += [vote(item, "Ben", 1 if row % 4 else -1) for row, item in enumerate(items)]
    told += [vote(item, "judge", -1) for item in items]
    raters = {"judge": Rater("judge", "judge")}
    found, people = quality(items, told, raters), quality(items, told[:80])
    assert found.agreements == people.agreements and found.ceiling == people.ceiling
    assert found.ceiling == noise_ceiling([Votes(1, 1), Votes(0, 2), Votes(0, 2), Votes(0, 2)] * 10)
    assert {(one.first, one.second): one.alike.estimate for one in found.between} == {
        ("Ada", "Ben"): 0.75,
        ("Ada", "judge"): 0.0,
        ("Ben", "judge"): 0.25,
    }
    assert next(one.kind for one in found.annotators if one.rater == "judge") == "judge"
    assert quality(items, told[80:], raters).agreements == {}  # of a judge alone, its own are told of


# ---- raters


def test_one_rater_by_hand():
    items = [pair(f"q{row}") for row in range(4)]
    gold = [pair("g0", expected=Preference(2)), pair("g1", expected=Preference(-1))]
    turned = pair("q0", "a longer reply", "short", repeats=items[0].id)
    again = pair("q1", repeats=items[1].id)
    told = [
        vote(items[0], "Ada", 1, shown=(0, 1), seconds=4.0),  # the longer, shown second
        vote(items[1], "Ada", -2, shown=(0, 1), seconds=8.0),  # the shorter, shown first
        vote(items[2], "Ada", 3, shown=(1, 0), seconds=6.0),  # the longer, shown first
        vote(items[3], "Ada", 0, shown=(0, 1)),
        vote(gold[0], "Ada", 1),  # right: the degree does not matter
        vote(gold[1], "Ada", 0),  # wrong: a tie
        vote(turned, "Ada", -1),  # the same again, its completions the other way round
        vote(again, "Ada", 1),  # not the same again
        vote(items[0], "Ben", 1),
        vote(items[1], "Ben", 1),
        vote(items[3], "Ben", Skipped("unclear")),
    ]
    ada, ben = annotators([*items, *gold, turned, again], told)
    assert (ada.rater, ada.kind, ada.judgements, ben.judgements) == ("Ada", "human", 8, 3)
    for share, points, count in (
        (ada.skipped, 0, 8), (ada.ties, 2, 8), (ada.gold, 1, 2), (ada.consistency, 1, 2), (ada.others, 1, 2),
        (ada.first_place, 2, 3), (ada.longer, 5, 6), (ben.skipped, 1, 3), (ben.longer, 2, 2),
    ):  # fmt: skip
        assert share is not None and share.count == count
        assert (share.estimate, share.low, share.high) == (points / count, *wilson_interval(points, count))
    assert ada.seconds == 6.0 and ben.seconds is None and ben.first_place is None and ben.gold is None
    assert ada.alarms == ben.alarms == ()


def test_nobody_has_judged():
    assert annotators([pair("q")], []) == () and quality([], []).annotators == ()


def test_what_tells_nothing_of_a_rater_is_not_counted():
    even = pair("q", "as long", "as this")
    rated = Item(Prompt.of("q"), (Candidate("a"),), "rating")
    told = [vote(even, "Ada", 1), *(vote(rated, rater, Scores({"tone": 2.0})) for rater in ("Ada", "Ben"))]
    ada, _ = annotators([even, rated], told)
    assert ada.longer is None  # no reply is the longer one
    assert ada.others is None  # to give the same number is another thing than to say the same
    gold = pair("g", expected=Preference(1))
    ada, _ = annotators([gold], [vote(gold, "Ada", 1), vote(gold, "Ben", 1)])
    assert ada.gold is not None and ada.others is None  # whose answer is known tells more of a rater than others do


def test_who_is_between_two_others_sides_with_nobody():
    item = pair("q")
    told = [vote(item, rater, degree) for rater, degree in (("Ada", 1), ("Ben", 1), ("Cem", -1))]
    seen = _gathered([item], told)
    assert seen["Ada"].others == [0.5] and seen["Ada"].sided == []
    assert seen["Cem"].others == [0.0] and seen["Cem"].sided == [0.0]


def test_a_repeated_pair_as_it_stood():
    """Texts in the same order: the answer is not turned round."""
    item = pair("q")
    told = [vote(item, "Ada", 2), vote(pair("q", repeats=item.id), "Ada", 1)]
    (ada,) = annotators([item, pair("q", repeats=item.id)], told)
    assert ada.consistency is not None and ada.consistency.estimate == 1.0


def alarms_beside(others, own=40, *, degrees=(1, -1), seconds=(1.0, 1.0), own_ties=0.0):
    """The alarms of Ada, who judges `own` pairs beside Ben's `others` on other pairs; the second reply is longer."""
    told, items = [], []
    for rater, count, towards, time in (("Ada", own, degrees[0], seconds[0]), ("Ben", others, degrees[1], seconds[1])):
        for row in range(count):
            item = pair(f"{rater}{row}", "short", "a longer reply")
            tie = rater == "Ada" and row < own_ties * own
            items.append(item)
            told.append(vote(item, rater, 0 if tie else towards, shown=(row % 2, 1 - row % 2), seconds=time))
    return annotators(items, told)[0].alarms


def test_few_answers_of_others_are_no_measure():
    assert alarms_beside(19) == () and "prefers the longer reply" in alarms_beside(20)[0]
    slow = {"degrees": (1, 1), "seconds": (1.0, 100.0)}
    assert alarms_beside(19, **slow) == () and "takes 1.0 s" in alarms_beside(20, **slow)[0]


def test_what_is_within_the_bound_is_no_alarm_however_many_cases_there_are():
    same = (1, 1)
    assert alarms_beside(400, 400, degrees=same, seconds=(11.0, 30.0)) == ()  # a third of 30 is 10
    assert "takes 9.0 s" in alarms_beside(400, 400, degrees=same, seconds=(9.0, 30.0))[0]
    assert alarms_beside(400, 400, degrees=same, own_ties=0.19) == ()  # 20 points more than none
    assert "ties 30%" in alarms_beside(400, 400, degrees=same, own_ties=0.3)[0]


def test_a_repeated_ranking_in_another_order():
    first = Item(Prompt.of("q"), tuple(map(Candidate, "abc")), "ranking")
    again = Item(Prompt.of("q"), tuple(map(Candidate, "cab")), "ranking", repeats=first.id)
    told = [vote(first, "Ada", Order((0, 1, 2))), vote(again, "Ada", Order((2, 0, 1)))]
    (ada,) = annotators([first, again], told)
    assert ada.consistency is not None and ada.consistency.estimate == 1.0


def team(seed, habits, count=160):
    """Five raters of `count` pairs whose harder half they answer alike on 60 %, the easier on 95 %."""
    random = np.random.default_rng(seed)
    items = [
        pair(f"q{row}", "x" * int(random.integers(5, 50)), "y" * int(random.integers(51, 99))) for row in range(count)
    ]
    gold = [pair(f"g{row}", expected=Preference(1)) for row in range(20)]
    told = []
    for rater in ("Ada", "Ben", "Cem", "Dua", "Eva"):
        habit = habits.get(rater, "")
        for row, item in enumerate([*items, *gold]):
            better = 1 if row >= count or random.random() < (0.6, 0.95)[row % 2] else -1
            better *= 1 if row >= count or row % 4 < 2 else -1  # the better one is the longer in half of the pairs
            shown = (0, 1) if random.random() < 0.5 else (1, 0)
            if habit == "swapped":
                better = -better
            if habit == "first" and random.random() < 0.7:
                better = 1 if shown[0] else -1
            if habit == "longer" and random.random() < 0.8:
                better = 1
            if habit == "coin":
                better = int(random.choice([-1, 1]))
            if habit == "tie" and random.random() < 0.5:
                better = 0
            seconds = float(random.lognormal(2.0 if habit != "hasty" else 0.2, 0.4))
            told.append(vote(item, rater, better, shown=shown, seconds=seconds))
    return annotators([*items, *gold], told)


def test_honest_raters_are_left_alone():
    accused = [one.alarms for seed in range(20) for one in team(seed, {}) if one.alarms]
    assert len(accused) <= 1  # of 100


@pytest.mark.parametrize(
    ("habit", "sentence"),
    [
        ("swapped", "the keys the right way round"),
        ("first", "prefers the reply shown first"),
        ("longer", "prefers the longer reply"),
        ("coin", "sides with most"),
        ("tie", "ties 5"),
        ("hasty", "takes 1."),
    ],
)
def test_a_planted_habit_is_found_and_nobody_else_accused(habit, sentence):
    found = {one.rater: one.alarms for one in team(7, {"Cem": habit}, 400)}
    assert any(sentence in alarm for alarm in found.pop("Cem"))
    assert not any(found.values())


def test_tests_of_shares_by_hand():
    # Two or fewer of three heads: 7/8. One or more: 7/8. Half a success is rounded against an alarm.
    assert below([1, 1, 0], 0.5) == pytest.approx(7 / 8) and below([0.5, 1, 0], 0.5) == pytest.approx(7 / 8)
    assert above([1, 0, 0], 0.5) == pytest.approx(7 / 8) and above([0.5, 0.5, 0], 0.5) == pytest.approx(7 / 8)
    assert outside([1, 1, 1], 0.5, 0.0) == pytest.approx(2 / 8) and outside([0] * 3, 0.5, 0.1) == pytest.approx(
        2 * 0.6**3
    )
    assert outside([1, 0], 0.5, 0.6) == 1.0
    assert below([0, 0], -0.1) == above([1, 1], 1.1) == 1.0  # no share is beyond such a bound


# ---- blind comparison


def contest(results, raters=1):
    """Items of A against B and votes: 1 where B wins; A stands first in every other item."""
    items, told = [], []
    for row, result in enumerate(results):
        swapped = row % 2
        item = pair(f"q{row}", "a" * (row + 1), "b" * (row + 1), origins=("A", "B"))
        item = replace(item, candidates=item.candidates[::-1]) if swapped else item
        items.append(item)
        told += [vote(item, f"rater {k}", -result if swapped else result) for k in range(raters)]
    return items, told


def test_the_result_by_hand():
    items, told = contest([1, 1, -2, 0, 3])
    found = comparison(items, [*told, vote(items[0], "Ben", Skipped()), vote(items[2], "Ben", 1)])
    # Ben makes q2 a half: 1, 1, ½, ½, 1 over five prompts.
    assert (found.a, found.b, found.wins_a, found.wins_b, found.ties, found.skipped) == ("A", "B", 1, 4, 1, 1)
    assert (found.prompts, found.win_rate) == (5, 0.8)
    # Six votes, of which the tie weighs 6/5, hence one at least; they are worth the five prompts.
    assert (found.planned_low, found.planned_high) == wilson_interval(4.8, 6, ties=1, effective=5)
    assert (found.low, found.high) == (0.0, 1.0) and not found.decided
    reach = math.sqrt((100 / 4 + 50 / (2 * math.log(20) + math.log(1 + 2 * math.log(20)))) *
                      math.log((25 + 6.30012) / (6.30012 * 0.0025))) / 100  # fmt: skip
    assert always_valid(100) == pytest.approx(reach, rel=1e-5)


def test_exchanging_the_two_models_turns_the_result_round():
    items, told = contest([1] * 30 + [-1] * 10 + [0] * 5)
    one, other = comparison(items, told), comparison(items[1:2] + items, told)
    assert (other.a, other.b) == ("B", "A")
    assert other.win_rate == pytest.approx(1 - one.win_rate) and other.low == pytest.approx(1 - one.high)
    assert (other.wins_a, other.more_votes_needed) == (one.wins_b, one.more_votes_needed)


def test_no_vote_yet_and_no_two_models():
    items, told = contest([1, -1])
    empty = comparison(items, [])
    assert (empty.low, empty.high, empty.decided, empty.more_votes_needed) == (0.0, 1.0, False, None)
    even = comparison(items, told)
    assert even.win_rate == 0.5 and even.more_votes_needed is None
    with pytest.raises(UsageError, match="A, B, C"):
        comparison([*items, pair("another", origins=("A", "C"))], told)
    with pytest.raises(UsageError, match="nowhere"):
        comparison([], [])


def test_watching_every_vote_decides_wrongly_in_one_of_twenty_at_most():
    random = np.random.default_rng(3)
    prompts = np.arange(1, 801)
    reach = np.array([always_valid(n) for n in range(1, 801)])
    for votes in (1, 2):  # two votes on a prompt are alike in part
        means = (random.binomial(votes, random.beta(2, 2, (1000, 800))) / votes).cumsum(axis=1) / prompts
        assert (np.abs(means - 0.5) > reach).any(axis=1).mean() <= 0.05
        fixed = (np.abs(means - 0.5) > 1.96 * 0.5 / np.sqrt(prompts * (1.0 if votes == 1 else 1.67)))[:, 20:]
        assert fixed.any(axis=1).mean() > 0.25  # what one look at a time makes of many


@pytest.mark.parametrize("prompts", [TYPICAL_PROMPTS // 4, TYPICAL_PROMPTS, TYPICAL_PROMPTS * 4])
def test_the_interval_is_nearly_as_narrow_as_any_that_is_tuned_to_the_number_of_prompts(prompts):
    variance, rho = prompts / 4, np.geomspace(0.1, 1000, 2000)
    narrowest = np.sqrt((variance + rho) * np.log((variance + rho) / (rho * 0.0025))).min() / prompts
    assert narrowest <= always_valid(prompts) < 1.1 * narrowest


def test_the_votes_said_to_be_needed_decide_four_times_in_five():
    found = comparison(*contest([1] * 33 + [-1] * 22))  # .6 of 55
    assert found.more_votes_needed is not None and not found.decided
    total = 55 + found.more_votes_needed
    random = np.random.default_rng(4)
    means = random.binomial(total, 0.6, 4000) / total
    assert 0.76 <= (means - 0.5 > always_valid(total)).mean() <= 0.84
    doubled = comparison(*contest([1] * 33 + [-1] * 22, raters=2))
    assert doubled.prompts == 55 and doubled.more_votes_needed == pytest.approx(2 * found.more_votes_needed, abs=2)


def test_what_is_clear_is_decided_and_what_is_even_never():
    clear = comparison(*contest([1] * 60 + [-1] * 5))
    assert clear.decided and clear.low > 0.5 and clear.more_votes_needed == 0
    assert clear.low < clear.planned_low < clear.planned_high
    assert comparison(*contest([0] * 50)).more_votes_needed is None
    assert always_valid(MOST_PROMPTS) < 0.003


# ---- is it enough


def test_a_power_law_is_found_again():
    labels = np.array([100.0, 200.0, 400.0, 800.0])
    rows = np.stack([0.9 - 0.8 * labels**-0.5, np.full(4, 0.7), 1 - 2 * labels**-0.8, np.linspace(0.8, 0.7, 4)])
    limit, scale, exponent = fit(labels, rows)
    curves = limit[:, None] - scale[:, None] * labels ** -exponent[:, None]
    assert curves[:3] == pytest.approx(rows[:3], abs=1e-3)
    assert limit[0] == pytest.approx(0.9, abs=0.01) and exponent[0] == pytest.approx(0.5, abs=0.03)
    assert scale[1] == pytest.approx(0, abs=1e-9) and scale[3] == 0  # a curve never falls
    assert limit.max() <= 1


def ordered(random, accuracies, prompts, pairs):
    """Whether models order pairs rightly: most pairs are as easy for all of them."""
    easy = np.repeat(random.random((prompts, 1)), pairs, axis=0)
    draws = np.where(random.random((prompts * pairs, 1)) < 0.7, easy, random.random((prompts * pairs, len(accuracies))))
    return (draws < accuracies).astype(float), np.repeat(np.arange(prompts), pairs).tolist()


def test_the_interval_of_what_twice_the_labels_bring_covers_it(monkeypatch):
    monkeypatch.setattr("palate.evaluation.resampling.DRAWS", 200)
    labels = np.array([100.0, 200.0, 400.0, 800.0])
    truth, gain = 0.8 - 1.2 * labels**-0.4, 1.2 * 800**-0.4 * (1 - 2**-0.4)
    random, covered = np.random.default_rng(5), 0
    for _ in range(100):
        points, prompts = ordered(random, truth, 300, 2)
        found = learning_curve([100, 200, 400, 800], points, prompts)
        covered += found.gain.low <= gain <= found.gain.high
    assert 88 <= covered <= 99


def test_the_verdict_follows_the_interval():
    random = np.random.default_rng(6)
    sizes = [1000, 2000, 4000, 8000]
    flat = learning_curve(sizes, *ordered(random, np.full(4, 0.75), 4000, 1))
    assert flat.gain.high < 0.01 and flat.verdict.endswith("it is enough.")
    steep = learning_curve(sizes, *ordered(random, np.array([0.55, 0.62, 0.69, 0.76]), 4000, 1))
    assert steep.gain.low > 0.01 and steep.verdict.endswith("more labels pay.")
    assert steep.at(16_000) - steep.at(8000) == pytest.approx(steep.gain.estimate, rel=1e-9)
    unknown = learning_curve(sizes, *ordered(random, np.array([0.55, 0.65, 0.7, 0.72]), 200, 1))
    assert "cannot tell" in unknown.verdict
    rising = learning_curve(sizes, *ordered(random, np.array([0.56, 0.57, 0.59, 0.63]), 1500, 1))
    assert rising.verdict.endswith("which the curve does not know.")
    tossed = learning_curve(sizes, *ordered(random, np.full(4, 0.5), 4000, 1))
    assert tossed.gain.high < 0.01 and "better than a coin" in tossed.verdict
    with pytest.raises(UsageError, match="three"):
        learning_curve([100, 100, 200], np.ones((3, 3)), range(3))
