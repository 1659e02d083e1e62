"""A reward model as a judge: with the policy's tokenizer it reads the generated ids as they are; with another it reads
the text through its own template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from palate.data.chat import ChatFormat
from palate.data.layout import Layout, packed, padded
from palate.data.layout import completions as right_padded
from palate.engine.interfaces import Completions, Judgement
from palate.models.heads import RewardModel


@dataclass(frozen=True)
class ModelReward:
    """A trained reward model; `chat` is its own format, `rereads` says that the policy's ids mean nothing to it."""

    name: str
    model: RewardModel
    chat: ChatFormat
    rereads: bool = False
    batch: int = 64

    def score(self, completions: Completions) -> Tensor:
        """The model's scores, [B]; the mean of several heads."""
        return self.columns(completions).mean(dim=1)

    @torch.no_grad()
    def columns(self, completions: Completions) -> Tensor:
        """The scores of each head, [B, K]."""
        if self.rereads:
            prompts = [self.chat.encode_prompt(prompt) for prompt in completions.prompts]
            ids, mask = right_padded(
                [self.chat.encode_completion(text) for text in completions.texts], self.chat.pad_id
            )
        else:
            prompts, ids, mask = completions.prompt_ids, completions.ids, completions.mask
        lengths = torch.tensor([len(prompt) for prompt in prompts]) + mask.sum(dim=1).cpu()
        scores = torch.zeros(len(prompts), 1 if self.model.head.dim() == 1 else len(self.model.head))
        for rows in lengths.argsort(stable=True).split(self.batch):
            layout = self._layout([prompts[row] for row in rows.tolist()], ids[rows], mask[rows])
            scores[rows] = self.model.scores(layout.to(ids.device)).float().cpu().view(len(rows), -1)
        return scores

    def _layout(self, prompts: Sequence[Sequence[int]], ids: Tensor, mask: Tensor) -> Layout:
        if self.model.supports_packing:
            return packed(prompts, ids, mask)
        return padded(prompts, ids, mask, pad_id=self.chat.pad_id)


@dataclass(frozen=True)
class AttributeReward:
    """A reward model that scores several attributes, as their weighted sum: s = Σ_a w_a·s_a, each s_a a part NAME/a."""

    member: ModelReward
    weights: Mapping[str, float]

    @property
    def name(self) -> str:
        """What it is called."""
        return self.member.name

    def score(self, completions: Completions) -> Tensor:
        """The sums, [B]."""
        return self.judge(completions).scores

    def judge(self, completions: Completions) -> Judgement:
        """The sums, and each attribute's own scores."""
        columns = self.member.columns(completions)
        named = dict(zip(self.member.model.attributes, columns.unbind(dim=1), strict=True))
        total = torch.zeros(len(columns))
        for attribute, weight in self.weights.items():
            total += weight * named[attribute]
        return Judgement(total, {f"{self.name}/{attribute}": scores for attribute, scores in named.items()})
