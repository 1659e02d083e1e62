"""Round after round: what is asked, what is learnt of it, whose votes those were; and that a kill changes nothing."""

import contextlib
import hashlib
import http.cookiejar
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections import Counter
from dataclasses import replace
from unittest import mock

import pytest

from palate import testbed
from palate.collect import Candidate, Item, Judgement, Preference, Rater, Skipped, Store, Thumb
from palate.collect.votes import uncontrolled
from palate.data.recognition import read
from palate.engine.files import file_sha256
from palate.errors import DataError, EndpointError, RecipeError, StageStopped, UsageError
from palate.recipe import Recipe, Rounds, load_recipe
from palate.records import Message, PreferencePair, Prompt
from palate.settings import dump_toml
from palate.stages import run as once
from palate.stages.calls import Quiet
from palate.stages.directory import RunDirectory
from palate.stages.people import judging
from palate.stages.people.answering import answering_of, gold, program
from palate.stages.people.pairing import of_data, pairs_of, standing, written
from palate.stages.rounds import STORE, aged, aim_of, execute, missing, parted, taken_over

PATIENCE_SECONDS = 600

# Prefers the answer with the lower hash: an opinion that any process comes to.
PREFER = """
import hashlib

def prefer(prompts, completions):
    return [-1 if rank(first) < rank(second) else 1 for first, second in completions]

def rank(text):
    return hashlib.sha256(text.encode()).hexdigest()
"""

ROUNDS = """
[rounds]
number = 2
feedback = "prefer.py:prefer"
judgements = 20
candidates = 2
"""

SHARES = {"random": 0.34, "uncertain": 0.33, "adversarial": 0.33}


def with_rounds(directory, tiny_recipe, rounds=ROUNDS, **changes):
    """The tiny recipe with rounds; `changes` replace what its text says."""
    path = tiny_recipe(directory)
    (directory / "prefer.py").write_text(PREFER)
    text = path.read_text().replace('data = "pairs.jsonl"', 'data = "pairs.jsonl"\nheldout_fraction = 0.3')
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    path.write_text(text + rounds)
    return path


def done(recipe, root, overrides=()):
    """The recipe's rounds, past every verdict; returns the directory and what was said."""
    said = []
    place = execute(load_recipe(recipe, overrides), watch=lambda _: Quiet(), say=said.append, root=root, force=True)
    return place, said


@pytest.fixture(scope="module")
def learnt(timeless):
    """`learnt(run)` is all that a run's rounds learnt from and became, by file; times are no part of it."""

    def learnt(run):
        files = [run / "rounds" / number / name for number in "12" for name in ("pairs.jsonl", "heldout.jsonl")]
        models = run.glob("rounds/*/*/model/model.safetensors")
        metrics = {str(path.relative_to(run)): timeless(path) for path in run.glob("rounds/*/*/metrics.jsonl")}
        return {str(path.relative_to(run)): file_sha256(path) for path in (*files, *models) if path.exists()} | metrics

    return learnt


@pytest.fixture(scope="module")
def rounded(tiny_recipe, tmp_path_factory):
    """Two rounds of the tiny recipe, done once; nothing may be written to it."""
    directory = tmp_path_factory.mktemp("rounded")
    recipe = with_rounds(directory, tiny_recipe)
    run, said = done(recipe, directory / "runs")
    return recipe, run, said


# ---- two rounds


def test_the_second_round_learns_from_the_first_data_and_the_votes(rounded, rows):
    _, run, _ = rounded
    known = json.loads((run / "rounds.json").read_text())["rounds"]
    assert [entry["round"] for entry in known] == [1, 2]
    assert "votes" not in known[0]  # the first learnt from data that was there
    votes, pairs = known[1]["votes"], known[1]["pairs"]
    assert votes["items"] == votes["fresh"] == votes["all"] == 20
    assert votes["raters"] == {next(iter(votes["raters"])): {"kind": "program", "votes": 20}}
    assert sum(votes["slices"].values()) == 20
    assert pairs["fresh"] + pairs["fresh_heldout"] + votes["empty"] == 20
    made = rows(run / "rounds/2/pairs.jsonl")
    assert len(made) == pairs["train"] == pairs["first_data"] + pairs["fresh"]
    assert Counter(row["round"] for row in made) == {1: pairs["first_data"], 2: pairs["fresh"]}
    with Store(run / STORE) as store:
        stored = {judgement.id: judgement for judgement in store.judgements()}
        items = {item.id: item for item in store.items()}
    for row in made[pairs["first_data"] :]:
        (vote,) = (stored[name] for name in row["votes"])
        item = items[vote.item]
        texts = [candidate.text for candidate in item.candidates]
        assert (row["chosen"], row["rejected"]) == tuple(texts[:: -vote.answer.degree])
        assert (row["slice"], row["rater"], row["prompt"]) == (item.slice, vote.rater, item.prompt.text)


def test_sft_is_taken_over_and_the_rest_is_done_anew(rounded):
    _, run, said = rounded
    models = {
        stage: {file_sha256(run / "rounds" / number / stage / "model/model.safetensors") for number in "12"}
        for stage in ("sft", "reward", "align")
    }
    assert {stage: len(hashes) for stage, hashes in models.items()} == {"sft": 1, "reward": 2, "align": 2}
    assert "  sft: done before, and reused." in said
    second = json.loads((run / "rounds/2/run.json").read_text())
    assert str(run / "rounds/2/pairs.jsonl") in second["data"]


def test_a_held_out_prompt_is_learnt_from_in_no_round(rounded, rows):
    _, run, _ = rounded
    for number in (1, 2):
        trained = rows(run / f"rounds/{number}/pairs.jsonl") if number == 2 else []
        heldout = rows(run / f"rounds/{number}/heldout.jsonl") if number == 2 else []
        assert not {row["prompt"] for row in trained} & {row["prompt"] for row in heldout}
    fresh = [row for row in heldout if row["round"] == 2]
    assert fresh and {row["slice"] for row in fresh} == {"random"}


def test_what_was_sampled_is_of_the_policy_and_of_sft(rounded):
    _, run, _ = rounded
    known = json.loads((run / "rounds.json").read_text())["rounds"]
    with Store(run / STORE) as store:
        hashes = {
            origin.hash for item in store.items() for one in item.candidates for origin in one.origins if origin.hash
        }
    assert known[0]["model"] in hashes
    assert len(hashes) == 2
    assert set(known[1]["votes"]["sampled_from"]) == hashes


def test_the_summary_and_the_report_hold_every_round(rounded):
    _, run, _ = rounded
    summary = json.loads((run / "summary.json").read_text())
    for number in (1, 2):
        own = json.loads((run / f"rounds/{number}/summary.json").read_text())
        assert {name: summary[f"round/{number}/{name}"] for name in own} == own
    page = (run / "report.html").read_text()
    assert 'href="rounds/2/report.html"' in page
    assert (run / "rounds/2/report.html").exists()


def test_a_second_command_finds_all_done(rounded, palate_command, learnt):
    recipe, run, _ = rounded
    before = learnt(run)
    known = (run / "rounds.json").read_bytes()
    result = palate_command("run", recipe, "--runs", run.parent, "--force")
    assert result.code == 0, result.err
    assert "to do" not in result.out
    assert "Round by round" in result.out
    assert learnt(run) == before
    assert (run / "rounds.json").read_bytes() == known


FOREIGN = Item(
    Prompt.of("Say cloud and apple."), (Candidate("cloud"), Candidate("cloud apple")), slice="random", round=3
)


@pytest.fixture(scope="module")
def prolonged(rounded, tmp_path_factory, palate_command_once):
    """The two rounds and a third that another program answers, of a store in which somebody else had collected a pair
    for a third round."""
    recipe, run, _ = rounded
    root = tmp_path_factory.mktemp("prolonged")
    subprocess.run(["cp", "-r", str(run.parent), str(root / "runs")], check=True)
    (root / "other.py").write_text("def prefer(prompts, completions):\n    return [1] * len(prompts)\n")
    with Store(root / "runs/tiny" / STORE) as store:
        store.add_items([FOREIGN])
    given = ("--set", "rounds.decay=0.5", "--set", f"rounds.feedback={root / 'other.py'}:prefer")
    result = palate_command_once("run", recipe, "--runs", root / "runs", "--rounds", 3, "--force", *given)
    assert result.code == 0, result.err
    return root / "runs/tiny"


def test_more_rounds_go_on_from_those_that_are_done(rounded, prolonged, rows, learnt):
    made = rows(prolonged / "rounds/3/pairs.jsonl")
    assert {(row["round"], row["weight"]) for row in made} == {(1, 0.25), (2, 0.5), (3, 1.0)}
    before, after = learnt(rounded[1]), learnt(prolonged)
    assert {name for name in before if "rounds/1" in name and before[name] != after[name]} == set()


def test_a_round_asks_about_nothing_that_somebody_else_collected(prolonged, rows):
    votes = json.loads((prolonged / "rounds.json").read_text())["rounds"][2]["votes"]
    assert votes["items"] == votes["fresh"] == 20
    with Store(prolonged / STORE) as store:
        assert FOREIGN.id in {item.id for item in store.items()}
        assert FOREIGN.id not in {vote.item for vote in store.judgements()}


def test_another_program_is_not_asked_about_a_round_that_is_done(prolonged):
    known = json.loads((prolonged / "rounds.json").read_text())["rounds"]
    with Store(prolonged / STORE) as store:
        rounds = {item.id: item.round for item in store.items()}
        voted = {(vote.rater, rounds[vote.item]) for vote in store.judgements()}
    assert voted == {("prefer.py:prefer", 2), ("other.py:prefer", 3)}
    assert [one["votes"] for entry in known[1:] for one in entry["votes"]["raters"].values()] == [20, 20]
    assert known[2]["votes"]["all"] == 40
    assert known[2]["votes"]["first_event"] == known[1]["votes"]["last_event"] + 1


def test_a_third_round_follows_from_the_second(prolonged):
    known = json.loads((prolonged / "rounds.json").read_text())["rounds"]
    assert known[1]["model"] in known[2]["votes"]["sampled_from"]
    assert known[0]["model"] not in known[2]["votes"]["sampled_from"]


def test_sft_is_taken_over_anew_where_it_changed(tmp_path):
    source = tmp_path / "source"
    (source / "sft").mkdir(parents=True)

    def finished(digest, loss):
        (source / "sft/model").write_text(digest)
        entry = {"digest": digest, "status": "done"}
        (source / "run.json").write_text(json.dumps({"stages": {"sft": entry}}))
        (source / "summary.json").write_text(json.dumps({"sft/loss": loss, "seconds/sft": 1.0, "reward/accuracy": 0.5}))
        with RunDirectory.open(tmp_path, name="2", seed=0, threads=1, command=()) as directory:
            taken_over(source, directory, "sft")
            assert directory.record["stages"] == {"sft": entry}
            assert directory.summary == {"sft/loss": loss, "seconds/sft": 1.0}
        assert (tmp_path / "2/sft/model").read_text() == digest

    finished("a" * 8, 2.0)
    (source / "sft/model").unlink()  # files are linked: what is written in place would change both
    finished("b" * 8, 1.0)
    assert (tmp_path / "2/sft.1/model").read_text() == "a" * 8
    (tmp_path / "2/sft/model").rename(tmp_path / "2/sft/kept")
    with pytest.raises(FileNotFoundError):
        finished("b" * 8, 1.0)  # the same is not taken over again


def test_votes_alone_can_be_the_first_data(tiny_recipe, tmp_path):
    recipe = with_rounds(tmp_path, tiny_recipe, **{'data = "pairs.jsonl"': 'data = "feedback"'})
    run, _ = done(recipe, tmp_path / "runs", ["rounds.judgements=40"])
    first, second = json.loads((run / "rounds.json").read_text())["rounds"]
    assert first["aim"]["shares"] == {"random": 1.0}
    assert first["votes"]["slices"] == {"random": 40}
    assert first["pairs"]["first_data"] == second["pairs"]["first_data"] == 0
    assert second["votes"]["all"] == 80
    assert second["votes"]["first_event"] == first["votes"]["last_event"] + 1


def test_votes_that_come_later_do_not_change_a_round_that_is_done(rounded, tmp_path, learnt):
    recipe, run, _ = rounded
    subprocess.run(["cp", "-r", str(run.parent), str(tmp_path / "runs")], check=True)
    with Store(tmp_path / "runs/tiny" / STORE) as store:
        store.add_rater(Rater("late"))
        for item in store.items():
            store.record(Judgement(f"late {item.id}", item.id, "late", Preference(1)))
    before = learnt(run)
    again, _ = done(recipe, tmp_path / "runs")
    assert learnt(again) == before


@pytest.mark.parametrize(("stops", "ends"), [("1", False), ("2", True)])
def test_a_stop_on_an_alignment_ends_the_run_only_in_the_last_round(stops, ends, rounded, tmp_path):
    recipe, run, _ = rounded
    subprocess.run(["cp", "-r", str(run.parent), str(tmp_path / "runs")], check=True)
    real, told = once.execute, []
    known = tmp_path / "runs/tiny/rounds.json"
    rounds = json.loads(known.read_text())["rounds"]
    known.write_text(json.dumps({"rounds": [{**entry, "model": None} for entry in rounds]}))

    def stopping(inner, **given):
        place = real(inner, **given | {"force": True})
        if inner.run.name == stops:
            raise StageStopped("the verdict on align is stop.")
        return place

    with mock.patch.object(once, "execute", stopping):
        given = {"watch": lambda _: Quiet(), "say": told.append, "root": tmp_path / "runs"}
        if ends:
            with pytest.raises(StageStopped):
                execute(load_recipe(recipe), **given)
        else:
            execute(load_recipe(recipe), **given)
    assert ("Round 1 ends here: the verdict on align is stop." in told) is not ends
    assert json.loads(known.read_text())["rounds"] == rounds  # what the stopped round became is told all the same
    assert (tmp_path / "runs/tiny/report.html").exists()


# ---- when there is nothing to learn


def without_sft(finished, tiny_recipe, place, rounds):
    """A recipe of one round that has no other data than votes, from a model that is there: nothing is trained before
    anybody is asked."""
    path = with_rounds(place, tiny_recipe, rounds, **{'data = "pairs.jsonl"': 'data = "feedback"'})
    text = path.read_text()
    start, end, model = text.index("[sft]"), text.index("[reward]"), text.index("[model.scratch]")
    path.write_text(f'{text[:model]}[model]\npath = "{finished.run / "sft/model"}"\n\n{text[end:]}')
    assert start < end
    return path


def test_votes_that_are_all_ties_are_kept_and_more_can_be_given(finished, tiny_recipe, tmp_path):
    recipe = without_sft(finished, tiny_recipe, tmp_path, ROUNDS.replace("number = 2", "number = 1"))
    (tmp_path / "prefer.py").write_text(
        "def prefer(prompts, completions):\n"
        f"    with open({str(tmp_path / 'calls')!r}, 'a') as told:\n"
        "        print(len(prompts), file=told)\n"
        "    return [0] * len(prompts)\n"
    )
    store = tmp_path / "runs/tiny" / STORE
    for _ in range(2):  # the same again says the same
        with pytest.raises(UsageError, match=r"0 pairs to learn from and 0 held out.*20 votes .*\(20 ties\)"):
            done(recipe, tmp_path / "runs")
        with Store(store) as opened:
            assert len(opened.judgements()) == len(opened.items()) == 20  # people's work is not thrown away
        assert (tmp_path / "calls").read_text().split() == ["20"]  # and nobody is asked twice
    with Store(store) as opened:
        items = opened.items()
        for item in (items[0], items[-1]):  # one to test on, one to learn from, and none for the evaluation's judge
            opened.record(said(item, Preference(1)))
    with pytest.raises(DataError, match="Give more pairs"):
        done(recipe, tmp_path / "runs")
    with Store(store) as opened:
        for item in items[1:-1]:
            opened.record(said(item, Preference(1)))
    run, _ = done(recipe, tmp_path / "runs")
    (known,) = json.loads((run / "rounds.json").read_text())["rounds"]
    assert known["votes"]["ties"] == 20 and known["pairs"]["fresh"] + known["pairs"]["fresh_heldout"] == 20


def test_a_recipe_that_is_wrong_before_anything_is_asked_leaves_nothing(finished, tiny_recipe, tmp_path):
    recipe = without_sft(finished, tiny_recipe, tmp_path, ROUNDS)
    with pytest.raises(RecipeError, match="left 26 to ask about for training and 0"):
        done(recipe, tmp_path / "runs", ["reward.heldout_fraction=1e-9"])
    assert not (tmp_path / "runs/tiny").exists()


JUDGE = """
[rounds]
number = 1
feedback = "judge"
judgements = 20
candidates = 2

[rounds.judge]
url = "http://localhost:1/v1"
model = "m"
"""


@pytest.mark.parametrize("force", [False, True])
def test_a_judge_that_falls_silent_in_the_middle_is_asked_again(force, finished, tiny_recipe, tmp_path):
    recipe = load_recipe(without_sft(finished, tiny_recipe, tmp_path, JUDGE))

    def half(path, endpoint, given, **_):
        with Store(path) as store:
            store.add_rater(Rater("m@1", "judge"))
            for item in store.waiting("m@1", limit=10):
                better = -1 if item.candidates[0].text < item.candidates[1].text else 1
                store.record(said(item, Preference(better), "m@1"))

    given = {"watch": lambda _: Quiet(), "say": lambda _: None, "root": tmp_path / "runs"}
    with mock.patch.object(judging, "judge", half), mock.patch.object(judging, "lines", lambda _: []):
        if not force:
            with pytest.raises(EndpointError, match="no answer about 10 of the 20 pairs of round 1"):
                execute(recipe, **given)
        with contextlib.suppress(StageStopped, DataError):  # half of the pairs are too few to go on with
            execute(recipe, **given, force=force)
    (known,) = json.loads((tmp_path / "runs/tiny/rounds.json").read_text())["rounds"]
    assert known["votes"]["fresh"] == (10 if force else 20)


# ---- where questions go


def complaint(directory, alarm=True, worse=False, level="pass"):
    """A finished round that complains of what is given."""
    (directory / "align").mkdir(parents=True)
    monitor = {"name": "length", "alarm": alarm, "baseline": 10.0, "value": 30.0}
    (directory / "align/monitors.json").write_text(json.dumps([monitor]))
    (directory / "align/overoptimisation.json").write_text(json.dumps({"decision": {"worse": worse}}))
    checks = [{"name": "entropy", "level": level}, {"name": "critic", "level": "warn"}]
    (directory / "run.json").write_text(json.dumps({"stages": {"align": {"verdict": {"checks": checks}}}}))
    return directory


def test_adversarial_pairs_are_sought_where_something_complained(tmp_path):
    settings = Rounds(feedback="gold")
    quiet = aim_of(complaint(tmp_path / "quiet", alarm=False), settings)
    assert quiet.shares == {"random": 0.34, "uncertain": 0.66, "adversarial": 0.0}
    alarmed = aim_of(complaint(tmp_path / "alarmed"), settings)
    assert alarmed.shares == SHARES
    assert [monitor.name for monitor in alarmed.monitors] == ["length"]
    assert "length went from 10.00 to 30.00" in alarmed.reasons[0]
    for name, given in (("past", {"worse": True}), ("gate", {"level": "warn"})):
        found = aim_of(complaint(tmp_path / name, alarm=False, **given), settings)
        assert found.shares == SHARES
        assert len(found.monitors) > 5  # nobody says what to look for, so all are looked at
    assert aim_of(None, settings).shares == {"random": 1.0}


def test_a_prompts_side_is_that_of_the_first_rounds_data(tiny_recipe, tmp_path):
    from palate.data.checks import split_by_prompt

    recipe = load_recipe(with_rounds(tmp_path, tiny_recipe))
    pairs = read(tmp_path / "pairs.jsonl", "pairs").records
    _, heldout = split_by_prompt(pairs, 0.3, recipe.run.seed)
    _, prompts = parted(recipe, [pair.prompt for pair in pairs])
    assert {prompt.text for prompt in prompts} == {pair.prompt.text for pair in heldout}


# ---- from votes to pairs

QUESTION = Prompt.of("Which?", kind="choice")


def asked(*texts, **given):
    return Item(QUESTION, tuple(map(Candidate, texts)), **given)


def said(item, answer, rater="ada", name=""):
    return Judgement(name or f"{rater} {item.id}", item.id, rater, answer)


def test_a_preference_is_a_pair_and_other_answers_are_counted():
    item, check = asked("one", "two", round=2, slice="uncertain"), asked("yes", "no", expected=Preference(-1))
    again, silent = replace(item, repeats=item.id), asked("", "words")
    votes = [
        said(item, Preference(3)),
        said(item, Preference(-1), "bob"),
        said(item, Preference(0), "cy"),
        said(item, Skipped("no"), "dora"),
        said(check, Preference(-1)),
        said(again, Preference(1)),
        said(silent, Preference(1)),
    ]
    found = pairs_of([item, check, again, silent], votes)
    assert [(pair.chosen, pair.rejected) for pair in found.pairs] == [("two", "one"), ("one", "two")]
    assert found.counts == {"ties": 1, "other": 0, "checks": 2, "empty": 1, "thumbs_unused": 0}
    assert found.pairs[0].prompt.fields == {
        "kind": "choice",
        "round": 2,
        "slice": "uncertain",
        "rater": "ada",
        "votes": [votes[0].id],
    }
    assert pairs_of([item, check, again, silent], votes[::-1]) == found  # whatever came first


def test_the_newest_vote_of_a_rater_counts():
    item = asked("one", "two")
    found = pairs_of([item], [said(item, Preference(1), name="a"), said(item, Preference(-2), name="b")])
    assert [(pair.chosen, pair.prompt.fields["votes"]) for pair in found.pairs] == [("one", ["b"])]


def test_thumbs_are_pairs_where_one_prompt_has_both():
    items = [asked(text, mode="thumbs") for text in ("good", "fine", "bad", "torn")]
    good, fine, bad, torn = items
    lonely = Item(Prompt.of("Alone?"), (Candidate("alone"),), "thumbs")
    votes = [
        said(good, Thumb(True)),
        said(good, Thumb(True), "bob"),
        said(good, Thumb(False), "cy"),
        said(fine, Thumb(True)),
        said(bad, Thumb(False)),
        said(torn, Thumb(True)),
        said(torn, Thumb(False), "bob"),
        said(lonely, Thumb(True)),
    ]
    found = pairs_of([*items, lonely], votes)
    assert [(pair.chosen, pair.rejected) for pair in found.pairs] == [("good", "bad"), ("fine", "bad")]
    assert found.counts["thumbs_unused"] == 3  # those of "torn" and of the prompt that has one completion
    assert found.pairs[0].prompt.fields["rater"] == "ada and bob and cy"


def test_a_pair_of_thumbs_is_of_the_later_ones_round():
    old, new = asked("good", mode="thumbs", round=1), asked("bad", mode="thumbs", round=3, slice="random")
    for votes in ([(old, True), (new, False)], [(old, False), (new, True)]):
        (pair,) = pairs_of([old, new], [said(item, Thumb(up)) for item, up in votes]).pairs
        assert (pair.prompt.fields["round"], pair.prompt.fields["slice"]) == (3, "random")


def test_votes_stand_as_of_an_event(tmp_path):
    item = asked("one", "two")
    with Store(tmp_path / "feedback.sqlite") as store:
        store.add_items([item])
        store.record(said(item, Preference(1), name="first"))
        store.record(said(item, Preference(-1), "bob", name="second"))
        voted = store.events()[-1].seq
        store.retract("first", "ada")
        assert [one.id for one in standing(store.events(), voted)] == ["first", "second"]
        assert [one.id for one in standing(store.events(), voted + 1)] == ["second"]
        assert [one.id for one in standing(store.events(), voted - 1)] == ["first"]


def test_missing_votes_are_those_of_people(tmp_path):
    items = [asked("one", "two", wanted=2), asked("three", "four")]
    with Store(tmp_path / "feedback.sqlite") as store:
        store.add_items(items)
        store.add_rater(Rater("robot", "judge"))
        assert missing(store, items) == 3
        store.record(said(items[0], Preference(1), "robot"))
        assert missing(store, items) == 3
        store.record(said(items[0], Skipped("no idea")))
        store.record(said(items[1], Preference(1)))
        store.record(said(items[1], Preference(1), "bob"))
        assert missing(store, items) == 1


def test_the_written_pairs_read_back(tmp_path):
    item = asked("one", "two", round=3, slice="random")
    made = [aged(pair, 0.5, 4) for pair in pairs_of([item], [said(item, Preference(1))]).pairs]
    turns = Prompt((Message("system", "Be brief."), Message("user", "Q")), {"source": "file"})
    data = [aged(of_data(PreferencePair(turns, "A", "B", margin=1.5, weight=2.0)), 0.5, 4)]
    for pairs in (made, made + data):
        path = tmp_path / f"{len(pairs)}.jsonl"
        path.write_text(written(pairs))
        read_back = [replace(pair, prompt=replace(pair.prompt, line=0)) for pair in read(path, "pairs").records]
        assert read_back == pairs
    assert [pair.weight for pair in made + data] == [0.5, 0.25]


def test_a_margin_of_the_prompts_own_is_not_the_pairs(tmp_path):
    prompt = Prompt.of("Q", margin="wide", weight=7, source="file")
    item = Item(prompt, (Candidate("one"), Candidate("two")))
    path = tmp_path / "pairs.jsonl"
    path.write_text(written(pairs_of([item], [said(item, Preference(1))]).pairs))
    (pair,) = read(path, "pairs").records
    assert (pair.margin, pair.weight, pair.prompt.fields["source"]) == (None, 1.0, "file")


# ---- who answers


def test_an_annotator_of_the_testbed_answers_by_gold_and_always_alike():
    prompt = testbed.prompts("known")[0]
    texts = sorted((testbed.perfect(prompt.text), "I refuse to answer that."))
    items = [Item(prompt, tuple(map(Candidate, texts)), round=number) for number in range(1, 401)]
    sure = gold(testbed.Annotator(temperature=0.01), "annotator 1", 0)
    better = texts.index(testbed.perfect(prompt.text))
    assert {vote.answer for vote in sure(items)} == {Preference(1 if better else -1)}
    usual = gold(testbed.Annotator(), "annotator 1", 0)
    assert usual(items) == usual(items)
    share = sum(vote.answer.degree > 0 for vote in usual(items)) / len(items)
    probability = testbed.Annotator().probability(prompt, texts[1], texts[0])
    assert abs(share - probability) < 4 * (probability * (1 - probability) / len(items)) ** 0.5 + 1e-9
    other = gold(testbed.Annotator(temperature=100.0), "annotator 2", 0)
    assert [one.answer for one in other(items)] != [
        one.answer for one in gold(testbed.Annotator(temperature=100.0), "annotator 1", 0)(items)
    ]


@pytest.mark.parametrize(
    "body", ["return [1]", "return [4, 1]", "return [True, 1]", "return ['first', 1]", "return None"]
)
def test_a_program_that_answers_otherwise_is_refused(body, tmp_path):
    path = tmp_path / "own.py"
    path.write_text(f"def prefer(prompts, completions):\n    {body}\n")
    with pytest.raises(DataError, match="2 pairs and returned"):
        program(f"{path}:prefer")([asked("one", "two"), asked("three", "four")])


def test_as_many_annotators_answer_as_votes_are_wanted():
    recipe = Recipe(rounds=Rounds(feedback="gold", votes=3))
    assert list(answering_of(recipe)) == ["annotator 1", "annotator 2", "annotator 3"]


def test_a_program_is_the_same_rater_wherever_its_file_stands(tmp_path):
    item, found = asked("one", "two"), []
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "own.py").write_text("def prefer(prompts, completions):\n    return [-3]\n")
        found += program(f"{tmp_path / name / 'own.py'}:prefer")([item])
    assert found[0] == found[1]
    assert (found[0].rater, found[0].answer) == ("own.py:prefer", Preference(-3))


# ---- what does not go together


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rounds.uncertain": "0.5"}, "must sum to 1"),
        ({"rounds.feedback": "gold"}, "know its questions"),
        ({"rounds.feedback": "nobody"}, "must be one of gold, people, judge"),
        ({"rounds.feedback": "judge"}, "without .rounds.judge."),
        ({"rounds.votes": "2"}, "answers a pair once"),
        ({"reward.objective": "all-pairs"}, "Rounds collect votes on pairs"),
        ({"align.reward": "mine.py:brevity"}, "does not sample answers and learn from the reward model"),
    ],
)
def test_what_rounds_cannot_do_is_said(changes, message, tiny_recipe, tmp_path):
    recipe = with_rounds(tmp_path, tiny_recipe)
    with pytest.raises(RecipeError, match=message):
        load_recipe(recipe, [f"{name}={value}" for name, value in changes.items()])


def test_votes_as_data_want_rounds(tiny_recipe, tmp_path):
    with pytest.raises(RecipeError, match=r"without \[rounds\]"):
        load_recipe(tiny_recipe(tmp_path), ["reward.data=feedback"])


def test_a_resolved_recipe_reads_back(rounded):
    recipe, run, _ = rounded
    assert (
        dump_toml(load_recipe(run / "recipe.toml")).splitlines()[1:] == dump_toml(load_recipe(recipe)).splitlines()[1:]
    )


def test_one_stage_alone_is_refused(rounded, palate_command, tmp_path):
    recipe, _, _ = rounded
    result = palate_command("sft", recipe, "--runs", tmp_path)
    assert result.code == 2
    assert "recipe has [rounds]" in result.err
    assert not (tmp_path / "tiny").exists()


# ---- killed


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """`start(*arguments, last=n)` runs the command in a process that dies by SIGKILL before its n-th operation on the
    disk; 0 is never."""
    source = tmp_path_factory.mktemp("child") / "child.py"
    source.write_text(CHILD)
    started = []

    def start(*arguments, last=0):
        log = source.with_name(f"{len(started)}.txt")
        with log.open("wb") as taken:
            process = subprocess.Popen(
                [sys.executable, source, str(last), *map(str, arguments)],
                stdout=taken,
                stderr=subprocess.STDOUT,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
        started.append(process)
        process.log = log
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


CHILD = """
import os, signal, sys
last = int(sys.argv.pop(1))
from palate.engine import files

count = 0

def perform(operation, *arguments):
    global count
    count += 1
    if count == last:
        os.kill(os.getpid(), signal.SIGKILL)
    return operation(*arguments)

files.perform = perform
from palate.cli.main import main
main()
"""


@pytest.mark.slow
def test_killed_again_and_again(rounded, start, tmp_path, learnt):
    recipe, run, _ = rounded
    code = None
    for last in (40, 60, 120, 90, 150, 200, 130, 110, 180, 220, 0):
        process = start("run", recipe, "--runs", tmp_path, "--force", last=last)
        code = process.wait(PATIENCE_SECONDS)
        if code == 0:
            break
        assert code == -signal.SIGKILL, process.log.read_text()
    assert code == 0
    assert learnt(tmp_path / "tiny") == learnt(run)
    assert json.loads((tmp_path / "tiny/rounds.json").read_text()) == json.loads((run / "rounds.json").read_text())


# ---- people

PEOPLE = """
[rounds]
number = 2
feedback = "people"
judgements = 24
candidates = 2
votes = 2
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Simulated:
    """Someone at a browser: asks the server for items and votes by a fixed opinion, again where it was cut off."""

    def __init__(self, name, port):
        self.name, self.base = name, f"http://127.0.0.1:{port}"
        self.browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))
        self.acknowledged = 0

    def step(self, count):
        """Votes on up to `count` items; how many were there. OSError where nobody answers."""
        self.browser.open(f"{self.base}/?as={self.name}", timeout=20).read()
        items = json.loads(self.browser.open(f"{self.base}/api/next?count={count}", timeout=20).read())["items"]
        votes = [self._vote(item) for item in items]
        if votes:
            sent = urllib.request.Request(
                f"{self.base}/api/votes",
                json.dumps({"votes": votes}).encode(),
                {"Content-Type": "application/json"},
            )
            stored = json.loads(self.browser.open(sent, timeout=20).read())["stored"]
            assert stored == [vote["id"] for vote in votes]
            self.acknowledged += len(stored)
        return len(items)

    def _vote(self, item):
        left, right = (hashlib.sha256(f"{self.name}{place['text']}".encode()).digest() for place in item["places"])
        answer = {"kind": "preference", "degree": -1 if left < right else 2, "both_bad": False}
        name = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{self.name}/{item['id']}"))
        return {"id": name, "item": item["id"], "answer": answer, "tags": [], "note": "", "seconds": 1.0, "at": 0.0}


def voted(people, limit=None):
    """Lets everybody vote until nothing is left, or so many votes are stored; False where the server is gone."""
    while True:
        try:
            if not sum(one.step(3) for one in people):
                return True
        except OSError:  # URLError is one
            return False
        if limit is not None and sum(one.acknowledged for one in people) >= limit:
            return True


def wait_until(condition, process):
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < PATIENCE_SECONDS, process.log.read_text()
        assert process.poll() in (None, 0), f"it ended first: {process.log.read_text()}"
        time.sleep(0.1)


def waiting(store):
    """Whether the store holds items that wait for people."""
    if not store.exists():
        return False
    with Store(store) as opened:
        return missing(opened, uncontrolled(opened.items())) > 0


def with_people(start, recipe, root, kills):
    """The recipe's rounds with two simulated people at the real server; both processes are killed after so many votes
    each time. Returns the run and what was acknowledged."""
    store, run = root / "tiny" / STORE, start("run", recipe, "--runs", root, "--force")
    people, server, kills = [], None, list(kills)
    while run.poll() is None:
        wait_until(lambda process=run: waiting(store) or process.poll() is not None, run)
        if run.poll() is not None:
            break
        if server is None:
            port = free_port()
            server = start("label", store, "--no-open", "--port", port, "--repeat-share", "0")
            fresh = [Simulated(name, port) for name in ("ada", "bob")]
            for one, old in zip(fresh, people, strict=False):
                one.acknowledged = old.acknowledged
            people = fresh
        voted(people, kills[0] if kills else None)
        if kills and sum(one.acknowledged for one in people) >= kills[0]:
            kills.pop(0)
            for process in (server, run):
                process.kill()
                process.wait()
            server, run = None, start("run", recipe, "--runs", root, "--force")
        time.sleep(0.1)
    assert run.returncode == 0, run.log.read_text()
    assert not kills
    if server is not None:
        server.kill()
    return root / "tiny", sum(one.acknowledged for one in people)


@pytest.mark.slow
def test_people_at_the_real_server_killed_twice_equal_the_uncut_run(tiny_recipe, start, tmp_path, learnt):
    feedback = {'data = "pairs.jsonl"': 'data = "feedback"'}  # so both rounds ask
    recipe = with_rounds(tmp_path, tiny_recipe, PEOPLE, **feedback)
    uncut, votes = with_people(start, recipe, tmp_path / "uncut", ())
    cut, again = with_people(start, recipe, tmp_path / "cut", (17, 61))
    assert learnt(cut) == learnt(uncut)
    assert votes == again == 2 * 2 * 24
    for run in (cut, uncut):
        with Store(run / STORE) as store:
            assert len({(one.rater, one.item) for one in store.judgements()}) == len(store.judgements()) == votes
    known = json.loads((cut / "rounds.json").read_text())["rounds"]
    assert {name: rater["kind"] for name, rater in known[1]["votes"]["raters"].items()} == {
        "ada": "human",
        "bob": "human",
    }


def test_the_run_waits_for_people_and_goes_on_by_itself(tiny_recipe, tmp_path):
    """In one process: what waits says how many votes are missing, and ends when the last of them is stored."""
    recipe = with_rounds(tmp_path, tiny_recipe, PEOPLE)
    store, told = tmp_path / "runs" / "tiny" / STORE, []

    def vote():
        while not waiting(store):
            time.sleep(0.05)
        with Store(store) as opened:
            for item in opened.items():
                for rater in ("ada", "bob"):
                    time.sleep(0.001)
                    opened.record(said(item, Preference(1 if len(rater) % 2 else -1), rater))

    person = threading.Thread(target=vote)
    person.start()
    run = execute(load_recipe(recipe), watch=lambda _: Quiet(), say=told.append, root=tmp_path / "runs", force=True)
    person.join()
    waited = next(sentence for sentence in told if "votes are missing" in sentence)
    assert f"palate label {store}" in waited
    votes = json.loads((run / "rounds.json").read_text())["rounds"][1]["votes"]
    assert votes["fresh"] == 2 * votes["items"] == 48
