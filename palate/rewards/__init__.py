"""What scores a completion: reward models, ensembles and sums of rewards, rules, verifiers, a user's function."""

from palate.rewards.checking import checked_scores, judged
from palate.rewards.combined import EnsembleReward, Term, WeightedReward
from palate.rewards.function import FunctionReward, StepReward
from palate.rewards.isolated import IsolatedFunction
from palate.rewards.model import AttributeReward, ModelReward
from palate.rewards.rules import RULES, RuleReward, Verifier
from palate.rewards.sources import Source, source_of, sources_of

__all__ = [
    "RULES",
    "AttributeReward",
    "EnsembleReward",
    "FunctionReward",
    "IsolatedFunction",
    "ModelReward",
    "RuleReward",
    "Source",
    "StepReward",
    "Term",
    "Verifier",
    "WeightedReward",
    "checked_scores",
    "judged",
    "source_of",
    "sources_of",
]
