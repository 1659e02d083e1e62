"""Feedback comes in from every file that is read, goes out as every form, and loses only what is said."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest

from palate.collect import (
    Candidate,
    Edited,
    Item,
    Judgement,
    Order,
    Origin,
    Preference,
    Rater,
    Scores,
    Skipped,
    Store,
    Thumb,
    Written,
)
from palate.collect.annotators import annotators
from palate.collect.exchange import Exported, export, read_feedback
from palate.collect.quality import disagreements
from palate.collect.votes import answered
from palate.data.inspect import inspect_file
from palate.data.reading import file_sha256
from palate.data.recognition import read
from palate.errors import DataError, UsageError
from palate.records import Demonstration, Feedback, Message, PreferencePair, Prompt, Ranking, Rating
from palate.stages.people.feedback import give_out, take_in
from palate.stages.people.pairing import pairs_of

DATA = Path(os.environ.get("PALATE_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
ASK = Prompt.of("Name a colour.")
CHAT = Prompt((Message("user", "Hello."), Message("assistant", "Hi."), Message("user", "Name a colour,\u2028please.")))


def write(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def item(*texts: str, mode: Any = "pair", prompt: Prompt = ASK, **others) -> Item:
    return Item(prompt, tuple(map(Candidate, texts)), mode=mode, **others)


def said(one: Item, *answers) -> list[Judgement]:
    return [Judgement(f"{one.id}-{n}", one.id, f"rater{n}", answer) for n, answer in enumerate(answers)]


def out(form: Any, *asked: tuple[Item, list[Judgement]], margin: bool = False) -> Exported:
    items, judgements = zip(*asked, strict=True)
    return export(items, [one for some in judgements for one in some], form, raters={}, margin=margin)


def rows(exported: Exported) -> list[dict]:
    return [json.loads(line) for line in exported.lines]


def read_back(exported: Exported, path: Path):
    path.write_text("".join(f"{line}\n" for line in exported.lines))
    return read(path)


# ---- in


def kinds(directory: Path) -> list[tuple[Path, str]]:
    """One file of each kind, and the mode of its items."""
    turn = {"role": "user", "content": "Name a colour."}
    return [
        (write(directory / "pairs.jsonl", {"prompt": "Name a colour.", "chosen": "Red.", "rejected": "No."}), "pair"),
        (
            write(
                directory / "hh.jsonl",
                {
                    "chosen": "\n\nHuman: Name a colour.\n\nAssistant: Red.",
                    "rejected": "\n\nHuman: Name a colour.\n\nAssistant: No.",
                },
            ),
            "pair",
        ),
        (
            write(
                directory / "rankings.jsonl",
                {"prompt": "Name a colour.", "completions": ["No.", "Red.", "Blue."], "ranks": [2, 0, 0]},
            ),
            "ranking",
        ),
        (
            write(
                directory / "ratings.jsonl", {"prompt": "Name a colour.", "completion": "Red.", "scores": {"help": 4}}
            ),
            "rating",
        ),
        (write(directory / "kto.jsonl", {"prompt": "Name a colour.", "completion": "Red.", "label": True}), "thumbs"),
        (write(directory / "sft.jsonl", {"prompt": "Name a colour.", "completion": "Red."}), "demonstration"),
        (write(directory / "prompts.jsonl", {"prompt": [turn], "source": "a book"}), "demonstration"),
    ]


def preferred(one: Item, answer) -> Any:
    """What an answer says, by text and not by place."""
    texts = [candidate.text for candidate in one.candidates]
    match answer:
        case Preference(degree):
            return ("better", texts[degree > 0], abs(degree))
        case Order(ranks):
            return dict(zip(texts, ranks, strict=True))
        case Scores(scores):
            return (texts[0], dict(scores))
        case Thumb(up):
            return (texts[0], up)
        case Written(text):
            return text


def test_every_kind_of_file_becomes_items_and_judgements(tmp_path):
    expected = [
        ("better", "Red.", 1),
        ("better", "Red.", 1),
        {"No.": 1, "Red.": 0, "Blue.": 0},
        ("Red.", {"help": 4.0}),
        ("Red.", True),
        "Red.",
        None,
    ]
    for (path, mode), answer in zip(kinds(tmp_path), expected, strict=True):
        found = read_feedback(path)
        (one,) = found.items
        assert one.mode == mode and one.prompt.messages == ASK.messages and one.prompt.line == 0
        assert all(o.origins == (Origin("file", path.name, file_sha256(path)),) for o in one.candidates)
        if answer is None:
            assert found.judgements == () and one.prompt.fields == {"source": "a book"}
        else:
            (judgement,) = found.judgements
            assert preferred(one, judgement.answer) == answer
            assert judgement.rater == path.stem and found.raters == (Rater(path.stem),)


def test_where_a_completion_stands_in_an_item_does_not_say_that_it_was_chosen(tmp_path):
    many = [{"prompt": f"Question {n}?", "chosen": f"Good {n}.", "rejected": f"Bad {n}."} for n in range(200)]
    found = read_feedback(write(tmp_path / "pairs.jsonl", *many))
    first = sum(one.candidates[0].text.startswith("Good") for one in found.items)
    assert 70 < first < 130  # 100 ± 4.2 standard deviations of 7.07
    for one, judgement in zip(found.items, found.judgements, strict=True):
        assert preferred(one, judgement.answer)[1].startswith("Good")


@pytest.mark.parametrize(
    ("margin", "degree", "note"),
    [(None, 1, ""), (1, 1, ""), (3.0, 3, ""), (0.4, 1, "margin 0.4"), (2.6, 3, "margin 2.6"), (9, 3, "margin 9.0")],
)
def test_a_margin_becomes_a_degree_and_is_kept(tmp_path, margin, degree, note):
    row = {"prompt": "Name a colour.", "chosen": "Red.", "rejected": "No."}
    found = read_feedback(write(tmp_path / "pairs.jsonl", row | ({} if margin is None else {"margin": margin})))
    (judgement,) = found.judgements
    assert preferred(found.items[0], judgement.answer) == ("better", "Red.", degree) and judgement.note == note


def test_a_weight_is_kept(tmp_path):
    row = {"prompt": "Name a colour.", "chosen": "Red.", "rejected": "No.", "weight": 0.25}
    rows = [row, row | {"margin": 2.6}, row | {"weight": 1}]
    found = read_feedback(write(tmp_path / "pairs.jsonl", *rows))
    assert [one.note for one in found.judgements] == ["weight 0.25", "margin 2.6, weight 0.25", ""]


def test_each_annotator_of_a_row_is_a_rater(tmp_path):
    row = {"instruction": "Name a colour.", "input": "", "response1": "Red.", "response2": "No.", "idx": 7}
    path = write(tmp_path / "votes.jsonl", row | {"annotator1": 1, "annotator2": 2, "annotator3": 0})
    found = read_feedback(path, rater="lab")
    (one,) = found.items
    answers = {judgement.rater: preferred(one, judgement.answer) for judgement in found.judgements}
    tie = one.candidates[0].text
    assert answers == {
        "lab:annotator1": ("better", "Red.", 1),
        "lab:annotator2": ("better", "No.", 1),
        "lab:annotator3": ("better", tie, 0),
    }
    assert one.wanted == 3 and one.prompt.fields == {"idx": 7}


LOG = [
    {
        "id": "a1",
        "prompt": "Name a colour.",
        "completion": "Red.",
        "up": True,
        "model": "v2",
        "user": "kim",
        "at": 12.5,
    },
    {"messages": [{"role": "user", "content": "Hello."}], "completion": "What?", "thumb": "down", "note": "rude"},
    {"prompt": "Name a colour.", "completion": "Red.", "up": 0, "at": "2026-09-30T12:00:00Z", "country": "NL"},
]


def test_the_log_of_a_deployed_model_becomes_thumbs(tmp_path):
    found = read_feedback(write(tmp_path / "log.jsonl", *LOG))
    assert [one.mode for one in found.items] == ["thumbs", "thumbs"]  # the third row is about the first's item
    assert [one.answer for one in found.judgements] == [Thumb(True), Thumb(False), Thumb(False)]
    assert [one.rater for one in found.judgements] == ["user:kim", "user:log", "user:log"]
    assert [one.note for one in found.judgements] == ["", "rude", ""]
    assert [one.at for one in found.judgements] == [12.5, 0.0, 1790769600.0]
    assert found.items[0].candidates[0].origins[0] == Origin("model", "v2")
    assert {rater.kind for rater in found.raters} == {"human"}


def test_every_thumb_of_nobody_in_particular_counts(tmp_path):
    """Three of four like "Red.", and one of four "No."; whoever came last says the opposite."""
    thumbs = [("Red.", up) for up in (1, 1, 1, 0)] + [("No.", up) for up in (0, 0, 0, 1)]
    log = [{"prompt": "Name a colour.", "completion": text, "up": up} for text, up in thumbs]
    found = read_feedback(write(tmp_path / "log.jsonl", *log))
    (pair,) = pairs_of(found.items, found.judgements).pairs
    assert (pair.chosen, pair.rejected, len(pair.prompt.fields["votes"])) == ("Red.", "No.", 8)
    assert [row["label"] for row in rows(export(found.items, found.judgements, "kto", raters={}, margin=False))] == [
        *(True, False)
    ]
    (rater,) = annotators(found.items, found.judgements)
    assert (rater.rater, rater.judgements) == ("user:log", 8)
    told = disagreements(found.items, answered(found.items, found.judgements))
    assert [[one.rater for one in item.said] for item in told] == [["user:log"] * 4] * 2
    known = [row | {"user": "kim"} for row in log]  # one who changes their mind is one rater, whose last word holds
    found = read_feedback(write(tmp_path / "log.jsonl", *known))
    (pair,) = pairs_of(found.items, found.judgements).pairs
    assert (pair.chosen, pair.rejected) == ("No.", "Red.")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"up": "maybe"}, "'up' is 'maybe'"),
        ({"up": None}, "'up' is None"),
        ({"up": True, "completion": " "}, "empty reply"),
        ({"up": True, "prompt": 3}, "'prompt' is a number"),
        ({"up": True, "at": "yesterday"}, "'at' is 'yesterday'"),
        ({"up": True, "at": -1}, "'at' is -1"),
        ({"up": True, "messages": [{"role": "assistant", "content": "Hi."}]}, "ends with the assistant's turn"),
    ],
)
def test_a_bad_row_of_a_log_is_named(tmp_path, row, reason):
    path = write(tmp_path / "log.jsonl", LOG[0], {"prompt": "Name a colour.", "completion": "Red."} | row)
    with pytest.raises(DataError, match=reason):
        list(take_in(tmp_path / "feedback.sqlite", [path]))
    with Store(tmp_path / "feedback.sqlite") as store:
        assert store.events() == []  # a file is read whole before anything of it is stored
    assert read_feedback(path, on_bad="skip").left_out == {"bad rows": 1}


def test_the_same_file_twice_is_stored_once_and_a_longer_one_adds_its_rows(tmp_path):
    store, log = tmp_path / "feedback.sqlite", write(tmp_path / "log.jsonl", *LOG[:2])
    files = [path for path, _ in kinds(tmp_path)]
    list(take_in(store, [*files, log]))
    with Store(store) as opened:
        before = opened.events()
    said_again = list(take_in(store, [*files, log]))
    with Store(store) as opened:
        assert opened.events() == before
    assert said_again[-1] == f"{log}: 0 items stored (2 were there), 0 judgements stored (2 were there)."
    write(log, *LOG)
    assert list(take_in(store, [log])) == [f"{log}: 0 items stored (2 were there), 1 judgements stored (2 were there)."]


def test_equal_rows_are_votes_of_their_own(tmp_path):
    row = {"prompt": "Name a colour.", "chosen": "Red.", "rejected": "No."}
    found = read_feedback(write(tmp_path / "pairs.jsonl", row, row))
    assert len(found.items) == 1 and len({one.id for one in found.judgements}) == 2


def test_a_ranking_with_one_text_twice(tmp_path):
    even = {"prompt": "Name a colour.", "completions": ["Red.", "No.", "Red."], "ranks": [0, 1, 0]}
    odd = {"prompt": "Name a colour.", "completions": ["Red.", "No.", "Red."], "ranks": [0, 1, 2]}
    found = read_feedback(write(tmp_path / "rankings.jsonl", even, odd))
    (judgement,) = found.judgements
    assert preferred(found.items[0], judgement.answer) == {"Red.": 0, "No.": 1}
    assert found.left_out["rankings with one text at two ranks"] == 1


def ultrafeedback(**other: Any) -> dict:
    def completion(model: str, text: str, helpful: str, fine: float) -> dict:
        annotations = {"helpfulness": {"Rating": helpful, "Rationale": "Because."}}
        return {"model": model, "response": text, "annotations": annotations, "fine-grained_score": fine}

    completions = [
        completion("m1", "Red.", "5", 4.5),
        completion("m2", "No.", "1", 1.25),
        completion("m3", "No.", "1", 1.25),
    ]
    return {"instruction": "Name a colour.", "completions": completions, "source": "a book", **other}


def test_models_and_scores_beside_a_ranking_are_kept(tmp_path):
    path = write(tmp_path / "ultrafeedback.jsonl", ultrafeedback(models=["m1", "m2", "m3"]))
    list(take_in(tmp_path / "one.sqlite", [path], rater="gpt-4", kind="judge"))
    file = tmp_path / "events.jsonl"
    file.write_text("".join(f"{line}\n" for line in give_out(tmp_path / "one.sqlite", "events").lines))
    list(take_in(tmp_path / "two.sqlite", [file]))
    with Store(tmp_path / "two.sqlite") as store:
        ranking, *ratings = store.items()
        answers = [preferred(store.item(one.item), one.answer) for one in store.judgements()]
    origin = Origin("file", path.name, file_sha256(path))
    by_text = {"Red.": ("m1",), "No.": ("m2", "m3")}
    for one in (ranking, *ratings):
        assert one.prompt.fields.keys() - {"models"} == {"source"}
        for candidate in one.candidates:
            assert {*candidate.origins} == {origin, *(Origin("model", name) for name in by_text[candidate.text])}
    assert ranking.mode == "ranking" and "models" not in ranking.prompt.fields
    assert answers[0] == {"Red.": 0, "No.": 1}
    red, no = {"helpfulness": 5.0, "fine-grained": 4.5}, {"helpfulness": 1.0, "fine-grained": 1.25}
    assert answers[1:] == [("Red.", red), ("No.", no), ("No.", no)]
    rated = read_back(give_out(tmp_path / "two.sqlite", "ratings"), tmp_path / "ratings.jsonl").records
    assert {one.completion: dict(one.scores) for one in rated} == {"Red.": red, "No.": no}


def test_a_ranking_without_models_or_scores_is_a_ranking_alone(tmp_path):
    row = {"prompt": "Name a colour.", "responses": [{"text": "Red.", "rank": 1}, {"text": "No.", "rank": 2}]}
    found = read_feedback(write(tmp_path / "ranked.jsonl", row))
    assert [one.mode for one in found.items] == ["ranking"] and sum(found.left_out.values()) == 0
    listed = {"prompt": "Name a colour.", "completions": ["Red.", "No."], "ranks": [0, 1], "models": ["just one"]}
    (one,) = read_feedback(write(tmp_path / "listed.jsonl", listed)).items
    assert one.prompt.fields == {"models": ["just one"]} and len(one.candidates[0].origins) == 1


def test_rows_that_ask_the_same_are_one_item_of_all_their_origins(tmp_path):
    log = [LOG[0], LOG[0] | {"id": "a2", "model": "v3", "up": False}]
    (one,) = read_feedback(write(tmp_path / "log.jsonl", *log)).items
    assert [origin.name for origin in one.candidates[0].origins] == ["v2", "log.jsonl", "v3"]


# ---- everything, as it is


def filled(store: Store) -> None:
    """A store with every kind of event, and texts that files are known to break on."""
    odd = item("\ud83d\n\u2028\0", "=1+1", prompt=Prompt.of("\ufeffhalf \udc00", answer=[1, None, {"é": 2.5}]))
    ranked = item("a", "b", "c", mode="ranking", slice="random", propensity=0.25, wanted=2)
    store.add_items([odd, ranked, item("a", "b", expected=Preference(-3))])
    store.add_rater(Rater("gpt", "judge"))
    store.add_guideline("v1", "Be fair.\n")
    store.record(Judgement("1", odd.id, "ann", Preference(2), (1, 0), ("clear", ","), 'a "note"\r\n', 3.5, "v1", 7.25))
    store.record(Judgement("2", ranked.id, "gpt", Order((0, 1, 1))))
    store.retract("1", "ann")
    store.record(Judgement("3", odd.id, "ann", Skipped("\ud83d\ude00")))


def test_events_carry_a_store_whole_into_another(tmp_path, palate_command):
    first, second, file = tmp_path / "one.sqlite", tmp_path / "two.sqlite", tmp_path / "events.jsonl"
    with Store(first) as store:
        filled(store)
        events, judgements, waiting = store.events(), store.judgements(), store.waiting("eve", 9)
    assert palate_command("export", first, "--as", "events", "--out", file).code == 0
    result = palate_command("import", second, file)
    assert result.code == 0 and f"{file}: {len(events)} events stored." in result.out
    with Store(second) as store:
        assert store.events() == events
        assert (store.judgements(), store.waiting("eve", 9)) == (judgements, waiting)
    assert f"0 events stored ({len(events)} were there)" in palate_command("import", second, file).out
    with Store(second) as store:
        assert store.events() == events


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"id": "item:other"}, None),
        ({"kind": "rater"}, "begins with a known kind"),
        ({"kind": "thing", "id": "thing:1"}, "begins with a known kind"),
        ({"body": {}}, "says nothing"),
        ({"body": []}, "says nothing"),
        ({"id": 7}, "says nothing"),
        ({"at": float("nan")}, "says nothing"),
        ({"at": 10**400}, "says nothing"),
        ({"at": "now"}, "says nothing"),
        ({"body": {"wanted": 1.5}}, "wants 1.5 raters"),
        ({"body": {"wanted": 10**30}}, "whole numbers from 1"),
        ({"body": {"round": 0}}, "round 0"),
        ({"body": {"messages": [{"role": "robot", "content": "Hello."}]}}, "says nothing"),
        ({"body": {"messages": [{"role": "user", "content": 5}]}}, "says nothing"),
        ({"body": {"candidates": [{"text": 1, "origins": []}, {"text": 2, "origins": []}]}}, "says nothing"),
    ],
)
def test_events_are_checked_as_they_come(tmp_path, change, reason):
    with Store(tmp_path / "one.sqlite") as store:
        store.add_items([item("a", "b")])
    line = json.loads(give_out(tmp_path / "one.sqlite", "events").lines[0])
    body = change.get("body") and line["body"] | change["body"]
    line |= change | ({"body": body} if body else {})
    file = write(tmp_path / "events.jsonl", line)
    if reason is None:  # an item is named by its content, whatever the file calls it
        list(take_in(tmp_path / "two.sqlite", [file]))
        with Store(tmp_path / "two.sqlite") as store:
            assert store.items() == [item("a", "b")] and store.item(item("a", "b").id)
        return
    with pytest.raises(DataError, match=reason):
        list(take_in(tmp_path / "two.sqlite", [file]))


@pytest.mark.parametrize(
    "change", [{"at": 10**400}, {"seconds": 10**400}, {"note": 5}, {"tags": [1]}, {"guideline": None}], ids=str
)
def test_a_judgement_of_another_store_is_checked_as_it_comes(tmp_path, change):
    one = item("a", "b")
    with Store(tmp_path / "one.sqlite") as store:
        store.add_items([one])
        store.record_all(said(one, Preference(1)))
    lines = [json.loads(line) for line in give_out(tmp_path / "one.sqlite", "events").lines]
    lines[-1]["body"] |= change
    with pytest.raises(DataError, match="Correct"):
        list(take_in(tmp_path / "two.sqlite", [write(tmp_path / "events.jsonl", *lines)]))
    with Store(tmp_path / "two.sqlite") as store:
        assert store.events() == []


def test_a_file_of_events_that_was_cut_is_refused_with_its_line(tmp_path):
    with Store(tmp_path / "one.sqlite") as store:
        filled(store)
    lines = give_out(tmp_path / "one.sqlite", "events").lines
    file = tmp_path / "events.jsonl"
    file.write_text("\n".join(lines)[:-20])
    with pytest.raises(DataError, match="this is no event") as caught:
        list(take_in(tmp_path / "two.sqlite", [file]))
    assert caught.value.line == len(lines)


# ---- out, and read back

PAIR, RANKED = item("Red.", "No.", prompt=CHAT), item("Red.", "No.", "Blue.", mode="ranking")
EDIT = item("red", "blu", mode="edit")


@pytest.mark.parametrize("form", ["trl", "hh"])
def test_pairs_are_read_back_as_the_same_preferences(tmp_path, form):
    exported = out(
        form,
        (PAIR, said(PAIR, Preference(-2))),
        (RANKED, said(RANKED, Order((1, 2, 0)))),
        (EDIT, said(EDIT, Edited(1, "Blue."))),
        margin=True,
    )
    data = read_back(exported, tmp_path / "pairs.jsonl")
    assert data.mapping.format == {"trl": "trl-chat-pairs", "hh": "hh-pairs"}[form]
    pairs = [(one.prompt.messages, one.chosen, one.rejected, one.margin) for one in data.records]
    assert pairs[0] == (CHAT.messages, "Red.", "No.", 2.0)
    assert pairs[1][:2] == (ASK.messages, "Blue.") and pairs[1][2] in ("Red.", "No.") and pairs[1][3] is None
    assert pairs[2] == (ASK.messages, "Blue.", "blu", None)
    assert inspect_file(tmp_path / "pairs.jsonl").skipped == ()


def test_margins_are_written_on_demand_alone(tmp_path):
    one = (PAIR, said(PAIR, Preference(-2)))
    assert "margin" not in rows(out("trl", one))[0]
    assert read_back(out("trl", one), tmp_path / "pairs.jsonl").records[0].margin is None


# Votes of a pair of two, the first being "a": who wins, the share of votes for it (a tie is half), and the mean degree
# of those who prefer it. More than half must say the same.
VOTES = [
    ((-1, -1, 2), ("a", 2 / 3, 1.0)),
    ((3, 1, -3), ("b", 2 / 3, 2.0)),
    ((-1, -3, 0), ("a", 2.5 / 3, 2.0)),
    ((-1,), ("a", 1.0, 1.0)),
    ((-1, 1), None),
    ((-1, 0), None),
    ((-1, 0, 1), None),
    ((0, 0, 1), None),
]


@pytest.mark.parametrize(("degrees", "expected"), VOTES)
def test_of_several_raters_the_majority_decides(degrees, expected):
    one = item("a", "b")
    exported = out("trl", (one, said(one, *map(Preference, degrees))), margin=True)
    if expected is None:
        assert exported.lines == () and exported.left_out["ties and votes without a majority"] == 1
        return
    (row,) = rows(exported)
    winner, agreement, margin = expected
    assert row["chosen"] == [{"role": "assistant", "content": winner}] and row["votes"] == len(degrees)
    assert row["agreement"] == pytest.approx(agreement) and row["margin"] == pytest.approx(margin)
    assert row["item"] == one.id


def test_ties_are_kept_by_rankings_and_both_bad_by_labels(tmp_path):
    tied, bad = item("a", "b"), item("c", "d")
    asked = [(tied, said(tied, Preference(0))), (bad, said(bad, Preference(0, both_bad=True), Skipped("late")))]
    assert out("trl", *asked).left_out == {"ties and votes without a majority": 1, "both bad": 1, "skips": 1}
    ranked = read_back(out("rankings", *asked), tmp_path / "rankings.jsonl")
    assert [(one.completions, one.ranks) for one in ranked.records] == [(("a", "b"), (0, 0)), (("c", "d"), (0, 0))]
    labelled = read_back(out("kto", *asked), tmp_path / "kto.jsonl")
    assert [(one.completion, one.desirable) for one in labelled.records] == [("c", False), ("d", False)]


def test_rankings_of_several_raters_go_by_the_mean_rank(tmp_path):
    # Mean ranks: (0 + 1 + 0) / 3 = 1/3, (1 + 0 + 2) / 3 = 1, (2 + 2 + 1) / 3 = 5/3.
    asked = (RANKED, said(RANKED, Order((0, 1, 2)), Order((1, 0, 2)), Order((0, 2, 1))))
    assert read_back(out("rankings", asked), tmp_path / "r.jsonl").records[0].ranks == (0, 1, 2)
    (row,) = rows(out("trl", asked))
    rejected = row["rejected"][0]["content"]
    # Two of three put "Red." before "No.", and three of three before "Blue.".
    assert row["chosen"][0]["content"] == "Red." and row["agreement"] == pytest.approx(
        {"No.": 2 / 3, "Blue.": 1}[rejected]
    )


def test_thumbs_and_preferences_become_labels(tmp_path):
    up, split = item("Red.", mode="thumbs"), item("No.", mode="thumbs")
    exported = out(
        "kto",
        (up, said(up, Thumb(True), Thumb(True), Thumb(False))),
        (split, said(split, Thumb(True), Thumb(False))),
        (PAIR, said(PAIR, Preference(1))),
    )
    data = read_back(exported, tmp_path / "kto.jsonl")
    assert data.mapping.format == "kto"
    assert [(one.completion, one.desirable) for one in data.records] == [("Red.", True), ("No.", True), ("Red.", False)]
    assert exported.left_out["items that half of their raters like"] == 1
    assert rows(exported)[0]["agreement"] == pytest.approx(2 / 3)


def test_ratings_and_demonstrations_are_read_back(tmp_path):
    rated, asked = item("Red.", mode="rating"), item(mode="demonstration", prompt=CHAT)
    ratings = out("ratings", (rated, said(rated, Scores({"help": 4, "tone": 1}), Scores({"help": 3}))))
    (rating,) = read_back(ratings, tmp_path / "ratings.jsonl").records
    assert rating.scores == {"help": 3.5, "tone": 1.0} and rating.completion == "Red."
    written = out(
        "demonstrations", (asked, said(asked, Written("Red."), Written(" "))), (EDIT, said(EDIT, Edited(0, "Red.")))
    )
    data = read_back(written, tmp_path / "sft.jsonl")
    assert data.mapping.format == "trl-chat-completions"
    assert [(one.prompt.messages, one.completion) for one in data.records] == [
        (CHAT.messages, "Red."),
        (ASK.messages, "Red."),
    ]
    assert written.left_out["completions without text"] == 1


@pytest.mark.parametrize("form", ["trl", "hh", "kto", "rankings", "ratings", "demonstrations"])
def test_hidden_items_and_what_a_form_has_no_place_for_are_left_out_and_counted(form):
    gold, again = item("a", "b", expected=Preference(1)), item("a", "b", repeats="x")
    thumbs, rated, asked = item("a", mode="thumbs"), item("a", mode="rating"), item(mode="demonstration")
    exported = out(
        form,
        (gold, said(gold, Preference(1))),
        (again, said(again, Preference(1))),
        (PAIR, said(PAIR, Skipped("late"))),
        (EDIT, said(EDIT, Edited(0, "red"))),
        (thumbs, said(thumbs, Skipped())),
        (rated, said(rated, Skipped())),
        (asked, said(asked, Skipped())),
    )
    assert exported.left_out["items of hidden gold or repetition"] == 2
    counted = sum(exported.left_out.values()) + len(exported.lines)
    assert counted == 7 and exported.left_out["skips"] > 0


@pytest.mark.parametrize(
    "texts",
    [("Red.", "No.\n\nHuman: Yes.\n\nAssistant: Red."), ("\n\nAssistant: Red.", "No.")],
)
def test_no_transcript_is_written_that_would_be_read_as_another(texts):
    one = item(*texts)
    exported = out("hh", (one, said(one, Preference(-1))))
    assert exported.lines == () and sum(exported.left_out.values()) == 1
    system = item("Red.", "No.", prompt=Prompt((Message("system", "Be kind."), Message("user", "Hello."))))
    assert out("hh", (system, said(system, Preference(-1)))).lines == ()
    assert len(out("trl", (system, said(system, Preference(-1)))).lines) == 1


def test_what_no_reader_takes_is_not_written(tmp_path):
    empty, nothing = item("Red.", " \n"), item("Red.", "No.", prompt=Prompt.of(" "))
    asked = [(one, said(one, Preference(-1))) for one in (empty, nothing, PAIR)]
    for form in ("trl", "hh", "kto", "rankings"):
        exported = out(form, *asked)
        assert exported.left_out["completions without text"] == exported.left_out["items with an empty prompt"] == 1
        assert read_back(exported, tmp_path / f"{form}.jsonl").skipped == ()


def test_half_a_surrogate_pair_becomes_a_replacement_character(tmp_path):
    one = item("Red \ud83d.", "No \ud83d\ude00.")
    (pair,) = read_back(out("trl", (one, said(one, Preference(-1)))), tmp_path / "pairs.jsonl").records
    assert (pair.chosen, pair.rejected) == ("Red \ufffd.", "No \U0001f600.")


def test_the_table_holds_every_judgement_and_no_formula(tmp_path):
    one = item("=HYPERLINK(1)", 'a "quoted",\nline')
    gold = item("a", "b", expected=Preference(1), prompt=Prompt.of("-1 or +1?"))
    judgements = [
        Judgement("1", one.id, "ann", Preference(-3), (1, 0), ("clear",), "@all", 2.5, "v1", 9.0),
        Judgement("2", one.id, "gpt", Skipped("=late")),
        Judgement("3", gold.id, "ann", Preference(0, both_bad=True)),
    ]
    exported = export([one, gold], judgements, "csv", raters={"gpt": Rater("gpt", "judge")}, margin=False)
    table = list(csv.DictReader(io.StringIO("\n".join(exported.lines))))
    assert [row["judgement"] for row in table] == ["1", "2", "3"]
    assert [row["kind"] for row in table] == ["human", "judge", "human"]
    assert [row["hidden"] for row in table] == ["", "", "gold"]
    assert [row["answer"] for row in table] == ["preference", "skipped", "preference"]
    assert [row["degree"] for row in table] == ["-3", "", "0"] and table[2]["both_bad"] == "True"
    assert json.loads(table[0]["completions"]) == ["=HYPERLINK(1)", 'a "quoted",\nline']
    assert [row["note"] for row in table] == ["'@all", "", ""] and table[1]["reason"] == "'=late"
    assert table[2]["prompt"] == "'-1 or +1?" and table[0]["shown"] == "[1, 0]"


# ---- files and commands


def test_what_comes_in_goes_out_the_same(tmp_path):
    """Pairs, rankings, ratings, labels and demonstrations through a store and back, by their own reader."""
    modes = {
        "pair": "trl",
        "ranking": "rankings",
        "rating": "ratings",
        "thumbs": "kto",
        "demonstration": "demonstrations",
    }
    for number, (path, mode) in enumerate(kinds(tmp_path)[:-1]):
        store = tmp_path / f"{number}.sqlite"
        list(take_in(store, [path]))
        before, after = read(path).records, read_back(give_out(store, modes[mode]), tmp_path / "out.jsonl").records
        assert [told(one) for one in before] == [told(one) for one in after]


def told(record) -> object:
    match record:
        case PreferencePair(prompt, chosen, rejected):
            return prompt.messages, chosen, rejected
        case Ranking(prompt, completions, ranks):
            return prompt.messages, dict(zip(completions, ranks, strict=True))
        case Rating(prompt, completion, scores):
            return prompt.messages, completion, dict(scores)
        case Feedback(prompt, completion, desirable):
            return prompt.messages, completion, desirable
        case Demonstration(prompt, completion):
            return prompt.messages, completion
    raise AssertionError(record)


def test_the_commands_say_what_they_did(tmp_path, palate_command):
    store, pairs = tmp_path / "feedback.sqlite", kinds(tmp_path)[0][0]
    result = palate_command("import", store, pairs, "--rater", "ann", "--kind", "judge")
    assert result.code == 0 and f"{pairs}: 1 items stored, 1 judgements stored." in result.out
    with Store(store) as opened:
        assert opened.raters() == {"ann": Rater("ann", "judge")}
    result = palate_command("export", store, "--as", "trl")
    assert (result.code, result.err) == (0, "1 rows.\n") and json.loads(result.out)["votes"] == 1
    assert palate_command("export", store, "--as", "ratings").err == "0 rows; left out: items of mode pair (1).\n"
    for words, reason in (
        (("export", store, "--as", "xml"), "--as is 'xml'"),
        (("export", store, "--as", "kto", "--margin"), "margins are those of pairs"),
        (("export", tmp_path / "none.sqlite", "--as", "trl"), "there is no store"),
        (("import", store, pairs, "--kind", "robot"), "--kind is 'robot'"),
        (("import", store, pairs, "--on-bad", "mend"), "--on-bad is 'mend'"),
        (("import", store, tmp_path / "none.jsonl"), "there is no such file"),
        (("import", store, pairs, "--rater", "ann"), "is on record as judge"),
    ):
        result = palate_command(*words)
        assert result.code == 2 and reason in result.err.replace("\n", " "), words
    assert not (tmp_path / "none.sqlite").exists()


def test_a_form_that_is_none_is_refused(tmp_path):
    with pytest.raises(UsageError, match="must be one of trl, hh"):
        give_out(tmp_path / "feedback.sqlite", "TRL")


@pytest.mark.skipif(not DATA.is_dir(), reason="no published data files; name their directory in PALATE_DATA")
def test_published_files_come_in_and_go_out(tmp_path):
    store = tmp_path / "feedback.sqlite"
    panda, llmbar = DATA / "multi_annotator/pandalm.jsonl", DATA / "llmbar/llmbar.jsonl"
    list(take_in(store, [panda, llmbar], on_bad="skip"))
    with Store(store) as opened:
        judgements = opened.judgements()
    wanted = read(panda, on_bad="skip").records
    assert len(judgements) == 3 * len(wanted) + len(read(llmbar).records)
    ranked = read_back(give_out(store, "rankings"), tmp_path / "r.jsonl").records
    by_texts = {(one.prompt.messages, *sorted(one.completions)): one for one in ranked}
    votes: dict = {}
    for one in wanted:
        key = (one.prompt.messages, *sorted(one.completions))
        votes.setdefault(key, []).append(told(one))
    alone = {key: some[0] for key, some in votes.items() if len(some) == 1}
    assert len(alone) > 600
    assert all(told(by_texts[key]) == one for key, one in alone.items())
