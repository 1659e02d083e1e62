"""`palate quality`: what is read, what is told, and whether labels are enough, from real reward models."""

import json
import os
import random
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from palate import testbed
from palate.collect import Candidate, Item, Judgement, Preference, Rater, Store
from palate.collect.exchange import read_feedback
from palate.errors import DataError, UsageError
from palate.evaluation import noise_ceiling, votes_of
from palate.recipe import demo_recipe, load_recipe
from palate.records import Prompt
from palate.stages.calls import Quiet
from palate.stages.people import feedback as exchange
from palate.stages.people.labelling import COMPARISON, compared
from palate.stages.people.pairing import pairs_of
from palate.stages.people.quality import HELDOUT, SHARES, Feedback, enough, examine, read_source

DATA = Path(os.environ.get("PALATE_DATA", Path(__file__).parents[4] / "shared" / "data")) / "multi_annotator"
WORDS = ("apple", "bread", "cloud", "door", "eagle", "fire", "grass", "house")


def fill(path, count, raters=("Ada", "Ben"), slices=("random",), **fields):
    """A store of questions whose answer is the word itself; two of three votes are for it."""
    dice = random.Random(0)
    items, told = [], []
    for row in range(count):
        right = WORDS[row % len(WORDS)]
        wrong = dice.choice([word for word in WORDS if word != right])
        texts = (Candidate(f"{right}."), Candidate(f"{wrong}."))
        item = Item(Prompt.of(f"say {right} {row}", **fields), texts, slice=slices[row % len(slices)])
        items.append(item)
        for rater in raters:
            better = -1 if dice.random() < 2 / 3 or rater == "Ada" else 1
            told.append(Judgement(f"{rater} {row}", item.id, rater, Preference(better), shown=(0, 1), seconds=3.0))
    with Store(path) as store:
        store.add_items(items)
        store.add_raters(Rater(rater) for rater in raters)
        store.record_all(told)
    return path


# ---- what is read and told


def test_a_store_its_events_and_the_command(tmp_path, palate_command):
    store = fill(tmp_path / "feedback.sqlite", 40)
    (tmp_path / "events.jsonl").write_text("".join(f"{line}\n" for line in exchange.give_out(store, "events").lines))
    found = examine(read_source(store))
    assert found == examine(read_source(tmp_path / "events.jsonl"))
    assert (found.quality.items, found.quality.judgements, found.contest, found.curve) == (40, 80, None, None)
    told = palate_command("quality", store)
    assert told.code == 0 and told.err == ""
    for piece in ("40 items, 80 judgements of 2 raters", "Krippendorff's α", "Cohen's κ", "noise ceiling", "Ben +1"):
        assert piece in told.out
    whole = json.loads(palate_command("quality", store, "--json").out)
    assert whole["quality"]["agreements"]["comparisons"]["items"] == 40
    assert whole["quality"]["disagreements"][0]["said"][0]["answer"] == {
        "kind": "preference",
        "degree": -1,
        "both_bad": False,
    }
    assert [one["rater"] for one in whole["quality"]["annotators"]] == ["Ada", "Ben"]


def test_a_comparison_says_who_is_preferred(tmp_path, palate_command):
    for name, word in (("old", "no"), ("new", "yes")):
        rows = [{"prompt": f"q{row}", "completion": f"{word} {row}"} for row in range(60)]
        (tmp_path / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    items, _ = compared(tmp_path / "old.jsonl", tmp_path / "new.jsonl")
    assert COMPARISON in items[0].prompt.fields
    with Store(tmp_path / "compare.sqlite") as store:
        store.add_items(items)
        store.record_all(
            [Judgement(str(row), item.id, "Ada", Preference(1 if row % 6 else -1)) for row, item in enumerate(items)]
        )
    told = palate_command("quality", tmp_path / "compare.sqlite").out.replace("\n", " ")
    assert "new against old: preferred 50 times, old 10 times, 0 ties on 60 prompts; win rate 83.3%" in told
    assert "Decided: new is preferred." in told


def test_what_cannot_be_told_of_is_said(tmp_path, palate_command):
    with pytest.raises(DataError, match="no store"):
        read_source(tmp_path / "none.sqlite")
    with Store(tmp_path / "empty.sqlite") as store:
        store.add_items([Item(Prompt.of("q"), (Candidate("a"), Candidate("b")))])
    with pytest.raises(UsageError, match="of 1 items none has been judged"):
        examine(read_source(tmp_path / "empty.sqlite"))
    assert palate_command("quality", tmp_path / "none.sqlite").code == 2
    assert palate_command("quality", tmp_path / "empty.sqlite", "--on-bad", "maybe").code == 2


def test_the_reward_stage_sees_the_same_ceiling(tmp_path):
    """Votes become pairs, a row a vote; the gate's ceiling is read off these and is the one that is told here."""
    source = read_source(fill(tmp_path / "feedback.sqlite", 60))
    told = examine(source).quality.ceiling
    assert told is not None and told == noise_ceiling(votes_of(pairs_of(source.items, source.judgements).pairs))


@pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA} is not there: set PALATE_DATA to the folder of open data")
def test_the_file_of_three_annotators(palate_command):
    found = read_feedback(DATA / "pandalm.jsonl", on_bad="skip")
    told = json.loads(palate_command("quality", DATA / "pandalm.jsonl", "--on-bad", "skip", "--json").out)["quality"]
    # Rows that say the same of the same two texts are one item, and rows without two texts none.
    assert told["items"] == len(found.items) < 862 and len(told["annotators"]) == 3
    alpha = told["agreements"]["comparisons"]["alpha"]
    assert alpha["low"] < 0.858 < alpha["high"] and abs(alpha["estimate"] - 0.858) < 0.01
    assert told["ceiling"]["estimate"] == pytest.approx(0.957, abs=0.005)
    assert told["disagreements"] and all(one["entropy"] > 0.9 for one in told["disagreements"])


# ---- is it enough


def test_reward_models_on_parts_of_the_labels(tmp_path, tiny_recipe, palate_command):
    store = fill(tmp_path / "feedback.sqlite", 120, slices=("random", "uncertain"))
    recipe = tiny_recipe(tmp_path)
    told = palate_command("quality", store, "--recipe", recipe, "--runs", tmp_path / "runs", "--force", "--json")
    assert told.code == 0, told.err
    assert palate_command("quality", store, "--recipe", recipe, "--runs", tmp_path / "stopped").code == 3  # at SFT
    curve = json.loads(told.out)["curve"]
    place = tmp_path / "runs" / "quality" / "tiny"
    heldout = [json.loads(line) for line in (place / "heldout.jsonl").read_text().splitlines()]
    # Two votes a prompt, 240 in all, of which about a fifth is held out, from the random slice alone.
    assert len(heldout) == pytest.approx(HELDOUT * 240, abs=12) and {row["slice"] for row in heldout} == {"random"}
    assert curve["labels"] == [round(share * (240 - len(heldout))) for share in SHARES]
    rows = [
        [json.loads(line) for line in (place / f"labels-{n}.jsonl").read_text().splitlines()] for n in curve["labels"]
    ]
    assert all(few == many[: len(few)] for few, many in pairwise(rows))
    assert not {row["prompt"] for row in heldout} & {row["prompt"] for row in rows[-1]}
    assert {row["slice"] for row in rows[-1]} == {"random", "uncertain"}
    summaries = [json.loads((place / f"labels-{n}" / "summary.json").read_bytes()) for n in curve["labels"]]
    for summary, accuracy, n in zip(summaries, curve["accuracies"], curve["labels"], strict=True):
        assert summary["reward/accuracy"] == pytest.approx(accuracy["estimate"])
        assert summary["reward/heldout"] == len(heldout) and summary["reward/pairs"] == n
        assert "sft/heldout_loss" in summary
    assert curve["gain"]["low"] <= curve["gain"]["estimate"] <= curve["gain"]["high"]
    # Again: nothing is trained anew.
    before = {path: path.stat().st_mtime_ns for path in place.rglob("model.safetensors")}
    again = palate_command("quality", store, "--recipe", recipe, "--runs", tmp_path / "runs", "--force")
    assert again.code == 0 and "Is it enough?" in again.out
    assert before == {path: path.stat().st_mtime_ns for path in place.rglob("model.safetensors")}


def test_too_few_labels_and_nothing_to_train(tmp_path, tiny_recipe):
    recipe = load_recipe(tiny_recipe(tmp_path))
    few = read_source(fill(tmp_path / "few.sqlite", 20))
    with pytest.raises(UsageError, match="40 labels"):
        enough(few, recipe, watch=lambda _: Quiet(), say=lambda _: None, root=tmp_path)
    hard = read_source(fill(tmp_path / "hard.sqlite", 60, slices=("uncertain",)))
    with pytest.raises(UsageError, match="0 of them"):
        enough(hard, recipe, watch=lambda _: Quiet(), say=lambda _: None, root=tmp_path)
    with pytest.raises(UsageError, match=r"no \[reward\]"):
        enough(few, replace(recipe, reward=None), watch=lambda _: Quiet(), say=lambda _: None, root=tmp_path)


@pytest.mark.slow
def test_labels_of_the_testbed_pay_while_there_are_few(tmp_path):
    pairs = testbed.pairs(4000, 0, testbed.Annotator())
    items, told = {}, {}
    for pair in pairs:
        item = Item(Prompt(pair.prompt.messages), (Candidate(pair.chosen), Candidate(pair.rejected)))
        items[item.id] = item
        told[item.id] = Judgement(item.id, item.id, "annotator", Preference(-1))
    source = Feedback(list(items.values()), list(told.values()), {})
    recipe = demo_recipe(("testbed.demonstrations=500", "reward.reference_samples=16"))
    found = enough(source, recipe, watch=lambda _: Quiet(), say=lambda _: None, root=tmp_path, force=True)
    accuracies = [one.estimate for one in found.accuracies]
    assert all(more > few - 0.02 for few, more in pairwise(accuracies)) and accuracies[-1] > accuracies[0] + 0.02
    assert 0 <= found.gain.low < found.gain.estimate < found.gain.high < 0.05
    assert found.accuracies[-1].low > 0.5
