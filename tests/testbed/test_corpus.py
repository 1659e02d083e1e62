"""What is generated: the same from the same seed, mixed as promised, and never showing what is held out."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from palate.errors import UsageError
from palate.testbed.annotators import Annotator
from palate.testbed.comparisons import PAIR_KINDS, pairs
from palate.testbed.corpus import base_corpus, demonstrations, prompts
from palate.testbed.gold import correct, gold, terms
from palate.testbed.manners import pick, pick_weighted, some, stream
from palate.testbed.world import question

SURE = Annotator(temperature=1e-9)


def test_a_stream_is_the_same_everywhere():
    # Philox's words are fixed by its definition, and numpy's uniform takes 53 bits of each.
    word = np.random.Philox(key=0).random_raw()
    assert np.random.Generator(np.random.Philox(key=0)).random() == (int(word) >> 11) / 2**53
    assert stream(0, "a").random() == stream(0, "a").random() != stream(0, "b").random()


def test_choices_have_their_shares():
    random = stream(0, "test")
    drawn = Counter(pick_weighted({"a": 1, "b": 3}, random) for _ in range(4000))
    assert drawn["b"] / 4000 == pytest.approx(0.75, abs=0.03)  # four standard errors
    assert {pick("abc", random) for _ in range(100)} == set("abc")
    assert sorted(some("abc", 3, random)) == list("abc")


@pytest.mark.parametrize("generate", [base_corpus, demonstrations, lambda n, seed: pairs(n, seed, Annotator())])
def test_more_rows_leave_the_first_as_they_were_and_another_seed_gives_others(generate):
    assert generate(20, 0)[:10] == generate(10, 0)
    assert generate(10, 0) != generate(10, 1)


def test_training_never_shows_a_held_out_phrasing():
    heldout = {prompt.text for prompt in prompts("heldout")}
    shown = [*base_corpus(2000, 0), *demonstrations(2000, 0), *pairs(2000, 0, Annotator())]
    assert not heldout & {row.prompt.text for row in shown}
    assert {pair.prompt.text for pair in pairs(50, 0, Annotator(), split="heldout")} <= heldout


def test_prompts_are_all_of_a_split_or_a_random_sample_of_it():
    assert len(prompts("known")) == 2 * len(prompts("heldout"))
    sample = prompts("heldout", 40, seed=3)
    assert len({prompt.text for prompt in sample}) == 40
    assert sample == prompts("heldout", 40, seed=3) != prompts("heldout", 40, seed=4)
    with pytest.raises(UsageError, match="Ask for fewer"):
        prompts("heldout", 10_000)


def test_the_base_has_read_fifteen_percent_wrong_answers():
    read = base_corpus(4000, 0)
    false = sum(terms(row.prompt, row.completion)["correct"] < -1 for row in read) / len(read)
    # 15 % of the 94 to 95 % that are no refusals
    assert false == pytest.approx(0.142, abs=0.02)


def test_demonstrations_are_better_than_the_base_and_far_from_perfect():
    def figures(rows):
        golds = np.array([gold(row.prompt, row.completion) for row in rows])
        return golds.mean(), (golds > 1 - 1e-9).mean()

    base, shown = figures(base_corpus(3000, 0)), figures(demonstrations(3000, 0))
    assert base[0] + 0.1 < shown[0] < 0.5
    assert base[1] < shown[1] < 0.2


def test_replies_are_short():
    lengths = [len(row.completion.split()) for row in base_corpus(3000, 0)]
    assert np.mean(lengths) < 9 and max(lengths) <= 30


def test_every_kind_of_pair_has_its_share():
    kinds = Counter(pair.prompt.fields["kind"] for pair in pairs(3000, 0, Annotator()))
    for kind, share in PAIR_KINDS.items():
        assert kind == "both" or share >= 0.2
        assert kinds[kind] / 3000 == pytest.approx(share, abs=0.04)


def test_pairs_differ_in_what_their_kind_says():
    manners = ("hedging", "flattery", "overconfidence", "stock phrases", "bullets", "refusal")
    for pair in pairs(2000, 1, Annotator()):
        chosen, rejected = terms(pair.prompt, pair.chosen), terms(pair.prompt, pair.rejected)
        if pair.prompt.fields["kind"] == "manner":
            assert chosen["correct"] == rejected["correct"]
        if pair.prompt.fields["kind"] == "correctness":
            assert correct(pair.prompt, pair.chosen) != correct(pair.prompt, pair.rejected)
            assert [chosen[name] for name in manners] == [rejected[name] for name in manners]


def test_no_side_of_a_correctness_pair_assents():
    # Only a wrong side could, and the pair would then differ in its words too.
    of_correctness = [pair for pair in pairs(3000, 1, SURE) if pair.prompt.fields["kind"] == "correctness"]
    assert not any("You are right" in pair.chosen + pair.rejected for pair in of_correctness)


def test_pairs_say_the_gold_of_both_sides_and_never_have_equal_ones():
    for pair in pairs(500, 2, Annotator()):
        golds = (gold(pair.prompt, pair.chosen), gold(pair.prompt, pair.rejected))
        assert pair.prompt.fields["gold"] == golds
        assert pair.chosen != pair.rejected


def test_a_sure_annotator_chooses_the_better_side():
    golds = [pair.prompt.fields["gold"] for pair in pairs(300, 3, SURE)]
    assert all(chosen > rejected - 1e-9 for chosen, rejected in golds)


def test_an_annotator_changes_labels_and_nothing_else():
    for noisy, sure in zip(pairs(300, 4, Annotator()), pairs(300, 4, SURE), strict=True):
        assert noisy.prompt.text == sure.prompt.text
        assert {noisy.chosen, noisy.rejected} == {sure.chosen, sure.rejected}


def test_some_flatterers_assent_to_a_wrong_opinion():
    assenting = [row for row in base_corpus(6000, 0) if row.completion.startswith("You are right")]
    assert assenting
    for row in assenting:
        opinion = question(row.prompt).opinion
        assert opinion is not None and opinion in row.completion.lower() + row.completion
        assert terms(row.prompt, row.completion)["correct"] < -1
