"""`palate design`: the folder that a labelling team starts from, for a named behaviour or an owner's own sentence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palate.collect.design import Behaviour, known_behaviours, named_behaviour, plan_of
from palate.collect.drafting import drafted
from palate.collect.guidance import RECIPE, folder
from palate.collect.sentence import own_behaviour
from palate.engine.files import make_directory, write_atomic
from palate.errors import UsageError
from palate.settings import did_you_mean

if TYPE_CHECKING:
    from palate.collect.endpoint import Endpoint

# Long enough for forty prompts, and answers that differ from call to call are of no use.
MAX_TOKENS = 4096


def design(
    wish: str,
    out: Path | None = None,
    *,
    base: str = "models/base",
    people: int = 4,
    pace: float | None = None,
    pay: float | None = None,
    endpoint: Endpoint | None = None,
    say: Callable[[str], None],
) -> Path:
    """Writes the design of a behaviour, by name or in a sentence, into a folder that is not there yet; returns it.

    With an endpoint a model drafts further parts. UsageError where the behaviour is not known, or the folder holds
    something.
    """
    behaviour = behaviour_of(wish)
    place = Path(f"design-{behaviour.name}") if out is None else out
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise UsageError(
            f"{place} is there already, and a design is written into a folder of its own, so that nothing that was "
            "filled in is lost. Give another with --out, or move it aside."
        )
    if Path(base).is_dir():
        base = str(Path(base).resolve())  # the recipe stands elsewhere
    if endpoint is not None:
        behaviour = _drafted(behaviour, endpoint, say)
    files = folder(behaviour, plan_of(behaviour, people, pace), base=base, pay=pay)
    make_directory(place)
    for name, text in files.items():
        write_atomic(place / name, text)
    if behaviour.gaps:
        say(f"{len(behaviour.gaps)} places wait for you in this design of your own; README.md lists them first.")
    say(f"Written: {place}/ with README.md, which says what to do day by day")
    say(f"Next: read {place / 'README.md'}, then palate run {place / RECIPE} --dry-run")
    return place


def listing() -> list[str]:
    """The behaviours that have a name, a line each, and what else there is."""
    known = [f"{name:<14} {named_behaviour(name).goal}" for name in known_behaviours()]
    return [*known, "", 'Next: palate design NAME, or palate design "answers like a patient maths tutor"']


def behaviour_of(wish: str) -> Behaviour:
    """The behaviour of that name, or that which a sentence describes; a single word must be a name."""
    if wish in known_behaviours():
        return named_behaviour(wish)
    if len(wish.split()) < 2:
        names = ", ".join(known_behaviours())
        raise UsageError(
            f"The behaviour {wish!r} was given; known by name are {names}, and anything else is a sentence such as "
            f'"answers like a patient maths tutor". {did_you_mean(wish, known_behaviours(), "Write a sentence.")}'
        )
    return own_behaviour(wish)


def _drafted(behaviour: Behaviour, endpoint: Endpoint, say: Callable[[str], None]) -> Behaviour:
    from palate.collect.endpoint import Client
    from palate.stages.people.judging import bill

    with Client(endpoint) as client:

        def ask(messages: Sequence[Mapping[str, str]], schema: Mapping[str, Any]) -> str:
            return client.chat(messages, schema=schema, max_tokens=MAX_TOKENS).text

        behaviour, said = drafted(behaviour, ask, endpoint.model)
        for sentence in (*client.told, *said, bill(client.spent)):
            say(sentence)
    return behaviour
