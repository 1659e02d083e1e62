"""`palate lab`: reproducible experiments on the embedded world, each with its page."""

from palate.stages.lab.framework import Experiment, conduct
from palate.stages.lab.registry import EXPERIMENTS, experiment_of

__all__ = ["EXPERIMENTS", "Experiment", "conduct", "experiment_of"]
