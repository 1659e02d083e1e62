"""Palate's PPO iteration: policy, reference, reward model and critic as `palate align` puts them together."""

from __future__ import annotations

import time

import torch

from bench.side import Job, Meter, serve
from palate.algorithms.online import Online, OnlineLoop
from palate.algorithms.policies import KL, PPO
from palate.algorithms.shaping import Shaping
from palate.engine.seeding import generator
from palate.models import Critic, SharedCritic, load_causal, load_reward_model
from palate.ops import Moments
from palate.records import Prompt
from palate.rewards import ModelReward


def loop_of(job: Job) -> OnlineLoop:
    """The loop, with the peer's settings: no clipping of the score, no price on a missing EOS, a fixed KL price."""
    policy, chat, _ = load_causal(job.policy, device=job.device, dtype=job.dtype)
    reference, _, _ = load_causal(job.policy, device=job.device, dtype=job.dtype)
    reference.requires_grad_(False)
    judge, judge_chat, _ = load_reward_model(job.reward, device=job.device, dtype=job.dtype)
    if job.critic == "shared":
        critic = SharedCritic(policy, generator=generator(job.seed, "critic head")).to(job.device)
    else:
        critic = Critic.from_reward_model(judge)
    rows = job.rows()
    return OnlineLoop(
        policy=policy,
        reference=reference,
        critic=critic,
        reward=ModelReward("reward_model", judge, judge_chat),
        algorithm=PPO(
            epochs=job.epochs,
            minibatches=job.minibatches,
            value_clip=0.2,
            value_weight=0.1,
            kl=KL(kind="fixed", coef=0.05),
        ),
        prompts=[Prompt.of(row["text"]) for row in rows],
        prompt_ids=[tuple(row["prompt"]) for row in rows],
        codec=chat,
        settings=Online(
            iterations=job.warm_up + job.iterations,
            batch=job.batch,
            max_new_tokens=job.new_tokens,
            learning_rate=job.learning_rate,
            shaping=Shaping(normalise="none", missing_eos_penalty=0.0),
        ),
        critic_learning_rate=job.learning_rate,
        seed=job.seed,
    )


def run(job: Job, meter: Meter) -> None:
    """Iterates, one line each, with the loop's own times of its phases."""
    loop = loop_of(job)
    steppers = loop.steppers()
    state = loop.start(Moments(*torch.zeros(3, dtype=torch.float64)))
    meter.start()
    for _ in range(job.warm_up + job.iterations):
        began = time.perf_counter()
        done = loop.iterate(state, steppers)
        seconds = time.perf_counter() - began
        state, row = done.state, done.row
        phases = {name.removeprefix("time/"): value for name, value in row.items() if name.startswith("time/")}
        completion = round(row["length/mean"] * loop.settings.batch)
        meter.lap(
            prompt_tokens=int(row["tokens/useful"]) - completion,
            completion_tokens=completion,
            padded_tokens=int(row["tokens/padded"]),
            phases={**phases, "other": seconds - sum(phases.values())},
            ended=row["length/eos_rate"],
        )


if __name__ == "__main__":
    serve(run)
