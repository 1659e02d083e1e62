"""Constitutional AI against a stand-in that criticises, revises and judges: what it is asked, what is kept of it."""

from __future__ import annotations

import json

import pytest

from palate.collect.constitution import Constitution, Reviser, load_constitution
from palate.collect.controls import CONTROLS
from palate.collect.endpoint import Client, Endpoint
from palate.collect.judgements import Edited, Preference
from palate.collect.store import Store
from palate.data.recognition import read
from palate.errors import DataError, RecipeError
from palate.records import Demonstration, Message, Prompt
from palate.settings import build

OWN = """
[[principle]]
id = "kind"
critique = "Is it kind?"
revise = "Make it kind."
prefer = "The kinder is better."

[[principle]]
id = "short"
critique = "Is it short?"
revise = "Make it short."
prefer = "The shorter is better."
"""


@pytest.fixture
def own(tmp_path):
    """A constitution of two principles."""
    path = tmp_path / "own.toml"
    path.write_text(OWN)
    return path


def helper(material, critique="too rude", judged="second"):
    """Answers "answer to …", finds fault, adds one "kindly" a revision, and prefers what says it more often."""

    def answer(body):
        system, found = body["messages"][0]["content"], material(body)
        if "FIRST ANSWER" in found:
            return json.dumps({"reason": "kinder", "better": better(found)})
        if "CRITIQUE" in found:
            return f"kindly {found['ANSWER']}"
        if "ANSWER" in found:
            return f"{critique}: {system.split(chr(10))[4]}"
        return f"answer to {body['messages'][-1]['content']}"

    def better(found):
        first, second = (worth(found[f"{place} ANSWER"]) for place in ("FIRST", "SECOND"))
        return "first" if first > second else "second"

    def worth(text):
        head = text.split("\n")[0]
        return 100 * (head in [one.right for one in CONTROLS]) + text.count("kindly")

    return answer


def prompts(tmp_path, count=6):
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"Question {n}?"}) + "\n" for n in range(count)))
    return path


# ---- the file


def test_the_constitution_of_the_house_is_whole():
    constitution = load_constitution("default")
    assert len(constitution.principle) == 10
    for one in constitution.principle:
        assert min(map(len, (one.critique, one.revise, one.prefer))) > 20
        assert one.prefer.startswith("The better answer is the one ")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "principle"),
        ("principle = []", "principle"),
        (OWN.replace('"short"', '"kind"'), "several principles called kind"),
        (OWN.replace("prefer", "preffer", 1), "preffer"),
        (OWN.replace('"short"', '"two words"'), "id"),
        (OWN.replace("Is it kind?", ""), "critique"),
        ("[[principle", "TOML"),
    ],
)
def test_what_is_no_constitution_is_refused(tmp_path, text, says):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=says):
        load_constitution(path)


# ---- revising


def test_an_answer_is_criticised_and_revised_by_the_drawn_principle(serve, material, own):
    standin = serve(helper(material))
    with Client(Endpoint(standin.url, "m")) as client:
        (revised,) = Reviser(client, load_constitution(own), rounds=2).revised([Prompt.of("Why?")])
    assert revised.first == "answer to Why?" and revised.last == "kindly kindly answer to Why?"
    assert {one.principle for one in revised.revisions} == {"kind", "short"}  # none twice before all
    for one in revised.revisions:
        assert one.critique == {"kind": "too rude: Is it kind?", "short": "too rude: Is it short?"}[one.principle]
    assert standin.asked == 5
    texts = material(standin.bodies[2])
    assert texts["CRITIQUE"] == revised.revisions[0].critique and texts["ANSWER"] == revised.first


def test_principles_are_drawn_by_seed_and_prompt(serve, material, own):
    given = [Prompt.of(f"Question {n}?") for n in range(20)]

    def drawn(seed):
        with Client(Endpoint(serve(helper(material)).url, "m")) as client:
            found = Reviser(client, load_constitution(own), seed=seed).revised(given)
            return {one.prompt.text: one.revisions[0].principle for one in found}

    assert drawn(0) == drawn(0) != drawn(1)
    assert set(drawn(0).values()) == {"kind", "short"}


def test_answers_of_ones_own_are_not_written_anew(serve, material, own):
    standin = serve(helper(material))
    given = Demonstration(Prompt((Message("system", "s"), Message("user", "u"))), "mine")
    with Client(Endpoint(standin.url, "m")) as client:
        (revised,) = Reviser(client, load_constitution(own)).revised([given])
    assert (revised.first, revised.last, revised.origin.kind) == ("mine", "kindly mine", "file")
    assert standin.asked == 2


def test_texts_that_cannot_be_used_lose_their_prompt(serve, material, whole, own):
    base = helper(material)

    def answer(body):
        said = str(body["messages"])
        if "Question 0?" in said and "CRITIQUE" in said:
            return ""
        return whole("half of", finish="length") if "Question 1?" in said else base(body)

    given = [Prompt.of(f"Question {n}?") for n in range(3)]
    with Client(Endpoint(serve(answer).url, "m")) as client:
        found = list(Reviser(client, load_constitution(own)).revised(given))
    assert found.count(None) == 2 and [one.prompt.text for one in found if one] == ["Question 2?"]


def test_another_constitution_is_another_reviser(serve, own):
    with Client(Endpoint(serve(lambda body: "").url, "m")) as client:
        names = {
            Reviser(client, load_constitution(own)).rater.name,
            Reviser(client, load_constitution(own), rounds=2).rater.name,
            Reviser(client, build(Constitution, {"principle": [vars(load_constitution(own).principle[0])]})).rater.name,
        }
    assert len(names) == 3


# ---- the command


def test_the_command_writes_demonstrations_and_preferences_by_principle(serve, material, own, tmp_path, palate_command):
    standin, out = serve(helper(material)), tmp_path / "made"
    words = ("constitution", prompts(tmp_path), "--endpoint", standin.url, "--model", "m", "--out", out)
    result = palate_command(*words, "--constitution", own, "--price-in", "1", "--price-out", "1")
    assert result.code == 0, result.err
    data = read(out / "demonstrations.jsonl")
    assert data.mapping.kind == "demonstrations"
    assert [one.prompt.text for one in data.records] == [f"Question {n}?" for n in range(6)]
    assert data.records[0].completion == "kindly answer to Question 0?"
    assert set(data.records[0].prompt.fields["principles"]) < {"kind", "short"}
    with Store(out / "feedback.sqlite") as store:
        items = {item.id: item for item in store.items()}
        edits = [one for one in store.judgements() if isinstance(one.answer, Edited)]
        votes = [one for one in store.judgements() if isinstance(one.answer, Preference)]
        kinds = {rater.kind for rater in store.raters().values()}
    assert len(edits) == len(votes) == 6 and kinds == {"judge"}
    for one in edits:
        assert one.answer.text == f"kindly {items[one.item].candidates[0].text}"
        assert one.note.startswith("too rude") and one.tags[0] in ("principle:kind", "principle:short")
    for one in votes:
        assert one.answer == Preference(1) and one.tags[0] in ("principle:kind", "principle:short")
    asked = standin.asked
    before = (out / "demonstrations.jsonl").read_bytes()
    again = palate_command(*words, "--constitution", own)
    assert again.code == 0 and standin.asked == asked
    assert (out / "demonstrations.jsonl").read_bytes() == before
    with Store(out / "feedback.sqlite") as store:
        assert len(store.judgements()) == 12


def test_an_answer_that_stays_as_it_is_makes_no_pair(serve, material, own, tmp_path, palate_command):
    base = helper(material)

    def answer(body):
        found = material(body)
        return found["ANSWER"] if "CRITIQUE" in found else base(body)

    out = tmp_path / "made"
    words = ("constitution", prompts(tmp_path, 2), "--endpoint", serve(answer).url, "--model", "m", "--out", out)
    result = palate_command(*words, "--constitution", own)
    assert result.code == 0 and "2 demonstrations; 0 answers were changed" in result.out
    with Store(out / "feedback.sqlite") as store:
        assert store.items() == []


def test_a_judge_that_fails_on_controls_prefers_nothing_but_demonstrations_stay(
    serve, material, own, tmp_path, palate_command
):
    base = helper(material)
    out = tmp_path / "made"
    url = serve(lambda body: "dunno" if "FIRST ANSWER" in material(body) else base(body)).url
    words = ("constitution", prompts(tmp_path, 2), "--endpoint", url, "--model", "m", "--out", out)
    result = palate_command(*words, "--constitution", own)
    assert result.code == 0 and "No preferences: " in result.out
    assert len(read(out / "demonstrations.jsonl").records) == 2
    with Store(out / "feedback.sqlite") as store:
        assert not any(isinstance(one.answer, Preference) for one in store.judgements())


def test_a_file_that_holds_no_prompts_is_refused(tmp_path, palate_command):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}')
    words = ("constitution", path, "--endpoint", "http://localhost:1", "--model", "m", "--out", tmp_path / "out")
    result = palate_command(*words)
    assert result.code == DataError.exit_code and not (tmp_path / "out").exists()
