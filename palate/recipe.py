"""The sections of a recipe. Each is a settings record; the loops' own settings stand flat inside their stage's section.

    [run]  [model]  [testbed]  [sft]  [reward]  [align]  [align.ppo]  [evaluate]  [rounds]

A section that is absent leaves its stage out. Wherever a section names data, `testbed` means the embedded world.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from palate.algorithms.auxiliary import Mix
from palate.algorithms.direct import DIRECT, DPO, IPO, KTO, ORPO, Hinge, SimPO
from palate.algorithms.makers import MAKERS, SPIN, OnlineDPO, Rejection
from palate.algorithms.online import Online
from palate.algorithms.parts import SIGNALS
from palate.algorithms.policies import (
    A2C,
    ALGORITHMS,
    DAPO,
    GRPO,
    GSPO,
    PPO,
    REINFORCE,
    RLOO,
    DrGRPO,
    ReinforcePlusPlus,
    ReMax,
)
from palate.algorithms.supervised import Supervision
from palate.engine.generation import Sampling
from palate.errors import RecipeError
from palate.rewards.sources import WORDS, Source, sources_of
from palate.settings import apply_overrides, build, inlined, load_symbol, load_toml, record, resolve

TESTBED = "testbed"
# What reward.data takes for the votes of [rounds] alone.
FEEDBACK = "feedback"
# What rounds.feedback takes for anything but a function of the user's own.
RATERS = ("gold", "people", "judge")
# What align.mix takes for the run's own demonstrations.
MIXED = "sft"
# What align.watch.judge takes for anything but a reward-model directory.
WATCHERS = ("auto", "gold", "none")
# What the online loop asks of an algorithm: the members of palate.algorithms.parts.OnlineAlgorithm.
_METHOD = ("needs", "samples", "epochs", "minibatches", "target_kl", "kl", "assign", "loss")

# Every algorithm that has a name: on the online loop, on data that is there, on data that it makes.
METHODS: Mapping[str, Any] = {**ALGORITHMS, **DIRECT, **MAKERS}

# What a method off the online loop takes of that loop's settings: how the policy answers, and what a cut answer costs.
ANSWERING = ("max_new_tokens", "slots", "sampling", "shaping")

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
    gradient_checkpointing: bool = Field(
        False,
        description="layers keep their input alone for the way back and compute the rest again: less memory, a third "
        "more time, the same result",
    )


@record
class Testbed:
    """How much of the embedded world is generated, and who annotates it."""

    demonstrations: int = Field(4000, ge=1, description="for SFT")
    pairs: int = Field(24_000, ge=1, description="annotated preference pairs for the reward model")
    heldout_pairs: int = Field(6000, ge=1, description="pairs on held-out phrasings, for its accuracy")
    tasks: tuple[str, ...] = Field(
        (), description='the kinds of questions that alignment and evaluation ask, as in ["sums"]; all unless given'
    )
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

    data: Files = Field(description="preference pairs or rankings: a file, or several of one format")
    objective: Literal["pairs", "all-pairs", "plackett-luce", "regression"] = Field(
        "pairs",
        description="what is learnt of a row: one pair (of a ranking the best reply against another), all comparisons "
        "of a ranking, each reply read once, the likelihood of its order, or the scores of a rated reply",
    )
    heads: int = Field(
        1,
        ge=1,
        description="members of an ensemble on one shared trunk; each learns from all folds of the pairs but one",
    )
    attributes: tuple[str, ...] = Field((), description="what regression learns to score, by the names in the data")
    ties: Literal["skip", "half", "davidson"] = Field(
        "skip", description="what equal ranks mean to all-pairs: no comparison, half a win each, or a tie of its own"
    )
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
class Watch:
    """Looks at over-optimisation while the online loop aligns."""

    judge: str = Field(
        "auto",
        description="who judges beside the reward: gold (testbed), a reward-model directory, none, or auto: gold on "
        "the testbed unless it is a reward, else the evaluation's own reward model, else the lowest of a rewarding "
        "ensemble",
    )
    prompts: int = Field(128, ge=2, description="prompts that every look has answered, with the same random numbers")
    step: float = Field(0.2, gt=0, description="a look whenever √KL has passed another multiple of this")
    every: int = Field(10, ge=1, description="and after so many iterations without one")
    stop: bool = Field(
        True,
        description="the stage ends where two looks in a row are past the peak, and the best look's model is taken",
    )


@record
class Align:
    """Alignment: an algorithm of the online loop, a direct method, or one that makes its own data."""

    prompts: Files | None = Field(
        None, description="prompts to train on: a file, or several of one format; where the algorithm samples"
    )
    data: Files | None = Field(
        None,
        description="what is learnt from in place of prompts: pairs (dpo, ipo, hinge, simpo, orpo), feedback (kto), "
        "demonstrations (spin)",
    )
    rows: int | None = Field(
        None,
        ge=2,
        description="at most so many of the data's rows, the first of them, are learnt from by direct methods",
    )
    on_bad: Bad = Field("stop", description="what a bad row does")
    mapping: dict[str, Any] | None = Field(
        None, description="how the file is read; found by itself, and pinned in the run"
    )
    algorithm: str = Field("ppo", description="the algorithm by name, or mine.py:MyPPO")
    reward: str = Field(
        "model",
        description="model (the run's), gold (testbed), answer or another rule, a reward-model directory, or "
        "file.py:function",
    )
    rewards: tuple[dict[str, Any], ...] = Field(
        (), description="several rewards, or one with settings, in place of `reward`: tables [[align.rewards]]"
    )
    reference: str = Field(
        "sft", description="sft, start (a snapshot of the policy as the stage begins), or a model directory"
    )
    reference_samples: int = Field(
        256, ge=2, description="completions of the policy as the stage begins that fix the score's mean and variance"
    )
    anchor: int = Field(
        0, ge=0, description="held-out demonstrations of [sft] whose loss under the policy is measured every iteration"
    )
    anchor_limit: float | None = Field(
        None, gt=0, description="the stage ends once that loss has risen by more than this, in nats a token"
    )
    checkpoint_every: int = Field(10, ge=1, description="iterations between checkpoints")
    watch: Watch = Field(default_factory=Watch, description="looks at over-optimisation, on the online loop")
    mix: Mix | None = Field(None, description="demonstrations learnt beside the reward (PPO-ptx), on the online loop")
    loop: Online = inlined(Online)
    ppo: PPO = Field(default_factory=PPO, description="settings of the algorithm ppo")
    a2c: A2C = Field(default_factory=A2C, description="settings of the algorithm a2c")
    reinforce: REINFORCE = Field(default_factory=REINFORCE, description="settings of the algorithm reinforce")
    reinforce_plus_plus: ReinforcePlusPlus = Field(
        default_factory=ReinforcePlusPlus, description="settings of the algorithm reinforce_plus_plus"
    )
    remax: ReMax = Field(default_factory=ReMax, description="settings of the algorithm remax")
    rloo: RLOO = Field(default_factory=RLOO, description="settings of the algorithm rloo")
    grpo: GRPO = Field(default_factory=GRPO, description="settings of the algorithm grpo")
    dr_grpo: DrGRPO = Field(default_factory=DrGRPO, description="settings of the algorithm dr_grpo")
    dapo: DAPO = Field(default_factory=DAPO, description="settings of the algorithm dapo")
    gspo: GSPO = Field(default_factory=GSPO, description="settings of the algorithm gspo")
    dpo: DPO = Field(default_factory=DPO, description="settings of the algorithm dpo")
    ipo: IPO = Field(default_factory=IPO, description="settings of the algorithm ipo")
    hinge: Hinge = Field(default_factory=Hinge, description="settings of the algorithm hinge")
    kto: KTO = Field(default_factory=KTO, description="settings of the algorithm kto")
    simpo: SimPO = Field(default_factory=SimPO, description="settings of the algorithm simpo")
    orpo: ORPO = Field(default_factory=ORPO, description="settings of the algorithm orpo")
    rejection: Rejection = Field(default_factory=Rejection, description="settings of the algorithm rejection")
    online_dpo: OnlineDPO = Field(default_factory=OnlineDPO, description="settings of the algorithm online_dpo")
    spin: SPIN = Field(default_factory=SPIN, description="settings of the algorithm spin")
    settings: dict[str, Any] = Field(default_factory=dict, description="settings of an algorithm given by path")

    @property
    def sources(self) -> tuple[Source, ...]:
        """The rewards, each with its settings."""
        return sources_of(self.reward, self.rewards)

    @property
    def online(self) -> bool:
        """Whether the algorithm is one of the online loop."""
        return self.algorithm not in (*DIRECT, *MAKERS)

    @property
    def files(self) -> Files:
        """What it trains on; RecipeError where it is not the one thing that the algorithm asks for."""
        wanted, other = ("prompts", "data") if self.asks == "prompts" else ("data", "prompts")
        files = getattr(self, wanted)
        if files is None or getattr(self, other) is not None:
            given = f"[align] gives {'both prompts and data' if files is not None else f'no {wanted}'}"
            raise RecipeError(
                f'{given}, with algorithm = "{self.algorithm}". That algorithm learns from {self.asks}, which '
                f"align.{wanted} names, and from nothing else. "
                + (f"Remove {other}." if files is not None else f'Set {wanted} = "FILE", or {wanted} = "testbed".')
            )
        return files

    @property
    def asks(self) -> Literal["prompts", "pairs", "feedback", "demonstrations"]:
        """The kind of data that the algorithm learns from."""
        return "prompts" if self.online else METHODS[self.algorithm].data

    @property
    def judged(self) -> bool:
        """Whether the algorithm asks for a reward."""
        return self.algorithm not in DIRECT and getattr(METHODS.get(self.algorithm), "judged", True)

    @property
    def method(self) -> Any:
        """The algorithm with its settings."""
        if self.algorithm in METHODS:
            return getattr(self, self.algorithm)
        if ":" not in self.algorithm:
            raise RecipeError(
                f'align.algorithm = "{self.algorithm}" was given. It must be one of {", ".join(METHODS)}, or a path '
                "such as mine.py:MyPPO. Correct the name."
            )
        method = build(load_symbol(self.algorithm, "algorithm"), self.settings, "align.settings")
        lacking = [name for name in _METHOD if not hasattr(method, name)]
        if lacking:
            raise RecipeError(
                f'align.algorithm = "{self.algorithm}" was given, which has no {", ".join(lacking)}. An algorithm has '
                f"{', '.join(_METHOD)}, as palate.PPO does. Add what it lacks."
            )
        if "reference" not in method.needs or not method.needs <= SIGNALS:
            raise RecipeError(
                f'align.algorithm = "{self.algorithm}" was given, whose needs are {sorted(method.needs)}. The KL to '
                f"the reference is always measured, so needs holds reference, and otherwise only {sorted(SIGNALS)}."
            )
        return method

    @property
    def samples(self) -> int:
        """Completions a prompt on the online loop."""
        return self.loop.samples or self.method.samples


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
    capability: Files | None = Field(
        None,
        description="questions with an `answer` beside them, asked before and after: a file, or several of one format",
    )


@record
class Judging:
    """The AI judge of [rounds]: a model behind any OpenAI-compatible endpoint, asked as `palate judge` asks."""

    url: str = Field(description="the endpoint's base, as in http://localhost:8000/v1")
    model: str = Field(description="the model's name there")
    key_variable: str = Field("OPENAI_API_KEY", description="the environment variable that holds the key, if any")
    guidelines: str | None = Field(None, description="a text that the judge goes by")
    constitution: str | None = Field(
        None, description="a file of principles, one of which is put to each pair; default is Palate's own"
    )
    concurrency: int = Field(8, ge=1, description="requests at a time")
    timeout: float = Field(120.0, gt=0, description="seconds that a request may take")


@record
class Rounds:
    """Round after round: sample from the policy, ask, train the reward model anew on all votes, align anew."""

    number: int = Field(2, ge=1, description="rounds in all, the first included")
    feedback: str = Field(
        "people",
        description="who judges: gold (the testbed's annotators), people (by `palate label`, for whom the run waits), "
        "judge (an endpoint), or file.py:function",
    )
    judgements: int = Field(500, ge=2, description="pairs that a round asks about")
    votes: int = Field(1, ge=1, description="raters that every pair wants")
    candidates: int = Field(
        4, ge=2, description="answers a prompt to take pairs from, of the last policy and of the SFT model each"
    )
    temperature: float = Field(1.0, gt=0, description="at which they are sampled")
    random: float = Field(0.34, gt=0, le=1, description="share of the pairs that is drawn at random")
    uncertain: float = Field(0.33, ge=0, lt=1, description="share that the reward model is unsure of")
    adversarial: float = Field(
        0.33,
        ge=0,
        lt=1,
        description="share by which the reward may be gamed; goes to the unsure ones where nothing "
        "complained of the round before",
    )
    heldout: float = Field(
        0.3,
        gt=0,
        lt=1,
        description="share of the random pairs that is only tested on; their prompts are aimed at by no other share",
    )
    decay: float = Field(
        1.0, gt=0, le=1, description="weight of a pair is this to the power of its age in rounds; 1 weighs all alike"
    )
    judge: Judging | None = Field(None, description='the endpoint that feedback = "judge" asks')


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
    rounds: Rounds | None = Field(None, description="round after round")


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
    return checked(build(Recipe, table))


def checked(recipe: Recipe) -> Recipe:
    """The recipe with its rewards written out; RecipeError where it breaks a rule between settings or sections."""
    _directory_name(recipe.run.name)
    _one_model(recipe.model)
    if recipe.model.scratch is not None:
        _even_heads(recipe.model.scratch)
    if recipe.align is not None:
        _whole_distribution(recipe.align.loop.sampling)
        _nothing_to_refill(recipe.align)
        _price_can_move(recipe.align)
        _ = recipe.align.files
        _nothing_idle(recipe.align)
        _anchored(recipe.align, recipe.sft)
        _something_to_compare(recipe.align)
        for source in recipe.align.sources:
            _gold_knows(source.where, source.places[0], recipe.align.files)
        _gold_knows("align.watch.judge", recipe.align.watch.judge, recipe.align.files)
        written_out = tuple(source.table() for source in recipe.align.sources) if recipe.align.rewards else ()
        recipe = replace(recipe, align=replace(recipe.align, rewards=written_out))
    if recipe.reward is not None:
        _heads_have_work(recipe.reward)
    if recipe.evaluate is not None:
        _gold_knows("evaluate.judge", recipe.evaluate.judge, recipe.evaluate.prompts)
    _rounds_close(recipe)
    return recipe


def located(table: dict[str, Any], directory: Path) -> dict[str, Any]:
    """Paths in a recipe file are relative to it, so that a recipe works from any directory."""
    for section, keys in PATHS.items():
        part = table.get(section)
        for key, words in keys.items():
            if isinstance(part, dict) and key in part and part[key] not in words:
                part[key] = _beside(part[key], directory, file_wanted=key in DATA)
    align = table.get("align")
    mix = align.get("mix") if isinstance(align, dict) else None
    if isinstance(mix, dict) and mix.get("data", MIXED) != MIXED:
        mix["data"] = _beside(mix["data"], directory, file_wanted=True)
    watch = align.get("watch") if isinstance(align, dict) else None
    if isinstance(watch, dict) and watch.get("judge", "auto") not in WATCHERS:
        watch["judge"] = _beside(watch["judge"], directory, file_wanted=False)
    rounds = table.get("rounds")
    judge = rounds.get("judge") if isinstance(rounds, dict) else None
    for key in ("guidelines", "constitution"):
        if isinstance(judge, dict) and judge.get(key, "default") != "default":
            judge[key] = _beside(judge[key], directory, file_wanted=True)
    for term in align.get("rewards", ()) if isinstance(align, dict) else ():
        if isinstance(term, dict) and "source" in term and term["source"] not in WORDS:
            term["source"] = _beside(term["source"], directory, file_wanted=False)
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


# The settings that name data files.
DATA = ("data", "heldout", "prompts", "capability")

# The settings that may name a path, and the words that each of them takes for something else.
PATHS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "model": {"path": (TESTBED,)},
    "sft": {"data": (TESTBED,), "heldout": ()},
    "reward": {"data": (TESTBED, FEEDBACK), "heldout": (), "model": ()},
    "align": {
        "prompts": (TESTBED,),
        "data": (TESTBED,),
        "reward": WORDS,
        "reference": ("sft", "start"),
        "algorithm": tuple(METHODS),
    },
    "evaluate": {"prompts": (TESTBED,), "capability": ()},
    "rounds": {"feedback": RATERS},
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


def _anchored(align: Align, sft: SFT | None) -> None:
    if align.anchor == 0 and align.anchor_limit is not None:
        raise RecipeError(
            f"align.anchor_limit = {align.anchor_limit:g} was given without align.anchor. The limit is one of the loss "
            "of held-out demonstrations, of which anchor says how many are measured. Set anchor too, for example to 64."
        )
    if align.anchor and (sft is None or not align.online):
        raise RecipeError(
            f"align.anchor = {align.anchor} was given {'without [sft]' if sft is None else 'off the online loop'}. The "
            "anchor measures the held-out demonstrations of [sft] in every iteration of an online algorithm. Remove "
            "it, or run an online algorithm in a recipe with [sft]."
        )


def _nothing_idle(align: Align) -> None:
    """A setting that says nothing to the algorithm must not look as if it did."""
    if align.rows is not None and align.algorithm not in DIRECT:
        raise RecipeError(
            f'align.rows = {align.rows} was given with algorithm = "{align.algorithm}". It says how many rows of data '
            f"direct methods ({', '.join(DIRECT)}) learn from, and nothing to others. Remove it, or name a direct "
            "method."
        )
    if align.online:
        return
    if align.mix is not None:
        raise RecipeError(
            f'[align.mix] was given with algorithm = "{align.algorithm}", which is not on the online loop. It is '
            "learnt beside the reward in the updates of that loop alone. Remove it, or name one of "
            f"{', '.join(ALGORITHMS)}."
        )
    if align.watch != Watch():
        raise RecipeError(
            f'[align.watch] was given with algorithm = "{align.algorithm}", which is not on the online loop. Looks are '
            "taken between that loop's iterations, and nowhere else. Remove it, or name one of "
            f"{', '.join(ALGORITHMS)}."
        )
    given, default = resolve(align.loop), resolve(Online())
    idle = [name for name, value in given.items() if name not in ANSWERING and value != default[name]]
    if idle:
        raise RecipeError(
            f'align.{idle[0]} = {given[idle[0]]} was given with algorithm = "{align.algorithm}", which is not on the '
            f"online loop and takes of its settings only {', '.join(ANSWERING)}. Its own stand in "
            f"[align.{align.algorithm}]. Set it there, or remove it."
        )


def _heads_have_work(reward: Reward) -> None:
    if reward.heads > 1 and reward.objective != "pairs":
        raise RecipeError(
            f'reward.heads = {reward.heads} was given with objective = "{reward.objective}". An ensemble on one trunk '
            'learns from folds of pairs. Set objective = "pairs", or train reward models apart and name them in a list.'
        )
    if (reward.objective == "regression") != bool(reward.attributes):
        raise RecipeError(
            f'reward.objective = "{reward.objective}" was given with attributes = {list(reward.attributes)}. '
            "Regression, and nothing else, learns scores by name. Give the names that stand in the data, such as "
            'attributes = ["helpfulness", "honesty"], or take another objective.'
        )
    if len(set(reward.attributes)) < len(reward.attributes):
        raise RecipeError(
            f"reward.attributes = {list(reward.attributes)} names one twice. Each has one score. Name each once."
        )
    if reward.objective == "regression" and reward.data == TESTBED:
        raise RecipeError(
            'reward.objective = "regression" was given with data = "testbed", whose annotators compare and do not '
            "rate. Give a file of ratings, or take another objective."
        )


def _something_to_compare(align: Align) -> None:
    if align.loop.samples == 1 and align.method.samples > 1:
        raise RecipeError(
            f'align.samples = 1 was given with algorithm = "{align.algorithm}", which compares the completions of a '
            f"prompt with one another and learns nothing from one alone. Set samples = 2 or more, or leave it out for "
            f"{align.method.samples}."
        )


def _price_can_move(align: Align) -> None:
    """An adaptive price moves by factors above 0, from a price above 0."""
    if not align.online or align.method.kl.kind != "adaptive":
        return
    kl, completions = align.method.kl, align.loop.batch * align.samples
    where = f"align.{align.algorithm if align.algorithm in METHODS else 'settings'}.kl"
    if kl.coef == 0:
        raise RecipeError(
            f'{where} has coef = 0 and kind = "adaptive". An adaptive price moves by factors, so from 0 it never moves '
            'and nothing holds the policy back. Give coef above 0, kind = "dual", which also rises from 0, or, where '
            'nothing is to be paid, kind = "fixed".'
        )
    if completions >= 5 * kl.horizon:  # the factor of a KL below the target may be as small as 1 − 0.2·n/horizon
        raise RecipeError(
            f"{where}.horizon = {kl.horizon} was given with {completions} completions an iteration. An adaptive price "
            "may lose a fifth of itself times completions/horizon in one iteration, and must stay above 0. Give a "
            f"horizon above {completions // 5}; 10000 is usual."
        )


def _rounds_close(recipe: Recipe) -> None:
    """Votes of a round must have a way to the next policy."""
    rounds, reward, align = recipe.rounds, recipe.reward, recipe.align
    if rounds is None:
        if reward is not None and reward.data == FEEDBACK:
            raise RecipeError(
                f'reward.data = "{FEEDBACK}" was given without [rounds]. It stands for the votes that rounds collect. '
                "Add a section [rounds], or name a file."
            )
        return
    if reward is None or align is None or align.asks != "prompts" or "model" not in _rewarding(align):
        raise RecipeError(
            "[rounds] was given in a recipe whose alignment does not sample answers and learn from the reward model of "
            "[reward]. A round asks about what the policy samples, and what is voted reaches the next policy through "
            'that model. Add [reward] and an [align] with prompts and reward = "model", or leave [rounds] out.'
        )
    if reward.objective != "pairs":
        raise RecipeError(
            f'[rounds] was given with reward.objective = "{reward.objective}". Rounds collect votes on pairs. Set '
            'objective = "pairs", or leave [rounds] out.'
        )
    if abs(rounds.random + rounds.uncertain + rounds.adversarial - 1) > 1e-6:
        raise RecipeError(
            f"rounds.random = {rounds.random}, uncertain = {rounds.uncertain} and adversarial = {rounds.adversarial} "
            "were given. They are shares of the pairs that a round asks about, and must sum to 1. Correct them."
        )
    _somebody_answers(rounds, align)


def _somebody_answers(rounds: Rounds, align: Align) -> None:
    if rounds.feedback not in RATERS and ":" not in rounds.feedback:
        raise RecipeError(
            f'rounds.feedback = "{rounds.feedback}" was given. It must be one of {", ".join(RATERS)}, or a path such '
            "as mine.py:prefer. Correct it."
        )
    if rounds.feedback == "gold" and align.files != TESTBED:
        raise RecipeError(
            'rounds.feedback = "gold" was given with prompts of your own. The testbed\'s annotators know its questions '
            'only. Take another feedback, or align.prompts = "testbed".'
        )
    if (rounds.feedback == "judge") != (rounds.judge is not None):
        given = "with" if rounds.judge is not None else "without"
        raise RecipeError(
            f'rounds.feedback = "{rounds.feedback}" was given {given} [rounds.judge]. That section says where a judge '
            'answers, and stands with feedback = "judge" and with no other. Add it, or remove it.'
        )
    if rounds.votes > 1 and rounds.feedback not in ("people", "gold"):
        raise RecipeError(
            f'rounds.votes = {rounds.votes} was given with feedback = "{rounds.feedback}", which answers a pair once. '
            "Leave votes out, or ask people."
        )


def _rewarding(align: Align) -> set[str]:
    """The models that alignment is rewarded by, where it is rewarded at all."""
    return {name for source in align.sources for name in source.models} if align.judged else set()


def _gold_knows(setting: str, judge: str, prompts: Files) -> None:
    if judge == "gold" and prompts != TESTBED:
        section, _, _ = setting.partition(".")
        raise RecipeError(
            f'{setting} = "gold" was given with prompts of your own. Gold knows the testbed\'s questions only. Take a '
            f'reward model as judge, or {section}.prompts = "testbed".'
        )


def _nothing_to_refill(align: Align) -> None:
    if align.loop.asynchronous and getattr(align.method, "refills", 0):
        raise RecipeError(
            f'align.asynchronous was given with algorithm = "{align.algorithm}", which draws further prompts for '
            "groups that teach nothing. Those would come from a newer policy than the rollout they complete. Set "
            f"align.{align.algorithm}.refills = 0, or leave asynchronous out."
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
