"""The embedded world: small questions with known answers, replies in many manners, and gold that judges any of them.

Its annotators, demonstrations, preference pairs and base model let a whole run be measured against the truth.
"""

from palate.testbed.annotators import (
    BIASES,
    TEMPERATURE,
    Annotator,
    agreement,
    ceiling,
    expected_accuracy,
)
from palate.testbed.comparisons import pairs
from palate.testbed.corpus import base_corpus, demonstrations, prompts
from palate.testbed.gold import correct, gold, terms
from palate.testbed.pretrain import base_model, pretrain
from palate.testbed.world import perfect

__all__ = [
    "BIASES",
    "TEMPERATURE",
    "Annotator",
    "agreement",
    "base_corpus",
    "base_model",
    "ceiling",
    "correct",
    "demonstrations",
    "expected_accuracy",
    "gold",
    "pairs",
    "perfect",
    "pretrain",
    "prompts",
    "terms",
]
