"""Feedback from files, and feedback as files: what others wrote becomes items and judgements, and these become rows.

What comes in is whatever `palate.data.recognition` reads, the log of a deployed model, and the events of another store.
What goes out is a reading: raters of one item are made one, and what a form has no place for is left out, counted and
said. The events alone lose nothing.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from palate.collect.judgements import (
    MOST,
    NOBODY,
    Answer,
    Candidate,
    Edited,
    Item,
    Judgement,
    Mode,
    Order,
    Origin,
    Preference,
    Rater,
    RaterKind,
    Scores,
    Skipped,
    Thumb,
    Written,
    answer_to_json,
)
from palate.collect.store import Event
from palate.data.conversion import best_pair
from palate.data.reading import file_sha256, read_rows, stop_at
from palate.data.recognition import read
from palate.data.rows import Record, RowError, conversation, is_number, reply, text_of, transcript
from palate.errors import DataError
from palate.records import Demonstration, Feedback, PreferencePair, Prompt, Ranking, Rating

Form = Literal["trl", "hh", "kto", "rankings", "ratings", "demonstrations", "csv", "events"]
OnBad = Literal["stop", "skip"]

_UP = (True, 1, "up", "👍", "+1")
_DOWN = (False, 0, -1, "down", "👎", "-1")
_ANNOTATORS = ("annotator1", "annotator2", "annotator3")
_HUMAN, _ASSISTANT = "\n\nHuman: ", "\n\nAssistant: "


# ---- from a file


@dataclass(frozen=True, slots=True)
class Imported:
    """What a file says: items, who judged them, their judgements, and how many rows say nothing, by reason."""

    items: tuple[Item, ...]
    raters: tuple[Rater, ...]
    judgements: tuple[Judgement, ...]
    left_out: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class _Said:
    """What one row says: texts in the order that the answer speaks of, who said it, and the models behind each text."""

    prompt: Prompt
    texts: tuple[str, ...]
    mode: Mode
    answers: tuple[tuple[str, Answer], ...]
    models: tuple[tuple[str, ...], ...] = ()
    mark: str = ""
    note: str = ""
    at: float = 0.0


def read_feedback(
    path: str | Path, *, rater: str | None = None, kind: RaterKind = "human", on_bad: OnBad = "stop"
) -> Imported:
    """The items and judgements of a data file or of a deployed model's log.

    The rater is `rater`, or the file's name without its suffix; a log's rows may name a `user`. Ids follow from content
    and row, so the same file again says the same again. DataError as in `read`.
    """
    path = Path(path).expanduser()
    left_out: Counter[str] = Counter()
    if _is_log(path):
        said = _log(path, rater or NOBODY, on_bad, left_out)
    else:
        said = _records(path, rater or path.name.split(".")[0], on_bad, left_out)
    items: dict[str, Item] = {}
    raters: dict[str, Rater] = {}
    judgements = []
    file = Origin("file", path.name, file_sha256(path))
    for one in said:
        item, answers = _asked(one, file)
        items[item.id] = _joined(items.get(item.id, item), item)
        for name, answer in answers:
            raters.setdefault(name, Rater(name, kind))
            told = json.dumps([name, item.id, answer_to_json(answer), one.mark])
            judgements.append(
                Judgement(
                    id=hashlib.sha256(told.encode()).hexdigest()[:32],
                    item=item.id,
                    rater=name,
                    answer=answer,
                    note=one.note,
                    at=one.at,
                )
            )
    return Imported(tuple(items.values()), tuple(raters.values()), tuple(judgements), left_out)


def is_events(path: str | Path) -> bool:
    """Whether a file holds the events of a store."""
    with Path(path).expanduser().open("rb") as file:
        first = next((line for line in file if line.strip()), b"")
    try:
        row = json.loads(first)
    except ValueError:
        return False
    return isinstance(row, dict) and row.keys() == {"id", "kind", "item", "rater", "at", "body"}


def read_events(path: str | Path) -> Iterator[Event]:
    """The events that `event_lines` wrote; DataError names a line that is none."""
    with Path(path).expanduser().open("rb") as file:
        for line, raw in enumerate(file, start=1):
            try:
                yield Event(line, **json.loads(raw))
            except (TypeError, ValueError) as error:
                raise DataError(f"this is no event ({error}). Was the file cut? Export it anew.", path, line) from error


def event_lines(events: Iterable[Event]) -> Iterator[str]:
    """Every event as a line of JSON, all but its number, which is its place."""
    for event in events:
        yield json.dumps({name: value for name, value in asdict(event).items() if name != "seq"})


def _asked(said: _Said, file: Origin) -> tuple[Item, tuple[tuple[str, Answer], ...]]:
    """The item of a row and its answers.

    Completions stand in an order of hashes: in a file the chosen one stands first, and an item must not tell.
    """
    places = sorted(range(len(said.texts)), key=lambda place: hashlib.sha256(said.texts[place].encode()).digest())
    models = said.models or ((),) * len(said.texts)
    item = Item(
        prompt=replace(said.prompt, fields=_plain(said.prompt.fields), line=0),
        candidates=tuple(
            Candidate(said.texts[place], (*(Origin("model", name) for name in models[place]), file)) for place in places
        ),
        mode=said.mode,
        wanted=max(1, len(said.answers)),
    )
    return item, tuple((name, _turned(answer, places)) for name, answer in said.answers)


def _joined(known: Item, same: Item) -> Item:
    """One item of two rows that ask the same, its completions with the origins of both."""
    candidates = tuple(
        Candidate(one.text, tuple(dict.fromkeys((*one.origins, *other.origins))))
        for one, other in zip(known.candidates, same.candidates, strict=True)
    )
    return replace(known, candidates=candidates)


def _turned(answer: Answer, places: Sequence[int]) -> Answer:
    """An answer about texts as one about the same texts in another order."""
    if isinstance(answer, Preference) and places[0] == 1:
        return replace(answer, degree=-answer.degree)
    if isinstance(answer, Order):
        return Order(tuple(answer.ranks[place] for place in places))
    return answer


def _records(path: Path, rater: str, on_bad: OnBad, left_out: Counter[str]) -> Iterator[_Said]:
    data = read(path, on_bad=on_bad)
    left_out["bad rows"] += len(data.skipped)
    left_out["rows whose completions are all equal"] += data.dropped_equal
    for number, record in enumerate(data.records):
        said = _voted(record, rater) if data.mapping.format == "pandalm" else _said(record, rater)
        if said is None:
            left_out["rankings with one text at two ranks"] += 1
        else:
            yield replace(said, mark=str(number))
    if "ratings" in data.mapping.also:
        yield from _scored(path, rater)


def _scored(path: Path, rater: str) -> Iterator[_Said]:
    """The scores that stand beside ranks."""
    try:
        data = read(path, "ratings", on_bad="skip")
    except DataError:  # it holds ranks alone
        return
    for number, record in enumerate(data.records):
        yield replace(_rated(record, rater), mark=str(number))


def _said(record: Record, rater: str) -> _Said | None:
    match record:
        case PreferencePair(prompt, chosen, rejected, margin, weight):
            degree = 1 if margin is None else min(MOST, max(1, round(margin)))
            notes = [] if margin in (None, degree) else [f"margin {margin}"]
            notes += [] if weight == 1 else [f"weight {weight}"]
            return _Said(prompt, (chosen, rejected), "pair", ((rater, Preference(-degree)),), note=", ".join(notes))
        case Ranking():
            return _ranked(record, rater)
        case Rating():
            return _rated(record, rater)
        case Feedback(prompt, completion, desirable):
            return _Said(prompt, (completion,), "thumbs", ((rater, Thumb(desirable)),))
        case Demonstration(prompt, completion):
            return _Said(prompt, (), "demonstration", ((rater, Written(completion)),))
        case Prompt():
            return _Said(record, (), "demonstration", ())


def _ranked(record: Ranking, rater: str) -> _Said | None:
    ranked = dict(zip(record.completions, record.ranks, strict=True))
    if len(ranked) < len(set(zip(record.completions, record.ranks, strict=True))):
        return None
    prompt, models = record.prompt, ()
    names = prompt.fields.get("models")
    if isinstance(names, list) and len(names) == len(record.completions) and all(isinstance(one, str) for one in names):
        prompt = _without(prompt, "models")
        by_text = list(zip(record.completions, names, strict=True))
        models = tuple(tuple(dict.fromkeys(name for one, name in by_text if one == text and name)) for text in ranked)
    return _Said(prompt, tuple(ranked), "ranking", ((rater, Order(tuple(ranked.values()))),), models)


def _rated(record: Rating, rater: str) -> _Said:
    prompt, models = record.prompt, ()
    name = prompt.fields.get("model")
    if isinstance(name, str) and name:
        prompt, models = _without(prompt, "model"), ((name,),)
    return _Said(prompt, (record.completion,), "rating", ((rater, Scores(record.scores)),), models)


def _without(prompt: Prompt, *columns: str) -> Prompt:
    """The prompt without columns that are told of elsewhere."""
    return replace(prompt, fields={name: value for name, value in prompt.fields.items() if name not in columns})


def _voted(record: Ranking, rater: str) -> _Said:
    """Two responses and the votes of three annotators, each a rater of their own."""
    votes = {name: record.prompt.fields[name] for name in _ANNOTATORS}
    answers = tuple((f"{rater}:{name}", Preference({1: -1, 2: 1}.get(vote, 0))) for name, vote in votes.items())
    return _Said(_without(record.prompt, *_ANNOTATORS), record.completions, "pair", answers)


def _is_log(path: Path) -> bool:
    """Whether rows are thumbs of a deployed model: a completion with `up`, `thumb`, or a label and who or what."""
    row = next((row for _, row in read_rows(path, lambda line, reason: None)), {})
    labelled = "label" in row and bool(row.keys() & {"user", "model", "at", "messages"})
    return isinstance(row.get("completion"), str) and ("up" in row or "thumb" in row or labelled)


def _log(path: Path, rater: str, on_bad: OnBad, left_out: Counter[str]) -> Iterator[_Said]:
    def complain(line: int, reason: str) -> None:
        if on_bad == "stop":
            stop_at(path)(line, reason)
        left_out["bad rows"] += 1

    for line, row in read_rows(path, complain):
        try:
            yield _thumbed(row, line, rater)
        except (RowError, DataError) as error:
            complain(line, str(error))


def _thumbed(row: Mapping[str, Any], line: int, rater: str) -> _Said:
    column = next((name for name in ("messages", "prompt") if row.get(name) is not None), "prompt")
    turns = conversation(row.get(column), column)
    if not turns or turns[-1].role == "assistant":
        raise RowError(f"'{column}' ends with the assistant's turn; it must end where the completion begins.")
    known = {"messages", "prompt", "completion", "up", "thumb", "label", "model", "id", "at", "note", "user"}
    user, model, note = (text_of(row.get(name) or "", name) for name in ("user", "model", "note"))
    return _Said(
        prompt=Prompt(turns, {name: value for name, value in row.items() if name not in known}),
        texts=(reply(row["completion"], "completion"),),
        mode="thumbs",
        answers=((f"user:{user}" if user else rater, Thumb(_is_up(row))),),
        models=((model,),) if model else (),
        mark=str(line if row.get("id") is None else row["id"]),
        note=note,
        at=_moment(row.get("at")),
    )


def _is_up(row: Mapping[str, Any]) -> bool:
    name = next((name for name in ("up", "thumb", "label") if row.get(name) is not None), "up")
    value = row.get(name)
    if isinstance(value, str | int) and value in _UP + _DOWN:
        return value in _UP
    raise RowError(f'\'{name}\' is {value!r}; a thumb is true or false, 1 or 0, or "up" or "down".')


def _moment(value: Any) -> float:
    """Unix time from a number or ISO 8601, which is UTC unless it says otherwise; 0 where none is given."""
    if value is None:
        return 0.0
    if is_number(value) and value >= 0:
        return float(value)
    try:
        given = datetime.fromisoformat(str(value))
    except ValueError as error:
        raise RowError(f"'at' is {value!r}; it is Unix time or ISO 8601, as in 2026-09-30T12:00:00Z.") from error
    return (given if given.tzinfo else given.replace(tzinfo=UTC)).timestamp()


def _plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Columns as plain JSON: what parquet holds besides becomes text, and NaN null."""
    return json.loads(json.dumps(dict(fields), default=str), parse_constant=lambda _: None)


# ---- into files

_Writer = Callable[[Item, tuple[Answer, ...], Counter[str]], Iterator[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Exported:
    """Rows of a file as lines, and how many items or answers are not among them, by reason."""

    lines: tuple[str, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Settled:
    """What the raters of an item say of its completions together, as a ranking."""

    item: Item
    answers: tuple[Answer, ...]
    ranking: Ranking
    both_bad: bool = False


def export(
    items: Iterable[Item], judgements: Iterable[Judgement], form: Form, *, raters: Mapping[str, Rater], margin: bool
) -> Exported:
    """Judgements as the rows of a form, in the order of their items.

    Of several raters of a pair the majority decides, more than half of them; of several rankings the mean rank, of
    ratings the mean score, of thumbs the majority. Hidden gold and repetitions are left out of all but the CSV. With
    `margin` a pair has one: the mean degree of those who preferred the chosen side.
    """
    answered: dict[str, list[Judgement]] = defaultdict(list)
    for judgement in judgements:
        answered[judgement.item].append(judgement)
    judged = [(item, answered[item.id]) for item in items if answered.get(item.id)]
    if form == "csv":
        return Exported(tuple(_table(judged, raters)))
    left_out: Counter[str] = Counter()
    rows = [row for item, said in judged for row in _rows(item, said, form, left_out)]
    if not margin:
        rows = [{name: value for name, value in row.items() if name != "margin"} for row in rows]
    return Exported(tuple(_whole(json.dumps(row, ensure_ascii=False)) for row in rows), left_out)


def _rows(item: Item, said: Sequence[Judgement], form: Form, left_out: Counter[str]) -> Iterator[dict[str, Any]]:
    answers = tuple(one.answer for one in said if not isinstance(one.answer, Skipped))
    modes, rows = _FORMS[form]
    if item.expected is not None or item.repeats:
        left_out["items of hidden gold or repetition"] += 1
    elif item.mode not in modes:
        left_out[f"items of mode {item.mode}"] += 1
    elif not any(message.content.strip() for message in item.prompt.messages):
        left_out["items with an empty prompt"] += 1
    else:
        left_out["skips"] += len(said) - len(answers)
        if answers:
            for row in rows(item, answers, left_out):
                yield {**row, "item": item.id}


def _pairs(item: Item, answers: tuple[Answer, ...], left_out: Counter[str]) -> Iterator[dict[str, Any]]:
    """A row for the best completion against one other, as `palate.data` makes a ranking a pair."""
    for settled, pair in _compared(item, answers, left_out):
        yield {
            "prompt": _turns(item),
            "chosen": _turn(pair.chosen),
            "rejected": _turn(pair.rejected),
            **_together(settled, pair),
        }


def _transcripts(item: Item, answers: tuple[Answer, ...], left_out: Counter[str]) -> Iterator[dict[str, Any]]:
    for settled, pair in _compared(item, answers, left_out):
        chosen, rejected = (_transcribed(item.prompt, text) for text in (pair.chosen, pair.rejected))
        if chosen is None or rejected is None:
            left_out["items that no transcript can hold: a system turn, or a text with a turn in it"] += 1
        else:
            yield {"chosen": chosen, "rejected": rejected, **_together(settled, pair)}


def _labels(item: Item, answers: tuple[Answer, ...], left_out: Counter[str]) -> Iterator[dict[str, Any]]:
    """A completion and whether it is desirable: thumbs, both sides of a pair, or two that are both bad."""
    if item.mode == "thumbs":
        ups = sum(isinstance(answer, Thumb) and answer.up for answer in answers)
        share = ups / len(answers)
        if share == 0.5:
            left_out["items that half of their raters like"] += 1
        else:
            agreement = max(share, 1 - share)
            judged = [(item.candidates[0].text, share > 0.5, {"agreement": agreement, "votes": len(answers)})]
            yield from _labelled(item, judged, left_out)
        return
    for settled in _settled(item, answers, left_out):
        pair = best_pair(settled.ranking, "random")
        if pair is not None:
            told = _together(settled, pair)
            told = {name: told[name] for name in ("agreement", "votes")}
            yield from _labelled(item, [(pair.chosen, True, told), (pair.rejected, False, told)], left_out)
        elif settled.both_bad:
            share = fmean(isinstance(answer, Preference) and answer.both_bad for answer in answers)
            told = {"agreement": share, "votes": len(answers)}
            yield from _labelled(item, [(text, False, told) for text in settled.ranking.completions], left_out)
        else:
            left_out[_TIES] += 1


def _labelled(
    item: Item, judged: Iterable[tuple[str, bool, dict[str, Any]]], left_out: Counter[str]
) -> Iterator[dict[str, Any]]:
    for text, label, told in judged:
        if text.strip():
            yield {"prompt": _turns(item), "completion": _turn(text), "label": label, **told}
        else:
            left_out[_EMPTY] += 1


def _rankings(item: Item, answers: tuple[Answer, ...], left_out: Counter[str]) -> Iterator[dict[str, Any]]:
    for settled in _settled(item, answers, left_out):
        if all(text.strip() for text in settled.ranking.completions):
            yield {
                "prompt": _turns(item),
                "completions": list(settled.ranking.completions),
                "ranks": list(settled.ranking.ranks),
                "votes": len(settled.answers),
            }
        else:
            left_out[_EMPTY] += 1


def _ratings(item: Item, answers: tuple[Answer, ...], left_out: Counter[str]) -> Iterator[dict[str, Any]]:
    given: dict[str, list[float]] = defaultdict(list)
    for answer in answers:
        for attribute, score in answer.scores.items() if isinstance(answer, Scores) else ():
            given[attribute].append(score)
    if item.candidates[0].text.strip():
        yield {
            "prompt": _turns(item),
            "completion": item.candidates[0].text,
            "scores": {attribute: fmean(scores) for attribute, scores in given.items()},
            "votes": len(answers),
        }
    else:
        left_out[_EMPTY] += 1


def _demonstrations(item: Item, answers: tuple[Answer, ...], left_out: Counter[str]) -> Iterator[dict[str, Any]]:
    """What raters wrote, and what they made of a completion."""
    for answer in answers:
        assert isinstance(answer, Written | Edited)
        if answer.text.strip():
            yield {"prompt": _turns(item), "completion": _turn(answer.text)}
        else:
            left_out[_EMPTY] += 1


_TIES = "ties and votes without a majority"
_EMPTY = "completions without text"
_COMPARING: tuple[Mode, ...] = ("pair", "ranking", "edit")
_FORMS: Mapping[str, tuple[tuple[Mode, ...], _Writer]] = {
    "trl": (_COMPARING, _pairs),
    "hh": (_COMPARING, _transcripts),
    "kto": ((*_COMPARING, "thumbs"), _labels),
    "rankings": (_COMPARING, _rankings),
    "ratings": (("rating",), _ratings),
    "demonstrations": (("demonstration", "edit"), _demonstrations),
}


def _turns(item: Item) -> list[dict[str, str]]:
    return [asdict(message) for message in item.prompt.messages]


def _turn(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def _transcribed(prompt: Prompt, completion: str) -> str | None:
    """A conversation as Anthropic's transcripts; None where it would be read as another."""
    turns = [*((message.role, message.content) for message in prompt.messages), ("assistant", completion)]
    text = "".join(f"{_HUMAN if role == 'user' else _ASSISTANT}{content}" for role, content in turns)
    read_back = [(message.role, message.content) for message in transcript(text, "transcript")]
    return text if read_back == [(role, content.strip()) for role, content in turns] else None


def _whole(text: str) -> str:
    """Text that UTF-8 can hold: halves of surrogate pairs are joined, or become U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


# ---- what several raters say together


def _settled(item: Item, answers: tuple[Answer, ...], left_out: Counter[str]) -> Iterator[_Settled]:
    """An item's answers as rankings: one for a pair or a ranking, one for every edit."""
    texts = tuple(candidate.text for candidate in item.candidates)
    if item.mode == "pair":
        verdicts = Counter(_verdict(answer) for answer in answers)
        verdict, count = verdicts.most_common(1)[0]
        verdict = verdict if 2 * count > len(answers) else "tie"
        ranks = {"first": (0, 1), "second": (1, 0)}.get(verdict, (0, 0))
        yield _Settled(item, answers, Ranking(item.prompt, texts, ranks), verdict == "both bad")
    elif item.mode == "ranking":
        orders = [answer.ranks for answer in answers if isinstance(answer, Order)]
        means = [fmean(ranks) for ranks in zip(*orders, strict=True)]
        steps = sorted(set(means))
        yield _Settled(item, answers, Ranking(item.prompt, texts, tuple(steps.index(mean) for mean in means)))
    else:
        for answer in answers:
            assert isinstance(answer, Edited)
            if answer.text == texts[answer.of]:
                left_out["edits that change nothing"] += 1
            else:
                yield _Settled(item, (answer,), Ranking(item.prompt, (answer.text, texts[answer.of]), (0, 1)))


def _compared(
    item: Item, answers: tuple[Answer, ...], left_out: Counter[str]
) -> Iterator[tuple[_Settled, PreferencePair]]:
    for settled in _settled(item, answers, left_out):
        pair = best_pair(settled.ranking, "random")
        if pair is None:
            left_out["both bad" if settled.both_bad else _TIES] += 1
        elif not (pair.chosen.strip() and pair.rejected.strip()):
            left_out[_EMPTY] += 1
        else:
            yield settled, pair


def _together(settled: _Settled, pair: PreferencePair) -> dict[str, Any]:
    """How many votes, the share of them for the chosen side (a tie is half), and by how much these prefer it."""
    votes = [_vote(settled.item, answer, pair) for answer in settled.answers]
    degrees = [vote for answer, vote in zip(settled.answers, votes, strict=True) if isinstance(answer, Preference)]
    agreeing = [degree for degree in degrees if degree > 0]
    return {
        "agreement": fmean(1.0 if vote > 0 else 0.5 if vote == 0 else 0.0 for vote in votes),
        "votes": len(votes),
        "margin": fmean(agreeing) if agreeing else None,
    }


def _vote(item: Item, answer: Answer, pair: PreferencePair) -> int:
    """By how much an answer puts the chosen side before the rejected: below 0 where it does not."""
    places = {candidate.text: place for place, candidate in enumerate(item.candidates)}
    if isinstance(answer, Preference):
        return -answer.degree if places[pair.chosen] == 0 else answer.degree
    if isinstance(answer, Order):
        return answer.ranks[places[pair.rejected]] - answer.ranks[places[pair.chosen]]
    return 1


def _verdict(answer: Answer) -> str:
    assert isinstance(answer, Preference)
    if answer.both_bad:
        return "both bad"
    return "tie" if answer.degree == 0 else "first" if answer.degree < 0 else "second"


# ---- a table of everything

_COLUMNS = (
    *("judgement", "at", "rater", "kind", "item", "mode", "round", "slice", "propensity", "hidden", "prompt"),
    *("completions", "origins", "answer", "degree", "both_bad", "ranks", "scores", "up", "of", "text", "reason"),
    *("shown", "tags", "note", "seconds", "guideline"),
)


def _table(judged: Iterable[tuple[Item, Sequence[Judgement]]], raters: Mapping[str, Rater]) -> Iterator[str]:
    """One row a judgement, skips, gold and repetitions included; lists and objects are JSON."""
    yield _csv_line(_COLUMNS)
    for item, said in judged:
        for judgement in said:
            rater = raters.get(judgement.rater, Rater(judgement.rater))
            answer = answer_to_json(judgement.answer)
            row = {
                **{name: getattr(item, name) for name in ("mode", "round", "slice", "propensity")},
                **{name: getattr(judgement, name) for name in ("at", "item", "note", "seconds", "guideline")},
                **{name: value for name, value in answer.items() if name != "kind"},
                "judgement": judgement.id,
                "rater": rater.name,
                "kind": rater.kind,
                "hidden": "gold" if item.expected is not None else f"repeats {item.repeats}" if item.repeats else "",
                "prompt": item.prompt.text,
                "completions": [candidate.text for candidate in item.candidates],
                "origins": [[asdict(origin) for origin in candidate.origins] for candidate in item.candidates],
                "answer": answer["kind"],
                "shown": list(judgement.shown),
                "tags": list(judgement.tags),
            }
            yield _csv_line([_cell(row.get(name, "")) for name in _COLUMNS])


def _cell(value: Any) -> Any:
    """A value as a spreadsheet may hold it: text that would be run as a formula gets an apostrophe before it."""
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False)
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def _csv_line(cells: Iterable[Any]) -> str:
    written = io.StringIO()
    csv.writer(written, lineterminator="").writerow(cells)
    return _whole(written.getvalue())
