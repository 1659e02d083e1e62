"""Palate takes a language model from demonstrations and human preferences to an aligned model, and proves each
stage."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from palate.algorithms.policies import PPO
    from palate.errors import PalateError
    from palate.stages.calls import align, evaluate, load_policy, load_reward_model, reward, run, sft

__version__ = "0.1.0"

# Names are loaded when they are first asked for (PEP 562): `import palate` costs nothing.
_HOMES = {
    "PPO": "palate.algorithms.policies",
    "PalateError": "palate.errors",
    "align": "palate.stages.calls",
    "evaluate": "palate.stages.calls",
    "load_policy": "palate.stages.calls",
    "load_reward_model": "palate.stages.calls",
    "reward": "palate.stages.calls",
    "run": "palate.stages.calls",
    "sft": "palate.stages.calls",
}

__all__ = [
    "PPO",
    "PalateError",
    "__version__",
    "align",
    "evaluate",
    "load_policy",
    "load_reward_model",
    "reward",
    "run",
    "sft",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in ("losses", "ops", "testbed"):
        return import_module(f"palate.{name}")
    raise AttributeError(f"module 'palate' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
