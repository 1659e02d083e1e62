"""What both sides read: prompts, rows and pairs of random words, written once as JSON lines with their token ids."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SPECIAL = ("<pad>", "<eos>", "<unk>")
PAD, EOS = 0, 1

PROMPT_TOKENS = (16, 32)
ROW_TOKENS = (32, 96)


def word(token: int) -> str:
    """The text of a token id."""
    return SPECIAL[token] if token < len(SPECIAL) else f"w{token}"


def text(ids: Sequence[int]) -> str:
    """The text that the tokenizer reads as these ids."""
    return " ".join(map(word, ids))


def prompts(count: int, vocabulary: int, seed: int) -> list[dict[str, Any]]:
    """Prompts of 16 to 32 words."""
    draw = random.Random(seed)
    rows = [_words(draw, draw.randint(*PROMPT_TOKENS), vocabulary) for _ in range(count)]
    return [{"prompt": ids, "text": text(ids)} for ids in rows]


def demonstrations(count: int, vocabulary: int, seed: int) -> list[dict[str, Any]]:
    """Rows of 32 to 96 tokens, uniform: a third prompt, the rest completion, EOS included."""
    draw = random.Random(seed)
    return [{"prompt": prompt, "completion": side} for prompt, side in (_row(draw, vocabulary) for _ in range(count))]


def pairs(count: int, vocabulary: int, seed: int) -> list[dict[str, Any]]:
    """Pairs that share a prompt; each side's row has 32 to 96 tokens, uniform and apart from the other's."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        prompt, chosen = _row(draw, vocabulary)
        rejected = _completion(draw, max(draw.randint(*ROW_TOKENS) - len(prompt), 1), vocabulary)
        rows.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    return rows


def write(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Writes rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _row(draw: random.Random, vocabulary: int) -> tuple[list[int], list[int]]:
    length = draw.randint(*ROW_TOKENS)
    return _words(draw, length // 3, vocabulary), _completion(draw, length - length // 3, vocabulary)


def _completion(draw: random.Random, length: int, vocabulary: int) -> list[int]:
    return [*_words(draw, length - 1, vocabulary), EOS]


def _words(draw: random.Random, count: int, vocabulary: int) -> list[int]:
    return [draw.randrange(len(SPECIAL), vocabulary) for _ in range(count)]
