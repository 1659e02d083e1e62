"""Stage `align` by a method that makes its own data: sample, choose, train, and again with the policy that came of it.

A round's directory `align/rounds/N` holds what the policy wrote (`samples.jsonl`, all of it, in token ids), what was
learnt from it (`data.jsonl`, in a format of Palate's), and the policy that came of it (`model`). A round begins with
the model of the round before, as it stands on disk, so a killed run goes on in the middle of any round.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import torch

from palate.algorithms.batches import occurrences
from palate.algorithms.direct import with_reference
from palate.algorithms.makers import Group, Maker
from palate.algorithms.objectives import Example, Imitation, examples_of
from palate.algorithms.shaping import Shaping
from palate.algorithms.supervised import SupervisedLoop
from palate.data.sampling import Cursor, batch
from palate.engine.checkpoint import Checkpoints
from palate.engine.files import encode_json, make_directory, remove, write_atomic
from palate.engine.interfaces import Reward
from palate.engine.metrics import JsonLines
from palate.engine.seeding import derive
from palate.models import load_causal, save_causal
from palate.ops import Moments
from palate.records import Prompt
from palate.stages.context import Context, Outcome
from palate.stages.judges import NO_MOMENTS, moments_on, reward_of, sampled
from palate.stages.material import Loaded, as_recipe_wants, fitting, fitting_prompts, load_policy, sample, stage_records
from palate.stages.saving import save_whole
from palate.stages.trust.measuring import (
    closing_figures,
    judged_rows,
    normalising,
    onlookers,
    reference_of,
    sample_rows,
    told,
    unmoved,
)

# Completions sampled between two looks at whether to stop.
CHUNK = 512


@dataclass(frozen=True)
class Work:
    """What all rounds share. `prompt_ids` and `demonstrations` (none where there are none) go with `prompts`."""

    context: Context
    maker: Maker
    reference: Loaded
    judges: tuple[Reward, ...]
    shaping: Shaping
    moments: Moments
    prompts: Sequence[Prompt]
    prompt_ids: Sequence[tuple[int, ...]]
    demonstrations: Sequence[tuple[int, ...]]

    def place(self, number: int, *parts: str) -> Path:
        """A path of a round."""
        return self.context.place("align", "rounds", str(number), *parts)

    def drawn(self, number: int) -> Sequence[int]:
        """The prompts of a round, by their places: each once before any comes again, or simply all."""
        size = self.maker.prompts
        if size is None:
            return range(len(self.prompts))
        start = Cursor(*divmod((number - 1) * size, len(self.prompts)))
        return batch(len(self.prompts), size, start, derive(self.context.seed, "align"))[0]


def run(context: Context) -> Outcome:
    """Goes through the rounds, saves `align/model`, and measures what the policy writes before each and at the end."""
    maker = context.align.method
    start, reference = load_policy(context), reference_of(context)
    metrics, samples = context.metrics("align"), JsonLines(context.place("align", "samples.jsonl"))
    with unmoved(reference):
        work = _work(context, maker, start, reference)
        done = 0
        while done < maker.rounds and work.place(done + 1, "model").exists():
            done += 1
        for rows in (metrics, samples):
            rows.cut_after(done)
        for number in range(done + 1, maker.rounds + 1):
            _round(work, number, metrics, samples)
        policy = _policy(work, maker.rounds + 1)
        save_whole(context.place("align", "model"), lambda place: save_causal(policy.model, policy.tokenizer, place))
        answers = sampled(context, start, work.prompts), sampled(context, policy, work.prompts)
        written = judged_rows(context, policy, reference, answers[1], work.judges)
    _tell(metrics, samples, maker.rounds + 1, written, {})
    rows = list(metrics.rows())
    figures = {
        "rounds": maker.rounds,
        "examples": sum(row.get("examples", 0) for row in rows),
        "kl_max": max(row["kl/sequence"] for row in rows),
        **closing_figures(context, policy, work.prompts, answers, (rows[0], rows[-1])),
    }
    return Outcome(figures, _concerns(context, metrics), maker.rounds)


def _work(context: Context, maker: Maker, policy: Loaded, reference: Loaded) -> Work:
    records = stage_records(context, "align")
    demonstrations: list[tuple[int, ...]] = []
    if maker.data == "demonstrations":
        examples = examples_of(Imitation(policy.chat), records)
        read = dict(zip(map(id, examples), records, strict=True))
        kept = fitting(context, "align", examples, records, policy.model.context)
        prompts = [read[id(example)].prompt for example in kept]
        demonstrations = [example.completions[0] for example in kept]
    else:
        prompts = fitting_prompts(context, "align", policy, records, context.align.loop.max_new_tokens)
    judges, shaping, moments = onlookers(context), context.align.loop.shaping, NO_MOMENTS
    if maker.judged:
        reward = reward_of(context, policy, prompts)
        judges, shaping = (reward, *judges), normalising(context.align.loop, reward).shaping
        if shaping.normalise == "reference":
            moments = moments_on(reward, sampled(context, policy, prompts))
    return Work(
        context=context,
        maker=maker,
        reference=reference,
        judges=judges,
        shaping=shaping,
        moments=moments,
        prompts=prompts,
        prompt_ids=[tuple(policy.chat.encode_prompt(prompt)) for prompt in prompts],
        demonstrations=demonstrations,
    )


def _policy(work: Work, number: int) -> Loaded:
    """The policy that a round begins with."""
    if number == 1:
        return load_policy(work.context)
    loaded = Loaded(*load_causal(work.place(number - 1, "model"), device=work.context.device))
    return as_recipe_wants(work.context, loaded)


def _round(work: Work, number: int, metrics: JsonLines, samples: JsonLines) -> None:
    """One round; its model is the last thing that it leaves, and says that it is done."""
    began = time.perf_counter()
    make_directory(work.place(number))
    policy = _policy(work, number)
    written = _written(work, policy, number)
    examples = work.maker.examples(_groups(work, number, written), derive(work.context.seed, "align", number))
    _write_data(work, policy, number, examples)
    sampled_at = time.perf_counter()
    learnt = _train(work, policy, number, examples)
    spent = {"time/rollout": sampled_at - began, "time/update": time.perf_counter() - sampled_at}
    _tell(metrics, samples, number, written, {"examples": float(len(examples)), **learnt, **spent})
    save_whole(work.place(number, "model"), lambda place: save_causal(policy.model, policy.tokenizer, place))
    if work.place(number, "checkpoints").exists():
        remove(work.place(number, "checkpoints"))


# ---- sampling


def _written(work: Work, policy: Loaded, number: int) -> list[dict[str, Any]]:
    """What the policy writes in this round, in the order of its prompts, measured; kept on disk as it comes."""
    context, maker = work.context, work.maker
    rows = [row for row in work.drawn(number) for _ in range(maker.samples)]
    numbers = occurrences(rows)
    chunks = list(torch.arange(len(rows)).split(CHUNK))
    lines = JsonLines(work.place(number, "samples.jsonl"))
    steps = [row["step"] for row in lines.rows()]
    whole = 0
    while whole < len(chunks) and steps.count(whole + 1) == len(chunks[whole]):
        whole += 1
    lines.cut_after(whole)
    onlooker = context.watch(f"align {number} samples")
    onlooker.begin(len(chunks), whole)
    for step, chunk in enumerate(chunks[whole:], start=whole + 1):
        completions, _ = sample(
            policy,
            work.prompts,
            seed=derive(context.seed, "align", "round", number),
            rows=[rows[place] for place in chunk.tolist()],
            samples=[numbers[place] for place in chunk.tolist()],
            length=context.align.loop.max_new_tokens,
            sampling=context.align.loop.sampling,
            slots=context.align.loop.slots or CHUNK,
        )
        for row in judged_rows(context, policy, work.reference, completions, work.judges):
            lines.append({"step": step, **row})
        lines.sync()
        onlooker.advance({})
        onlooker.check()
    return list(lines.rows())


def _groups(work: Work, number: int, written: Sequence[Mapping[str, Any]]) -> list[Group]:
    """The completions by prompt, each with the score that the online loop would give it: shaped, a cut one punished."""
    scores: list[float] = []
    if work.maker.judged:
        raw = torch.tensor([row["score"] for row in written], dtype=torch.float64)
        ended = torch.tensor([row["finish"] == "eos" for row in written])
        scores = work.shaping.shape(raw, ended, work.shaping.renew(work.moments, raw)).tolist()
    count = work.maker.samples
    return [
        Group(
            work.prompt_ids[row],
            tuple(tuple(one["ids"]) for one in written[start : start + count]),
            tuple(scores[start : start + count]),
            work.demonstrations[row] if work.demonstrations else (),
        )
        for row, start in zip(work.drawn(number), range(0, len(written), count), strict=True)
    ]


# ---- training


def _train(work: Work, policy: Loaded, number: int, examples: Sequence[Example]) -> dict[str, float]:
    """One run of the supervised loop from the round's policy; returns the means of its loss and accuracy."""
    context, settings = work.context, work.maker.loop
    if not examples:
        context.say(f"align: round {number} has nothing to learn from: no two completions of a prompt differ in score.")
        return {}
    objective = work.maker.objective(policy.chat)
    anchor = policy if work.maker.reference == "last" else work.reference
    known = with_reference(objective, examples, anchor.model, limit=settings.micro_tokens, pad_id=policy.chat.pad_id)
    seed = derive(context.seed, "align", "round", number) % 2**32
    loop = SupervisedLoop(policy.model, objective, known, settings, seed, policy.chat.pad_id)
    metrics = JsonLines(work.place(number, "metrics.jsonl"))
    loop.train(Checkpoints(work.place(number, "checkpoints")), metrics, context.watch(f"align {number}"))
    rows = list(metrics.rows())
    names = [name for name in ("loss", "accuracy") if name in rows[0]]
    return {name: sum(row[name] for row in rows) / len(rows) for name in names}


# ---- what is told


def _tell(
    metrics: JsonLines, samples: JsonLines, step: int, written: Sequence[dict], figures: Mapping[str, float]
) -> None:
    """A row of metrics and a few samples, durable before the model is that they led to."""
    scores = [row["score"] for row in written if "score" in row]
    spread = {"score/mean": fmean(scores), "score/std": pstdev(scores)} if scores else {}
    metrics.append({"step": step, **spread, **told(written), **figures})
    for row in sample_rows(written, step):
        samples.append(row)
    metrics.sync()
    samples.sync()


def _concerns(context: Context, metrics: JsonLines) -> tuple[str, ...]:
    empty = [str(row["step"]) for row in metrics.rows() if row.get("examples") == 0]
    return (f"nothing was learnt in round {', '.join(empty)}",) if empty else ()


def _write_data(work: Work, policy: Loaded, number: int, examples: Sequence[Example]) -> None:
    """What the round learns from, in words: demonstrations or pairs that Palate and others read."""
    prompts = dict(zip(work.prompt_ids, work.prompts, strict=True))
    lines = (encode_json(row) for row in _native(policy, prompts, examples))
    write_atomic(work.place(number, "data.jsonl"), "".join(f"{line}\n" for line in lines))


def _native(
    policy: Loaded, prompts: Mapping[tuple[int, ...], Prompt], examples: Sequence[Example]
) -> Iterator[dict[str, Any]]:
    for example in examples:
        messages = [{"role": one.role, "content": one.content} for one in prompts[example.prompt].messages]
        sides = ("completion",) if len(example.completions) == 1 else ("chosen", "rejected")
        replies = [[{"role": "assistant", "content": policy.chat.decode(list(ids))}] for ids in example.completions]
        yield {"prompt": messages, **dict(zip(sides, replies, strict=True))}
