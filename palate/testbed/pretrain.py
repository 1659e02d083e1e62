"""The base model: shipped with the package, and remade by `pretrain` from the generated corpus alone.

It has read right answers and wrong ones in every manner, so it knows the answers but not which manner is better.
`base/base.json` holds what it was made from and how well it answers.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from palate.algorithms.objectives import Imitation, examples_of
from palate.algorithms.supervised import SupervisedLoop, Supervision
from palate.data.chat import ChatFormat
from palate.engine.checkpoint import Checkpoints
from palate.engine.files import atomic_directory, encode_json, file_sha256
from palate.engine.generation import Sampling, generate
from palate.engine.interfaces import Onlooker
from palate.engine.metrics import JsonLines
from palate.engine.optimiser import Optimiser
from palate.engine.seeding import uniforms
from palate.models.causal import CausalLM
from palate.models.loading import save_causal
from palate.models.scratch import scratch_model
from palate.records import Demonstration, Prompt
from palate.settings import digest, record, resolve
from palate.testbed.corpus import base_corpus, prompts
from palate.testbed.gold import CORRECT, terms
from palate.testbed.world import Split

SIDECAR = "base.json"
LONGEST_REPLY = 48

_CODE = ("world.py", "manners.py", "corpus.py", "pretrain.py")


@record
class Pretraining:
    """The recipe of the base model."""

    exchanges: int = 80_000
    seed: int = 0
    hidden: int = 128
    layers: int = 4
    heads: int = 4
    vocabulary: int = 640
    context: int = 128
    loop: Supervision = Supervision(
        learning_rate=3e-3,
        batch_tokens=4096,
        optimiser=Optimiser(schedule="cosine", warmup=20, weight_decay=0.1),
        checkpoint_every=10**6,
    )


RECIPE = Pretraining()


def base_model() -> Path:
    """The directory of the shipped base model, a Hugging Face directory."""
    return Path(__file__).parent / "base"


def pretrain(directory: Path, onlooker: Onlooker) -> dict[str, Any]:
    """Makes the base model in `directory`, in some minutes on two cores; returns what `base.json` says of it."""
    corpus = base_corpus(RECIPE.exchanges, RECIPE.seed)
    model, chat, tokenizer = scratch_model(
        _texts(corpus),
        hidden=RECIPE.hidden,
        layers=RECIPE.layers,
        heads=RECIPE.heads,
        vocabulary=RECIPE.vocabulary,
        context=RECIPE.context,
        seed=RECIPE.seed,
    )
    objective = Imitation(chat)
    loop = SupervisedLoop(model, objective, examples_of(objective, corpus), RECIPE.loop, RECIPE.seed, chat.pad_id)
    with TemporaryDirectory() as scratch:
        loop.train(Checkpoints(Path(scratch)), JsonLines(Path(scratch) / "metrics.jsonl"), onlooker)
    with atomic_directory(directory) as filling:
        save_causal(model, tokenizer, filling)
        card = {
            **hashes(corpus),
            "weights": file_sha256(filling / "model.safetensors"),
            "recipe": resolve(RECIPE),
            "accuracy": {split: answering(model, chat, split) for split in ("known", "heldout")},
        }
        (filling / SIDECAR).write_text(encode_json(card, indent=2) + "\n", encoding="utf-8")
    return card


def card() -> dict[str, Any]:
    """What the shipped base model was made from and how well it answers."""
    return json.loads((base_model() / SIDECAR).read_text(encoding="utf-8"))


def hashes(corpus: Sequence[Demonstration]) -> dict[str, str]:
    """sha256 of the corpus, of the recipe, and of the code of both (comments, layout and docstrings aside)."""
    lines = "".join(f"{text}\n" for text in _texts(corpus))
    code = "\n".join(_bare((Path(__file__).parent / name).read_text(encoding="utf-8")) for name in _CODE)
    return {
        "corpus_hash": hashlib.sha256(lines.encode()).hexdigest(),
        "recipe_hash": digest(resolve(RECIPE)),
        "code_hash": hashlib.sha256(code.encode()).hexdigest(),
    }


def answering(model: CausalLM, chat: ChatFormat, split: Split) -> dict[str, float]:
    """Shares of right and of false answers to a split's questions, greedily and when sampled."""
    asked = prompts(split)
    figures: dict[str, float] = {}
    for name, temperature in (("greedy", 0.0), ("sampled", 1.0)):
        replies = _replies(model, chat, asked, temperature)
        verdicts = [terms(prompt, reply)["correct"] for prompt, reply in zip(asked, replies, strict=True)]
        for verdict in ("right", "false"):
            figures[f"{name}_{verdict}"] = verdicts.count(CORRECT[verdict]) / len(verdicts)
    return figures


def _replies(model: CausalLM, chat: ChatFormat, asked: Sequence[Prompt], temperature: float) -> Iterator[str]:
    for start in range(0, len(asked), 256):
        rows = range(start, min(start + 256, len(asked)))
        generated = generate(
            model,
            [chat.encode_prompt(asked[row]) for row in rows],
            u=uniforms(RECIPE.seed, 0, rows, [0] * len(rows), LONGEST_REPLY),
            eos_id=chat.eos_id,
            pad_id=chat.pad_id,
            sampling=Sampling(temperature=temperature),
        )
        for ids, mask in zip(generated.ids, generated.mask, strict=True):
            yield chat.decode(ids[mask].tolist())


def _texts(corpus: Sequence[Demonstration]) -> list[str]:
    return [text for row in corpus for text in (row.prompt.text, row.completion)]


def _bare(source: str) -> str:
    """The source's syntax tree without docstrings: what stays equal when only words about it change."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)
