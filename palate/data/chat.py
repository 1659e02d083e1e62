"""Text to token ids and back: chat templates, control tokens, where a completion begins and where it stops.

Prompt and completion are tokenised apart and never together, so the ids trained on are the ids generated.
Only the template writes control tokens: text that looks like one is text, in prompts and in completions
alike.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from palate.errors import DataError, ModelError
from palate.records import Message, Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Templates that write today's date would make a resumed run read other prompts than the run it continues.
DATE = datetime.datetime(2024, 7, 26)

_SPEAKERS = {"user": "Human", "assistant": "Assistant"}


@dataclass(frozen=True)
class ChatFormat:
    """How one tokenizer writes prompts and completions; made by `chat_format`.

    `eos_id` is the token that ends a completion and `pad_id` fills what is left of a row; they are never
    equal. Two formats of equal `fingerprint` give the same ids the same meaning.
    """

    eos_id: int
    pad_id: int
    fingerprint: str
    tokenizer: PreTrainedTokenizerBase = field(repr=False, compare=False)
    control_text: re.Pattern[str] = field(repr=False, compare=False)  # what reads like a control token
    opening: str = field(repr=False, compare=False)  # what starts a reply, where the template leaves that out

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        """Ids of the conversation up to where the assistant's reply begins, with one BOS at most.

        Raises DataError where the template refuses the conversation, or where nothing is left to read.
        """
        if self.tokenizer.chat_template is None:
            ids = [*_leading_bos(self.tokenizer), *self._plain(_transcript(prompt.messages))]
        else:
            ids = self._templated(prompt)
        bos = _special_id(self.tokenizer, "bos")
        while bos is not None and ids[:2] == [bos, bos]:
            del ids[0]
        if not ids:
            raise DataError(
                f"{_where(prompt)} is empty. A model needs one token at least before it can write. Give the "
                "prompt some text, or leave the row out."
            )
        return ids

    def encode_completion(self, text: str) -> list[int]:
        """Ids of a reply, ended by the stop token."""
        return [*self._plain(text), self.eos_id]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of a completion without stop token and padding; any other control token stays visible."""
        kept = [token for token in map(int, ids) if token not in (self.eos_id, self.pad_id)]
        text = self.tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return str(text)

    def _templated(self, prompt: Prompt) -> list[int]:
        start, end = _unused_characters("".join(message.content for message in prompt.messages))
        marked = [
            Message(message.role, self.control_text.sub(rf"{start}\g<0>{end}", message.content))
            for message in prompt.messages
        ]
        try:
            text = _render(self.tokenizer, marked, reply_follows=True) + self.opening
        except (TemplateError, TypeError, ValueError) as error:
            roles = ", ".join(message.role for message in prompt.messages)
            raise DataError(
                f"{_where(prompt)} has the turns {roles}, which the tokenizer's chat template refuses "
                f"({error}). A conversation must be one that the template can write. Change its roles, or "
                "use another template."
            ) from error
        pieces = re.split(f"{start}(.*?){end}", text, flags=re.DOTALL)
        ids: list[int] = []
        for index, piece in enumerate(pieces):
            ids += self._plain(piece) if index % 2 else _encode(self.tokenizer, piece, control_is_text=False)
        return ids

    def _plain(self, text: str) -> list[int]:
        return _encode(self.tokenizer, text, control_is_text=True)


def chat_format(tokenizer: PreTrainedTokenizerBase) -> ChatFormat:
    """The format of a tokenizer that has a padding token of its own.

    The stop token is the first control token which the template writes after a reply, or the tokenizer's EOS
    where there is no template. Raises ModelError where there is neither, where padding and stop token are
    one, and where the tokenizer cannot keep control tokens out of text.
    """
    control = _control_tokens(tokenizer)
    opening, eos_id = _reply_marks(tokenizer, control)
    pad_id = _special_id(tokenizer, "pad")
    if eos_id is None:
        raise ModelError(
            "The tokenizer has no EOS token, and its chat template writes no control token after a reply. A "
            "completion must be able to end. Set the tokenizer's eos_token and save it again."
        )
    if pad_id is None or pad_id == eos_id:
        raise ModelError(
            f"The tokenizer's padding token is {tokenizer.pad_token!r} and a completion ends with id "
            f"{eos_id}. Padding must be a token of its own, or a model cannot learn to stop. Load the model "
            "with load_causal, which adds one, or set the tokenizer's pad_token."
        )
    _check_text_stays_text(tokenizer, control)
    longest_first = sorted(control, key=len, reverse=True)
    control_text = re.compile("|".join(map(re.escape, longest_first)))
    return ChatFormat(eos_id, pad_id, _fingerprint(tokenizer, eos_id), tokenizer, control_text, opening)


def stop_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The id that ends a completion: the template's first control token after a reply, else EOS."""
    return _reply_marks(tokenizer, _control_tokens(tokenizer))[1]


def _control_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Text and id of every control token."""
    added = {token.content: index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))


def _encode(tokenizer: PreTrainedTokenizerBase, text: str, *, control_is_text: bool) -> list[int]:
    if not text:
        return []
    ids = tokenizer.encode(
        text, add_special_tokens=False, split_special_tokens=control_is_text, truncation=False, verbose=False
    )
    return list(ids)


def _render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, reply_follows: bool) -> str:
    conversation = [{"role": message.role, "content": message.content} for message in messages]
    settings: dict[str, Any] = {
        "chat_template": _with_fixed_date(tokenizer.get_chat_template()),
        "add_generation_prompt": reply_follows,
        "date_string": DATE.strftime("%d %b %Y"),
    }
    return str(tokenizer.apply_chat_template(conversation, tokenize=False, **settings))


def _with_fixed_date(template: str) -> str:
    call = r"""strftime_now\(\s*(['"])(.*?)\1\s*\)"""
    return re.sub(call, lambda match: repr(DATE.strftime(match[2])), template)


def _reply_marks(tokenizer: PreTrainedTokenizerBase, control: dict[str, int]) -> tuple[str, int | None]:
    """What must open a reply beyond the template's own generation prompt, and the id that ends it."""
    if tokenizer.chat_template is None:
        return "", _special_id(tokenizer, "eos")
    question, reply = Message("user", "question"), "\ue000reply\ue001"
    try:
        before = _render(tokenizer, [question], reply_follows=False)
        prompt = _render(tokenizer, [question], reply_follows=True)
        whole = _render(tokenizer, [question, Message("assistant", reply)], reply_follows=False)
    except (TemplateError, TypeError, ValueError) as error:
        raise ModelError(
            f"The tokenizer's chat template fails on one question and its reply ({error}). A template must "
            "be able to write these. Repair chat_template in the tokenizer's files, or remove it."
        ) from error
    head, found, tail = whole.partition(reply)
    if not found:
        raise ModelError(
            "The tokenizer's chat template leaves out what the assistant says. A template must write every "
            "turn. Repair chat_template in the tokenizer's files, or remove it."
        )
    ignores_generation_prompt = prompt == before and head.startswith(before)
    opening = head[len(before) :] if ignores_generation_prompt else ""
    ends = [(tail.index(text), -len(text), text) for text in control if text in tail]
    return opening, control[min(ends)[2]] if ends else _special_id(tokenizer, "eos")


def _check_text_stays_text(tokenizer: PreTrainedTokenizerBase, control: dict[str, int]) -> None:
    ids = set(control.values()) - {_special_id(tokenizer, "unk")}
    for text in control:
        if ids & set(_encode(tokenizer, text, control_is_text=True)):
            raise ModelError(
                f"This tokenizer reads the text {text!r} as a control token even where it is told not to. "
                "User text must never become control tokens. Use a byte-level BPE or SentencePiece "
                "tokenizer."
            )


def _transcript(messages: Sequence[Message]) -> str:
    """A prompt for a tokenizer without template: a lone turn as it stands, several as a transcript."""
    if len(messages) == 1:
        return messages[0].content
    turns = [
        f"\n\n{_SPEAKERS[message.role]}: {message.content}" if message.role in _SPEAKERS else message.content
        for message in messages
    ]
    return "".join(turns) + "\n\nAssistant:"


def _leading_bos(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    ids = tokenizer.encode("", add_special_tokens=True)
    return [int(token) for token in ids[:1] if token == _special_id(tokenizer, "bos")]


def _special_id(tokenizer: PreTrainedTokenizerBase, name: str) -> int | None:
    value: Any = getattr(tokenizer, f"{name}_token_id")
    return None if value is None else int(value)


def _unused_characters(text: str) -> tuple[str, str]:
    """Two characters of Unicode's private area that the text does not contain."""
    unused = (chr(code) for code in range(0xE000, 0xF900) if chr(code) not in text)
    return next(unused), next(unused)


def _fingerprint(tokenizer: PreTrainedTokenizerBase, eos_id: int) -> str:
    content = [sorted(tokenizer.get_vocab().items()), tokenizer.chat_template, eos_id]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _where(prompt: Prompt) -> str:
    return f"The prompt of line {prompt.line}" if prompt.line else "The prompt"
