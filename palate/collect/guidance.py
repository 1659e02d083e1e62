"""The folder of a design: every file's text, a pure function of behaviour and plan.

The prose stands in `behaviours/*.md`, where a person can read and correct it; here its blanks are filled.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from string import Template

from palate.collect import design, sizes
from palate.collect.design import BEHAVIOURS, Behaviour, Example, Plan
from palate.collect.judgements import REASONS
from palate.collect.sentence import gap
from palate.records import Message

README, GUIDELINES, PROTOCOL, CRITERIA = "README.md", "guidelines.md", "protocol.md", "criteria.md"
TAGS, PROMPTS, HELDOUT, GOLD, RECIPE = "tags.txt", "prompts.jsonl", "heldout.jsonl", "gold.jsonl", "recipe.toml"

# What the lead makes: of the pilot, of the held-out prompts, and for what must not happen.
MORE_GOLD, FINAL, TRIALS = "gold-2.jsonl", "final.jsonl", "trials.jsonl"
# How rare the plan speaks of making it.
_TRIED = 0.01

# What a table of sizes shows: differences of win rates, widths, rates, failures seen.
_DIFFERENCES = (0.03, 0.05, 0.1, 0.15)
_TIE_SHARES = (0.0, 0.2, 0.4)
_WIDTHS = (0.02, 0.03, 0.04, 0.05)
_KAPPA_WIDTHS = (0.05, 0.1, 0.15, 0.2)
_RATES = (0.05, 0.01, 0.001)
_FAILURES = (0, 1, 2)

_DEGREES = {1: ("slightly better", ("3", "5")), 2: ("better", ("←", "→")), 3: ("much better", ("Shift ←", "Shift →"))}

# Rounds of the recipe, and the share of their pairs that is drawn at random; of the first round's all are.
ROUNDS, RANDOM = 2, 0.5

# What somebody who reads carefully gets right of the gold.
_SKILLED = 0.95


def folder(behaviour: Behaviour, plan: Plan, *, base: str, pay: float | None = None) -> dict[str, str]:
    """The files of a design by name; `base` is the model to start from, `pay` what an hour costs."""
    kept, held = design.divided(behaviour.prompts, behaviour.name)
    values = _values(behaviour, plan, len(kept), len(held), pay)
    gaps = (*behaviour.gaps, *_everyones_gaps(plan, base))
    documents = {
        GUIDELINES: _filled(GUIDELINES, values | _judging(behaviour)),
        PROTOCOL: _filled(PROTOCOL, values),
        CRITERIA: _filled(CRITERIA, values | _measuring(behaviour)),
        README: _filled(README, values | {"gaps": _boxes(gaps), "commands": _commands(behaviour, plan, base)}),
    }
    return {
        README: documents[README],
        GUIDELINES: documents[GUIDELINES],
        PROTOCOL: documents[PROTOCOL],
        CRITERIA: documents[CRITERIA],
        TAGS: "".join(f"{tag.name}\n" for tag in behaviour.tags),
        PROMPTS: _lines({"prompt": _turns(one.prompt), "kind": one.kind} for one in kept),
        HELDOUT: _lines({"prompt": _turns(one.prompt), "kind": one.kind} for one in held),
        GOLD: _lines(map(_known, behaviour.gold)),
        RECIPE: _recipe(behaviour, plan, base),
    }


def _filled(name: str, values: dict[str, str]) -> str:
    return Template((BEHAVIOURS / name).read_text(encoding="utf-8")).substitute(values)


def _values(behaviour: Behaviour, plan: Plan, kept: int, held: int, pay: float | None) -> dict[str, str]:
    """What stands in the blanks of more than one document."""
    return {
        "name": behaviour.name,
        "title": behaviour.title,
        "goal": behaviour.goal,
        "question": behaviour.question,
        "failure": behaviour.failure,
        "note": _noted(behaviour),
        "annotators": _bullets(behaviour.annotators),
        "training": _bullets(behaviour.training),
        "pilot": _bullets(behaviour.pilot),
        "care": _bullets(behaviour.care),
        "people": str(plan.people),
        "pace": f"{plan.pace:g}",
        "gold": str(plan.gold),
        "mark": str(plan.mark),
        "mark_share": f"{math.floor(100 * plan.mark / plan.gold)} %",
        "guessing": _percent(sizes.pass_probability(plan.gold, plan.mark, 0.5)),
        "skilled": _percent(sizes.pass_probability(plan.gold, plan.mark, _SKILLED)),
        "pilot_pairs": str(design.PILOT_PAIRS),
        "pilot_hours": _spent(design.PILOT_PAIRS + plan.gold, plan),
        "overlap_hours": _spent(2 * plan.overlap / plan.people, plan),
        "day_hours": f"{plan.day_hours:g}",
        "rest": behaviour.rest,
        "more_gold": str(max(plan.gold_each - plan.gold, 0)),
        "gold_each": str(plan.gold_each),
        "repeats": str(plan.repeats_each),
        "test": f"{plan.test:,}",
        "train": f"{plan.train:,}",
        "overlap": f"{plan.overlap:,}",
        "wanted_prompts": f"{plan.prompts:,}",
        "agreement": f"{100 * behaviour.agreement:.0f}",
        "difference": f"{100 * design.DIFFERENCE:.0f}",
        "ab": f"{plan.comparison:,}",
        "prompts": str(kept),
        "heldout": str(held),
        "budget": _budget(plan),
        "cost": _cost(plan, pay),
    }


# ---- what annotators read


def _judging(behaviour: Behaviour) -> dict[str, str]:
    worked = [one for one in behaviour.examples if not one.hard]
    hard = [one for one in behaviour.examples if one.hard]
    drafted = _mark(behaviour, "examples")
    return {
        "principles": _mark(behaviour, "rules")
        + "\n".join(
            f"{number}. **{one.rule}** {one.detail}" for number, one in enumerate(behaviour.principles, start=1)
        ),
        "in_scope": ", ".join(behaviour.in_scope),
        "out_of_scope": _bullets(behaviour.out_of_scope),
        "reasons": ", ".join(f"{number} `{reason}`" for number, reason in enumerate(REASONS, start=1)),
        "tags": _mark(behaviour, "tags")
        + _table(("Tag", "When"), ((f"`{tag.name}`", tag.when) for tag in behaviour.tags)),
        "examples": drafted + "\n\n".join(_pair(place, one) for place, one in enumerate(worked, start=1)),
        "hard": "\n\n".join(_pair(place, one) for place, one in enumerate(hard, start=len(worked) + 1))
        or "None yet: the pilot brings them. "
        + gap("two pairs on which you and a colleague differed, your decision and the reason."),
        "cases": _mark(behaviour, "cases")
        + _table(("It happens that", "Then"), ((one.when, one.call) for one in behaviour.cases)),
    }


def _pair(number: int, one: Example) -> str:
    """A worked pair: the texts quoted as they are, the call below them."""
    shown = [f"### {number}", *(_quoted(_speaker(turn.role), turn.content) for turn in one.prompt)]
    shown += [_quoted("A", one.first), _quoted("B", one.second)]
    tags = f" Tags: {', '.join(f'`{tag}`' for tag in one.tags)}." if one.tags else ""
    return "\n\n".join([*shown, f"**Call: {_call(one)}.**{tags} {one.why}"])


def _call(one: Example) -> str:
    """The call in words, and the key of the label page that says it."""
    if one.both_bad:
        return "both bad (X)"
    if not one.degree:
        return "tie (↓)"
    words, keys = _DEGREES[abs(one.degree)]
    return f"{'B' if one.degree > 0 else 'A'} {words} ({keys[one.degree > 0]})"


def _quoted(who: str, text: str) -> str:
    """Somebody's words as a quotation in Markdown, line by line, code included."""
    return "\n".join([f"**{who}**", "", *(f"> {line}".rstrip() for line in text.splitlines())])


def _speaker(role: str) -> str:
    return "The model had said" if role == "assistant" else "Prompt"


# ---- when it is good


def _measuring(behaviour: Behaviour) -> dict[str, str]:
    agreement = behaviour.agreement
    wins = (
        (f"{100 * difference:.0f} points", *(f"{sizes.win_rate_votes(difference, ties):,}" for ties in _TIE_SHARES))
        for difference in _DIFFERENCES
    )
    accuracies = sorted({0.6, 0.7, 0.8, agreement})
    pairs = (
        (f"± {100 * width:.0f} points", *(f"{sizes.share_items(accuracy, width):,}" for accuracy in accuracies))
        for width in _WIDTHS
    )
    kappas = (
        (f"± {width:g}", *(f"{sizes.kappa_items(share, design.CHANCE, width):,}" for share in accuracies))
        for width in _KAPPA_WIDTHS
    )
    trials = (
        (_percent(rate), *(f"{sizes.trials_below(rate, failures):,}" for failures in _FAILURES)) for rate in _RATES
    )
    shares = [f"{100 * share:.0f} %" for share in accuracies]
    return {
        "criteria": _table(
            ("What", "How", "Good enough"), ((one.name, one.measure, one.target) for one in behaviour.criteria)
        ),
        "wins": _table(
            ("To find a win rate off 50 % by", *(f"ties {100 * share:.0f} %" for share in _TIE_SHARES)), wins
        ),
        "accuracies": _table(("Accuracy known to", *(f"near {share}" for share in shares)), pairs),
        "kappas": _table(("κ known to", *(f"agreement {share}" for share in shares)), kappas),
        "trials": _table(
            ("To promise less than", *(f"{count} failure{'' if count == 1 else 's'}" for count in _FAILURES)), trials
        ),
    }


# ---- what it costs


def _budget(plan: Plan) -> str:
    rows = [(work.what, f"{work.votes:,}", _hours(work.votes * plan.pace / 3600)) for work in plan.works]
    rows.append(("**all votes**", f"**{plan.votes:,}**", _hours(plan.votes * plan.pace / 3600)))
    return _table(("Part", "Votes", f"Hours at {plan.pace:g} s a vote"), rows)


def _cost(plan: Plan, pay: float | None) -> str:
    money = (
        "Money = these hours × what an hour costs (`--pay`)."
        if pay is None
        else f"At {pay:g} an hour that is {pay * plan.hours:,.0f}."
    )
    training = design.TRAINING_HOURS + design.MEETING_HOURS
    return (
        f"With a quarter on top for breaks and questions, and {training:g} hours a person for training and meetings: "
        f"**{plan.hours:,.0f} paid hours, {plan.days:.0f} working days** for {plan.people} people at "
        f"{plan.day_hours:g} hours of judging a day. {money} Not counted: half of the lead's time, "
        f"the days in which the model learns, and trials for what must not happen "
        f"({sizes.trials_below(_TRIED):,}, each judged by two, to promise less than {_percent(_TRIED)}).\n\n"
        "The pace is a guess until the pilot has measured it. The first instalment of training pairs is no result of a "
        "formula: the learning curve says after it whether a second one pays."
    )


# ---- files for programs


def _known(one: Example) -> dict[str, object]:
    better, worse = (one.first, one.second) if one.degree < 0 else (one.second, one.first)
    return {"prompt": _turns(one.prompt), "chosen": _turns_of(better), "rejected": _turns_of(worse), "why": one.why}


def _turns(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [asdict(message) for message in messages]


def _turns_of(text: str) -> list[dict[str, str]]:
    return _turns((Message("assistant", text),))


def _lines(rows: Iterable[dict[str, object]]) -> str:
    return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)


def _recipe(behaviour: Behaviour, plan: Plan, base: str) -> str:
    judgements = -(-plan.pairs // ROUNDS)
    at_random = judgements * (1 + (ROUNDS - 1) * RANDOM)
    return f"""# {behaviour.title}: round after round, from the votes of people. Paths are relative to this file.
# `palate run recipe.toml --dry-run` prints the plan; `palate run recipe.toml` begins, and waits for votes.

[run]
name = "{behaviour.name}"

[model]
path = {json.dumps(base)}        # the model that is to learn the behaviour

[reward]
data = "feedback"          # the votes
heldout_fraction = {plan.test / plan.prompts:.2f}    # of the prompts, for the pairs to test on

[align]
prompts = "{PROMPTS}"
iterations = 50
batch = 64
max_new_tokens = {behaviour.tokens}

[align.ppo]
kl = {{ kind = "adaptive", coef = 0.05, target = 6.0 }}

[evaluate]
prompts = "{HELDOUT}"
judge = "heldout-reward"   # a first look; the blind comparison by people decides

[rounds]
feedback = "people"
number = {ROUNDS}
judgements = {judgements}          # a round; the plan's {plan.pairs:,} pairs in all
random = {RANDOM}
uncertain = {(1 - RANDOM) / 2}
adversarial = {(1 - RANDOM) / 2}
heldout = {plan.test / at_random:.3f}            # of the random pairs (all of round 1): {plan.test:,}, to test on
"""


def _commands(behaviour: Behaviour, plan: Plan, base: str) -> str:
    """What to type, in the order of the days."""
    names = ",".join(f"a{number}" for number in range(1, plan.people + 1))
    tags = ",".join(tag.name for tag in behaviour.tags)
    page = f"--guidelines {GUIDELINES} \\\n    --annotators {names} \\\n    --tags {tags}"
    again = f"--repeat-share {plan.repeat_share:g} {page}"

    learnt = f"runs/{behaviour.name}/rounds/{ROUNDS}/align/model"

    def collect(prompts: str, count: int, overlap: int, per_prompt: int, store: str) -> str:
        return (
            f"palate collect {base} --prompts {prompts} --count {count} --per-prompt {per_prompt} --overlap {overlap} "
            f"\\\n    --random 1 --uncertain 0 --adversarial 0 --max-new-tokens {behaviour.tokens} --out {store}.sqlite"
        )

    def generate(model: str, prompts: str, out: str) -> str:
        return f"palate generate {model} --prompts {prompts} --max-new-tokens {behaviour.tokens} --out {out}.jsonl"

    return f"""In this folder. `palate label` prints a link for each annotator and runs until Ctrl-C. The links lead to
this machine; who sits elsewhere comes by the tunnel that it names, or by `--host` and `--allow-host` behind a TLS
proxy. a1 and so on are pseudonyms; take your own. Day 0, the page and the gold for yourself:

```
palate label {GOLD} --guidelines {GUIDELINES}
```

Pilot, day 3:

```
{collect(PROMPTS, design.PILOT_PAIRS, plan.people, 3, "pilot")}
palate label pilot.sqlite --gold {GOLD} {again}
palate quality pilot.sqlite
```

More gold, as everybody knows the first by now. Of these rows keep those with a margin of 2 or more, and add your own:

```
palate export pilot.sqlite --as trl --margin --out pilot.jsonl
grep '"agreement": 1.0,' pilot.jsonl > {MORE_GOLD}
```

Agreement set, from day 4, on the held-out prompts:

```
{collect(HELDOUT, plan.overlap, 2, 1, "agreement")}
palate label agreement.sqlite {again}
palate quality agreement.sqlite
```

Main collection: the run samples, says how many votes it waits for, and goes on by itself when they are there. Leave it
running, and label from a second terminal; so again for each round.

```
palate run {RECIPE}
palate label runs/{behaviour.name}/feedback.sqlite --gold {MORE_GOLD} {again}
palate quality runs/{behaviour.name}/feedback.sqlite
```

Blind comparison at the end, on {plan.comparison} held-out prompts. `palate quality` says who won; in the table a
negative degree is a win of the old model, and tags say what was wrong with the loser:

```
sort -R {HELDOUT} > shuffled.jsonl
head -n {plan.comparison} shuffled.jsonl > {FINAL}
{generate(base, FINAL, "before")}
{generate(learnt, FINAL, "after")}
palate label --compare before.jsonl after.jsonl {page}
palate quality before-against-after.feedback.sqlite
palate export before-against-after.feedback.sqlite --as csv --out comparison.csv
```

Trials for what must not happen, on prompts that you write in the form of {PROMPTS}. Here ↓ says that it happened,
↑ that it did not:

```
{generate(learnt, TRIALS, "tried")}
palate label tried.jsonl --mode thumbs --overlap 2 --annotators {names}
palate export tried.jsonl.feedback.sqlite --as csv --out trials.csv
```"""


# ---- marks


def _everyones_gaps(plan: Plan, base: str) -> tuple[str, ...]:
    return (
        f"recipe.toml, `path`: which model is to learn? It says `{base}` now. It must follow "
        "instructions already; what only continues texts needs [sft] first.",
        f"prompts.jsonl: {plan.prompts:,} prompts in all, four in five of your users, with their consent; "
        f"heldout.jsonl: {plan.overlap:,}. All that is here is in English; another language needs its own prompts and "
        "gold.",
        "protocol.md, training: the exercises are described there; their material is yours to prepare.",
        "protocol.md: who leads, whom to ask when something is wrong, what an hour is paid, how long votes are kept.",
    )


def _boxes(gaps: Iterable[str]) -> str:
    return "\n".join(f"- [ ] {gap}" for gap in gaps)


def _noted(behaviour: Behaviour) -> str:
    notes = [behaviour.note] if behaviour.note else []
    if behaviour.drafted:
        notes.append(
            f"*Drafted by the model {behaviour.drafter}: {', '.join(behaviour.drafted)}. Nobody has checked it yet: "
            "read every line, correct it, then delete this note.*"
        )
    return "".join(f"{note}\n\n" for note in notes)


def _mark(behaviour: Behaviour, part: str) -> str:
    return (
        f"*Partly drafted by the model {behaviour.drafter}; to be read by a person.*\n\n"
        if part in behaviour.drafted
        else ""
    )


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    written = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in written)


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _hours(hours: float) -> str:
    return f"{hours:.1f}"


def _spent(votes: float, plan: Plan) -> str:
    """Hours that a person needs for so many votes, with breaks."""
    return _hours(votes * plan.pace / 3600 * design.OVERHEAD)
