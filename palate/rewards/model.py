"""A reward model as a judge: with the policy's tokenizer it reads the generated ids as they are; with another it reads
the text through its own template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from palate.data.chat import ChatFormat
from palate.data.layout import Layout, packed, padded
from palate.data.layout import completions as right_padded
from palate.engine.interfaces import Completions
from palate.models.heads import RewardModel


@dataclass(frozen=True)
class ModelReward:
    """A trained reward model; `chat` is its own format, `rereads` says that the policy's ids mean nothing to it."""

    name: str
    model: RewardModel
    chat: ChatFormat
    rereads: bool = False
    batch: int = 64

    @torch.no_grad()
    def score(self, completions: Completions) -> Tensor:
        """The model's scores, [B]."""
        if self.rereads:
            prompts = [self.chat.encode_prompt(prompt) for prompt in completions.prompts]
            ids, mask = right_padded(
                [self.chat.encode_completion(text) for text in completions.texts], self.chat.pad_id
            )
        else:
            prompts, ids, mask = completions.prompt_ids, completions.ids, completions.mask
        lengths = torch.tensor([len(prompt) for prompt in prompts]) + mask.sum(dim=1).cpu()
        scores = torch.zeros(len(prompts))
        for rows in lengths.argsort(stable=True).split(self.batch):
            layout = self._layout([prompts[row] for row in rows.tolist()], ids[rows], mask[rows])
            scores[rows] = self.model.scores(layout.to(ids.device)).float().cpu()
        return scores

    def _layout(self, prompts: Sequence[Sequence[int]], ids: Tensor, mask: Tensor) -> Layout:
        if self.model.supports_packing:
            return packed(prompts, ids, mask)
        return padded(prompts, ids, mask, pad_id=self.chat.pad_id)
