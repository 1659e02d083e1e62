"""What scores a completion: a reward model, a user's function."""

from palate.rewards.checking import checked_scores
from palate.rewards.function import FunctionReward
from palate.rewards.model import ModelReward

__all__ = ["FunctionReward", "ModelReward", "checked_scores"]
