"""Palate's step of DPO, on pairs; the reference's log-probabilities are there before the first step."""

from __future__ import annotations

from bench.ours.supervised import run_steps
from bench.side import Job, Meter, serve
from palate.algorithms.direct import DPO, with_reference
from palate.algorithms.objectives import Example
from palate.algorithms.supervised import Supervision
from palate.models import load_causal


def run(job: Job, meter: Meter) -> None:
    """Trains on the job's pairs, one line a step."""
    model, chat, _ = load_causal(job.policy, device=job.device, dtype=job.dtype)
    sides = [(row["prompt"], row["chosen"], row["rejected"]) for row in job.rows()]
    examples = [Example(tuple(prompt), (tuple(chosen), tuple(rejected))) for prompt, chosen, rejected in sides]
    objective = DPO().objective(chat)
    known = with_reference(objective, examples, model, limit=Supervision().micro_tokens, pad_id=chat.pad_id)
    run_steps(job, meter, model, objective, known, chat.pad_id)


if __name__ == "__main__":
    serve(run)
