"""Palate's step of supervised fine-tuning, loss on the completions alone."""

from __future__ import annotations

from bench.ours.supervised import run_steps
from bench.side import Job, Meter, serve
from palate.algorithms.objectives import Example, Imitation
from palate.models import load_causal


def run(job: Job, meter: Meter) -> None:
    """Trains on the job's rows, one line a step."""
    model, chat, _ = load_causal(job.policy, device=job.device, dtype=job.dtype)
    examples = [Example(tuple(row["prompt"]), (tuple(row["completion"]),)) for row in job.rows()]
    run_steps(job, meter, model, Imitation(chat), examples, chat.pad_id)


if __name__ == "__main__":
    serve(run)
