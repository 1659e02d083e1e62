"""Runs that are broken on purpose, each at one stage, and healthy ones beside them: what `palate doctor` is held to.

    python tests/stages/trust/broken_runs.py --seeds 0,1 --runs DIRECTORY

makes them, asks the doctor about each and prints a table: what was broken, what was named. All of it rests on the
testbed, on one thread, with pairs read from files, so that no truth about the labels is on record. The doctor is asked
twice, the second time without what gold saw of the alignment: of most people's data there is no gold. The model that
runs start from is the embedded one under heavy noise and with its stop token forgotten: one that needs supervised
fine-tuning, as a real base model does.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from palate import testbed
from palate.data.chat import ChatFormat
from palate.engine.seeding import derive
from palate.models import load_causal, save_causal
from palate.recipe import recipe_from
from palate.records import PreferencePair
from palate.report.reading import read
from palate.stages.calls import Quiet
from palate.stages.compare import copied
from palate.stages.run import execute
from palate.stages.trust.doctor import Chart, Diagnosis, diagnose, examine

PAIRS = 12_000
# Deviations of each weight matrix that are added to it: below 1, the model hardly needs SFT.
NOISE = 1.6


@dataclass(frozen=True)
class Case:
    """One way to run: the stage that the doctor must name, None where healthy, a word of the cause, and what is done.

    `settings` are tables merged into the recipe; `labels` makes other pairs from a seed; without `eos`, SFT's examples
    lack the stop token; `shares` is the last stage that is taken over from the seed's healthy base, "nothing" for none.
    """

    name: str
    stage: str | None
    cause: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    labels: Callable[[int], Sequence[PreferencePair]] | None = None
    eos: bool = True
    own_tokenizer: bool = False
    strange_prompts: bool = False
    shares: str = "reward"


# ---- what a run needs


def start_model(place: Path) -> Path:
    """The embedded base model under noise, its stop token forgotten, as a directory: 4.6 nats a token of demonstrations
    in place of 0.4, from which a healthy SFT comes back to 0.47."""
    if place.exists():
        return place
    model, chat, tokenizer = load_causal(testbed.base_model())
    numbers = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.model.model.layers.parameters():
            if parameter.dim() == 2:
                noise = torch.randn(parameter.shape, generator=numbers)
                parameter.add_(noise * parameter.std() * NOISE)
        model.model.get_input_embeddings().weight[chat.eos_id].normal_(0, 0.02, generator=numbers)
    save_causal(model, tokenizer, place)
    return place


def honest(seed: int, count: int = PAIRS) -> Sequence[PreferencePair]:
    """Pairs as the testbed's annotators label them."""
    return testbed.pairs(count, derive(seed, "doctor") % 2**32, testbed.Annotator())


def few(seed: int) -> Sequence[PreferencePair]:
    """Honest pairs, and no more than the rest of a run needs whose SFT is broken anyway."""
    return honest(seed, 4_000)


def flipped(share: float) -> Callable[[int], Sequence[PreferencePair]]:
    """Pairs of which a share has its sides swapped."""

    def pairs(seed: int) -> Sequence[PreferencePair]:
        chance = random.Random(seed)
        return [
            PreferencePair(pair.prompt, pair.rejected, pair.chosen) if chance.random() < share else pair
            for pair in honest(seed)
        ]

    return pairs


def biased(words: float) -> Callable[[int], Sequence[PreferencePair]]:
    """Pairs of annotators who like every word by so much, in units of gold."""
    return lambda seed: testbed.pairs(
        PAIRS, derive(seed, "doctor") % 2**32, testbed.Annotator(biases={"length": words})
    )


def write_pairs(pairs: Sequence[PreferencePair], place: Path) -> Path:
    """Pairs as JSON lines, without what only the testbed knows of them."""
    rows = ({"prompt": pair.prompt.text, "chosen": pair.chosen, "rejected": pair.rejected} for pair in pairs)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place


def write_strange_prompts(seed: int, place: Path) -> Path:
    """Prompts such as no demonstration has: another language, code, and noise."""
    chance = random.Random(seed)
    words = ("der", "und", "nicht", "Wolke", "Schiff", "warum", "gestern", "möglich", "zwölf", "Straße", "erkläre")
    signs = "{}[]();=<>+*/&|_$#@~"

    def german() -> str:
        return " ".join(chance.choices(words, k=8)) + "?"

    def code() -> str:
        return "".join(chance.choices("abcxyz" + signs, k=30))

    rows = [{"prompt": (german if row % 2 else code)()} for row in range(400)]
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place


def of_another_tokenizer(source: Path, place: Path) -> Path:
    """A copy of a reward model with the tokenizer of another: the same pieces under other numbers.

    Its record of the tokenizer it was trained with is left out, as a classifier from elsewhere has none.
    """
    if place.exists():
        return place
    shutil.copytree(source, place)
    (place / "palate.json").write_text(json.dumps({"pooling": "last", "bias": 0.0}))
    content = json.loads((place / "tokenizer.json").read_text())
    special = {token["id"] for token in content["added_tokens"]}
    vocabulary: dict[str, int] = content["model"]["vocab"]
    free = [number for number in vocabulary.values() if number not in special]
    moved = dict(zip(free, random.Random(0).sample(free, len(free)), strict=True))
    content["model"]["vocab"] = {piece: moved.get(number, number) for piece, number in vocabulary.items()}
    (place / "tokenizer.json").write_text(json.dumps(content))
    Tokenizer.from_file(str(place / "tokenizer.json"))
    return place


@contextmanager
def without_eos() -> Iterator[None]:
    """Completions are tokenised without the stop token, as by a collator that masks it because it pads with it."""
    whole = ChatFormat.encode_completion
    ChatFormat.encode_completion = lambda self, text: whole(self, text)[:-1]
    try:
        yield
    finally:
        ChatFormat.encode_completion = whole


# ---- the cases

LEASH = {"kind": "fixed", "coef": 0.1}
DECAY = {"schedule": "cosine", "warmup": 5, "weight_decay": 0.1}


def ppo(**changes: Any) -> dict[str, Any]:
    """Tables that change PPO's settings."""
    return {"align": {"ppo": {"epochs": 1, "minibatches": 4, "kl": LEASH, "critic": {"learning_rate": 1e-3}} | changes}}


# For what is broken before alignment begins, which then only has to be there.
SHORT = {"align": {"iterations": 8}}

HEALTHY = (
    Case("healthy: ppo", None),
    Case("healthy: rloo", None, settings={"align": {"algorithm": "rloo", "batch": 32, "rloo": {"kl": LEASH}}}),
    Case(
        "healthy: larger sft, dpo",
        None,
        shares="nothing",
        settings={
            "testbed": {"demonstrations": 8_000},
            "align": {"algorithm": "dpo", "dpo": {"learning_rate": 1e-4}},
        },
    ),
)

BROKEN = (
    Case("sft undertrained", "sft", "undertrained", {"sft": {"learning_rate": 5e-5}} | SHORT, few, shares="nothing"),
    Case("eos never trained", "sft", "EOS", SHORT, few, eos=False, shares="nothing"),
    Case("labels flipped", "reward", "flipped", labels=flipped(1.0), shares="sft"),
    Case("labels random", "reward", "random", labels=flipped(0.5), shares="sft"),
    Case("labels length-biased", "reward", "length bias", labels=biased(0.2), shares="sft"),
    Case("learning rate too high", "align", "learning rate", {"align": {"learning_rate": 5e-3}}),
    Case("kl coefficient zero", "align", "leash", ppo(kl={"kind": "fixed", "coef": 0.0})),
    Case("reward model of another tokenizer", "reward", "tokenizer", own_tokenizer=True, shares="sft"),
    Case("prompts out of distribution", "align", "out of distribution", strange_prompts=True),
)

OTHER_STRENGTH = (
    Case("learning rate too high, 2e-3", "align", "learning rate", {"align": {"learning_rate": 2e-3}}),
    Case("labels flipped, 80 %", "reward", "flipped", labels=flipped(0.8), shares="sft"),
    Case("labels length-biased, half", "reward", "length bias", labels=biased(0.1), shares="sft"),
)

# What gold says of an alignment.
GOLD_FIGURES = ("align/gold_", "align/heldout_", "align/stopped_past_peak", "align/peak_kl")

CASES = (*HEALTHY, *BROKEN, *OTHER_STRENGTH)


# ---- making one


def recipe_of(case: Case, seed: int, root: Path) -> dict[str, Any]:
    """The tables of a case's recipe; the files that it names are written here."""
    files = root / "files"
    pairs = files / f"pairs-{seed}.jsonl"
    if case.labels is not None or not pairs.exists():
        chosen = honest if case.labels is None else case.labels
        pairs = write_pairs(chosen(seed), pairs if case.labels is None else files / f"{slug(case)}-{seed}.jsonl")
    table = {
        "run": {"name": f"{slug(case)}-{seed}", "seed": seed, "threads": 1, "device": "cpu"},
        "model": {"path": str(start_model(files / "start"))},
        "testbed": {"demonstrations": 6000},
        "sft": {"data": "testbed", "epochs": 1, "learning_rate": 2e-3, "batch_tokens": 2048, "optimiser": DECAY},
        "reward": {"data": str(pairs), "learning_rate": 1e-3, "batch_tokens": 4096, "optimiser": DECAY},
        "align": {
            "prompts": "testbed",
            "iterations": 20,
            "batch": 128,
            "max_new_tokens": 32,
            "learning_rate": 3e-4,
        },
        "evaluate": {"prompts": "testbed", "judge": "gold", "count": 200, "best_of": 4, "best_of_prompts": 32},
    }
    table = merged(table, ppo())
    if case.strange_prompts:
        table["align"]["prompts"] = str(write_strange_prompts(seed, files / f"strange-{seed}.jsonl"))
    if case.own_tokenizer:
        source = root / f"base-{seed}" / "reward" / "model"
        table["align"]["reward"] = str(of_another_tokenizer(source, files / f"tokenizer-{seed}"))
        del table["reward"]
    return direct(merged(table, case.settings), pairs)


def direct(table: dict[str, Any], pairs: Path) -> dict[str, Any]:
    """The tables as they are, but for a direct method without a reward model, and fed with the pairs."""
    if table["align"].get("algorithm") != "dpo":
        return table
    align = {"algorithm": "dpo", "data": str(pairs), "rows": 8_000, "max_new_tokens": 32, "dpo": table["align"]["dpo"]}
    return {name: part for name, part in table.items() if name != "reward"} | {"align": align}


def merged(table: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The tables with others merged in."""
    return dict(table) | {
        name: merged(table[name], change) if isinstance(change, Mapping) and name in table else change
        for name, change in changes.items()
    }


def slug(case: Case) -> str:
    """A case's name as a directory's."""
    return "".join(sign if sign.isalnum() else "-" for sign in case.name)


def do(table: Mapping[str, Any], root: Path, only: str | None = None) -> None:
    """Runs the recipe, going on past every verdict."""
    execute(recipe_from(table), watch=lambda _: Quiet(), say=lambda _: None, root=root, only=only, force=True)


def base(seed: int, root: Path) -> None:
    """Makes `base-SEED`, SFT and reward model of the healthy recipe, and `sft-SEED`, the first of the two alone."""
    table = recipe_of(HEALTHY[0], seed, root)
    for name, stage in (("sft", "sft"), ("base", "reward")):
        if not (root / f"{name}-{seed}").exists():
            if name == "base":
                copied(root / f"sft-{seed}", root / f"base-{seed}", f"base-{seed}")
            do(merged(table, {"run": {"name": f"{name}-{seed}"}}), root, stage)


def make(case: Case, seed: int, root: Path) -> Path:
    """The finished run of a case, made unless it is there."""
    if case.shares != "nothing":
        base(seed, root)
    table = recipe_of(case, seed, root)
    place = root / table["run"]["name"]
    if case.shares != "nothing" and not place.exists():
        copied(root / f"{'base' if case.shares == 'reward' else 'sft'}-{seed}", place, place.name)
    if not case.eos:
        with without_eos():
            do(table, root, "sft")
    do(table, root)
    return place


def without_gold(place: Path) -> tuple[Diagnosis, ...]:
    """What the doctor says of the run when gold has not looked on."""
    run = read(place)
    figures = {name: value for name, value in run.summary.items() if not name.startswith(GOLD_FIGURES)}
    return diagnose(Chart(replace(run, summary=figures, watch=None), place))


def main() -> None:
    """Makes the runs, asks the doctor about each, and prints what was broken and what was named."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seeds", default="0,1", help="with commas between")
    parser.add_argument(
        "--runs", type=Path, required=True, help="where the runs stand; those that are there are reused"
    )
    parser.add_argument("--only", default="", help="the cases whose name contains this")
    given = parser.parse_args()
    wrong = 0
    for seed in map(int, given.seeds.split(",")):
        for case in (case for case in CASES if given.only in case.name):
            began = time.process_time()
            place = make(case, seed, given.runs)
            found = examine(place)
            named = {one[0].stage if one else None for one in (found, without_gold(place))}
            cause = found[0].cause if found else "no stage is found at fault"
            wrong += named != {case.stage}
            mark = "WRONG" if named != {case.stage} else "ok" if case.cause in cause else "stage"
            told = "/".join(sorted(stage or "-" for stage in named))
            spent = time.process_time() - began
            print(f"{mark:<5} seed {seed}  {case.name:<34} {told:<7} {cause}  ({spent:.0f} s of CPU)", flush=True)
    print(f"{wrong} named wrongly.")
    raise SystemExit(wrong > 0)


if __name__ == "__main__":
    main()
