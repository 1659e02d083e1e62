"""From files to records: every format, every kind of bad row, and what is refused as a whole."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.data.reading import file_sha256
from palate.data.recognition import Mapping, read
from palate.errors import DataError, RecipeError
from palate.records import Demonstration, Message, PreferencePair, Prompt

TEXT = st.text().filter(str.strip)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def system(text: str) -> dict[str, str]:
    return {"role": "system", "content": text}


def turns(*messages: dict[str, str]) -> tuple[Message, ...]:
    return tuple(Message(message["role"], message["content"]) for message in messages)  # type: ignore[arg-type]


def question(text: str, line: int = 1, **fields: Any) -> Prompt:
    return Prompt((Message("user", text),), fields, line)


def written(tmp_path: Path, *rows: Any) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def records(tmp_path: Path, *rows: Any) -> tuple[Any, ...]:
    return read(written(tmp_path, *rows)).records


PAIR = {"prompt": "Q", "chosen": "good", "rejected": "bad"}
HH = {"chosen": "\n\nHuman: Q\n\nAssistant: good", "rejected": "\n\nHuman: Q\n\nAssistant: bad"}


# --- formats ---


def test_trl_pairs_keep_their_texts_to_the_letter(tmp_path: Path) -> None:
    row = {"prompt": " Q\n", "chosen": " good ", "rejected": "\tbad\r\n", "margin": 2, "source": "x"}
    data = read(written(tmp_path, row))
    assert data.mapping == Mapping(
        "trl-pairs", "pairs", {name: name for name in ("prompt", "chosen", "rejected", "margin")}
    )
    assert data.records == (PreferencePair(question(" Q\n", source="x"), " good ", "\tbad\r\n", 2.0),)


def test_a_common_beginning_of_two_replies_is_no_prompt(tmp_path: Path) -> None:
    row = {"prompt": "Q", "chosen": "The answer is 4.", "rejected": "The answer is 5."}
    assert records(tmp_path, row) == (PreferencePair(question("Q"), "The answer is 4.", "The answer is 5."),)


@pytest.mark.parametrize("prompt", ["Q", [user("Q")]])
def test_trl_chat_pairs_with_the_prompt_in_its_own_column(tmp_path: Path, prompt: Any) -> None:
    expected = (PreferencePair(question("Q"), "good", "bad"),)
    row = {"prompt": prompt, "chosen": [assistant("good")], "rejected": [assistant("bad")]}
    assert records(tmp_path, row) == expected
    repeated = {
        "prompt": prompt,
        "chosen": [user("Q"), assistant("good")],
        "rejected": [user("Q"), assistant("bad")],
    }
    assert records(tmp_path, repeated) == expected  # as UltraFeedback has it


def test_trl_implicit_prompt_is_all_turns_before_the_last(tmp_path: Path) -> None:
    opening = [system("S"), user("Q1"), assistant("A1"), user("Q2")]
    row = {"chosen": [*opening, assistant("Yes, a")], "rejected": [*opening, assistant("Yes, b")]}
    data = read(written(tmp_path, row))
    assert data.mapping.format == "trl-chat-pairs"
    assert data.records == (PreferencePair(Prompt(turns(*opening), line=1), "Yes, a", "Yes, b"),)


def test_hh_prompt_is_everything_before_the_last_reply(tmp_path: Path) -> None:
    opening = "\n\nHuman: Q1\n\nAssistant: A1\n\nwith a paragraph\n\nHuman: Q2\n\nAssistant: "
    data = read(written(tmp_path, {"chosen": opening + "good\n\nmore", "rejected": opening + " bad "}))
    assert data.mapping == Mapping("hh-pairs", "pairs", {"chosen": "chosen", "rejected": "rejected"})
    prompt = Prompt(turns(user("Q1"), assistant("A1\n\nwith a paragraph"), user("Q2")), line=1)
    assert data.records == (PreferencePair(prompt, "good\n\nmore", "bad"),)


def test_trl_completions(tmp_path: Path) -> None:
    assert records(tmp_path, {"prompt": "Q", "completion": " A", "id": 7}) == (
        Demonstration(question("Q", id=7), " A"),
    )


def test_trl_chat_completions_learn_the_completion_alone(tmp_path: Path) -> None:
    opening = [user("Q1"), assistant("A1"), user("Q2")]
    row = {"prompt": opening, "completion": [assistant("A2"), user("Q3"), assistant("A3")]}
    assert records(tmp_path, row) == (
        Demonstration(Prompt(turns(*opening), line=1), "A2"),
        Demonstration(Prompt(turns(*opening, assistant("A2"), user("Q3")), line=1), "A3"),
    )


@pytest.mark.parametrize("given_input", [{}, {"input": ""}, {"input": " "}, {"input": None}])
def test_alpaca_without_input(tmp_path: Path, given_input: dict[str, Any]) -> None:
    assert records(tmp_path, {"instruction": "Do", "output": "Done", **given_input}) == (
        Demonstration(question("Do"), "Done"),
    )


def test_alpaca_with_input(tmp_path: Path) -> None:
    assert records(tmp_path, {"instruction": "Do", "input": "this", "output": "Done"}) == (
        Demonstration(question("Do\n\nthis"), "Done"),
    )


def test_a_chat_gives_a_demonstration_for_each_assistant_turn(tmp_path: Path) -> None:
    row = {"messages": [system("S"), user("Q1"), assistant("A1"), user("Q2"), assistant("A2"), user("Q3")]}
    first = Demonstration(Prompt(turns(system("S"), user("Q1")), line=1), "A1")
    second = Demonstration(Prompt(turns(system("S"), user("Q1"), assistant("A1"), user("Q2")), line=1), "A2")
    ending = {"messages": row["messages"][:5]}
    assert read(written(tmp_path, ending, row)).records[:2] == (first, second)
    assert [record.completion for record in records(tmp_path, ending, row)] == ["A1", "A2", "A1", "A2"]


def test_sharegpt(tmp_path: Path) -> None:
    row = {
        "conversations": [
            {"from": "system", "value": "S"},
            {"from": "human", "value": "Q"},
            {"from": "gpt", "value": "A"},
        ]
    }
    assert records(tmp_path, row) == (Demonstration(Prompt(turns(system("S"), user("Q")), line=1), "A"),)


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"prompt": "Q"}, turns(user("Q"))),
        ({"prompt": [system("S"), user("Q")]}, turns(system("S"), user("Q"))),
        ({"messages": [user("Q"), assistant("A"), user("Q2")]}, turns(user("Q"), assistant("A"), user("Q2"))),
    ],
)
def test_prompts_carry_the_other_columns(tmp_path: Path, row: dict[str, Any], messages: tuple[Message, ...]) -> None:
    data = read(written(tmp_path, row, {**row, "answer": "4", "tags": ["x"]}))
    assert data.mapping.kind == "prompts"
    assert data.records == (Prompt(messages, {}, 1), Prompt(messages, {"answer": "4", "tags": ["x"]}, 2))


# --- round trip ---

ROLES = st.sampled_from(("system", "user", "assistant"))
EARLIER = st.lists(st.builds(Message, ROLES, st.text()), max_size=4)
CONVERSATIONS = st.builds(lambda earlier, last: Prompt((*earlier, Message("user", last))), EARLIER, TEXT)
MARGINS = st.none() | st.floats(0, 1e6)


def as_json(prompt: Prompt) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in prompt.messages]


def at_line(prompt: Prompt, line: int) -> Prompt:
    return Prompt(prompt.messages, {}, line)


def read_back(tmp_path_factory: pytest.TempPathFactory, rows: Sequence[dict[str, Any]]) -> tuple[Any, ...]:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_bytes("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
    data = read(path)
    assert not data.skipped
    return data.records


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4))
def test_any_texts_come_back_as_demonstrations(
    tmp_path_factory: pytest.TempPathFactory, texts: list[tuple[str, str]]
) -> None:
    rows = [{"prompt": prompt, "completion": completion} for prompt, completion in texts]
    assert read_back(tmp_path_factory, rows) == tuple(
        Demonstration(question(prompt, line), completion) for line, (prompt, completion) in enumerate(texts, 1)
    )


@given(
    st.lists(
        st.tuples(CONVERSATIONS, TEXT, TEXT, MARGINS).filter(lambda row: row[1] != row[2]),
        min_size=1,
        max_size=4,
    )
)
def test_any_conversations_come_back_as_pairs(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[tuple[Prompt, str, str, float | None]]
) -> None:
    explicit = [
        {
            "prompt": as_json(prompt),
            "chosen": [assistant(chosen)],
            "rejected": [assistant(rejected)],
            "margin": margin,
        }
        for prompt, chosen, rejected, margin in drawn
    ]
    implicit = [
        {
            "chosen": [*row["prompt"], *row["chosen"]],
            "rejected": [*row["prompt"], *row["rejected"]],
            "margin": row["margin"],
        }
        for row in explicit
    ]
    expected = tuple(
        PreferencePair(at_line(prompt, line), chosen, rejected, margin)
        for line, (prompt, chosen, rejected, margin) in enumerate(drawn, 1)
    )
    assert read_back(tmp_path_factory, explicit) == expected
    assert read_back(tmp_path_factory, implicit) == expected


@given(st.lists(CONVERSATIONS, min_size=1, max_size=4))
def test_any_conversations_come_back_as_prompts(
    tmp_path_factory: pytest.TempPathFactory, prompts: list[Prompt]
) -> None:
    expected = tuple(at_line(prompt, line) for line, prompt in enumerate(prompts, 1))
    assert read_back(tmp_path_factory, [{"prompt": as_json(prompt)} for prompt in prompts]) == expected
    assert read_back(tmp_path_factory, [{"messages": as_json(prompt)} for prompt in prompts]) == expected


# --- serving as another kind ---


def test_pairs_serve_as_demonstrations_and_prompts(tmp_path: Path) -> None:
    path = written(tmp_path, {**PAIR, "task": "t"})
    assert read(path, "demonstrations").records == (Demonstration(question("Q", task="t"), "good"),)
    assert read(path, "prompts").records == (question("Q", task="t"),)


def test_a_chat_serves_as_the_prompt_of_its_last_reply(tmp_path: Path) -> None:
    row = {"messages": [user("Q1"), assistant("A1"), user("Q2"), assistant("A2")]}
    assert read(written(tmp_path, row), "prompts").records == (
        Prompt(turns(user("Q1"), assistant("A1"), user("Q2")), line=1),
    )


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"prompt": "Q"}, "demonstrations"),
        ({"prompt": "Q"}, "pairs"),
        ({"prompt": "Q", "completion": "A"}, "pairs"),
    ],
)
def test_what_cannot_serve_is_refused(tmp_path: Path, row: dict[str, str], kind: Any) -> None:
    with pytest.raises(DataError, match=f"{kind} are wanted"):
        read(written(tmp_path, row), kind)


JUDGED = [
    {"prompt": "Q", "completion": "a bad one", "label": False},
    {"prompt": "Q", "completion": "a bad one", "label": 0},
    {"messages": [user("Q"), assistant("a bad one")], "label": False},
    {"prompt": "Q", "completion": "a bad one", "scores": {"helpfulness": 0}},
    {"prompt": "Q", "response": "a bad one", "helpfulness": 0},
]


@pytest.mark.parametrize("row", JUDGED)
def test_judged_replies_are_not_imitated(tmp_path: Path, row: dict[str, Any]) -> None:
    path = written(tmp_path, row)
    with pytest.raises(DataError, match="is a judgement, which is neither imitated nor compared"):
        read(path, "demonstrations")
    assert read(path, "prompts").records == (question("Q"),)


# --- bad rows ---

TEXT_ROW = {"prompt": "Q", "completion": "A"}
CHAT_ROW = {"messages": [user("Q"), assistant("A")]}
CHAT_PAIR = {"chosen": [user("Q"), assistant("good")], "rejected": [user("Q"), assistant("bad")]}
BAD_ROWS = [
    (PAIR, {"prompt": "Q", "chosen": "good"}, "the column 'rejected' is missing"),
    (PAIR, {"chosen": "good", "rejected": "bad"}, "the column 'prompt' is missing"),
    (PAIR, {**PAIR, "chosen": ""}, "'chosen' is an empty reply"),
    (PAIR, {**PAIR, "rejected": " \n\t"}, "'rejected' is an empty reply"),
    (PAIR, {**PAIR, "rejected": None}, "'rejected' is null"),
    (PAIR, {**PAIR, "chosen": 3}, "'chosen' is a number"),
    (PAIR, {**PAIR, "prompt": " "}, "there is no prompt"),
    (PAIR, {**PAIR, "margin": "big"}, "'margin' is 'big'"),
    (PAIR, {**PAIR, "margin": -1}, "'margin' is -1"),
    (PAIR, {**PAIR, "margin": True}, "'margin' is True"),
    (PAIR, {**PAIR, "weight": -0.1}, "'weight' is -0.1"),
    (PAIR, {**PAIR, "weight": "2"}, "'weight' is '2'"),
    (TEXT_ROW, {"prompt": "Q"}, "the column 'completion' is missing"),
    (TEXT_ROW, {}, "this row's columns are none"),
    (TEXT_ROW, {"prompt": "Q", "completion": ["A"]}, "'completion' is a list"),
    (HH, {**HH, "rejected": "\n\nHuman: Q\n\nAssistant: "}, "'rejected' is an empty reply"),
    (HH, {**HH, "rejected": "\n\nHuman: P\n\nAssistant: bad"}, "differ before their last reply"),
    (HH, {**HH, "chosen": HH["chosen"] + "\n\nHuman: thanks"}, "'chosen' does not end with a reply"),
    (HH, {**HH, "chosen": "good"}, "'chosen' is no transcript"),
    (HH, {**HH, "chosen": "Well: " + HH["chosen"]}, "'chosen' is no transcript"),
    (
        HH,
        {side: text.replace("Human: Q", "Assistant: Q") for side, text in HH.items()},
        "prompt ends with the assist",
    ),
    (HH, {side: text.replace("\n\nHuman: Q", "") for side, text in HH.items()}, "there is no prompt"),
    (CHAT_PAIR, {**CHAT_PAIR, "chosen": []}, "'chosen' does not end with a reply"),
    (CHAT_PAIR, {**CHAT_PAIR, "chosen": [user("Q")]}, "'chosen' does not end with a reply"),
    (CHAT_PAIR, {**CHAT_PAIR, "chosen": [user("P"), assistant("good")]}, "differ before their last reply"),
    (CHAT_PAIR, {**CHAT_PAIR, "rejected": [user("Q"), assistant(" ")]}, "'rejected' is an empty reply"),
    (CHAT_ROW, {"messages": [user("Q")]}, "the assistant never speaks"),
    (CHAT_ROW, {"messages": [assistant("A")]}, "there is no prompt"),
    (
        CHAT_ROW,
        {"messages": [user("Q"), assistant("A"), assistant("B")]},
        "prompt ends with the assistant's turn",
    ),
    (CHAT_ROW, {"messages": [user("Q"), assistant("")]}, "'assistant' is an empty reply"),
    (
        CHAT_ROW,
        {"messages": [{"role": "tool", "content": "x"}, assistant("A")]},
        "turn 1 of 'messages' has the role 'tool'",
    ),
    (
        CHAT_ROW,
        {"messages": [user("Q"), {"role": "assistant", "content": None}]},
        "turn 2 of 'messages' is null",
    ),
    (CHAT_ROW, {"messages": ["Q", assistant("A")]}, "turn 1 of 'messages' has no 'role'"),
    (CHAT_ROW, {"messages": "Q"}, "'messages' is text, and must be a list"),
]


@pytest.mark.parametrize(("good", "bad", "reason"), BAD_ROWS)
def test_a_bad_row_stops_with_its_line_or_is_counted(
    tmp_path: Path, good: dict[str, Any], bad: dict[str, Any], reason: str
) -> None:
    path = written(tmp_path, good, good, bad, good)
    with pytest.raises(DataError) as caught:
        read(path)
    assert caught.value.line == 3
    assert reason in str(caught.value)
    assert 'on_bad = "skip"' in str(caught.value)
    data = read(path, on_bad="skip")
    assert [record.prompt.line for record in data.records] == [1, 2, 4]
    ((line, said),) = data.skipped
    assert line == 3
    assert reason in said


def test_broken_lines_and_bad_rows_are_skipped_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    good = json.dumps(PAIR)
    path.write_text(f'{good}\n{json.dumps({**PAIR, "chosen": ""})}\n{{"prompt": NaN}}\n{good}\n')
    data = read(path, on_bad="skip")
    assert [line for line, _ in data.skipped] == [2, 3]
    assert len(data.records) == 2


@pytest.mark.parametrize(
    "row",
    [{**PAIR, "chosen": "same", "rejected": "same"}, {**HH, "rejected": HH["chosen"] + " "}],
)
def test_equal_sides_are_dropped_and_counted(tmp_path: Path, row: dict[str, str]) -> None:
    good = PAIR if "prompt" in row else HH
    data = read(written(tmp_path, row, good, row))
    assert (len(data.records), data.dropped_equal, data.skipped) == (1, 2, ())


def test_nothing_usable_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no row is left: 0 are bad and 1 prefer nothing"):
        read(written(tmp_path, {"prompt": "Q", "chosen": "same", "rejected": "same"}))
    with pytest.raises(DataError, match=r"no row is left: 1 are bad .* is line 1: 'chosen' is an empty reply"):
        read(written(tmp_path, {**PAIR, "chosen": ""}), on_bad="skip")
    with pytest.raises(DataError, match="no row is left: 2 are bad"):
        read(written(tmp_path, 1, 2), on_bad="skip")


# --- recognition ---


def test_the_first_row_does_not_decide(tmp_path: Path) -> None:
    data = read(written(tmp_path, {"prompt": "Q"}, *[PAIR] * 300), on_bad="skip")
    assert (data.mapping.format, len(data.records), data.skipped[0][0]) == ("trl-pairs", 300, 1)


def test_an_optional_column_that_only_late_rows_have_is_found(tmp_path: Path) -> None:
    data = read(written(tmp_path, *[PAIR] * 1000, {**PAIR, "margin": 0.5}))
    assert [record.margin for record in data.records[-2:]] == [None, 0.5]


@pytest.mark.parametrize("pair", [PAIR, CHAT_PAIR, HH])
def test_a_pair_weighs_one_unless_it_is_told_otherwise(tmp_path: Path, pair: dict[str, Any]) -> None:
    data = read(written(tmp_path, pair, {**pair, "weight": 0.25}, {**pair, "weight": 0}))
    assert [record.weight for record in data.records] == [1.0, 0.25, 0.0]
    assert all("weight" not in record.prompt.fields for record in data.records)


def test_a_mixed_file_is_refused_with_what_was_seen(tmp_path: Path) -> None:
    path = written(tmp_path, *[PAIR] * 300, {"prompt": "Q", "completion": "A"})
    with pytest.raises(DataError) as caught:
        read(path, on_bad="skip")
    assert "300 rows of trl-pairs (first in line 1)" in str(caught.value)
    assert "1 rows of trl-completions (first in line 301)" in str(caught.value)


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        ({"question": "Q", "answer": "48/2 = <<48/2=24>>24\n48+24 = 72\n#### 72"}, "72"),
        ({"question": "Q", "answer": "so\n#### $1,234,567 "}, "$1234567"),
        ({"question": "Q", "answer": "1,2 and 3"}, "1,2 and 3"),
        ({"question": "Q", "answer": "## a\n#### a title\nand text"}, "## a\n#### a title\nand text"),
        ({"prompt": "Q", "answer": "#### -4"}, "-4"),
        ({"prompt": "Q", "answer": "four"}, "four"),
    ],
)
def test_an_answer_is_both_imitated_and_verified(tmp_path: Path, row: dict[str, str], answer: str) -> None:
    path = written(tmp_path, {**row, "level": 3})
    prompt = question("Q", level=3, answer=answer)
    assert read(path, "prompts").records == (prompt,)
    assert read(path, "demonstrations").records == (Demonstration(prompt, row["answer"]),)


def test_prompts_whose_answers_are_no_texts_can_be_verified_but_not_imitated(tmp_path: Path) -> None:
    path = written(tmp_path, {"prompt": "Q", "answer": 4}, {"prompt": "Q"})
    assert read(path).records == (question("Q", answer=4), question("Q", line=2))
    with pytest.raises(DataError, match="line 1: 'answer' is a number, and must be text"):
        read(path, "demonstrations")
    with pytest.raises(DataError, match="line 1: 'answer' is null, and must be text"):
        read(written(tmp_path, {"prompt": "Q"}, {"prompt": "Q", "answer": "4"}), "demonstrations")


def test_an_unknown_shape_says_what_it_has_and_how_to_rename(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read(written(tmp_path, {"question": "Q", "answer": 4}))
    message = str(caught.value)
    assert "Line 1 has 'question' (text), 'answer' (a number)" in message
    assert "prompt + chosen + rejected" in message
    assert "Rename 'question' to 'prompt' and 'answer' to 'completion'" in message


def test_plain_sides_without_a_prompt_are_explained(tmp_path: Path) -> None:
    row = {"chosen": "Q: 2+2? A: 4", "rejected": "Q: 2+2? A: 5"}
    with pytest.raises(DataError, match="a beginning that two texts share may be more or less than their prompt"):
        read(written(tmp_path, row))


# --- mappings ---


def test_a_pinned_mapping_reads_columns_of_other_names(tmp_path: Path) -> None:
    path = written(tmp_path, {"question": "Q", "answer": "4"})
    mapping = Mapping("prompts", "prompts", {"prompt": "question"})
    data = read(path, mapping=mapping)
    assert (data.records, data.mapping) == ((question("Q", answer="4"),), mapping)
    as_demonstrations = Mapping("trl-completions", "demonstrations", {"prompt": "question", "completion": "answer"})
    assert read(path, mapping=as_demonstrations).records == (Demonstration(question("Q"), "4"),)


def test_a_pinned_mapping_that_no_longer_fits_names_the_row(tmp_path: Path) -> None:
    mapping = read(written(tmp_path, PAIR)).mapping
    with pytest.raises(DataError, match="the column 'chosen' is missing"):
        read(written(tmp_path, {"prompt": "Q", "completion": "A"}), mapping=mapping)


def test_a_mapping_goes_into_a_table_and_back(tmp_path: Path) -> None:
    mapping = read(written(tmp_path, PAIR)).mapping
    table = json.loads(json.dumps(mapping.to_dict()))
    assert Mapping.from_dict(table) == mapping


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ({"format": "trl-pair", "kind": "pairs", "columns": {}}, "Did you mean 'trl-pairs'"),
        ({"format": "prompts", "kind": "pairs", "columns": {"prompt": "q"}}, "holds prompts, not 'pairs'"),
        (
            {"format": "prompts", "kind": "prompts", "columns": {}},
            "needs the columns prompt, answer .optional.; given are none",
        ),
        (
            {"format": "prompts", "kind": "prompts", "columns": {"prompt": "q", "x": "y"}},
            "given are prompt, x",
        ),
        ({"format": "prompts", "kind": "prompts", "columns": {"prompt": "q"}, "rejected": "worst"}, "also rejected"),
        (
            {
                "format": "rankings",
                "kind": "rankings",
                "columns": {name: name for name in ("prompt", "completions", "ranks")},
                "rejected": "best",
            },
            "rejected is 'best'; it must be 'random' or 'worst'",
        ),
        ({"format": "prompts", "kind": "prompts"}, "a table of columns"),
        ({"format": "prompts", "kind": "prompts", "columns": "prompt"}, "a table of columns"),
    ],
)
def test_a_wrong_mapping_is_refused(table: dict[str, Any], reason: str) -> None:
    with pytest.raises(RecipeError, match=reason):
        Mapping.from_dict(table)


def test_the_data_set_knows_its_file(tmp_path: Path) -> None:
    path = written(tmp_path, PAIR)
    data = read(str(path))
    assert (data.path, data.sha256) == (path, file_sha256(path))
