"""The capability anchor: how likely held-out demonstrations still are to the policy while a reward changes it.

It is no term of the reward. The likelihood of demonstrations is a number of the policy and not of a completion: added
to the scores it would be the same for every completion of an iteration, and a policy gradient does not see a constant.
What holds the policy to the demonstrations is a gradient of theirs (PPO-ptx), or an end of the stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from palate.algorithms.objectives import Example, Imitation, examples_of
from palate.algorithms.supervised import held_out
from palate.errors import RecipeError
from palate.models import CausalLM
from palate.stages.context import Context
from palate.stages.material import Loaded, generated, records_of, split


@dataclass(frozen=True)
class HeldOutText:
    """Demonstrations that nothing was trained on."""

    objective: Imitation
    examples: Sequence[Example]
    micro_tokens: int
    pad_id: int

    def loss(self, model: CausalLM) -> float:
        """The mean −log π of a demonstration's token, in nats."""
        figures = held_out(model, self.objective, self.examples, limit=self.micro_tokens, pad_id=self.pad_id)
        return figures["loss"]


@dataclass(frozen=True)
class Anchor:
    """Held-out demonstrations, and what they cost the policy as the stage begins."""

    text: HeldOutText
    before: float

    def figures(self, model: CausalLM) -> dict[str, float]:
        """The mean −log π of a demonstration's token, in nats, and how far it rose since the stage began."""
        loss = self.text.loss(model)
        return {"anchor/loss": loss, "anchor/rise": loss - self.before}


def anchor_of(context: Context, policy: Loaded) -> Anchor | None:
    """The anchor that the recipe asks for, None where it asks for none; `policy` is as the stage begins."""
    count = context.align.anchor
    if count == 0:
        return None
    text = held_out_text(context, policy, count, context.align.loop.micro_tokens)
    if text is None:
        raise RecipeError(
            f"align.anchor = {count} was given, and none of the held-out demonstrations fits the model's context of "
            f"{policy.model.context} tokens. The anchor needs one at least. Leave it out, or give other demonstrations."
        )
    return Anchor(text, text.loss(policy.model))


def held_out_text(context: Context, policy: Loaded, count: int, micro_tokens: int) -> HeldOutText | None:
    """At most `count` held-out demonstrations of [sft], evenly spread over those that fit the model's context; None
    where none does."""
    files = context.data.get("sft")
    records = generated(context.recipe, "sft") if files is None else records_of(files)
    _, heldout = split(context, "sft", records)
    objective, limit = Imitation(policy.chat), policy.model.context
    fitting = [one for one in examples_of(objective, heldout) if limit is None or one.longest <= limit]
    chosen = [fitting[index * len(fitting) // count] for index in range(count)] if count < len(fitting) else fitting
    return HeldOutText(objective, chosen, micro_tokens, policy.chat.pad_id) if chosen else None
