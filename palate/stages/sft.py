"""Stage `sft`: from a model and demonstrations to a model that answers as they do."""

from __future__ import annotations

import math

from palate.algorithms.objectives import Imitation, examples_of
from palate.algorithms.supervised import SupervisedLoop, held_out
from palate.models.loading import save_causal
from palate.stages.context import Context, Outcome
from palate.stages.material import fitting, split, stage_records, start_model
from palate.stages.saving import save_whole


def run(context: Context) -> Outcome:
    """Trains, saves `sft/model`, and measures the held-out loss before and after."""
    settings = context.sft
    records = stage_records(context, "sft")
    train, heldout = split(context, "sft", records)
    start = start_model(context)
    objective = Imitation(start.chat)
    learnt = fitting(context, "sft", examples_of(objective, train), train, start.model.context)
    unseen = fitting(context, "sft", examples_of(objective, heldout), heldout, start.model.context)

    limit, pad_id = settings.loop.micro_tokens, start.chat.pad_id
    before = held_out(start.model, objective, unseen, limit=limit, pad_id=pad_id)["loss"]
    loop = SupervisedLoop(start.model, objective, learnt, settings.loop, context.seed, pad_id)
    steps = loop.train(context.checkpoints("sft"), context.metrics("sft"), context.watch("sft"))
    loss = held_out(start.model, objective, unseen, limit=limit, pad_id=pad_id)["loss"]
    save_whole(context.place("sft", "model"), lambda place: save_causal(start.model, start.tokenizer, place))
    return Outcome(
        {
            "demonstrations": len(learnt),
            "heldout": len(unseen),
            "base_loss": before,
            "heldout_loss": loss,
            "heldout_perplexity": math.exp(loss),
        },
        () if loss < before else (f"the held-out loss did not fall ({before:.3f} before, {loss:.3f} after)",),
        steps,
    )
