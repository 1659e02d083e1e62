"""Models behind Palate's protocol: transformers language models, reward models, critics, and how they reach
the disk."""

from palate.models.causal import CausalLM
from palate.models.decoder import CachedDecoder, RecomputingDecoder
from palate.models.fused import FusedDecoder
from palate.models.heads import Critic, Pooling, RewardModel, SharedCritic
from palate.models.loading import load_causal, load_reward_model, save_causal, save_reward_model, weight_hash
from palate.models.scratch import scratch_model

__all__ = [
    "CachedDecoder",
    "CausalLM",
    "Critic",
    "FusedDecoder",
    "Pooling",
    "RecomputingDecoder",
    "RewardModel",
    "SharedCritic",
    "load_causal",
    "load_reward_model",
    "save_causal",
    "save_reward_model",
    "scratch_model",
    "weight_hash",
]
