"""Palate's supervised step, for the tasks that have one: the job's rows in order, `batch` of them a step."""

from __future__ import annotations

from collections.abc import Sequence

from bench.side import Job, Meter
from palate.algorithms.objectives import Example, Objective
from palate.algorithms.supervised import SupervisedLoop, Supervision
from palate.engine.optimiser import Stepper


def run_steps(job: Job, meter: Meter, model, objective: Objective, examples: Sequence[Example], pad_id: int) -> None:
    """Takes the job's steps, one line each.

    The loop would form its steps itself, from rows of like length; here the steps are the peer's, so both work on
    the same rows at the same time.
    """
    settings = Supervision(learning_rate=job.learning_rate)
    loop = SupervisedLoop(model, objective, examples, settings, job.seed, pad_id)
    stepper = Stepper(
        model, settings.optimiser, learning_rate=settings.learning_rate, total=job.warm_up + job.iterations
    )
    meter.start()
    for step, rows in enumerate(steps_of(job, len(examples))):
        row = loop._step(stepper, rows, step)
        taken = [examples[index] for index in rows]
        completion = sum(len(side) for example in taken for side in example.completions)
        meter.lap(
            prompt_tokens=sum(len(example.prompt) * len(example.completions) for example in taken),
            completion_tokens=completion,
            loss=row["loss"],
            phases={},
        )


def steps_of(job: Job, count: int) -> list[tuple[int, ...]]:
    """Which rows form which step: as they stand in the file, whole steps only."""
    return [tuple(range(start, start + job.batch)) for start in range(0, count - job.batch + 1, job.batch)]
