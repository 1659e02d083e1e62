"""How many floating-point operations the useful work of an iteration takes: the numerator of every fraction.

A parameter costs 2 operations at each token of a forward pass, and 6 at each token that is trained on (forward,
gradient of the weights, gradient of the inputs). Over the real tokens alone, with D those of whole documents
(prompt and completion), C those of completions, N the parameters of the layers and P those of the vocabulary
projection, which only completion tokens need:

    rollout     2·(N·D + P·C)
    PPO         rollout; old log-probabilities and reference 2·(N·D + P·C) each; reward model and critic 2·N·D each;
                then, a pass over the rollout, 6·(N·D + P·C) for the policy and 6·N·D for the critic
    SFT         6·(N·D + P·C)
    DPO         the same over both sides; the reference's log-probabilities were computed before
    reward      6·N·D

A critic on the policy's trunk takes none of its own, and a peer that keeps the sampler's log-probabilities has no
pass for them. Attention itself and everything elementwise are left out, so no side can reach 100 %; padding, tokens
after EOS and anything computed twice are not useful, so both sides are measured against the same work.
"""

from __future__ import annotations

from bench.shapes import Shape


def rollout(shape: Shape, documents: int, completions: int) -> int:
    """Of writing the completions: every token passes the layers once, with a cache."""
    return 2 * _policy(shape, documents, completions)


def ppo(shape: Shape, documents: int, completions: int, *, epochs: int, old_logprobs: bool, shared_critic: bool) -> int:
    """Of one iteration."""
    policy, trunk = _policy(shape, documents, completions), shape.body * documents
    critic = 0 if shared_critic else trunk
    scoring = (2 if old_logprobs else 1) * policy + trunk + critic
    return rollout(shape, documents, completions) + 2 * scoring + 6 * epochs * (policy + critic)


def sft(shape: Shape, documents: int, completions: int) -> int:
    """Of one step."""
    return 6 * _policy(shape, documents, completions)


def reward(shape: Shape, documents: int) -> int:
    """Of one step; a pair is two documents."""
    return 6 * shape.body * documents


def _policy(shape: Shape, documents: int, completions: int) -> int:
    return shape.body * documents + shape.head * completions
