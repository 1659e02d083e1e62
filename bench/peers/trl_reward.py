"""TRL's reward trainer, on pairs."""

from __future__ import annotations

import tempfile

import torch
from datasets import Dataset  # pyright: ignore[reportMissingImports]
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from trl import RewardConfig, RewardTrainer  # pyright: ignore[reportMissingImports]

from bench.peers.trl_supervised import Watch, settings, tokens_of
from bench.side import Job, Meter, serve


def run(job: Job, meter: Meter) -> None:
    """Trains on the job's pairs, one line a step."""
    tokenizer = AutoTokenizer.from_pretrained(job.reward)
    model = AutoModelForSequenceClassification.from_pretrained(
        job.reward, num_labels=1, dtype=getattr(torch, job.dtype)
    )
    data = Dataset.from_list(
        [
            {"chosen_ids": row["prompt"] + row["chosen"], "rejected_ids": row["prompt"] + row["rejected"]}
            for row in job.rows()
        ]
    )
    watch = Watch(meter, tokens_of(job, ("chosen", "rejected")))
    with tempfile.TemporaryDirectory() as directory:
        trainer = RewardTrainer(
            model=model,
            args=RewardConfig(**settings(job, directory)),
            train_dataset=data,
            processing_class=tokenizer,
            callbacks=[watch],
        )
        trainer.compute_loss = watch.first_loss(trainer.compute_loss)
        trainer.train()


if __name__ == "__main__":
    serve(run)
