"""What can be wrong with data that reads well: leaks, repetitions, labels that length explains, lost endings.

Every check is a pure function of records, or of their token ids, and returns one `Finding`; none of them
changes data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from palate.data.conversion import best_pair, prompt_of
from palate.data.rows import Record
from palate.errors import UsageError
from palate.records import Feedback, PreferencePair, Prompt, Ranking

_TOLERATED_SHARE = 0.05  # of repetitions and contradictions, which annotators who disagree cannot but produce
_FAIR_ACCURACY = 0.55  # what length alone may explain of honest preferences
_ENOUGH_ROWS = 20  # fair labels follow a given rule throughout in less than one of 2**20 sets this large


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found: a sentence, and the figures behind it; "warn" asks for a person's attention."""

    level: Literal["info", "warn"]
    name: str
    message: str
    figures: Mapping[str, float]


class TokenRow(Protocol):
    """A record in token ids; each completion ends with the stop token where nothing went wrong."""

    @property
    def prompt(self) -> Sequence[int]:
        """Ids of the prompt."""
        ...

    @property
    def completions(self) -> Sequence[Sequence[int]]:
        """Ids of each completion, in the order of the record: chosen before rejected, none of a prompt."""
        ...


def completions_of(record: Record) -> tuple[str, ...]:
    """The texts that stand behind the prompt: none, the completion, chosen and rejected, or all that are ranked."""
    if isinstance(record, PreferencePair):
        return record.chosen, record.rejected
    if isinstance(record, Ranking):
        return record.completions
    return () if isinstance(record, Prompt) else (record.completion,)


def judgements_of(record: Record) -> tuple[str, ...]:
    """What was said of each of those texts: "chosen", "desirable", "rank 0"; "completion" where nothing was."""
    if isinstance(record, PreferencePair):
        return "chosen", "rejected"
    if isinstance(record, Ranking):
        return tuple(f"rank {rank}" for rank in record.ranks)
    if isinstance(record, Feedback):
        return ("desirable" if record.desirable else "undesirable",)
    return () if isinstance(record, Prompt) else ("completion",)


def split_by_prompt(
    records: Iterable[Any], heldout_fraction: float, seed: int
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Records in their order as (train, held-out), where all rows of one prompt stand on the same side.

    The side is decided by a hash of seed and prompt text alone, so adding rows moves nobody. The held-out
    share is `heldout_fraction` of the prompts in expectation; of few prompts it may be none or all.
    """
    if not 0 <= heldout_fraction < 1:
        raise UsageError(
            f"A held-out fraction of {heldout_fraction} was given; it must be at least 0 and below 1. "
            "Choose one such as 0.1."
        )
    train: list[Any] = []
    heldout: list[Any] = []
    for record in records:
        place = hashlib.blake2b(f"{seed}\n{prompt_of(record).text}".encode(), digest_size=8).digest()
        side = heldout if int.from_bytes(place, "big") < heldout_fraction * 2**64 else train
        side.append(record)
    return tuple(train), tuple(heldout)


def check_records(records: Sequence[Record]) -> tuple[Finding, ...]:
    """All checks of texts that apply to the records of one file."""
    pairs = [record for record in records if isinstance(record, PreferencePair)]
    found = [duplicates(records)]
    feedback = [record for record in records if isinstance(record, Feedback)]
    rankings = [record for record in records if isinstance(record, Ranking)]
    if pairs:
        found += [equal_pairs(pairs), contradictory_pairs(pairs), length_bias(pairs), alike_labels(pairs)]
    if feedback:
        found += [contradictory_feedback(feedback), one_sided_labels(feedback)]
    if rankings:
        found += [tied_rankings(rankings)]
        extremes = [pair for ranking in rankings if (pair := best_pair(ranking, "worst"))]
        found += [length_bias(extremes)] if extremes else []
    return tuple(found)


def check_tokens(rows: Sequence[TokenRow], *, eos_id: int, context: int | None) -> tuple[Finding, ...]:
    """All checks of token ids; those that concern the model's context only where it has one."""
    found = [missing_eos(rows, eos_id)]
    if context is not None:
        found += [
            long_prompts(rows, context),
            truncation(rows, context),
            equal_after_truncation(rows, context),
        ]
    return tuple(found)


def duplicates(records: Sequence[Record]) -> Finding:
    """Rows that repeat an earlier one word for word."""
    distinct = {(prompt_of(record).messages, completions_of(record), judgements_of(record)) for record in records}
    count = len(records) - len(distinct)
    message = f"{count} of {len(records)} rows repeat an earlier row word for word."
    return _counted("duplicates", message, count, len(records), tolerated=_TOLERATED_SHARE)


def equal_pairs(pairs: Sequence[PreferencePair]) -> Finding:
    """Pairs whose two sides are the same text: nothing can be preferred there."""
    count = sum(pair.chosen == pair.rejected for pair in pairs)
    return _counted("equal_pairs", f"{count} of {len(pairs)} pairs have two equal sides.", count, len(pairs))


def contradictory_pairs(pairs: Sequence[PreferencePair]) -> Finding:
    """Pairs that stand there the other way round as well, so that one of the two must be judged wrong."""
    judged = {(pair.prompt.messages, pair.chosen, pair.rejected) for pair in pairs}
    count = sum(
        pair.chosen != pair.rejected and (pair.prompt.messages, pair.rejected, pair.chosen) in judged for pair in pairs
    )
    message = f"{count} of {len(pairs)} pairs are contradicted: the same two texts stand there the other way round."
    return _counted("contradictory_pairs", message, count, len(pairs), tolerated=_TOLERATED_SHARE)


def contradictory_feedback(feedback: Sequence[Feedback]) -> Finding:
    """Replies that are called desirable in one row and undesirable in another."""
    judged = {(record.prompt.messages, record.completion, record.desirable) for record in feedback}
    count = sum((record.prompt.messages, record.completion, not record.desirable) in judged for record in feedback)
    message = f"{count} of {len(feedback)} replies are contradicted: another row says the opposite of the same reply."
    return _counted("contradictory_feedback", message, count, len(feedback), tolerated=_TOLERATED_SHARE)


def one_sided_labels(feedback: Sequence[Feedback]) -> Finding:
    """The share of desirable replies; where it is all or none of them, there is nothing to tell apart."""
    desirable = sum(record.desirable for record in feedback)
    return Finding(
        "warn" if desirable in (0, len(feedback)) else "info",
        "one_sided_labels",
        f"{desirable} of {len(feedback)} replies are desirable, {len(feedback) - desirable} are not.",
        {"desirable": desirable, "rows": len(feedback)},
    )


def tied_rankings(rankings: Sequence[Ranking]) -> Finding:
    """Rankings in which every reply ties with every other, and rankings with any tie at all."""
    tied = sum(max(ranking.ranks) == 0 for ranking in rankings)
    partly = sum(len(set(ranking.ranks)) < len(ranking.ranks) for ranking in rankings)
    return Finding(
        "warn" if tied == len(rankings) else "info",
        "tied_rankings",
        f"{partly} of {len(rankings)} rankings hold ties; in {tied} of them all replies tie, and nothing is preferred.",
        {"tied": tied, "partly": partly, "rows": len(rankings)},
    )


def shared_prompts(train: Sequence[Record], heldout: Sequence[Record]) -> Finding:
    """Held-out rows whose prompt is trained on, which makes held-out figures too good."""
    trained = {prompt_of(record).messages for record in train}
    count = sum(prompt_of(record).messages in trained for record in heldout)
    message = f"{count} of {len(heldout)} held-out rows have a prompt that is trained on."
    return _counted("shared_prompts", message, count, len(heldout))


def length_bias(pairs: Sequence[PreferencePair]) -> Finding:
    """How often the longer text (in characters) is the chosen one: the accuracy of a length-only judge.

    Ties count half; `low` and `high` are Wilson's 95 % interval. Raises `UsageError` where there are no
    pairs.
    """
    from palate.ops.diagnostics import wilson_interval  # brings torch along, which reading data does not need

    if not pairs:
        raise UsageError("No pairs were given, and length bias is measured on at least one. Check what was read.")
    longer = sum(len(pair.chosen) > len(pair.rejected) for pair in pairs)
    ties = sum(len(pair.chosen) == len(pair.rejected) for pair in pairs)
    wins = longer + ties / 2
    low, high = wilson_interval(wins, len(pairs))
    accuracy = wins / len(pairs)
    warned = low > _FAIR_ACCURACY or high < 1 - _FAIR_ACCURACY
    return Finding(
        "warn" if warned else "info",
        "length_bias",
        f"The longer text is the chosen one in {accuracy:.1%} of the pairs ({low:.1%} to {high:.1%}).",
        {"accuracy": accuracy, "low": low, "high": high, "longer": longer, "ties": ties, "rows": len(pairs)},
    )


def alike_labels(pairs: Sequence[PreferencePair]) -> Finding:
    """Labels that follow a trivial rule: always the longer text, the shorter, or one fixed text on a side."""
    rules = {
        "the chosen text is always the longer": all(len(pair.chosen) > len(pair.rejected) for pair in pairs),
        "the chosen text is always the shorter": all(len(pair.chosen) < len(pair.rejected) for pair in pairs),
        "the chosen text is always the same": len({pair.chosen for pair in pairs}) == 1,
        "the rejected text is always the same": len({pair.rejected for pair in pairs}) == 1,
    }
    obeyed = [rule for rule, holds in rules.items() if holds and len(pairs) >= _ENOUGH_ROWS]
    said = " and ".join(obeyed)
    message = (
        f"All labels are alike: {said}." if obeyed else f"No trivial rule explains all labels of {len(pairs)} pairs."
    )
    return Finding("warn" if obeyed else "info", "alike_labels", message, {"rules": len(obeyed), "rows": len(pairs)})


def missing_eos(rows: Sequence[TokenRow], eos_id: int) -> Finding:
    """Completions without exactly one stop token, at their end, which do not teach a model to stop."""
    completions = [ids for row in rows for ids in row.completions]
    count = sum(not ids or ids[-1] != eos_id or eos_id in ids[:-1] for ids in completions)
    message = f"{count} of {len(completions)} completions do not end with exactly one stop token."
    return _counted("missing_eos", message, count, len(completions))


def long_prompts(rows: Sequence[TokenRow], context: int) -> Finding:
    """Prompts that fill the model's context, so that not one token of a completion fits behind them."""
    count = sum(len(row.prompt) >= context for row in rows)
    message = f"{count} of {len(rows)} prompts leave no room for a completion in a context of {context} tokens."
    return _counted("long_prompts", message, count, len(rows))


def truncation(rows: Sequence[TokenRow], context: int) -> Finding:
    """Rows whose prompt and completion, of either side of a pair, do not fit the context together."""
    count = sum(any(len(row.prompt) + len(ids) > context for ids in row.completions) for row in rows)
    message = f"{count} of {len(rows)} rows do not fit whole into a context of {context} tokens."
    return _counted("truncation", message, count, len(rows))


def equal_after_truncation(rows: Sequence[TokenRow], context: int) -> Finding:
    """Pairs whose two sides are the same once they are cut to what the context leaves room for."""
    count = 0
    for row in rows:
        room = max(context - len(row.prompt), 0)
        cut = {tuple(ids[:room]) for ids in row.completions}
        count += len(row.completions) == 2 and len(cut) == 1
    message = f"{count} of {len(rows)} rows have two equal sides when cut to a context of {context} tokens."
    return _counted("equal_after_truncation", message, count, len(rows))


def _counted(name: str, message: str, count: int, rows: int, tolerated: float = 0.0) -> Finding:
    return Finding("warn" if count > tolerated * rows else "info", name, message, {"count": count, "rows": rows})
