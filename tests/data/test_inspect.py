"""Inspecting a file: the figures gathered, and what a terminal is shown."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.style import Style

from palate.data.inspect import Completion, Example, inspect_file, render
from palate.records import Prompt


class Letters:
    """An encoder whose tokens are characters; prompts stand between "<" and ">", as in a template."""

    def __init__(self, *, closes: bool = True):
        self.eos_id = 0
        self._closes = closes

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        turns = chr(self.eos_id).join(message.content for message in prompt.messages)
        return [ord("<"), *map(ord, turns), ord(">")]

    def encode_completion(self, text: str) -> list[int]:
        return [*map(ord, text), *([self.eos_id] if self._closes else [])]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(chr(token) for token in ids if token != self.eos_id)


def written(tmp_path: Path, *rows: dict[str, Any]) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def pairs_file(tmp_path: Path) -> Path:
    rows = [{"prompt": "Q" * (1 + number % 5), "chosen": "a" * number, "rejected": "b"} for number in range(1, 12)]
    return written(tmp_path, *rows, {**rows[0], "chosen": ""}, {**rows[0], "chosen": "b"})


def printed(path: Path, **settings: Any) -> str:
    written_to = io.StringIO()
    Console(width=160, file=written_to).print(render(inspect_file(path, **settings)))
    return written_to.getvalue()


def styles(path: Path, **settings: Any) -> dict[str, Style | None]:
    console = Console(width=160)
    lines = console.render_lines(render(inspect_file(path, **settings)))
    return {segment.text.strip(): segment.style for line in lines for segment in line}


def test_counts_and_lengths_in_characters(tmp_path: Path) -> None:
    inspection = inspect_file(pairs_file(tmp_path))
    assert (inspection.records, inspection.prompts, inspection.dropped_equal) == (11, 5, 1)
    assert [line for line, _ in inspection.skipped] == [12]
    assert [(part.part, part.unit) for part in inspection.lengths] == [
        ("prompt", "characters"),
        ("chosen", "characters"),
        ("rejected", "characters"),
    ]
    # Chosen texts are 1 to 11 characters long, so the q-quantile is 1 + 10q, to the nearest.
    assert inspection.lengths[1].quantiles == {
        "shortest": 1,
        "median": 6,
        "90 %": 10,
        "99 %": 11,
        "longest": 11,
    }


def test_lengths_in_tokens_count_template_and_eos(tmp_path: Path) -> None:
    prompt, chosen, _ = inspect_file(pairs_file(tmp_path), encode=Letters()).lengths
    assert (prompt.unit, prompt.quantiles["longest"], chosen.quantiles["longest"]) == (
        "tokens",
        5 + 2,
        11 + 1,
    )


def test_examples_are_the_first_the_middle_and_the_last(tmp_path: Path) -> None:
    assert [example.line for example in inspect_file(pairs_file(tmp_path)).examples] == [1, 6, 11]
    assert [example.line for example in inspect_file(written(tmp_path, {"prompt": "Q"})).examples] == [1]


def test_examples_are_what_the_model_reads(tmp_path: Path) -> None:
    path = written(tmp_path, {"prompt": "Q", "completion": "A"})
    assert inspect_file(path).examples == (Example(1, "Q", (Completion("completion", "A", None),)),)
    assert inspect_file(path, encode=Letters()).examples == (Example(1, "<Q>", (Completion("completion", "A", True),)),)
    open_ended = inspect_file(path, encode=Letters(closes=False))
    assert open_ended.examples[0].completions[0].ended is False
    assert {finding.name for finding in open_ended.findings if finding.level == "warn"} == {"missing_eos"}


def test_earlier_turns_show_the_stop_tokens_that_close_them(tmp_path: Path) -> None:
    messages = [{"role": role, "content": role[0]} for role in ("user", "assistant", "user")]
    (example,) = inspect_file(written(tmp_path, {"messages": messages}), encode=Letters()).examples
    assert example == Example(1, "<u<EOS>a<EOS>u>", ())


def test_findings_on_the_context_come_with_a_tokenizer(tmp_path: Path) -> None:
    path = written(tmp_path, {"prompt": "QQQQ", "completion": "AAAA"})  # 6 and 5 tokens
    assert [finding.name for finding in inspect_file(path, context=10).findings] == ["duplicates"]
    warned = [
        finding.name for finding in inspect_file(path, encode=Letters(), context=10).findings if finding.level == "warn"
    ]
    assert warned == ["truncation"]


def test_an_inspection_is_shown_whole(tmp_path: Path) -> None:
    text = printed(pairs_file(tmp_path))
    assert "pairs, format trl-pairs (prompt, chosen, rejected)" in text
    assert "11 on 5 different prompts" in text
    assert "1 rows whose replies are all equal" in text
    assert "line 12: 'chosen' is an empty reply" in text
    assert "lengths in characters" in text
    assert "warning: " in text


def test_what_a_file_serves_as_and_its_other_columns_are_shown(tmp_path: Path) -> None:
    ranked = {"prompt": "Q", "completions": ["a", "b"], "ranks": [0, 1], "source": "s\x1b"}
    text = printed(written(tmp_path, ranked))
    assert "pairs (the best reply against a random other one)" in text
    assert "other columns" in text and r"source" in text
    lone = printed(written(tmp_path, {"prompt": "Q"}))
    assert "serves as" not in lone and "other columns" not in lone


def test_lengths_of_judged_replies_stand_by_what_was_said_of_them(tmp_path: Path) -> None:
    rows = [{"prompt": "Q", "completions": ["aaaa", "bb", "c" * 6], "ranks": [1, 0, 1]}]
    rows += [{"prompt": "Q", "completions": ["d", "ee"], "ranks": [2, 3]}]
    ranked = inspect_file(written(tmp_path, *rows))
    longest = {part.part: (part.quantiles["shortest"], part.quantiles["longest"]) for part in ranked.lengths}
    assert longest == {"prompt": (1, 1), "rank 0": (1, 2), "rank 1": (2, 6)}
    assert [completion.name for completion in ranked.examples[0].completions] == ["rank 1", "rank 0", "rank 1"]
    judged = inspect_file(written(tmp_path, *({"prompt": "Q", "completion": "A", "label": bit} for bit in (0, 1))))
    assert [part.part for part in judged.lengths] == ["prompt", "desirable", "undesirable"]
    many = {"prompt": "Q", "completions": [str(rank) for rank in range(12)], "ranks": list(range(12))}
    order = [part.part for part in inspect_file(written(tmp_path, many)).lengths]
    assert order == ["prompt", *(f"rank {rank}" for rank in range(12))]


def test_the_scores_of_a_rating_are_shown(tmp_path: Path) -> None:
    row = {"prompt": "Q", "completion": "A", "scores": {"helpfulness": 4, "verbosity": 1.5}}
    inspection = inspect_file(written(tmp_path, row))
    assert inspection.examples[0].completions == (Completion("helpfulness 4, verbosity 1.5", "A", None),)
    assert [part.part for part in inspection.lengths] == ["prompt", "completion"]


def test_prompts_are_dim_completions_green_and_the_end_reversed(tmp_path: Path) -> None:
    shown = styles(written(tmp_path, {"prompt": "the question", "completion": "the answer"}), encode=Letters())
    assert shown["<the question>"] == Style.parse("dim")
    assert shown["the answer"] == Style.parse("green")
    assert shown["<EOS>"] == Style.parse("reverse green")
    path = tmp_path / "rows.jsonl"
    assert "<EOS>" not in styles(path)
    assert styles(path, encode=Letters(closes=False))["<no EOS>"] == Style.parse("reverse red")


def test_text_of_the_data_steers_neither_terminal_nor_markup(tmp_path: Path) -> None:
    text = printed(written(tmp_path, {"prompt": "[bold]Q[/bold]\x1b[31m\r\x07", "completion": "A\x9b"}))
    assert r"[bold]Q[/bold]\x1b[31m\r\x07" in text
    assert r"A\x9b" in text
    assert not set("\x1b\r\x07\x9b") & set(text)


def test_long_texts_are_cut_in_their_middle(tmp_path: Path) -> None:
    text = printed(written(tmp_path, {"prompt": "Q" + "x" * 5000 + "?", "completion": "A"}))
    assert "[…]" in text
    assert text.count("x") < 700
