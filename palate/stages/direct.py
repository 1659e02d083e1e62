"""Stage `align` by a direct method: the supervised loop on preferences or judgements, without a reward model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from palate.algorithms.direct import with_reference
from palate.algorithms.objectives import Example, examples_of
from palate.algorithms.supervised import SupervisedLoop
from palate.engine.interfaces import Completions
from palate.engine.metrics import JsonLines
from palate.engine.seeding import derive
from palate.models import save_causal
from palate.records import Prompt
from palate.stages.context import Context, Outcome
from palate.stages.judges import sampled
from palate.stages.material import Loaded, fitting, load_policy, stage_records
from palate.stages.reward import counted, fits
from palate.stages.saving import save_whole
from palate.stages.trust.measuring import (
    closing_figures,
    judged_rows,
    onlookers,
    reference_of,
    sample_rows,
    told,
    unmoved,
)


def run(context: Context) -> Outcome:
    """Trains, saves `align/model`, and measures what the policy writes before and after."""
    method = context.align.method
    policy, reference = load_policy(context), reference_of(context)
    objective = method.objective(policy.chat)
    records = counted(context, "align", stage_records(context, "align")[: context.align.rows])
    read = fitting(context, "align", examples_of(objective, records), records, policy.model.context)
    prompts = [prompt for prompt in dict.fromkeys(record.prompt for record in records) if fits(policy, prompt)]
    limit, pad_id = method.loop.micro_tokens, policy.chat.pad_id
    with unmoved(reference):
        first = sampled(context, policy, prompts)
        before = measured(context, policy, reference, first)
        examples = with_reference(objective, telling(read), reference.model, limit=limit, pad_id=pad_id)
        seed = derive(context.seed, "align") % 2**32
        measure = partial(figures_of, context, policy, reference, prompts)
        loop = SupervisedLoop(policy.model, objective, examples, method.loop, seed, pad_id, measure)
        steps = loop.train(context.checkpoints("align"), context.metrics("align"), context.watch("align"))
        save_whole(context.place("align", "model"), lambda place: save_causal(policy.model, policy.tokenizer, place))
        answers = first, sampled(context, policy, prompts)
        after = measured(context, policy, reference, answers[1])
    samples = JsonLines(context.place("align", "samples.jsonl"))
    samples.cut_after(-1)
    for row in (*sample_rows(before, 0, 16), *sample_rows(after, steps, 16)):
        samples.append(row)
    started, ended = told(before), told(after)
    on_the_way = [row["kl/sequence"] for row in context.metrics("align").rows() if "kl/sequence" in row]
    figures = {
        "examples": len(examples),
        "kl_max": max(started["kl/sequence"], ended["kl/sequence"], *on_the_way),
        **closing_figures(context, policy, prompts, answers, (started, ended)),
    }
    if "score/gold" in ended:
        figures |= {"gold_initial": started["score/gold"], "gold_final": ended["score/gold"]}
    return Outcome(figures, steps=steps)


def figures_of(context: Context, policy: Loaded, reference: Loaded, prompts: Sequence[Prompt]) -> dict[str, float]:
    """What is told of the policy on its way."""
    return told(measured(context, policy, reference, sampled(context, policy, prompts)))


def telling(examples: Sequence[Example]) -> list[Example]:
    """The examples whose completions differ: nothing can be preferred among equal ones."""
    return [example for example in examples if len(set(example.completions)) == len(example.completions)]


def measured(context: Context, policy: Loaded, reference: Loaded, answers: Completions) -> list[dict]:
    """What is to be told of the policy's answers to the data's own prompts."""
    return judged_rows(context, policy, reference, answers, onlookers(context))
