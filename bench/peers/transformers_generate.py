"""transformers' `generate`, which TRL samples with: prompts padded on the left, one batch after the other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from bench.side import Job, Meter, serve


def run(job: Job, meter: Meter) -> None:
    """Samples a completion for every prompt, one line a pass over the prompts; then the greedy ones, untimed."""
    model: Any = AutoModelForCausalLM.from_pretrained(job.policy, dtype=getattr(torch, job.dtype))
    model.to(job.device).eval()
    tokenizer = AutoTokenizer.from_pretrained(job.policy, padding_side="left")
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    prompts = [row["prompt"] for row in job.rows()]

    def answer(rows: list[list[int]], **settings) -> tuple[Tensor, tuple[Tensor, ...] | None]:
        inputs = tokenizer.pad({"input_ids": rows}, return_tensors="pt").to(job.device)
        config = GenerationConfig(
            max_new_tokens=job.new_tokens,
            eos_token_id=eos,
            pad_token_id=pad,
            return_dict_in_generate=True,
            **settings,
        )
        written = model.generate(**inputs, generation_config=config)
        return written.sequences[:, inputs["input_ids"].shape[1] :], written.scores

    for _ in range(job.warm_up + job.iterations):
        meter.start()
        sampled = [
            answer(prompts[start : start + job.batch], do_sample=True, temperature=1.0, top_k=0, top_p=1.0)[0]
            for start in range(0, len(prompts), job.batch)
        ]
        meter.lap(
            prompt_tokens=sum(map(len, prompts)),
            completion_tokens=sum(length(row, pad) for part in sampled for row in part.tolist()),
            phases={},
        )
    greedy: dict[str, list] = {"ids": [], "gaps": []}
    for start in range(0, len(prompts), job.batch):
        ids, scores = answer(prompts[start : start + job.batch], do_sample=False, output_scores=True)
        assert scores is not None
        best = torch.stack([step.float().topk(2, dim=-1).values for step in scores], dim=1)
        greedy["gaps"] += (best[..., 0] - best[..., 1]).tolist()
        greedy["ids"] += [row[: length(row, pad)] for row in ids.tolist()]
    Path(job.greedy).write_text(json.dumps(greedy), encoding="utf-8")


def length(row: list[int], pad: int) -> int:
    """Real tokens of a completion, EOS included; the models never write padding themselves."""
    return len(row) - row.count(pad)


if __name__ == "__main__":
    serve(run)
