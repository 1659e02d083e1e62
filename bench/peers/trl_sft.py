"""TRL's SFT trainer, loss on the completions alone."""

from __future__ import annotations

import tempfile

import torch
from datasets import Dataset  # pyright: ignore[reportMissingImports]
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer  # pyright: ignore[reportMissingImports]

from bench.peers.trl_supervised import Watch, settings, tokens_of
from bench.side import Job, Meter, serve


def run(job: Job, meter: Meter) -> None:
    """Trains on the job's rows, one line a step."""
    tokenizer = AutoTokenizer.from_pretrained(job.policy)
    model = AutoModelForCausalLM.from_pretrained(job.policy, dtype=getattr(torch, job.dtype))
    data = Dataset.from_list(
        [
            {
                "input_ids": row["prompt"] + row["completion"],
                "labels": [-100] * len(row["prompt"]) + row["completion"],
            }
            for row in job.rows()
        ]
    )
    watch = Watch(meter, tokens_of(job, ("completion",)))
    with tempfile.TemporaryDirectory() as directory:
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(**settings(job, directory), packing=False),
            train_dataset=data,
            processing_class=tokenizer,
            callbacks=[watch],
        )
        trainer.compute_loss = watch.first_loss(trainer.compute_loss)
        trainer.train()


if __name__ == "__main__":
    serve(run)
