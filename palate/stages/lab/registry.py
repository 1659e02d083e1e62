"""The experiments by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from palate.errors import UsageError
from palate.settings import did_you_mean
from palate.stages.lab import anchoring, asking, candidates, growth, hacking, leashes, objectives, peaks, pooling
from palate.stages.lab.framework import Experiment

EXPERIMENTS: Mapping[str, Callable[[], Experiment]] = {
    "hacking": hacking.experiment,
    "kl": leashes.experiment,
    "overoptimisation": peaks.experiment,
    "pooling": pooling.experiment,
    "objectives": objectives.experiment,
    "length": growth.experiment,
    "sampling": candidates.experiment,
    "anchor": anchoring.experiment,
    "rounds": asking.experiment,
}


def experiment_of(name: str, bias: str | None = None) -> Experiment:
    """The experiment; UsageError where there is none of the name, or a bias is none of `hacking`'s."""
    if name not in EXPERIMENTS:
        raise UsageError(
            f"{name!r} was asked for. palate lab knows {', '.join(EXPERIMENTS)}. {did_you_mean(name, EXPERIMENTS)}"
        )
    if bias is None:
        return EXPERIMENTS[name]()
    if name != "hacking" or bias not in hacking.BIASES:
        raise UsageError(
            f"--bias {bias} was given with the experiment {name}. A bias is one of {', '.join(hacking.BIASES)}, and "
            "belongs to hacking. Correct it, or leave it out."
        )
    return hacking.experiment(bias)
