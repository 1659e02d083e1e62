"""Round after round: sample from the last policy, ask, train the reward model anew on all votes, align anew, measure.

    runs/NAME/  recipe.toml  feedback.sqlite  rounds.json  summary.json  report.html
                rounds/K/    an ordinary run directory, with pairs.jsonl and heldout.jsonl made of the votes so far

Every round begins from the SFT model of the first, and so does its alignment: the leash is measured from one reference
in one unit, and what a drifted policy has got wrong is not handed on. (Touvron et al., 2307.09288, §3.2.3 train their
reward models on the data of all rounds so far; their later policies go on from the one before.)

What is asked stands in the store before anybody is asked, and what a round learns from is a pure function of the store
up to one event, so a run that was killed anywhere goes on exactly where it was, and asks nothing anew.
"""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from palate import report
from palate.collect.candidates import Drawing
from palate.collect.judgements import Item, Judgement, Rater
from palate.collect.selection import Selection
from palate.collect.store import Store
from palate.data.checks import split_by_prompt
from palate.engine.files import encode_json, file_sha256, write_atomic
from palate.engine.interfaces import Onlooker
from palate.engine.seeding import derive, permutation
from palate.errors import EndpointError, RecipeError, StageStopped, UsageError
from palate.evaluation.monitors import MONITORS, Monitor
from palate.models import load_reward_model
from palate.recipe import FEEDBACK, Recipe, Reward, Rounds
from palate.records import PreferencePair, Prompt
from palate.report.rounds import ROUNDS
from palate.report.words import spoken
from palate.rewards import ModelReward
from palate.settings import dump_toml
from palate.stages import run as once
from palate.stages.compare import linked
from palate.stages.context import Context, device_of, present, use_threads
from palate.stages.directory import RUN, RunDirectory, begun
from palate.stages.material import fitting_prompts, load_policy, policy_path, read_data, split, stage_records
from palate.stages.people.answering import Answering, answering_of
from palate.stages.people.collecting import directory_hash, gather, writer_of
from palate.stages.people.pairing import of_data, pairs_of, round_of, standing, written
from palate.stages.reward import counted

STORE = "feedback.sqlite"
PAIRS, HELDOUT = "pairs.jsonl", "heldout.jsonl"

# The gates of alignment whose complaint is a sign that the reward was gamed, rather than not followed.
GAMED = (
    "KL within budget",
    "entropy",
    "length",
    "answers that end",
    "held-out judge against its best",
    "score against gold",
)

# Prompts whose answers are looked at for every pair that is asked: selection needs something to choose from.
POOL = 4
# Items that a program or judge answers between two writes: what a kill can cost.
BATCH = 64
# Seconds between two looks at the store while people vote.
POLL = 1.0


def execute(
    recipe: Recipe,
    *,
    watch: Callable[[str], Onlooker],
    say: Callable[[str], None],
    root: str | Path = "runs",
    command: Sequence[str] = (),
    fresh: bool = False,
    force: bool = False,
    only: str | None = None,
) -> Path:
    """Does what the recipe asks, round after round where it has [rounds]; else as `palate.stages.run.execute`.

    Returns the run directory. Raises PalateError, of them StageStopped at a verdict of stop in any round.
    """
    if recipe.rounds is None:
        arguments = {"root": root, "command": command, "fresh": fresh, "force": force, "only": only}
        return once.execute(recipe, watch=watch, say=say, **arguments)
    if only is not None:
        raise RecipeError(
            f"The stage {only} was asked for alone, and the recipe has [rounds], each of which has such a stage. Use "
            "`palate run RECIPE`, or give the recipe.toml of one round's directory."
        )
    threads = use_threads(recipe.run)
    with (
        begun(root, recipe.run, threads=threads, command=command, fresh=fresh, say=say) as directory,
        Store(directory.path / STORE) as store,
    ):
        told = dump_toml(recipe, "The resolved recipe, every value written out.")
        write_atomic(directory.path / "recipe.toml", told)
        _perform(Campaign(recipe, directory, store, threads, watch, say, force))
    return directory.path


@dataclass(frozen=True)
class Campaign:
    """Rounds in progress: what they share, and whom to tell."""

    recipe: Recipe
    directory: RunDirectory
    store: Store
    threads: int
    watch: Callable[[str], Onlooker]
    say: Callable[[str], None]
    force: bool

    @property
    def settings(self) -> Rounds:
        """The section [rounds]."""
        return present(self.recipe.rounds, "rounds")

    @property
    def reward(self) -> Reward:
        """The section [reward]."""
        return present(self.recipe.reward, "reward")

    def place(self, number: int, *parts: str) -> Path:
        """A path inside a round's directory."""
        return self.directory.path.joinpath("rounds", str(number), *parts)

    def asks(self, number: int) -> bool:
        """Whether the round begins by asking; the first does where there is no other data."""
        return number > 1 or self.reward.data == FEEDBACK

    def round(self, number: int) -> Recipe:
        """The recipe of one round, an ordinary one."""
        own = replace(self.recipe, rounds=None, run=replace(self.recipe.run, name=str(number)))
        if not self.asks(number):
            return own
        pairs, heldout = (str(self.place(number, name)) for name in (PAIRS, HELDOUT))
        return replace(own, reward=replace(self.reward, data=pairs, heldout=heldout, mapping=None))

    def open(self, number: int) -> RunDirectory:
        """A round's directory, locked, and begun where there is none."""
        return RunDirectory.open(
            self.directory.path / "rounds",
            name=str(number),
            seed=self.recipe.run.seed,
            threads=self.threads,
            command=self.directory.record["command"],
        )

    def items(self, number: int) -> list[Item]:
        """What the round asks, in the order it was stored; nothing that anybody else put into the store."""
        own = set(self.fact(number, "asked") or ())
        return [item for item in self.store.items() if item.id in own]

    def learns(self, number: int) -> bool:
        """Whether the round's reward model has been begun: until then further votes are welcome."""
        return "reward" in _read(self.place(number, RUN), {"stages": {}})["stages"]

    # ---- what is known of the rounds

    @property
    def known(self) -> list[dict[str, Any]]:
        """What `rounds.json` says of every round so far."""
        path = self.directory.path / ROUNDS
        return json.loads(path.read_bytes())["rounds"] if path.exists() else []

    def note(self, number: int, **facts: Any) -> None:
        """Writes down facts of a round."""
        known = {entry["round"]: entry for entry in self.known}
        known[number] = known.get(number, {"round": number, "directory": f"rounds/{number}"}) | facts
        rounds = [known[one] for one in sorted(known)]
        write_atomic(self.directory.path / ROUNDS, encode_json({"rounds": rounds}, indent=1) + "\n")

    def fact(self, number: int, name: str) -> Any:
        """One fact of a round, None where it is not known yet."""
        return next((entry.get(name) for entry in self.known if entry["round"] == number), None)


def _perform(campaign: Campaign) -> None:
    """All rounds in their order; what is done is found done."""
    total = campaign.settings.number
    try:
        for number in range(1, total + 1):
            campaign.say(f"Round {number} of {total}.")
            if campaign.asks(number):
                _begin(campaign, number)
                _collect(campaign, number)
                if campaign.fact(number, "votes") is None:  # what a round was made of is settled, whoever answers now
                    _ask(campaign, number)
                _export(campaign, number)
            stop = _run(campaign, number)
            _conclude(campaign, number)
            if stop is not None and number == total:
                raise stop
            if stop is not None:
                campaign.say(f"Round {number} ends here: {stop}")
                campaign.say(f"Round {number + 1} asks about what that policy writes.")
    finally:
        if campaign.known:
            report.write(campaign.directory.path)


def _run(campaign: Campaign, number: int) -> StageStopped | None:
    """The round's stages. A verdict of stop on its alignment is what the next round is there for, and is given back; at
    one on SFT or the reward model the run ends."""
    try:
        once.execute(
            campaign.round(number),
            watch=campaign.watch,
            say=campaign.say,
            root=campaign.directory.path / "rounds",
            command=campaign.directory.record["command"],
            force=campaign.force,
        )
    except StageStopped as stop:
        if not campaign.place(number, "align", "model").is_dir():
            raise
        return stop
    return None


# ---- a round's beginning: SFT, once for all rounds


def _begin(campaign: Campaign, number: int) -> None:
    """The round's directory with the SFT model in it: that of the first round, which trains it where nobody has."""
    if number == 1:
        sections = [name for name in ("sft", "align", "evaluate") if getattr(campaign.recipe, name) is not None]
        read_data(replace(campaign.recipe, rounds=None), sections)  # a mistake is told before anybody is asked
    if campaign.recipe.sft is None:
        campaign.open(number).close()
    elif number == 1:
        once.execute(
            campaign.round(1),
            watch=campaign.watch,
            say=campaign.say,
            root=campaign.directory.path / "rounds",
            only="sft",
            force=campaign.force,
        )
    else:
        with campaign.open(number) as directory:
            taken_over(campaign.place(1), directory, "sft")


def taken_over(source: Path, directory: RunDirectory, stage: str) -> None:
    """Takes a finished stage over from another run, unless it is there already; files are linked."""
    entry = json.loads((source / RUN).read_bytes())["stages"][stage]
    if directory.record["stages"].get(stage, {}).get("digest") == entry["digest"]:
        return
    if stage in directory.record["stages"]:
        directory.reset_stage(stage)
    else:
        shutil.rmtree(
            directory.path / stage, ignore_errors=True
        )  # a process was killed between taking it and saying so
    partial = directory.path / f".{stage}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source / stage, partial, copy_function=linked)
    partial.rename(directory.path / stage)
    summary = json.loads((source / "summary.json").read_bytes())
    own = {name: value for name, value in summary.items() if name.startswith(f"{stage}/") or name == f"seconds/{stage}"}
    directory.summarise(own)
    directory.update_stage(stage, **entry)


# ---- what to ask


@dataclass(frozen=True)
class Aim:
    """Where a round's questions go, and why: shares by slice, the monitors that adversarial pairs are sought by."""

    shares: Mapping[str, float]
    monitors: tuple[Monitor, ...]
    reasons: tuple[str, ...]


def aim_of(previous: Path | None, settings: Rounds) -> Aim:
    """What gates and monitors of the round before complained of, and what follows for this one.

    Where alignment gave nothing to complain of, there is nothing adversarial to look for, and its share goes to what
    the reward model is unsure of.
    """
    if previous is None:
        return Aim({"random": 1.0}, (), ("There is no reward model yet to be unsure or fooled: all is random.",))
    alarms = [one for one in _read(previous / "align" / "monitors.json", []) if one["alarm"]]
    told = [f"the monitor {one['name']} went from {one['baseline']:.2f} to {one['value']:.2f}" for one in alarms]
    told += _doubts(previous)
    shares = {"random": settings.random, "uncertain": settings.uncertain, "adversarial": settings.adversarial}
    if not told:
        shares |= {"uncertain": settings.uncertain + settings.adversarial, "adversarial": 0.0}
        return Aim(shares, (), ("Nothing complained of the last alignment: no pair is sought as adversarial.",))
    named = {one["name"] for one in alarms}
    monitors = tuple(monitor for monitor in MONITORS if monitor.name in named) or MONITORS
    sought = ", ".join(monitor.name for monitor in monitors)
    return Aim(shares, monitors, (f"Complained of: {'; '.join(told)}.", f"Adversarial pairs are sought by {sought}."))


def _doubts(previous: Path) -> list[str]:
    """What alignment's gates said that tells of a gamed reward, and whether the judge beside it saw a peak."""
    verdict = _read(previous / RUN, {"stages": {}})["stages"].get("align", {}).get("verdict", {"checks": []})
    told = [
        f"the gate “{check['name']}” said {check['level']}"
        for check in verdict["checks"]
        if check["name"] in GAMED and check["level"] != "pass"
    ]
    watched = _read(previous / "align" / "overoptimisation.json", {"decision": {}})
    return [*told, *(["the last look was past the peak"] if watched["decision"].get("worse") else [])]


def _collect(campaign: Campaign, number: int) -> None:
    """Stores what the round asks, all of it in one transaction; what is stored is asked, whatever changed since.

    UsageError where there is nothing to ask.
    """
    asked = campaign.fact(number, "asked")
    if asked and len(campaign.items(number)) == len(asked):
        return
    previous = campaign.place(number - 1) if number > 1 else None
    aim = aim_of(previous, campaign.settings)
    campaign.say(f"Round {number}: {' '.join(aim.reasons)}")
    context = _context(campaign, number)
    gathered = _gathered(campaign, context, number, aim)
    if not gathered:
        raise UsageError(
            f"Round {number} has nothing to ask: no two answers to a prompt differ. Raise rounds.candidates or "
            "rounds.temperature, or give more prompts."
        )
    if len(gathered) < campaign.settings.judgements:
        campaign.say(
            f"Round {number}: the candidates allow {len(gathered)} of {campaign.settings.judgements} pairs to ask "
            "about. More rounds.candidates, a higher rounds.temperature or more prompts give more."
        )
    told = {"shares": dict(aim.shares), "why": list(aim.reasons)}
    campaign.note(number, aim=told, asked=[item.id for item in gathered])
    campaign.store.add_items(gathered)


def _context(campaign: Campaign, number: int) -> Context:
    """The round as stages see it, for what is asked and learnt from."""
    recipe = replace(campaign.recipe, rounds=None)
    device = device_of(recipe.run)
    sections = ("align",) if campaign.reward.data == FEEDBACK else ("reward", "align")
    data, recipe = read_data(recipe, sections)
    with campaign.open(number) as directory:
        return Context(recipe, data, directory, device, campaign.watch, campaign.say)


def _gathered(campaign: Campaign, context: Context, number: int, aim: Aim) -> list[Item]:
    """The round's items: some of the random ones about prompts that are held out, all others about the rest."""
    settings = campaign.settings
    policy = load_policy(context)
    length = context.align.loop.max_new_tokens
    prompts = fitting_prompts(context, "align", policy, stage_records(context, "align"), length)
    train, heldout = parted(campaign.recipe, list(dict.fromkeys(prompts)))
    writers = [writer_of(policy_path(context), device=context.device)]
    rewards: list[ModelReward] = []
    if number > 1:
        writers.insert(0, writer_of(campaign.place(number - 1, "align", "model"), device=context.device))
        rewards = _rewards(campaign.place(number - 1, "reward"), context, policy.chat.fingerprint)
    wanted = round(settings.judgements * aim.shares["random"] * settings.heldout)
    tested = min(max(wanted, 1), settings.judgements - 1)
    shares = {
        name: settings.judgements * share - (tested if name == "random" else 0) for name, share in aim.shares.items()
    }

    def asked(of: Sequence[Prompt], count: int, shares: Mapping[str, float], purpose: str) -> list[Item]:
        drawn = permutation(len(of), context.seed, "round", number, purpose)[: POOL * count].tolist()
        chosen = [of[row] for row in sorted(drawn)]
        return gather(
            writers,
            chosen,
            drawing=Drawing(
                samples=settings.candidates * 2 // len(writers),
                temperatures=(settings.temperature,),
                max_new_tokens=length,
            ),
            selection=Selection(count=count, per_prompt=max(2, -(-2 * count // len(chosen))), **shares),
            rewards=rewards,
            monitors=aim.monitors or MONITORS,
            overlap=settings.votes,
            seed=derive(context.seed, "round", purpose) % 2**32,
            round=number,
            watch=campaign.watch,
        ).items

    only_random = {"random": 1.0, "uncertain": 0.0, "adversarial": 0.0}
    rest = settings.judgements - tested
    return [
        *asked(heldout, tested, only_random, "heldout"),
        *asked(train, rest, only_random | {name: max(share, 0.0) for name, share in shares.items()}, "train"),
    ]


def parted(recipe: Recipe, prompts: Sequence[Prompt]) -> tuple[Sequence[Prompt], Sequence[Prompt]]:
    """Prompts of training and held-out pairs, by the rule that a file of pairs is split by: a prompt's side is the same
    in every round."""
    reward = present(recipe.reward, "reward")
    train, heldout = split_by_prompt(prompts, reward.heldout_fraction, recipe.run.seed)
    if not train or not heldout:
        raise RecipeError(
            f"reward.heldout_fraction = {reward.heldout_fraction:g} of {len(prompts)} prompts left {len(train)} to ask "
            f"about for training and {len(heldout)} for the held-out accuracy. Both need at least one. Give more "
            "prompts, or another reward.heldout_fraction."
        )
    return train, heldout


def _rewards(place: Path, context: Context, fingerprint: str) -> list[ModelReward]:
    """The last round's reward model and, where the evaluation has one, its judge: an ensemble of what was learnt."""
    found = []
    for path in (place / "model", place / "judge" / "model"):
        if path.exists():
            model, chat, _ = load_reward_model(path, device=context.device)
            found.append(ModelReward("reward_model", model, chat, chat.fingerprint != fingerprint))
    return found


# ---- asking


def _ask(campaign: Campaign, number: int) -> None:
    """Has every item of the round judged as often as it wants."""
    items = campaign.items(number)
    feedback = campaign.settings.feedback
    if feedback == "people":
        _wait(campaign, number, items)
    elif feedback == "judge":
        _judge(campaign, number, items)
    else:
        _answer(campaign, number, items)


def _judge(campaign: Campaign, number: int, items: Sequence[Item]) -> None:
    """Has the endpoint judge every pair that has no vote of its yet; EndpointError where some got none, unless forced,
    since a round is made once of the votes that it has."""
    from palate.collect.constitution import load_constitution  # the endpoint's client is of an extra
    from palate.collect.endpoint import Endpoint
    from palate.stages.people import judging

    settings = present(campaign.settings.judge, "rounds.judge")
    judged = judging.judge(
        campaign.directory.path / STORE,
        Endpoint(settings.url, settings.model, settings.key_variable, settings.timeout),
        judging.Judging(
            guidelines=None if settings.guidelines is None else Path(settings.guidelines),
            constitution=None if settings.constitution is None else load_constitution(settings.constitution),
            concurrency=settings.concurrency,
            seed=campaign.recipe.run.seed,
            force=campaign.force,
        ),
        watch=campaign.watch,
        say=campaign.say,
    )
    for line in judging.lines(judged):
        campaign.say(f"Round {number}: {line}")
    answered = {one.item for one in campaign.store.judgements()}
    left = sum(item.id not in answered for item in items)
    if left and not campaign.force:
        raise EndpointError(
            f"{settings.url} gave no answer about {left} of the {len(items)} pairs of round {number}; those that it "
            "gave are stored. The same command asks about the rest; with --force the round goes on without them."
        )


def _answer(campaign: Campaign, number: int, items: Sequence[Item]) -> None:
    """Has programs judge what they have not judged yet, some items at a time, each lot stored before the next."""
    onlooker = campaign.watch(f"round {number} votes")
    lots: list[tuple[Answering, Sequence[Item]]] = []
    for rater, answering in answering_of(campaign.recipe).items():
        campaign.store.add_rater(Rater(rater, "program"))
        done = {one.item for one in campaign.store.judgements(rater)}
        left = [item for item in items if item.id not in done]
        lots += [(answering, left[start : start + BATCH]) for start in range(0, len(left), BATCH)]
    onlooker.begin(len(lots), 0)
    for answering, lot in lots:
        campaign.store.record_all(answering(lot))
        onlooker.advance({})
        onlooker.check()


def missing(store: Store, items: Sequence[Item]) -> int:
    """How many people's votes the items still want."""
    machines = {name for name, rater in store.raters().items() if rater.kind != "human"}
    voters = Counter(
        item for rater, item in {(one.rater, one.item) for one in store.judgements()} if rater not in machines
    )
    return sum(max(item.wanted - voters[item.id], 0) for item in items)


def _wait(campaign: Campaign, number: int, items: Sequence[Item]) -> None:
    """Waits until people have given all votes that are wanted; Ctrl-C leaves everything as it is."""
    wanted = sum(item.wanted for item in items)
    left = missing(campaign.store, items)
    if not left:
        return
    campaign.say(
        f"Round {number}: {left} of {wanted} votes are missing. Give them with\n\n"
        f"    palate label {campaign.directory.path / STORE}\n\n"
        "This command goes on by itself when all are there. It may be stopped, and started again, at any time."
    )
    onlooker = campaign.watch(f"round {number} votes")
    onlooker.begin(wanted, wanted - left)
    while left:
        onlooker.check()
        time.sleep(POLL)
        now = missing(campaign.store, items)
        for _ in range(left - now):
            onlooker.advance({})
        left = min(now, left)


# ---- from votes to pairs


def _export(campaign: Campaign, number: int) -> None:
    """Writes the round's pairs: the first data, and all votes that stood when its reward model was begun."""
    events = campaign.store.events()
    before = campaign.fact(number, "votes") if campaign.learns(number) else None
    last = events[-1].seq if before is None else before["last_event"]
    items = [item for item in campaign.store.items() if item.round <= number]
    names = {item.id for item in items}
    votes = [one for one in standing(events, last) if one.item in names]
    found = pairs_of(items, votes)
    fraction, seed = campaign.reward.heldout_fraction, campaign.recipe.run.seed
    learnt, tested = split_by_prompt(found.pairs, fraction, seed)
    train, heldout = _first_data(campaign, number)
    decay = campaign.settings.decay
    rows, held = [aged(pair, decay, number) for pair in (*train, *learnt)], [*heldout, *tested]
    if not rows or not held:
        raise UsageError(
            f"Round {number} has {len(rows)} pairs to learn from and {len(held)} held out, and needs both: its "
            f"{len(votes)} votes are ties or skips, or all of one side ({_unused(found.counts)}). Change votes (U in "
            f"`palate label` goes back), add pairs with `palate import {campaign.directory.path / STORE} FILE`, or "
            "begin anew with --fresh; then give the same command."
        )
    if not any(round_of(pair) == number for pair in learnt):
        campaign.say(f"Round {number}: no vote of it makes a pair to learn from ({_unused(found.counts)}).")
    write_atomic(campaign.place(number, PAIRS), written(rows))
    write_atomic(campaign.place(number, HELDOUT), written(held))
    campaign.note(
        number,
        votes=_voted(campaign, number, votes, last) | found.counts,
        pairs={
            "train": len(rows),
            "heldout": len(held),
            "first_data": len(train),
            "fresh": sum(round_of(pair) == number for pair in learnt),
            "fresh_heldout": sum(round_of(pair) == number for pair in tested),
            "weights": {str(age): decay ** (number - age) for age in range(1, number + 1)},
            "sha256": file_sha256(campaign.place(number, PAIRS)),
        },
    )


def _unused(counts: Mapping[str, int]) -> str:
    """What became of the votes that make no pair, in words."""
    return ", ".join(f"{count} {spoken(name)}" for name, count in counts.items() if count) or "skips alone"


def aged(pair: PreferencePair, decay: float, number: int) -> PreferencePair:
    """The pair with the weight that is left of it in a round: its own times decay to the power of its age."""
    return replace(pair, weight=pair.weight * decay ** (number - round_of(pair)))


def _first_data(campaign: Campaign, number: int) -> tuple[list[PreferencePair], list[PreferencePair]]:
    """The pairs that the first round learns from and is tested on; none where it, too, asks."""
    if campaign.reward.data == FEEDBACK:
        return [], []
    context = _context(campaign, number)
    train, heldout = split(context, "reward", counted(context, "reward", stage_records(context, "reward")))
    return [of_data(pair) for pair in train], [of_data(pair) for pair in heldout]


def _voted(campaign: Campaign, number: int, votes: Sequence[Judgement], last: int) -> dict[str, Any]:
    """Whose votes the round is made of: up to which event, and by whom those were that this round asked for."""
    own = {item.id: item for item in campaign.items(number)}
    fresh = [one for one in votes if one.item in own]
    kinds = {name: rater.kind for name, rater in campaign.store.raters().items()}
    before = (campaign.fact(number - 1, "votes") or {}).get("last_event", 0)
    return {
        "first_event": before + 1,
        "last_event": last,
        "items": len(own),
        "slices": dict(Counter(item.slice for item in own.values())),
        "fresh": len(fresh),
        "all": len(votes),
        "raters": {
            name: {"kind": kinds.get(name, "human"), "votes": count}
            for name, count in sorted(Counter(one.rater for one in fresh).items())
        },
        "sampled_from": sorted(
            {origin.hash for item in own.values() for one in item.candidates for origin in one.origins if origin.hash}
        ),
    }


def _conclude(campaign: Campaign, number: int) -> None:
    """Takes the round's figures up into the whole run's."""
    place = campaign.place(number)
    model = place / "align" / "model"
    campaign.note(number, model=directory_hash(model) if model.is_dir() else None)
    figures = json.loads((place / "summary.json").read_bytes())
    campaign.directory.summarise({f"round/{number}/{name}": figure for name, figure in figures.items()})


def _read(path: Path, otherwise: Any) -> Any:
    return json.loads(path.read_bytes()) if path.exists() else otherwise
