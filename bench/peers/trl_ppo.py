"""TRL's PPO trainer (the experimental one of 1.12), timed from outside.

The trainer says when an iteration ends, through a callback; the phases inside it are told from the functions it calls:
its generation, the first forward pass that has a gradient, its collections of garbage. It has no pass for old
log-probabilities to pay for: it takes those of the sampler.
"""

from __future__ import annotations

import gc
import tempfile
import time
from types import SimpleNamespace

import torch
import trl.experimental.ppo.ppo_trainer as trainer_module  # pyright: ignore[reportMissingImports]
from datasets import Dataset  # pyright: ignore[reportMissingImports]
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer  # pyright: ignore[reportMissingImports]

from bench.side import Job, Meter, serve


class Watch(TrainerCallback):
    """Laps the meter as iterations end, and times what the trainer calls in between."""

    def __init__(self, meter: Meter, prompt_tokens: int, pad_id: int):
        self.meter, self.prompt_tokens, self.pad_id = meter, prompt_tokens, pad_id
        self.completion_tokens = 0
        self.garbage: dict[str, float] = {}
        self.moments: dict[str, float] = {}
        trainer_module.gc = SimpleNamespace(collect=self._collect)
        for name, watched in (
            ("batch_generation", self._generation),
            ("forward", self._forward),
            ("truncate_response", self._truncation),
        ):
            setattr(trainer_module, name, watched(getattr(trainer_module, name)))

    def on_train_begin(self, *_arguments, **_more) -> None:
        """The first iteration begins."""
        self._begin()

    def on_step_end(self, *_arguments, **_more) -> None:
        """An iteration is over; the collection of garbage that follows belongs to the next."""
        at = self.moments
        before, while_scoring = self.garbage.get("begun", 0.0), self.garbage.get("sampled", 0.0)
        phases = {
            "rollout": at["sampled"] - at["sampling"],
            "score": at["updating"] - at["sampled"] - while_scoring,
            "update": time.perf_counter() - at["updating"],
            "garbage": before + while_scoring,
            "other": at["sampling"] - at["begun"] - before,
        }
        self.meter.lap(prompt_tokens=self.prompt_tokens, completion_tokens=self.completion_tokens, phases=phases)
        self._begin()

    def _begin(self) -> None:
        self.completion_tokens = 0
        self.garbage = {}
        self.moments = {"begun": time.perf_counter()}

    def _collect(self) -> None:
        began = time.perf_counter()
        gc.collect()
        latest = list(self.moments)[-1]
        self.garbage[latest] = self.garbage.get(latest, 0.0) + time.perf_counter() - began

    def _generation(self, generate):
        def watched(*arguments, **more):
            self.moments["sampling"] = time.perf_counter()
            written = generate(*arguments, **more)
            self.moments["sampled"] = time.perf_counter()
            return written

        return watched

    def _forward(self, forward):
        def watched(*arguments, **more):
            if torch.is_grad_enabled():
                self.moments.setdefault("updating", time.perf_counter())
            return forward(*arguments, **more)

        return watched

    def _truncation(self, truncate):
        def watched(*arguments, **more):
            kept = truncate(*arguments, **more)
            self.completion_tokens += int((kept != self.pad_id).sum())
            return kept

        return watched


def run(job: Job, meter: Meter) -> None:
    """Trains for the job's iterations, one line each."""
    tokenizer = AutoTokenizer.from_pretrained(job.policy, padding_side="left")
    prompts = [row["prompt"] for row in job.rows()]
    data = Dataset.from_list([{"input_ids": ids} for ids in prompts])
    dtype = getattr(torch, job.dtype)
    policy, reference = (AutoModelForCausalLM.from_pretrained(job.policy, dtype=dtype) for _ in range(2))
    judge, critic = (
        AutoModelForSequenceClassification.from_pretrained(job.reward, num_labels=1, dtype=dtype) for _ in range(2)
    )
    with tempfile.TemporaryDirectory() as directory:
        settings = PPOConfig(
            output_dir=directory,
            per_device_train_batch_size=job.batch,
            gradient_accumulation_steps=1,
            num_mini_batches=job.minibatches,
            num_ppo_epochs=job.epochs,
            local_rollout_forward_batch_size=job.batch,
            total_episodes=job.batch * (job.warm_up + job.iterations),
            response_length=job.new_tokens,
            stop_token="eos",
            temperature=1.0,
            learning_rate=job.learning_rate,
            seed=job.seed,
            use_cpu=job.device == "cpu",
            bf16=False,  # not in mixed precision: the weights themselves have the job's type
            gradient_checkpointing=False,  # which would cost it a forward pass
            num_sample_generations=0,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = PPOTrainer(
            args=settings,
            processing_class=tokenizer,
            model=policy,
            ref_model=reference,
            reward_model=judge,
            value_model=critic,
            train_dataset=data,
            eval_dataset=data,
            callbacks=[Watch(meter, sum(map(len, prompts)), tokenizer.pad_token_id)],
        )
        trainer.train()


if __name__ == "__main__":
    serve(run)
