"""How a recipe names rewards: one by `align.reward`, or several in tables `[[align.rewards]]`.

    [[align.rewards]]   source = "model"    name = "helpful"   weight = 0.7
    [[align.rewards]]   source = "length"   name = "brief"     weight = 0.3   target = 40

What a table holds besides the four settings of every reward belongs to its kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from palate.errors import RecipeError
from palate.rewards.rules import RULES
from palate.settings import build, did_you_mean, record, resolve

# The words that name a reward without a path; what else a recipe gives is a directory or file.py:function.
WORDS = ("model", "gold", *RULES)

# Names that would hide other metrics: score/NAME.
_TAKEN = ("mean", "std", "p10", "p90", "sum")


@record
class Common:
    """What every table of rewards may hold."""

    source: str | tuple[str, ...] = Field(
        description=f"{', '.join(WORDS)}, a reward-model directory, file.py:function, or a list of reward models: an "
        "ensemble"
    )
    name: str | None = Field(None, description="what it is called in the metrics; its source's own name unless set")
    weight: float = Field(1.0, description="its share in the sum; 0 logs it and no more")
    normalise: bool | None = Field(
        None,
        description="to mean 0 and variance 1 on completions of the policy as the stage begins, frozen; unless set, "
        "where there are several rewards",
    )


@record
class Gold:
    """The testbed's truth."""


@record
class Models:
    """Reward models: one, or several that score together."""

    combine: Literal["mean", "worst", "cautious"] = Field(
        "mean", description="of an ensemble, or of a reward model's heads: the mean, the lowest, or mean − penalty·std"
    )
    penalty: float = Field(1.0, ge=0, description="λ of cautious: deviations of the members taken off their mean")
    weights: dict[str, float] = Field(
        default_factory=dict,
        description="of a reward model that scores attributes: their shares, by name; alike unless set",
    )


@record
class Function:
    """A function of one's own."""

    seconds: float = Field(600.0, gt=0, description="time for a batch of completions; a function that needs more hangs")
    dense: bool = Field(False, description="it returns a list of (end, number) for each completion: numbers for steps")
    options: dict[str, Any] = Field(default_factory=dict, description="further arguments, by name")


@dataclass(frozen=True)
class Source:
    """One reward of a recipe: what it is called, what it weighs, and the settings of its kind."""

    name: str
    common: Common
    settings: Any
    where: str

    @property
    def places(self) -> tuple[str, ...]:
        """What it is made of: words, directories, or file.py:function."""
        return (self.common.source,) if isinstance(self.common.source, str) else self.common.source

    @property
    def models(self) -> tuple[str, ...]:
        """The reward models among its places, `model` being the run's own."""
        return self.places if isinstance(self.settings, Models) else ()

    def table(self) -> dict[str, Any]:
        """The table of the recipe with every value written out."""
        whole = resolve(self.common) | {"name": self.name} | resolve(self.settings)
        return {key: value for key, value in whole.items() if value is not None}


def sources_of(reward: str, rewards: Sequence[Mapping[str, Any]]) -> tuple[Source, ...]:
    """The rewards of `align.reward` or, where there are any, of `[[align.rewards]]`.

    Raises RecipeError for what no reward has or lacks, where two have one name, and where one has a metric's.
    """
    if rewards and reward != "model":
        raise RecipeError(
            f'align.reward = "{reward}" and [[align.rewards]] were both given. A recipe names its reward in one of the '
            "two ways. Make it one more table of [[align.rewards]], or remove the tables."
        )
    sources = tuple(source_of(table, f"align.rewards[{index}]") for index, table in enumerate(rewards))
    sources = sources or (source_of({"source": reward}, "align.reward"),)
    names = [source.name for source in sources]
    for source in sources:
        if source.name in _TAKEN or names.count(source.name) > 1:
            raise RecipeError(
                f'{source.where} is called "{source.name}". Names of rewards are distinct, and none of '
                f"{', '.join(_TAKEN)}, which are metrics already. Give it another with name in [[align.rewards]]."
            )
    return sources


def source_of(table: Mapping[str, Any], where: str) -> Source:
    """One reward from its table; `where` says in messages where it stands."""
    shared = [one.name for one in fields(Common)]  # pyright: ignore[reportArgumentType]
    common = build(Common, {key: value for key, value in table.items() if key in shared}, where)
    kind = _kind(common.source, where)
    own = {key: value for key, value in table.items() if key not in shared}
    # A word alone has no place for settings: what it needs is asked for where it could stand.
    settings = build(kind, own, "[[align.rewards]]" if where == "align.reward" else where)
    return Source(common.name or _called(common.source), common, settings, where)


def _kind(source: str | tuple[str, ...], where: str) -> type:
    if not isinstance(source, str):
        _must_be_models(source, where)
        return Models
    if source in RULES:
        return RULES[source]
    if source == "gold":
        return Gold
    if ".py:" in source:
        return Function
    hint = did_you_mean(source, WORDS, "")
    if source != "model" and hint and "/" not in source and not Path(source).exists():
        raise RecipeError(
            f'{where} = "{source}" was given, which is none of {", ".join(WORDS)}, and no directory of that name is '
            f"here. {hint}"
        )
    return Models


def _must_be_models(source: tuple[str, ...], where: str) -> None:
    wrong = [place for place in source if place in ("gold", *RULES) or ".py:" in place]
    if len(set(source)) < 2 or len(set(source)) < len(source) or wrong:
        said = f"among them {wrong[0]!r}" if wrong else f"{len(source)}, of them {len(set(source))} distinct"
        raise RecipeError(
            f"{where}.source gives a list ({said}). A list is an ensemble: two distinct reward models at least, each a "
            "directory or the word model. Rewards of other kinds are tables of their own."
        )


def _called(source: str | tuple[str, ...]) -> str:
    if not isinstance(source, str):
        return "ensemble"
    if source in ("gold", *RULES):
        return source
    return source.rpartition(":")[2] if ".py:" in source else "reward_model"
