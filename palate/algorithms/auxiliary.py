"""An objective of the supervised loop whose gradient the online loop adds to each of its own.

With demonstrations or plain text it is PPO-ptx, which keeps what alignment would forget (Ouyang et al., 2203.02155,
eq. 2).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from palate.algorithms.objectives import Example, Objective
from palate.algorithms.supervised import Reader
from palate.engine.seeding import permutation
from palate.errors import TrainingError
from palate.settings import record


@record
class Mix:
    """What is mixed into every update of alignment."""

    data: str | tuple[str, ...] = Field(
        "sft",
        description="demonstrations: sft, those that the run was fine-tuned on, or a file, or several of one format",
    )
    weight: float = Field(1.0, gt=0, description="of its loss, a mean over tokens in nats, beside the policy's")
    batch_tokens: int = Field(2048, ge=1, description="tokens of it that go with each optimiser step")


@dataclass(frozen=True)
class Auxiliary:
    """L = L_policy + weight·L_objective, where L_objective is the mean loss of some `batch_tokens` of examples.

    Which examples go with a minibatch is a function of (seed, iteration, number of the minibatch).
    """

    objective: Objective
    examples: Sequence[Example]
    weight: float
    batch_tokens: int
    pad_id: int

    def add_gradient(self, model: Any, seed: int, iteration: int, number: int, micro_tokens: int) -> float:
        """Adds the gradient of weight·L_objective to the model's; returns L_objective."""
        reader = Reader(model, micro_tokens, self.pad_id)
        objective, examples = reader.planned(self.objective, list(self._drawn(seed, iteration, number)))
        count = sum(objective.count(example) for example in examples) or 1
        total = 0.0
        for batch in reader.batches(examples):
            loss = objective.evaluate(model, batch).losses.sum() / count
            (self.weight * loss).backward()
            total += float(loss.detach())
        if not math.isfinite(total):
            raise TrainingError(
                f"The auxiliary loss is {total} at iteration {iteration + 1}: no step was taken and the last "
                "checkpoint is good. Lower the learning rate, or look at the examples that are mixed in."
            )
        return total

    def _drawn(self, seed: int, iteration: int, number: int) -> Iterator[Example]:
        """Examples in a random order until they hold `batch_tokens`; one at least, none twice."""
        held = 0
        for row in permutation(len(self.examples), seed, "auxiliary", iteration, number).tolist():
            held += self.examples[row].tokens
            yield self.examples[row]
            if held >= self.batch_tokens:
                return
