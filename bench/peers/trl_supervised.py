"""What TRL's supervised trainers share here: their settings, and the meter lapped as their steps end."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from bench.side import Job, Meter


def settings(job: Job, directory: str) -> dict[str, Any]:
    """One optimiser step takes `batch` rows in the file's order; nothing is saved or reported."""
    return {
        "output_dir": directory,
        "per_device_train_batch_size": job.batch,
        "gradient_accumulation_steps": 1,
        "num_train_epochs": 1,
        "train_sampling_strategy": "sequential",
        "dataloader_drop_last": True,
        "max_length": None,
        "learning_rate": job.learning_rate,
        "lr_scheduler_type": "constant",
        "seed": job.seed,
        "use_cpu": job.device == "cpu",
        "bf16": False,  # not in mixed precision: the weights themselves have the job's type
        "gradient_checkpointing": False,  # which would cost it a forward pass
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


class Watch(TrainerCallback):
    """Laps the meter as steps end; `tokens` holds each step's (prompt, completion) tokens."""

    def __init__(self, meter: Meter, tokens: list[tuple[int, int]]):
        self.meter, self.tokens = meter, iter(tokens)
        self.losses: list[float] = []

    def on_train_begin(self, *_arguments, **_more) -> None:
        """The first step begins, data loading included."""
        self.meter.start()

    def on_step_end(self, *_arguments, **_more) -> None:
        """A step is over."""
        prompt, completion = next(self.tokens)
        loss = {"loss": self.losses[-1]} if self.losses else {}
        self.losses.clear()
        self.meter.lap(prompt_tokens=prompt, completion_tokens=completion, phases={}, **loss)

    def first_loss(self, compute_loss):
        """Wraps a trainer's `compute_loss` so that the first step's loss is kept: both sides must agree on it.

        Later ones are left alone, for reading a loss would make a GPU wait.
        """
        seen = False

        def watched(*arguments, **more):
            nonlocal seen
            loss = compute_loss(*arguments, **more)
            if not seen:
                self.losses.append(float(loss.detach()))
                seen = True
            return loss

        return watched


def tokens_of(job: Job, sides: tuple[str, ...]) -> list[tuple[int, int]]:
    """The real tokens of each step: of prompts, counted once a side, and of completions."""
    rows = job.rows()
    steps = [rows[start : start + job.batch] for start in range(0, len(rows), job.batch)]
    return [
        (
            sum(len(row["prompt"]) * len(sides) for row in step),
            sum(len(row[side]) for row in step for side in sides),
        )
        for step in steps
    ]
