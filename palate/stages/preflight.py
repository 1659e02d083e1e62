"""What can be known before the first step: no run should end after hours for what was wrong from the start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from palate.algorithms.objectives import Imitation, Objective, examples_of
from palate.errors import RecipeError
from palate.models import load_causal
from palate.records import Demonstration, Prompt
from palate.stages.context import Context
from palate.stages.evaluate import answer_length
from palate.stages.judges import check_columns, check_rewards
from palate.stages.material import (
    Loaded,
    fitting,
    fitting_prompts,
    heldout_of,
    load_policy,
    records_of,
    split,
    start_model,
)
from palate.stages.reward import divided, objective_of
from palate.stages.trust.regression import questions


def check(context: Context, stages: Sequence[str]) -> None:
    """Raises UsageError for what would stop one of these stages, which are about to be done, when its turn comes."""
    if "sft" in stages and "sft" in context.data:
        split(context, "sft", records_of(context.data["sft"]))
    if "reward" in stages and "reward" in context.data:
        divided(context, records_of(context.data["reward"]))
    if "reward" in stages and context.reward.model is not None:
        load_causal(context.reward.model)
    if "align" in stages:
        if context.align.judged:
            check_rewards(context)
            check_columns(context, "align")
        if context.align.reference not in ("sft", "start"):
            load_causal(context.align.reference)
    if "evaluate" in stages:
        _check_evaluation(context)
    _check_lengths(context, stages)


def _check_evaluation(context: Context) -> None:
    if context.recipe.align is None and not context.place("align", "model").exists():
        raise RecipeError(
            "The recipe has [evaluate], but no [align], and this run has no aligned model. The evaluation compares the "
            "model before alignment with the one after. Add a section [align], or leave out [evaluate]."
        )
    if context.evaluate.judge == "reward":
        check_columns(context, "evaluate")
    questions(context)
    judged = context.evaluate.judge == "heldout-reward"
    if judged and context.recipe.reward is None and not context.place("reward", "judge", "model").exists():
        raise RecipeError(
            'evaluate.judge = "heldout-reward" was given, but this run has no such reward model. It learns from pairs '
            "that the reward model never sees, and is made by the stage reward. Add a section [reward]."
        )


def _check_lengths(context: Context, stages: Sequence[str]) -> None:
    """Rows that are too long for the model, where such a row stops the run."""
    read = [
        stage
        for stage in stages
        if (stage in context.data or heldout_of(stage) in context.data)
        and getattr(context.recipe, stage).on_bad == "stop"
        and not (stage == "reward" and context.reward.model is not None)
    ]
    if not read:
        return
    shape = context.recipe.model.scratch if "sft" in stages else None
    policy = None if shape is not None else start_model(context) if "sft" in stages else load_policy(context)
    limit = policy.model.context if policy is not None else shape and shape.context
    for stage in read:
        files = (*context.data.get(stage, ()), *context.data.get(heldout_of(stage), ()))
        records = records_of(files)
        room = None if limit is None else limit - (answer_length(context) if isinstance(records[0], Prompt) else 0)
        if room is not None and max(map(_tokens_at_most, records)) > room:
            policy = policy or start_model(context)
            _check_fit(context, stage, policy, records)


def _check_fit(context: Context, stage: str, policy: Loaded, records: Sequence) -> None:
    if isinstance(records[0], Prompt):
        fitting_prompts(context, stage, policy, records, answer_length(context))
        return
    if isinstance(records[0], Demonstration):
        objective: Objective = Imitation(policy.chat)
    elif stage == "reward":
        objective = objective_of(context.reward, policy.chat)
    else:
        objective = context.align.method.objective(policy.chat)
    fitting(context, stage, examples_of(objective, records), records, policy.model.context)


def _tokens_at_most(record: Any) -> int:
    """What a record surely takes no more tokens than, without a tokenizer: its bytes, and some for the template."""
    prompt = record if isinstance(record, Prompt) else record.prompt
    replies = [getattr(record, name, "") for name in ("completion", "chosen", "rejected")]
    replies += getattr(record, "completions", ())
    size = sum(16 + len(message.content.encode()) for message in prompt.messages)
    return 64 + size + max(len(reply.encode()) for reply in replies)
