"""Palate's rollout engine: `generate` over all prompts, `batch` of them decoded at a time."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from bench.side import Job, Meter, serve
from palate.engine.generation import Generated, Sampling, generate
from palate.engine.seeding import uniforms
from palate.models import load_causal


def run(job: Job, meter: Meter) -> None:
    """Samples a completion for every prompt, one line a pass over the prompts; then the greedy ones, untimed."""
    model, chat, _ = load_causal(job.policy, device=job.device, dtype=job.dtype)
    prompts = [row["prompt"] for row in job.rows()]

    def answer(u: Tensor, sampling: Sampling) -> Generated:
        return generate(model, prompts, u=u, eos_id=chat.eos_id, pad_id=chat.pad_id, sampling=sampling, slots=job.batch)

    for iteration in range(job.warm_up + job.iterations):
        u = uniforms(job.seed, iteration, range(len(prompts)), [0] * len(prompts), job.new_tokens)
        meter.start()
        sampled = answer(u, Sampling())
        meter.lap(
            prompt_tokens=sum(map(len, prompts)),
            completion_tokens=int(sampled.mask.sum()),
            phases={},
        )
    greedy = answer(torch.zeros(len(prompts), job.new_tokens), Sampling(temperature=0))
    ids = [row[mask].tolist() for row, mask in zip(greedy.ids, greedy.mask, strict=True)]
    Path(job.greedy).write_text(json.dumps({"ids": ids}), encoding="utf-8")


if __name__ == "__main__":
    serve(run)
