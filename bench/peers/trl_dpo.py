"""TRL's DPO trainer, on pairs; the reference's log-probabilities are there before the first step."""

from __future__ import annotations

import tempfile

import torch
from datasets import Dataset  # pyright: ignore[reportMissingImports]
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer  # pyright: ignore[reportMissingImports]

from bench.inputs import text
from bench.peers.trl_supervised import Watch, settings, tokens_of
from bench.side import Job, Meter, serve


def run(job: Job, meter: Meter) -> None:
    """Trains on the job's pairs, one line a step."""
    tokenizer = AutoTokenizer.from_pretrained(job.policy)
    model = AutoModelForCausalLM.from_pretrained(job.policy, dtype=getattr(torch, job.dtype))
    rows = job.rows()
    # It takes no token ids, so it gets the words; the space is where they part.
    data = [{name: " " * (name != "prompt") + text(ids) for name, ids in row.items()} for row in rows]
    watch = Watch(meter, tokens_of(job, ("chosen", "rejected")))
    with tempfile.TemporaryDirectory() as directory:
        trainer = DPOTrainer(
            model=model,
            args=DPOConfig(**settings(job, directory), precompute_ref_log_probs=True),
            train_dataset=Dataset.from_list(data),
            processing_class=tokenizer,
            callbacks=[watch],
        )
        for row, read in zip(rows, trainer.train_dataset, strict=True):
            assert all(ids == read[f"{name}_ids"] for name, ids in row.items()), "other ids than were given"
        trainer.compute_loss = watch.first_loss(trainer.compute_loss)
        trainer.train()


if __name__ == "__main__":
    serve(run)
