"""Palate's step of a reward model, on pairs."""

from __future__ import annotations

from bench.ours.supervised import run_steps
from bench.side import Job, Meter, serve
from palate.algorithms.objectives import Example, Preference
from palate.models import load_reward_model


def run(job: Job, meter: Meter) -> None:
    """Trains on the job's pairs, one line a step."""
    model, chat, _ = load_reward_model(job.reward, device=job.device, dtype=job.dtype)
    sides = [(row["prompt"], row["chosen"], row["rejected"]) for row in job.rows()]
    examples = [
        Example(tuple(prompt), (tuple(chosen), tuple(rejected)), (0.0, 1.0)) for prompt, chosen, rejected in sides
    ]
    run_steps(job, meter, model, Preference(chat), examples, chat.pad_id)


if __name__ == "__main__":
    serve(run)
