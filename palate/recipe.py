"""The sections of a recipe. Each is a settings record; the loops' own settings stand flat inside their stage's section.

    [run]  [model]  [testbed]  [sft]  [reward]  [align]  [align.ppo]  [evaluate]

A section that is absent leaves its stage out. Wherever a section names data, `testbed` means the embedded world.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from palate.algorithms.online import Online
from palate.algorithms.policies import ALGORITHMS, PPO
from palate.algorithms.supervised import Supervision
from palate.engine.generation import Sampling
from palate.errors import RecipeError
from palate.settings import apply_overrides, build, inlined, load_symbol, load_toml, record

TESTBED = "testbed"
# What the online loop asks of an algorithm: the members of palate.algorithms.policies.OnlineAlgorithm.
_METHOD = ("needs", "epochs", "minibatches", "target_kl", "kl", "assign", "loss")

# What a rollout can be told besides its scores.
_SIGNALS = frozenset({"reference", "critic"})

Bad = Literal["stop", "skip"]
Files = str | tuple[str, ...]


@record
class Run:
    """What holds for the whole run."""

    name: str = Field("run", description="the run's directory is runs/NAME")
    seed: int = Field(0, ge=0, description="every random number of the run follows from it")
    threads: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto", description="CPU threads; auto takes every core"
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="auto picks CUDA, MPS or CPU and says so")


@record
class Scratch:
    """A model of Llama's shape made from nothing, with a byte-level BPE tokenizer trained on the run's own text."""

    hidden: int = Field(256, ge=8, description="size of a hidden state")
    layers: int = Field(4, ge=1, description="transformer blocks")
    heads: int = Field(4, ge=1, description="attention heads")
    vocabulary: int = Field(4096, ge=262, description="token ids, 256 bytes and 5 special ones among them")
    context: int = Field(512, ge=8, description="longest prompt + completion in tokens")


@record
class Model:
    """The model that the run starts from: a directory, a hub name, `testbed`, or one made from scratch."""

    path: str | None = Field(None, description="a Hugging Face directory, a hub name, or `testbed`")
    scratch: Scratch | None = Field(None, description="a model made from nothing")


@record
class Testbed:
    """How much of the embedded world is generated, and who annotates it."""

    demonstrations: int = Field(4000, ge=1, description="for SFT")
    pairs: int = Field(24_000, ge=1, description="annotated preference pairs for the reward model")
    heldout_pairs: int = Field(6000, ge=1, description="pairs on held-out phrasings, for its accuracy")
    random_labels: bool = Field(False, description="annotators toss a coin: the control that must not learn")
    biases: dict[str, float] = Field(default_factory=dict, description="what annotators like besides gold, by name")


@record
class SFT:
    """Supervised fine-tuning."""

    data: Files = Field(description="demonstrations: a file, or several of one format")
    heldout: Files | None = Field(None, description="held-out demonstrations; else some of the data, split by prompt")
    heldout_fraction: float = Field(0.05, gt=0, lt=1, description="how much is held out where no file is given")
    on_bad: Bad = Field("stop", description="what a bad row does")
    mapping: dict[str, Any] | None = Field(
        None, description="how the file is read; found by itself, and pinned in the run"
    )
    loop: Supervision = inlined(Supervision, epochs=2)


@record
class Reward:
    """The reward model."""

    data: Files = Field(description="preference pairs: a file, or several of one format")
    heldout: Files | None = Field(None, description="held-out pairs; else some of the data, split by prompt")
    heldout_fraction: float = Field(0.1, gt=0, lt=1, description="how much is held out where no file is given")
    on_bad: Bad = Field("stop", description="what a bad row does")
    mapping: dict[str, Any] | None = Field(
        None, description="how the file is read; found by itself, and pinned in the run"
    )
    model: str | None = Field(None, description="another trunk than the SFT model; it may be larger than the policy")
    pooling: Literal["last", "mean"] = Field(
        "last", description="the last real token's state, or the mean over the completion"
    )
    reference_samples: int = Field(256, ge=2, description="SFT completions whose mean score becomes 0")
    loop: Supervision = inlined(Supervision)


@record
class Align:
    """Alignment: the online loop and its algorithm."""

    prompts: Files = Field(description="prompts to train on: a file, or several of one format")
    on_bad: Bad = Field("stop", description="what a bad row does")
    mapping: dict[str, Any] | None = Field(
        None, description="how the file is read; found by itself, and pinned in the run"
    )
    algorithm: str = Field("ppo", description="the algorithm by name, or mine.py:MyPPO")
    reward: str = Field(
        "model",
        description="model (the run's), gold (testbed), a reward-model directory, or file.py:function",
    )
    reference: str = Field(
        "sft", description="sft, start (a snapshot of the policy as the stage begins), or a model directory"
    )
    reference_samples: int = Field(
        256, ge=2, description="completions of the policy as the stage begins that fix the score's mean and variance"
    )
    checkpoint_every: int = Field(10, ge=1, description="iterations between checkpoints")
    loop: Online = inlined(Online)
    ppo: PPO = Field(default_factory=PPO, description="settings of the algorithm ppo")
    settings: dict[str, Any] = Field(default_factory=dict, description="settings of an algorithm given by path")

    @property
    def method(self) -> Any:
        """The algorithm with its settings."""
        if self.algorithm in ALGORITHMS:
            return getattr(self, self.algorithm)
        if ":" not in self.algorithm:
            raise RecipeError(
                f'align.algorithm = "{self.algorithm}" was given. It must be one of {", ".join(ALGORITHMS)}, or a path '
                "such as mine.py:MyPPO. Correct the name."
            )
        method = build(load_symbol(self.algorithm, "algorithm"), self.settings, "align.settings")
        lacking = [name for name in _METHOD if not hasattr(method, name)]
        if lacking:
            raise RecipeError(
                f'align.algorithm = "{self.algorithm}" was given, which has no {", ".join(lacking)}. An algorithm has '
                f"{', '.join(_METHOD)}, as palate.PPO does. Add what it lacks."
            )
        if "reference" not in method.needs or not method.needs <= _SIGNALS:
            raise RecipeError(
                f'align.algorithm = "{self.algorithm}" was given, whose needs are {sorted(method.needs)}. The KL to '
                f"the reference is always measured, so needs holds reference, and otherwise only {sorted(_SIGNALS)}."
            )
        return method


@record
class Evaluate:
    """Before against after, on held-out prompts."""

    prompts: Files = Field(description="held-out prompts: a file, or several of one format")
    on_bad: Bad = Field("stop", description="what a bad row does")
    mapping: dict[str, Any] | None = Field(
        None, description="how the file is read; found by itself, and pinned in the run"
    )
    judge: Literal["heldout-reward", "reward", "gold"] = Field(
        "heldout-reward",
        description="a reward model trained on pairs that the other never saw, the training reward itself (no "
        "independent judge: for runs without pairs), or the testbed's truth",
    )
    count: int = Field(400, ge=1, description="prompts compared")
    sampling: Sampling = Field(default_factory=Sampling, description="the same for both models")
    best_of: int = Field(64, ge=2, description="n of best-of-n by gold, the yardstick (testbed only)")
    best_of_prompts: int = Field(128, ge=1, description="prompts on which best-of-n is measured")


@record
class Recipe:
    """A whole run."""

    run: Run = Field(default_factory=Run, description="what holds for the whole run")
    model: Model = Field(default_factory=Model, description="the model to start from")
    testbed: Testbed = Field(default_factory=Testbed, description="the embedded world")
    sft: SFT | None = Field(None, description="supervised fine-tuning")
    reward: Reward | None = Field(None, description="the reward model")
    align: Align | None = Field(None, description="alignment")
    evaluate: Evaluate | None = Field(None, description="before against after")


def files_of(files: Files) -> tuple[str, ...]:
    """The files that a setting names."""
    return (files,) if isinstance(files, str) else files


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads, overrides and checks a recipe file; data paths in it are relative to the file."""
    path = Path(path)
    return recipe_from(apply_overrides(located(load_toml(path), path.parent), overrides))


def demo_recipe(overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of the demo: the whole pipeline on the embedded world."""
    return load_recipe(Path(__file__).parent / "demo.toml", overrides)


def recipe_from(table: Mapping[str, Any]) -> Recipe:
    """Checks a recipe given as nested tables, the rules between sections included."""
    recipe = build(Recipe, table)
    _directory_name(recipe.run.name)
    _one_model(recipe.model)
    if recipe.model.scratch is not None:
        _even_heads(recipe.model.scratch)
    if recipe.align is not None:
        _whole_distribution(recipe.align.loop.sampling)
        _ = recipe.align.method
        _gold_knows("align.reward", recipe.align.reward, recipe.align.prompts)
    if recipe.evaluate is not None:
        _gold_knows("evaluate.judge", recipe.evaluate.judge, recipe.evaluate.prompts)
    return recipe


def located(table: dict[str, Any], directory: Path) -> dict[str, Any]:
    """Paths in a recipe file are relative to it, so that a recipe works from any directory."""
    for section, keys in PATHS.items():
        part = table.get(section)
        for key, words in keys.items():
            if isinstance(part, dict) and key in part and part[key] not in words:
                part[key] = _beside(part[key], directory, file_wanted=key in ("data", "heldout", "prompts"))
    return table


def _beside(value: Any, directory: Path, file_wanted: bool) -> Any:
    """The path seen from the recipe's directory; a model that is nowhere on disk may be one on the hub."""
    if isinstance(value, list):
        return [_beside(item, directory, file_wanted) for item in value]
    if not isinstance(value, str):
        return value
    path = Path(value.rpartition(":")[0] if ".py:" in value else value)
    file_wanted = file_wanted or path.suffix == ".py"
    beside = (directory / path).exists() or (file_wanted and not path.exists())
    return str(directory / value) if beside else value


# The settings that may name a path, and the words that each of them takes for something else.
PATHS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "model": {"path": (TESTBED,)},
    "sft": {"data": (TESTBED,), "heldout": ()},
    "reward": {"data": (TESTBED,), "heldout": (), "model": ()},
    "align": {
        "prompts": (TESTBED,),
        "reward": ("model", "gold"),
        "reference": ("sft", "start"),
        "algorithm": tuple(ALGORITHMS),
    },
    "evaluate": {"prompts": (TESTBED,)},
}


def _directory_name(name: str) -> None:
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise RecipeError(
            f"run.name = {name!r}: it names the run's directory, and is made of letters, digits, dots, dashes and "
            "underscores, the first of them a letter or digit. Give such a name; --runs says where it is to stand."
        )


def _even_heads(shape: Scratch) -> None:
    if shape.hidden % (2 * shape.heads):
        raise RecipeError(
            f"[model.scratch] has hidden = {shape.hidden} and heads = {shape.heads}. Every head takes an equal, even "
            f"share of the hidden state (rotary positions turn pairs). Give a hidden that is a multiple of "
            f"{2 * shape.heads}, or other heads."
        )


def _one_model(model: Model) -> None:
    if (model.path is None) == (model.scratch is None):
        given = "neither" if model.path is None else "both"
        raise RecipeError(
            f"[model] gives {given} of path and [model.scratch]. A run starts from exactly one model. Write "
            'path = "DIRECTORY" (or "testbed"), or a section [model.scratch].'
        )


def _gold_knows(setting: str, judge: str, prompts: Files) -> None:
    if judge == "gold" and prompts != TESTBED:
        section, _, _ = setting.partition(".")
        raise RecipeError(
            f'{setting} = "gold" was given with prompts of your own. Gold knows the testbed\'s questions only. Take a '
            f'reward model as judge, or {section}.prompts = "testbed".'
        )


def _whole_distribution(sampling: Sampling) -> None:
    if sampling.truncated:
        given = {"top_k": sampling.top_k, "top_p": sampling.top_p}
        cuts = [f"{name} = {value}" for name, value in given.items() if value is not None]
        raise RecipeError(
            f"align.sampling has {' and '.join(cuts)}. In training every token that the policy gives probability must "
            "be drawable: log-probabilities and KL are those of the whole distribution, and truncated samples make the "
            "ratio and the KL wrong (the KL even negative). Remove top_k and top_p; a lower temperature is allowed."
        )
    if sampling.temperature == 0:
        raise RecipeError(
            "align.sampling.temperature = 0 was given. Training needs samples, and at temperature 0 there is one "
            "completion a prompt. Give a temperature above 0; 1 is usual."
        )
