"""The report on a reward model: what is scored for it, in the stage and for any saved model, and how it is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from torch import Tensor

from palate import testbed
from palate.data.layout import completions as right_padded
from palate.data.reading import read_rows, stop_at
from palate.data.recognition import read
from palate.engine.files import encode_json, write_atomic
from palate.engine.interfaces import Completions
from palate.engine.seeding import permutation
from palate.errors import DataError
from palate.evaluation import (
    PROBES,
    Accuracy,
    AnswerReport,
    Probed,
    RewardReport,
    contrasts,
    known_ceiling,
    noise_ceiling,
    preference_accuracy,
    probed,
    reward_report,
    votes_of,
)
from palate.evaluation.sycophancy import opinion_pair, states_opinions
from palate.models import load_reward_model
from palate.records import Demonstration, PreferencePair, Prompt
from palate.rewards import ModelReward
from palate.rewards.checking import finite
from palate.stages.material import evenly

# How many replies each probe edits, answers are mismatched, training pairs are scored again: their intervals are then
# at most ± .06, ± .04 and ± .03.
PROBED, MISMATCHED, SEEN = 256, 512, 1000

# How many of the testbed's held-out pairs are judged where no file is given.
WORLD_PAIRS = 2000

BATCH = 256

T = TypeVar("T")

Row = tuple[Prompt, str]


# ---- scoring


def columns(reward: ModelReward, rows: Sequence[Row]) -> Tensor:
    """The scores of each head for every (prompt, completion), [N, K], in double precision; RewardError where one is not
    finite."""
    device = reward.model.head.device
    scores = []
    for start in range(0, len(rows), BATCH):
        prompts, texts = zip(*rows[start : start + BATCH], strict=True)
        ids, mask = right_padded([reward.chat.encode_completion(text) for text in texts], reward.chat.pad_id)
        prompt_ids = tuple(tuple(reward.chat.encode_prompt(prompt)) for prompt in prompts)
        seen = Completions(prompts, prompt_ids, ids.to(device), mask.to(device), texts)
        found = reward.columns(seen)
        finite(reward.name, found.mean(dim=1), seen)
        scores.append(found.double().cpu())
    return torch.cat(scores) if scores else torch.zeros(0, 1, dtype=torch.float64)


def scores_of(reward: ModelReward, rows: Sequence[Row]) -> list[float]:
    """The score of every (prompt, completion): the mean of several heads."""
    return columns(reward, rows).mean(dim=1).tolist()


def fits(reward: ModelReward, prompt: Prompt, *texts: str) -> bool:
    """Whether the reward model's context has room for the prompt with any of the texts."""
    context = getattr(reward.model.trunk.config, "max_position_embeddings", None)
    if context is None:
        return True
    longest = max(len(reward.chat.encode_completion(text)) for text in texts)
    return len(reward.chat.encode_prompt(prompt)) + longest <= context


def sides(reward: ModelReward, pairs: Sequence[PreferencePair]) -> list[tuple[list[float], list[float]]]:
    """The scores of both sides of the pairs, by each head."""
    found = columns(reward, [(pair.prompt, text) for pair in pairs for text in (pair.chosen, pair.rejected)])
    return [(column[0::2].tolist(), column[1::2].tolist()) for column in found.unbind(dim=1)]


def _members(reward: ModelReward, pairs: Sequence[PreferencePair]) -> list[tuple[list[float], list[float]]]:
    """The scores of both sides by each judge of the same thing: heads that score attributes are one, their mean."""
    found = sides(reward, pairs)
    return [_mean(found)] if reward.model.attributes else found


def _mean(scored: Sequence[tuple[Sequence[float], Sequence[float]]]) -> tuple[list[float], list[float]]:
    """The mean over heads of the scores of both sides."""
    chosen, rejected = (torch.tensor([side[k] for side in scored], dtype=torch.float64).mean(dim=0) for k in (0, 1))
    return chosen.tolist(), rejected.tolist()


# ---- what the report is made of


def seen_accuracy(reward: ModelReward, train: Sequence[PreferencePair]) -> Accuracy | None:
    """The accuracy on some of the pairs that it was trained on; None where none of them fits."""
    rows = [pair for pair in _some(train, SEEN) if fits(reward, pair.prompt, pair.chosen, pair.rejected)]
    if not rows:
        return None
    return preference_accuracy(
        scores_of(reward, [(pair.prompt, pair.chosen) for pair in rows]),
        scores_of(reward, [(pair.prompt, pair.rejected) for pair in rows]),
        [pair.prompt.messages for pair in rows],
    )


def mismatched_accuracy(reward: ModelReward, answers: Sequence[Demonstration], seed: int) -> Accuracy | None:
    """How often the answer to a prompt outscores the answer to another one, ties half: each prompt once.

    Right answers beat misplaced ones whatever was annotated, so a rate below one half says that labels were flipped.
    None where no two answers differ.
    """
    first = list({answer.prompt.messages: answer for answer in answers}.values())
    first = [first[row] for row in permutation(len(first), seed, "mismatched").tolist()]
    rows: list[tuple[Row, Row]] = []
    for place, answer in enumerate(first[:MISMATCHED]):
        others = (first[(place + step) % len(first)].completion for step in range(1, len(first)))
        other = next((text for text in others if text != answer.completion), None)
        if other is not None and fits(reward, answer.prompt, answer.completion, other):
            rows.append(((answer.prompt, answer.completion), (answer.prompt, other)))
    if not rows:
        return None
    return preference_accuracy(*(scores_of(reward, side) for side in zip(*rows, strict=True)))


def probes_of(reward: ModelReward, pairs: Sequence[PreferencePair]) -> tuple[Probed, ...]:
    """What every probe finds on some of the chosen replies, evenly spread."""
    found = []
    for probe in PROBES:
        some = _some(contrasts(probe, pairs), PROBED)
        some = [one for one in some if fits(reward, one.prompt, one.original, one.edited)]
        original = scores_of(reward, [(one.prompt, one.original) for one in some])
        edited = scores_of(reward, [(one.prompt, one.edited) for one in some])
        found.append(probed(probe, some, original, edited))
    return tuple(one for one in found if one is not None)


def world_truth(
    pairs: Sequence[PreferencePair], annotator: testbed.Annotator
) -> tuple[list[float], list[tuple[float, float]]]:
    """Of the testbed's pairs: how probable each label was, and gold of both sides."""
    probabilities = [annotator.probability(pair.prompt, pair.chosen, pair.rejected) for pair in pairs]
    return probabilities, [pair.prompt.fields["gold"] for pair in pairs]


def examine(
    reward: ModelReward,
    pairs: Sequence[PreferencePair],
    scored: Sequence[tuple[Sequence[float], Sequence[float]]],
    *,
    gain: float = 1.0,
    seed: int = 0,
    annotator: testbed.Annotator | None = None,
    repeated: Sequence[PreferencePair] = (),
    train: Sequence[PreferencePair] = (),
    answers: Sequence[Demonstration] = (),
    others: Sequence[tuple[Sequence[float], Sequence[float]]] = (),
) -> RewardReport:
    """The report on a reward model whose heads gave the pairs these scores.

    The `annotator` is known on the testbed; elsewhere `repeated` labels tell the ceiling, those of the pairs unless
    more are given. `train` are pairs that it was trained on, `answers` good answers, the chosen ones unless given, and
    `others` the scores that other reward models gave.
    """
    chosen, rejected = _mean(scored)
    probabilities, gold = (None, None) if annotator is None else world_truth(pairs, annotator)
    return reward_report(
        pairs,
        chosen,
        rejected,
        gain=gain,
        seed=seed,
        probabilities=probabilities,
        gold=gold,
        ceiling=noise_ceiling(votes_of(repeated or pairs)) if probabilities is None else known_ceiling(probabilities),
        train=seen_accuracy(reward, train),
        members=[*scored, *others],
        mismatched=mismatched_accuracy(reward, answers or _chosen(pairs), seed),
        probes=probes_of(reward, pairs),
    )


def _chosen(pairs: Sequence[PreferencePair]) -> list[Demonstration]:
    return [Demonstration(pair.prompt, pair.chosen) for pair in pairs]


def _some(rows: Sequence[T], count: int) -> list[T]:
    """At most so many of the rows, evenly spread."""
    return [rows[row] for row in evenly(min(count, len(rows)), len(rows))[0]] if rows else []


# ---- any saved reward model


def probe(
    model: str | Path,
    file: str | Path | None = None,
    *,
    ensemble: Sequence[str | Path] = (),
    on_bad: Literal["stop", "skip"] = "stop",
    seed: int = 0,
) -> tuple[RewardReport | AnswerReport, list[str]]:
    """The report on a reward-model directory, and what was left out: by the pairs of a file, by its demonstrations
    (probes alone), or by the testbed's held-out pairs. A file of questions asked plainly and with a wrong answer
    suggested makes pairs of the plain ones, and the probe of opinions of the others.

    `ensemble` names other reward models, whose agreement with it is told. Raises DataError for a file that holds
    none of these, and where nothing fits the model's context.
    """
    reward = _loaded(model)
    said: list[str] = []
    records, annotator = (_read(file, on_bad, said), None) if file is not None else _world(seed)
    if isinstance(records[0], Demonstration):
        alone = [PreferencePair(one.prompt, one.completion, "") for one in records]
        pairs = _fitting(reward, alone, file, said)
        mismatched = mismatched_accuracy(reward, _chosen(pairs), seed)
        return AnswerReport(len(pairs), mismatched, probes_of(reward, pairs)), said
    pairs = _fitting(reward, records, file, said)
    others = [scored for other in ensemble for scored in _members(_loaded(other), pairs)]
    own = _members(reward, pairs)
    return examine(reward, pairs, own, seed=seed, annotator=annotator, repeated=records, others=others), said


def _world(seed: int) -> tuple[Sequence[Any], testbed.Annotator]:
    """The testbed's held-out pairs, and who labelled them."""
    honest = testbed.Annotator()
    return testbed.pairs(WORLD_PAIRS, seed, honest, split="heldout"), honest


def _loaded(model: str | Path) -> ModelReward:
    scorer, chat, _ = load_reward_model(model)
    return ModelReward("reward_model", scorer, chat)


def _read(file: str | Path, on_bad: Literal["stop", "skip"], said: list[str]) -> Sequence[Any]:
    """The pairs of a file, or else its demonstrations."""
    _, first = next(read_rows(file, lambda line, reason: None), (0, {}))
    if states_opinions(first):
        return _opinions(file, on_bad, said)
    data = read(file, on_bad=on_bad)
    served = {data.mapping.kind, *data.mapping.also}
    kind = "pairs" if "pairs" in served else "demonstrations"
    if kind not in served:
        raise DataError(
            f"a reward model is probed on pairs or on demonstrations, and this file holds {data.mapping.kind}. Give "
            "replies that were compared, or that were written to be imitated.",
            file,
        )
    data = read(file, kind, on_bad=on_bad)
    if data.skipped:
        line, reason = data.skipped[0]
        said.append(f"{len(data.skipped)} bad rows left out; the first is line {line}: {reason}")
    if data.dropped_equal:
        said.append(f"{data.dropped_equal} rows that prefer nothing left out.")
    return data.records


def _opinions(file: str | Path, on_bad: Literal["stop", "skip"], said: list[str]) -> list[PreferencePair]:
    """The pairs of a file of questions that are asked plainly, and with a wrong answer suggested."""
    bad: list[tuple[int, str]] = []
    hear = stop_at(file) if on_bad == "stop" else lambda line, reason: bad.append((line, reason))
    pairs = []
    for line, row in read_rows(file, hear):
        try:
            pairs.append(opinion_pair(row))
        except ValueError as error:
            hear(line, str(error))
    if bad:
        said.append(f"{len(bad)} bad rows left out; the first is line {bad[0][0]}: {bad[0][1]}")
    if not pairs:
        raise DataError(f"no row is left: {len(bad)} are bad. Give a file with at least one good row.", file)
    said.append(
        f"{len(pairs)} questions whose right and wrong answers are known. The accuracy is that of the plain questions; "
        "the probe “opinion” asks with the wrong answer suggested, and says how often that one then scores higher. "
        "What is more than was wrong on the plain ones is the opinion's doing."
    )
    return pairs


def _fitting(
    reward: ModelReward, pairs: Sequence[PreferencePair], file: str | Path | None, said: list[str]
) -> list[PreferencePair]:
    """The pairs that the model's context has room for."""
    found = [pair for pair in pairs if fits(reward, pair.prompt, pair.chosen, pair.rejected)]
    if not found:
        raise DataError(
            f"not one of {len(pairs)} rows fits the reward model's context. A row must fit whole. Shorten them, or use "
            "a model with a longer context.",
            file,
        )
    if len(found) < len(pairs):
        said.append(f"{len(pairs) - len(found)} of {len(pairs)} rows are longer than the model's context: left out.")
    return found


# ---- written and shown


def write(report: RewardReport | AnswerReport, path: Path) -> None:
    """The report as JSON, whole or not at all."""
    write_atomic(path, encode_json(asdict(report), indent=2) + "\n")


def render(report: RewardReport | AnswerReport) -> RenderableType:
    """The report as tables for a terminal."""
    if isinstance(report, AnswerReport):
        rates = _rates({"answer against one to another prompt": report.mismatched})
        return Group(Text(f"{report.answers} answers"), Text(), rates, Text(), _probes(report.probes))
    parts: list[RenderableType] = [
        Text(f"{report.pairs} pairs on {report.prompts} prompts"),
        Text(),
        _accuracies(report),
        Text(),
        _calibrations(report),
    ]
    if report.agreement is not None:
        held = report.agreement
        told = (
            f"{held.members} members order {held.alike:.1%} [{100 * held.low:.1f}, {100 * held.high:.1f}] of the pairs "
            f"alike, two at a time; their differences of scores spread by {held.spread:.2f} nats."
        )
        parts += [Text(), Text(told)]
    parts += [Text(), _leanings(report), Text(), _slices(report), Text(), _probes(report.probes)]
    return Group(*parts)


def _table(title: str, *names: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for place, name in enumerate(names):
        table.add_column(name, justify="right" if place else "left")
    return table


def _between(low: float, high: float) -> str:
    return f"{100 * low:z.1f} to {100 * high:z.1f}"


def _accuracies(report: RewardReport) -> Table:
    table = _rates(
        {
            "labelled pairs": report.accuracy,
            "pairs as gold orders them": report.gold,
            "pairs that it was trained on": None if report.gap is None else report.gap.train,
            "answer against one to another prompt": report.mismatched,
        }
    )
    table.add_row("counting length alone", f"{report.length_accuracy:.1%}", "", str(report.pairs))
    ceiling = report.ceiling
    if ceiling is not None:
        interval = "known" if ceiling.known else _between(ceiling.low, ceiling.high)
        table.add_row("the noise ceiling", f"{ceiling.estimate:.1%}", interval, str(ceiling.items))
    return table


def _rates(rates: dict[str, Accuracy | None]) -> Table:
    table = _table("How often it is right", "on", "accuracy", "95 % interval", "pairs")
    for name, rate in rates.items():
        if rate is not None:
            table.add_row(name, f"{rate.estimate:.1%}", _between(rate.low, rate.high), str(rate.pairs))
    return table


def _calibrations(report: RewardReport) -> Group:
    shown = report.after or report.before
    told = f"Expected calibration error {report.before.error:.3f} as its scores stand"
    if report.after is not None:
        told += f", {report.after.error:.3f} with a gain fitted on other pairs"
    told += f"; a perfect judge would show {shown.noise:.3f}."
    table = _table("What it says and what happens", "says", "right", "95 % interval", "pairs")
    for one in shown.bins:
        table.add_row(f"{one.predicted:.1%}", f"{one.observed:.1%}", _between(one.low, one.high), str(one.pairs))
    return Group(table, Text(told))


def _leanings(report: RewardReport) -> Table:
    table = _table(
        "What it makes of a reply's form", "feature", "correlation", "interval", "it prefers more", "labels do", "pairs"
    )
    for one in report.leanings:
        table.add_row(
            one.feature,
            f"{one.correlation:+.2f}",
            f"{one.low:+.2f} to {one.high:+.2f}",
            f"{one.judge.estimate:.1%}",
            f"{one.labels.estimate:.1%}",
            str(one.judge.pairs),
        )
    return table


def _slices(report: RewardReport) -> Table:
    table = _table("Accuracy by kind of pair", "pairs with", "accuracy", "95 % interval", "pairs")
    for one in (*report.by_margin, *report.slices):
        table.add_row(Text(one.name), f"{one.accuracy:.1%}", _between(one.low, one.high), str(one.pairs))
    return table


def _probes(probes: Sequence[Probed]) -> Table:
    table = _table(
        "The same reply with one thing changed", "probe", "fooled", "95 % interval", "change", "size", "replies"
    )
    for one in probes:
        told = (f"{one.fooled:.1%}", _between(one.fooled_low, one.fooled_high)) if one.expects == "lower" else ("", "")
        table.add_row(one.name, *told, f"{one.change:+z.2f}", f"{one.size:.2f}", str(one.count))
    return table
