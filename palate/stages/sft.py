"""Stage `sft`: from a model and demonstrations to a model that answers as they do."""

from __future__ import annotations

import math
from collections.abc import Sequence

from palate.algorithms.objectives import Example, Imitation, examples_of
from palate.algorithms.supervised import SupervisedLoop, held_out
from palate.engine.generation import Sampling
from palate.engine.seeding import derive
from palate.evaluation import loss_slope, perplexity, unigram_loss
from palate.models.loading import load_causal, save_causal
from palate.records import Demonstration
from palate.stages.context import Context, Outcome
from palate.stages.material import Loaded, evenly, fitting, sample, split, stage_records, start_model
from palate.stages.saving import save_whole
from palate.stages.trust.measuring import prompt_loss

# How many answers say whether the model learnt to stop: a share of them is known to 9 % or better.
ANSWERS = 128

# How many prompts are looked at for whether training and generation write them alike.
PROMPTS = 64

# An answer has room for twice the length that all but one in twenty demonstrations keep to: the odd long one would
# make sampling slow, and cut hardly any other.
LONG, ROOM = 0.95, 2


def run(context: Context) -> Outcome:
    """Trains, saves `sft/model`, and measures the held-out loss before and after, and what the saved model writes."""
    settings = context.sft
    records = stage_records(context, "sft")
    train, heldout = split(context, "sft", records)
    start = start_model(context)
    objective = Imitation(start.chat)
    learnt = fitting(context, "sft", examples_of(objective, train), train, start.model.context)
    unseen = fitting(context, "sft", examples_of(objective, heldout), heldout, start.model.context)

    def loss_of(examples: Sequence[Example]) -> float:
        limit, pad_id = settings.loop.micro_tokens, start.chat.pad_id
        return held_out(start.model, objective, examples, limit=limit, pad_id=pad_id)["loss"]

    before = loss_of(unseen)
    loop = SupervisedLoop(start.model, objective, learnt, settings.loop, context.seed, start.chat.pad_id)
    steps = loop.train(context.checkpoints("sft"), context.metrics("sft"), context.watch("sft"))
    loss = loss_of(unseen)
    save_whole(context.place("sft", "model"), lambda place: save_causal(start.model, start.tokenizer, place))
    figures = {
        "demonstrations": len(learnt),
        "heldout": len(unseen),
        "base_loss": before,
        "heldout_loss": loss,
        "heldout_perplexity": perplexity(loss),
        "train_loss": loss_of([learnt[row] for row in evenly(min(len(unseen), len(learnt)), len(learnt))[0]]),
        "unigram_loss": unigram_loss(_completions(learnt), _completions(unseen), start.model.vocabulary),
    }
    slope = loss_slope([row["loss"] for row in context.metrics("sft").rows()])
    if slope is not None:
        figures |= {"loss_slope": slope.gain, "loss_slope_low": slope.low}
    return Outcome(figures | _saved_figures(context, objective, learnt, heldout), (), steps)


def _completions(examples: Sequence[Example]) -> list[tuple[int, ...]]:
    return [completion for example in examples for completion in example.completions]


def _saved_figures(
    context: Context, objective: Imitation, learnt: Sequence[Example], heldout: Sequence[Demonstration]
) -> dict[str, float]:
    """What can only be said of the model as it stands on disk, which is what later stages will load."""
    saved = Loaded(*load_causal(context.place("sft", "model"), device=context.device))
    looked_at = [heldout[row] for row in evenly(min(PROMPTS, len(heldout)), len(heldout))[0]]
    same = [objective.example(one).prompt == tuple(saved.chat.encode_prompt(one.prompt)) for one in looked_at]
    figures = {"template_same": sum(same) / len(same)}
    loss = prompt_loss(saved, [one.prompt for one in heldout])
    if loss is not None:
        figures["prompt_loss"] = loss
    rate = _eos_rate(context, saved, learnt, heldout)
    return figures if rate is None else figures | {"eos_rate": rate}


def _eos_rate(
    context: Context, saved: Loaded, learnt: Sequence[Example], heldout: Sequence[Demonstration]
) -> float | None:
    """The share of sampled answers to held-out prompts that end by themselves; None where no prompt leaves room."""
    lengths = sorted(map(len, _completions(learnt)))
    long = lengths[math.ceil(LONG * len(lengths)) - 1]
    length, limit = ROOM * long, saved.model.context
    if limit is not None:
        length = min(length, max(long, limit // 2))
    prompts = [
        one.prompt for one in heldout if limit is None or len(saved.chat.encode_prompt(one.prompt)) + length <= limit
    ]
    if not prompts:
        return None
    rows, samples = evenly(ANSWERS, len(prompts))
    _, drawn = sample(
        saved,
        prompts,
        seed=derive(context.seed, "sft answers"),
        rows=rows,
        samples=samples,
        length=length,
        sampling=Sampling(),
    )
    return drawn.finish.count("eos") / len(drawn.finish)
