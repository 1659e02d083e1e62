"""A data file as one wants to see it before training: how it is read, examples, lengths, what is wrong.

`inspect_file` gathers and `render` shows; neither changes anything.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from palate.data.checks import Finding, check_records, check_tokens, completions_of, judgements_of
from palate.data.conversion import prompt_of
from palate.data.recognition import Mapping, read
from palate.data.rows import Record
from palate.records import Prompt, Rating

_QUANTILES = {"shortest": 0.0, "median": 0.5, "90 %": 0.9, "99 %": 0.99, "longest": 1.0}
_SHOWN_CHARACTERS = 600
_SHOWN_ROWS = 3


class Encoder(Protocol):
    """Text to token ids and back; a `ChatFormat` is one."""

    @property
    def eos_id(self) -> int:
        """The stop token."""
        ...

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        """Ids up to where the completion begins."""
        ...

    def encode_completion(self, text: str) -> list[int]:
        """Ids of a completion, the stop token included."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text without the stop token."""
        ...


@dataclass(frozen=True, slots=True)
class Completion:
    """A completion as it is trained on; `ended`: a stop token closes it (None: no tokenizer was given)."""

    name: str
    text: str
    ended: bool | None


@dataclass(frozen=True, slots=True)
class Example:
    """One record as the model reads it, or as the file has it where no tokenizer was given."""

    line: int
    prompt: str
    completions: tuple[Completion, ...]


@dataclass(frozen=True, slots=True)
class Lengths:
    """Lengths of one part of all records in tokens or characters, by the names of their quantiles."""

    part: str
    unit: str
    quantiles: dict[str, int]


@dataclass(frozen=True, slots=True)
class Inspection:
    """All that is shown of a file."""

    path: Path
    mapping: Mapping
    records: int
    prompts: int
    skipped: tuple[tuple[int, str], ...]
    dropped_equal: int
    fields: tuple[str, ...]
    lengths: tuple[Lengths, ...]
    examples: tuple[Example, ...]
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class _Ids:
    prompt: tuple[int, ...]
    completions: tuple[tuple[int, ...], ...]


def inspect_file(path: str | Path, *, encode: Encoder | None = None, context: int | None = None) -> Inspection:
    """Reads a file as what it is, without its bad rows, and gathers examples, lengths and findings.

    With `encode`, lengths are tokens and examples are what the model reads; `context` is its longest prompt
    and completion. Raises `DataError` where no row can be used.
    """
    data = read(path, on_bad="skip")
    rows = None if encode is None else [_encoded(record, encode) for record in data.records]
    findings = check_records(data.records)
    if encode is not None and rows is not None:
        findings += check_tokens(rows, eos_id=encode.eos_id, context=context)
    shown = sorted({0, len(data.records) // 2, len(data.records) - 1})
    return Inspection(
        path=data.path,
        mapping=data.mapping,
        records=len(data.records),
        prompts=len({prompt_of(record).messages for record in data.records}),
        skipped=data.skipped,
        dropped_equal=data.dropped_equal,
        fields=tuple(sorted({name for record in data.records for name in prompt_of(record).fields})),
        lengths=_text_lengths(data.records) if rows is None else _token_lengths(data.records, rows),
        examples=tuple(_example(data.records[index], encode) for index in shown),
        findings=findings,
    )


def render(inspection: Inspection) -> RenderableType:
    """The inspection for a terminal: prompts dim, completions green, EOS reversed, warnings yellow."""
    parts: list[RenderableType] = [_summary(inspection), _length_table(inspection.lengths)]
    parts += [_example_text(example) for example in inspection.examples]
    parts += [Text(), *(_finding_text(finding) for finding in inspection.findings)]
    return Group(*parts)


def _encoded(record: Record, encode: Encoder) -> _Ids:
    completions = tuple(tuple(encode.encode_completion(text)) for text in completions_of(record))
    return _Ids(tuple(encode.encode_prompt(prompt_of(record))), completions)


def _example(record: Record, encode: Encoder | None) -> Example:
    prompt, names, texts = prompt_of(record), _shown_names(record), completions_of(record)
    if encode is None:
        plain = tuple(Completion(name, text, None) for name, text in zip(names, texts, strict=True))
        return Example(prompt.line, prompt.text, plain)
    row = _encoded(record, encode)
    completions = tuple(
        Completion(name, encode.decode(ids), ids[-1:] == (encode.eos_id,))
        for name, ids in zip(names, row.completions, strict=True)
    )
    return Example(prompt.line, _readable(row.prompt, encode), completions)


def _shown_names(record: Record) -> tuple[str, ...]:
    """What is said of each completion, the scores of a rating included."""
    if isinstance(record, Rating):
        return (", ".join(f"{attribute} {score:g}" for attribute, score in record.scores.items()),)
    return judgements_of(record)


def _readable(ids: Sequence[int], encode: Encoder) -> str:
    """The text of a prompt with the stop tokens that close its earlier turns, which decoding leaves out."""
    ends = [index for index, token in enumerate(ids) if token == encode.eos_id]
    starts = [0, *(end + 1 for end in ends)]
    pieces = [encode.decode(ids[start:end]) for start, end in zip(starts, [*ends, len(ids)], strict=True)]
    return "<EOS>".join(pieces)


def _text_lengths(records: Sequence[Record]) -> tuple[Lengths, ...]:
    texts = [(prompt_of(record).text, *completions_of(record)) for record in records]
    return _lengths(records, "characters", [[len(text) for text in row] for row in texts])


def _token_lengths(records: Sequence[Record], rows: Sequence[_Ids]) -> tuple[Lengths, ...]:
    return _lengths(records, "tokens", [[len(row.prompt), *map(len, row.completions)] for row in rows])


def _lengths(records: Sequence[Record], unit: str, rows: Sequence[Sequence[int]]) -> tuple[Lengths, ...]:
    """Quantiles of the prompts, and of the completions by what was said of them."""
    parts: dict[str, list[int]] = {"prompt": []}
    for record, row in zip(records, rows, strict=True):
        for name, length in zip(("prompt", *judgements_of(record)), row, strict=True):
            parts.setdefault(name, []).append(length)
    order = ["prompt", *sorted(parts.keys() - {"prompt"}, key=lambda name: (len(name), name))]
    return tuple(Lengths(name, unit, _quantiles(parts[name])) for name in order)


def _quantiles(lengths: Sequence[int]) -> dict[str, int]:
    values = np.quantile(np.asarray(lengths), list(_QUANTILES.values()), method="nearest")
    return dict(zip(_QUANTILES, map(int, values), strict=True))


def _summary(inspection: Inspection) -> Table:
    table = Table.grid(padding=(0, 2))
    columns = ", ".join(
        name if name == column else f"{name} from {column}" for name, column in inspection.mapping.columns.items()
    )
    table.add_row("file", Text(str(inspection.path)))
    table.add_row("read as", Text(f"{inspection.mapping.kind}, format {inspection.mapping.format} ({columns})"))
    if inspection.mapping.also:
        also = "; ".join(f"{kind} ({said})" for kind, said in inspection.mapping.also.items())
        table.add_row("serves as", Text(also))
    if inspection.fields:
        table.add_row("other columns", Text(_visible(", ".join(inspection.fields))))
    table.add_row("records", f"{inspection.records} on {inspection.prompts} different prompts")
    if inspection.dropped_equal:
        table.add_row("dropped", f"{inspection.dropped_equal} rows whose replies are all equal")
    if inspection.skipped:
        table.add_row("bad rows", Text(f"{len(inspection.skipped)}, which stop a run unless it is told to skip them"))
    for line, reason in inspection.skipped[:_SHOWN_ROWS]:
        table.add_row("", Text(f"line {line}: {_visible(reason)}", style="yellow"))
    return table


def _length_table(lengths: Sequence[Lengths]) -> Table:
    table = Table(title=f"lengths in {lengths[0].unit}", title_justify="left")
    table.add_column("")
    for name in _QUANTILES:
        table.add_column(name, justify="right")
    for part in lengths:
        table.add_row(part.part, *(str(value) for value in part.quantiles.values()))
    return table


def _example_text(example: Example) -> Text:
    text = Text(f"\nline {example.line}\n", style="")
    text.append(_visible(example.prompt), style="dim")
    for completion in example.completions:
        text.append(f"\n[{completion.name}] ", style="bold")
        text.append(_visible(completion.text), style="green")
        if completion.ended is not None:
            text.append(
                "<EOS>" if completion.ended else "<no EOS>",
                style="reverse green" if completion.ended else "reverse red",
            )
    return text


def _finding_text(finding: Finding) -> Text:
    mark, style = ("warning: ", "yellow") if finding.level == "warn" else ("", "")
    return Text(f"{mark}{finding.message}", style=style)


def _visible(text: str) -> str:
    """Text cut in its middle, with control characters as escapes: data must not steer the terminal."""
    if len(text) > _SHOWN_CHARACTERS:
        half = _SHOWN_CHARACTERS // 2
        text = f"{text[:half]} […] {text[-half:]}"
    return "".join(_escaped(character) for character in text)


def _escaped(character: str) -> str:
    is_control = unicodedata.category(character) == "Cc" and character not in "\n\t"
    return repr(character)[1:-1] if is_control else character
