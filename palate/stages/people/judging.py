"""`palate judge` and `palate constitution`: an AI judge answers the pairs of a store; a constitution makes data.

Both go on where they were: answers stand in a cache beside the store, judgements in the store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from palate.collect.annotators import Share
from palate.collect.constitution import DEFAULT, Constitution, Revised, Reviser, load_constitution
from palate.collect.endpoint import Client, Endpoint, Spent
from palate.collect.judge import HELPFUL, Figures, Judge, Vetting, WithPeople, figures, told, with_people
from palate.collect.judgements import Item
from palate.collect.quality import Contest, comparison
from palate.collect.store import Store
from palate.data.recognition import read
from palate.engine.files import encode_json, make_directory, write_atomic
from palate.engine.interfaces import Onlooker
from palate.errors import StageStopped
from palate.records import Demonstration, Prompt
from palate.stages.people.labelling import COMPARISON, guideline_of

Say = Callable[[str], None]
Watch = Callable[[str], Onlooker]


@dataclass(frozen=True, slots=True)
class Judging:
    """What a judge goes by and how it is asked.

    `every` asks about pairs that enough raters have judged already, to see how far the judge agrees with them. `most`
    bounds how many are judged in one go. `force` lets a judge vote that failed on controls.
    """

    guidelines: Path | None = None
    constitution: Constitution | None = None
    every: bool = False
    most: int | None = None
    concurrency: int = 8
    max_tokens: int = 1024
    seed: int = 0
    force: bool = False


@dataclass(frozen=True, slots=True)
class Judged:
    """What a call did and what the judge is worth so far: its figures over all that it judged in the store. It was not
    vetted where nothing is there for it to judge."""

    rater: str
    vetting: Vetting | None
    figures: Figures
    people: WithPeople
    contest: Contest | None
    unanswered: int
    left_to_people: int
    spent: Spent


def constitution_of(name: str | Path | None) -> Constitution | None:
    """The constitution of a file, or the default one; None of None."""
    return None if name is None else load_constitution(name)


def cache_beside(store: Path) -> Path:
    """Where the answers of endpoints are kept for a store."""
    return store.with_name(f"{store.name}.answers")


def judge(path: Path, endpoint: Endpoint, judging: Judging, *, watch: Watch, say: Say) -> Judged:
    """Lets a judge answer the pairs of a store that wait for it, each stored as soon as it is there.

    Raises StageStopped where the judge fails on controls, unless `judging.force`. Where nothing is there for it to
    judge, that is said, and not even controls are asked and paid for.
    """
    with Store(path) as store, Client(endpoint, cache_beside(path)) as client:
        version, text = guideline_of(store, judging.guidelines)
        one = Judge(
            client,
            guidelines=text,
            guideline=version,
            questions=(HELPFUL,) if judging.constitution is None else judging.constitution.questions,
            concurrency=judging.concurrency,
            max_tokens=judging.max_tokens,
            seed=judging.seed,
        )
        waiting, others = _waiting(store, one.rater.name, judging.every)
        vetting = None
        if waiting or store.judgements(one.rater.name):
            vetting = vetted(one, judging.force, say)
            store.add_rater(one.rater)
        else:
            say(_nothing(store))
        unanswered = _answer(store, one, waiting[: judging.most], watch("judge"))
        for sentence in client.told:
            say(sentence)
        items, judgements = store.items(), store.judgements()
        own = [judgement for judgement in judgements if judgement.rater == one.rater.name]
        compares = bool(items) and all(COMPARISON in item.prompt.fields for item in items)
        return Judged(
            rater=one.rater.name,
            vetting=vetting,
            figures=figures(items, own),
            people=with_people(items, judgements, store.raters(), one.rater.name),
            contest=comparison(items, own) if compares else None,
            unanswered=unanswered,
            left_to_people=others,
            spent=client.spent,
        )


def vetted(one: Judge, force: bool, say: Say) -> Vetting:
    """How the judge did on controls, said; StageStopped where its votes would be worth nothing."""
    vetting = one.vet()
    if vetting.level == "stop" and not force:
        raise StageStopped(f"{vetting.reason} --force asks it all the same.")
    say(f"{vetting.reason} It is asked all the same (--force)." if vetting.level == "stop" else vetting.reason)
    return vetting


def _waiting(store: Store, rater: str, every: bool) -> tuple[list[Item], int]:
    """The pairs that this rater is to judge, and how many items of other kinds wait for people."""
    if every:
        done = {judgement.item for judgement in store.judgements(rater)}
        wanted = [item for item in store.items() if item.id not in done]
    else:
        wanted = store.waiting(rater, limit=-1)
    pairs = [item for item in wanted if item.mode == "pair"]
    return pairs, len(wanted) - len(pairs)


def _nothing(store: Store) -> str:
    """Why a judge who said nothing yet has nothing to say."""
    items = store.items()
    pairs = sum(item.mode == "pair" for item in items)
    if pairs:
        return (
            f"Nothing was asked: the {pairs} pairs of {store.path} have as many judgements as they want. --every asks "
            "about them too."
        )
    return (
        f"Nothing was asked: a judge answers pairs, and {store.path} holds none, its {len(items)} items being of other "
        "modes. Let people answer them (`palate label`), or give pairs, or several completions a prompt."
    )


def _answer(store: Store, one: Judge, items: Sequence[Item], onlooker: Onlooker) -> int:
    """Judges items and stores what is said; how many got no answer. After Ctrl-C what is under way is still stored."""
    unanswered = 0
    onlooker.begin(len(items), 0)
    for opinion in one.opinions(items, onlooker.stopping):
        judgement = one.judgement(opinion)
        if judgement is None:
            unanswered += 1
        else:
            store.record(judgement)
        onlooker.advance(_cost(one.client.spent))
    onlooker.check()
    return unanswered


def _cost(spent: Spent) -> Mapping[str, float]:
    return {"tokens": spent.tokens_in + spent.tokens_out} | ({} if spent.cost is None else {"cost": spent.cost})


# ---- told


def lines(judged: Judged) -> list[str]:
    """What a person should know of a judge's work, line by line."""
    found = judged.figures
    said = [
        f"{judged.rater}: {found.judged} pairs judged, {found.preferences} preferences, {found.ties} ties.",
        *_shares(
            {
                "another answer in the other order": found.inconsistent,
                "obeys a text inside the answers": found.swayed,
                "no verdict that can be read": found.invalid,
                "names what stands first": found.first_place,
                "prefers the longer answer": found.longer,
            }
        ),
        *_people(judged.people),
        *_contest(judged.contest),
    ]
    if judged.unanswered:
        said.append(f"{judged.unanswered} pairs got no answer and still wait; the same command asks again.")
    if judged.left_to_people:
        said.append(f"{judged.left_to_people} items are no pairs; they are left to people.")
    return [*said, bill(judged.spent)]


def _shares(shares: Mapping[str, Share | None]) -> Iterable[str]:
    return [f"  {name:<36} {told(one)} of {one.count}" for name, one in shares.items() if one is not None]


def _people(people: WithPeople) -> list[str]:
    if not people.items:
        return []
    kappa = "" if people.kappa is None else f", Cohen's κ {people.kappa:.2f}"
    same = "" if people.same is None else f"; it prefers what most prefer on {told(people.same)} of {people.same.count}"
    return [f"With people on {people.items} pairs{same}{kappa}."]


def _contest(contest: Contest | None) -> list[str]:
    if contest is None or not contest.prompts:
        return []
    rate = f"{contest.win_rate:.1%} [{100 * contest.planned_low:.1f}, {100 * contest.planned_high:.1f}]"
    return [
        f"{contest.b} against {contest.a}: win rate {rate}; {contest.wins_b} won, {contest.wins_a} lost, "
        f"{contest.ties} tied, {contest.skipped} without a vote."
    ]


def bill(spent: Spent) -> str:
    """What asking took."""
    asked = f"{spent.answers} answers paid for, {spent.cached} from the cache"
    asked += f", {spent.again} requests sent again" if spent.again else ""
    missing = f" (of {spent.uncounted} answers unknown)" if spent.uncounted else ""
    cost = "" if spent.cost is None else f", cost {spent.cost:.4f}"
    return (
        f"{asked}; {spent.tokens_in} tokens in, {spent.tokens_out} out{missing}{cost}; {spent.seconds:.0f} s of asking."
    )


# ---- constitution


@dataclass(frozen=True, slots=True)
class Constituted:
    """What a constitution made: demonstrations, how many answers were revised at all, and how many prompts were lost
    to a text that is empty or cut short; the judge on first answer against last, None where it failed on controls."""

    demonstrations: int
    changed: int
    lost: int
    judged: Judged | None
    spent: Spent


def constitute(
    prompts: Path, endpoint: Endpoint, out: Path, judging: Judging, *, rounds: int, watch: Watch, say: Say
) -> Constituted:
    """Revises answers by a constitution: demonstrations and a store of feedback in the directory `out`.

    A file of prompts is answered by the endpoint's model first; a file with completions brings its own.
    """
    constitution = judging.constitution or load_constitution(DEFAULT)
    given = _given(prompts)[: judging.most]
    order = {messages: place for place, messages in enumerate(dict.fromkeys(_prompt(one).messages for one in given))}
    make_directory(out)
    store = out / "feedback.sqlite"
    with Client(endpoint, cache_beside(store)) as client:
        reviser = Reviser(
            client, constitution, rounds, judging.concurrency, max_tokens=judging.max_tokens, seed=judging.seed
        )
        found, onlooker = [], watch("constitution")
        onlooker.begin(len(given), 0)
        for revised in reviser.revised(given, onlooker.stopping):
            found.append(revised)
            onlooker.advance(_cost(client.spent))
        onlooker.check()
        done = [revised for revised in found if revised is not None]
        changed = _store(store, reviser, done)
        for sentence in client.told:
            say(sentence)
        spent = client.spent
    done = sorted(done, key=lambda one: order[one.prompt.messages])
    write_atomic(out / "demonstrations.jsonl", "".join(f"{encode_json(_row(one))}\n" for one in done))
    judged = None
    if changed:
        judged = _preferences(store, endpoint, replace(judging, constitution=constitution, most=None), watch, say)
    return Constituted(len(done), changed, len(found) - len(done), judged, spent)


def _given(path: Path) -> list[Prompt | Demonstration]:
    """The prompts of a file, with their answers where these are what the file is for; each once."""
    kind = "demonstrations" if read(path).mapping.kind == "demonstrations" else "prompts"
    found = {(_prompt(one).messages, getattr(one, "completion", "")): one for one in read(path, kind).records}
    return list(found.values())


def _prompt(given: Prompt | Demonstration) -> Prompt:
    return given if isinstance(given, Prompt) else given.prompt


def _store(path: Path, reviser: Reviser, made: Sequence[Revised]) -> int:
    """Puts every revision, and every first answer beside its last, into the store; how many answers changed."""
    rounds = [one for revised in made for one in revised.judgements(reviser.rater)]
    pairs = [pair for revised in made if (pair := revised.pair(reviser.rater)) is not None]
    with Store(path) as store:
        store.add_rater(reviser.rater)
        store.add_items([*(item for item, _ in rounds), *pairs])
        store.record_all([judgement for _, judgement in rounds])
    return len(pairs)


def _row(revised: Revised) -> dict[str, Any]:
    """A revision as a demonstration that every trainer reads, with the principles behind it."""
    messages = [{"role": message.role, "content": message.content} for message in revised.prompt.messages]
    return {
        "prompt": messages,
        "completion": [{"role": "assistant", "content": revised.last}],
        "principles": [revision.principle for revision in revised.revisions],
    }


def _preferences(store: Path, endpoint: Endpoint, judging: Judging, watch: Watch, say: Say) -> Judged | None:
    try:
        return judge(store, endpoint, judging, watch=watch, say=say)
    except StageStopped as stopped:
        say(f"No preferences: {stopped}")
        return None


def made(constituted: Constituted) -> list[str]:
    """What a person should know of a constitution's work, line by line."""
    said = [
        f"{constituted.demonstrations} demonstrations; {constituted.changed} answers were changed.",
        bill(constituted.spent),
    ]
    if constituted.lost:
        said.append(f"{constituted.lost} prompts were left out: a text was empty, cut short, or not given at all.")
    if constituted.judged is not None:
        said += ["The first answer against the last, by a principle each:", *lines(constituted.judged)]
    return said
