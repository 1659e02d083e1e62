"""`palate label`: from a data file, a store, or two files of answers to a page in the browser. No torch comes this way.

A file becomes a store of feedback beside it; the same file again finds that store, so the work goes on where it was.
"""

from __future__ import annotations

import errno
import hashlib
import ipaddress
import os
import secrets
import signal
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from palate.collect.judgements import Answer, Candidate, Item, Mode, Order, Origin, Preference, Thumb
from palate.collect.store import Store
from palate.data.recognition import Dataset, read
from palate.errors import DataError, UsageError
from palate.records import Demonstration, Feedback, PreferencePair, Prompt, Ranking, Rating

if TYPE_CHECKING:
    from palate.collect.web.queue import Desk
    from palate.collect.web.security import Access

PORT = 8765
LOOPBACK = "127.0.0.1"
OWNER = "me"
TOKEN = "PALATE_TOKEN"
SHORTEST_TOKEN = 16

TAGS = ("correct", "complete", "follows instructions", "clear", "right length", "tone", "safe")

# What a row of `Item.prompt.fields` says of an item of a comparison: the names of the two sides.
COMPARISON = "comparison"

_SQLITE = b"SQLite format 3\0"
_NATURAL: Mapping[str, Mode] = {
    "pairs": "pair",
    "rankings": "ranking",
    "feedback": "thumbs",
    "ratings": "rating",
    "prompts": "demonstration",
}


@dataclass(frozen=True)
class Serving:
    """Where the page is served, to whom, and what they are told. `annotators` may be empty: then it is the owner."""

    host: str = LOOPBACK
    port: int = PORT
    allowed: tuple[str, ...] = ()
    annotators: tuple[str, ...] = ()
    guidelines: Path | None = None
    tags: tuple[str, ...] = TAGS
    repeat_share: float = 0.05
    log: bool = False
    browser: bool = True


def label(
    source: Path | tuple[Path, Path],
    serving: Serving,
    *,
    mode: Mode | None,
    overlap: int | None,
    gold: Path | None,
    say: Callable[[str], None],
) -> None:
    """Serves a data file, a store, or a comparison of two files to raters, until Ctrl-C.

    UsageError where it may not or cannot be served so, or where what the page needs is not installed.
    """
    try:
        import palate.collect.web.server  # noqa: F401  asked before anything is written
    except ImportError as error:
        raise UsageError(
            f"`palate label` needs the package {error.name!r}, which is not installed. Install what it takes by "
            '`pip install "palate[label]"`.'
        ) from error
    _check(serving)
    with _listening(serving) as listener:
        if isinstance(source, tuple):
            path = prepare_comparison(source, overlap, say)
        else:
            path = prepare(source, mode, overlap, gold, serving.log)
        with Store(path) as store:
            _serve(store, listener, serving, say)


def _serve(store: Store, listener: socket.socket, serving: Serving, say: Callable[[str], None]) -> None:
    from palate.collect.web import server
    from palate.collect.web.queue import Desk
    from palate.collect.web.security import LOOPBACK as OURSELVES

    access = _access(store, serving)
    version, text = guideline_of(store, serving.guidelines)
    desk = Desk(store, repeat_share=serving.repeat_share, guideline=version)
    showing = server.Showing(text, serving.tags, "compare" if _compares(store) else "label", serving.log)
    hosts = OURSELVES | {_bracketed(host.lower()) for host in _hosts(serving)}
    links = _links(access, serving, listener.getsockname()[1])
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        server.serve(
            server.server(server.application(desk, access, showing, hosts)),
            listener,
            lambda: _greet(desk, links, access, serving, say),
        )
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)
    _farewell(desk, say)


# ---- the store


def prepare(source: Path, mode: Mode | None, overlap: int | None, gold: Path | None, log: bool) -> Path:
    """The store to label: that which is given, or the one beside a data file, with the file's items in it."""
    if not source.is_file():
        if log and source.suffix == ".sqlite" and not source.exists():
            return source
        said = "this is no file" if source.exists() else "there is no such file"
        raise DataError(f"{said}. Give a data file, or a store that Palate made.", source)
    given = is_store(source)
    path = source if given else source.with_name(f"{source.name}.feedback.sqlite")
    if given and mode:
        raise UsageError(
            f"--mode {mode} was given with the store {source}, whose items have theirs. Leave it out, or give a data "
            "file."
        )
    items = [] if gold is None else gold_items(gold)
    if not given:
        items += items_of(read(source), mode, overlap or 1)
    _store(path, items, overlap)
    return path


def prepare_comparison(sides: tuple[Path, Path], overlap: int | None, say: Callable[[str], None]) -> Path:
    """The store of a blind comparison of two files of {prompt, completion}, beside the first."""
    first, second = sides
    items, said = compared(first, second, overlap or 1)
    for sentence in said:
        say(sentence)
    path = first.with_name(f"{first.stem}-against-{second.stem}.feedback.sqlite")
    _store(path, items, overlap)
    return path


def _store(path: Path, items: Sequence[Item], overlap: int | None) -> None:
    with Store(path) as store:
        store.add_items(items)
        if overlap is None:
            return
        other = next(
            (one.wanted for one in store.items() if one.wanted != overlap and not (one.expected or one.repeats)),
            overlap,
        )
        if other != overlap:
            raise UsageError(
                f"--overlap {overlap} was given, and {path} holds items that want {other}; what was asked is "
                "not changed. Leave --overlap out, or label a copy of the data file under another name."
            )


def items_of(data: Dataset, mode: Mode | None = None, wanted: int = 1) -> list[Item]:
    """A file's records as items: of the mode that they suit, or of the one that is asked for."""
    origin = Origin("file", data.path.name, data.sha256)
    items: dict[str, Item] = {}
    for prompt, texts, natural in _asked(data, mode):
        for item in _expanded(prompt, [Candidate(text, (origin,)) for text in texts], mode or natural, wanted):
            items.setdefault(item.id, item)
    if not items:
        raise DataError(
            f"no row gives an item of mode {mode!r}: its prompts have too few different completions. Give another "
            "mode, or leave --mode out.",
            data.path,
        )
    return list(items.values())


def _asked(data: Dataset, mode: Mode | None) -> Iterator[tuple[Prompt, list[str], Mode]]:
    """Prompts with their different completions, and the mode that suits them."""
    alone: dict[Any, tuple[Prompt, list[str]]] = {}
    for record in data.records:
        natural = _NATURAL.get(data.mapping.kind)
        prompt, texts = _parts(record)
        if len(texts) != 1 or (mode or natural) in ("thumbs", "rating"):
            yield prompt, texts, natural or "thumbs"
        else:
            alone.setdefault(prompt.messages, (prompt, []))[1].append(texts[0])
    for prompt, texts in alone.values():
        texts = list(dict.fromkeys(texts))
        yield prompt, texts, "thumbs" if len(texts) == 1 else "pair" if len(texts) == 2 else "ranking"


def _parts(record: Any) -> tuple[Prompt, list[str]]:
    match record:
        case Prompt():
            return record, []
        case PreferencePair():
            return record.prompt, [record.chosen, record.rejected]
        case Ranking():
            return record.prompt, list(dict.fromkeys(record.completions))
        case Rating():
            fields = {**record.prompt.fields, "attributes": list(record.scores)}
            return Prompt(record.prompt.messages, fields), [record.completion]
        case Demonstration() | Feedback():
            return record.prompt, [record.completion]
    raise AssertionError(record)


def _expanded(prompt: Prompt, candidates: Sequence[Candidate], mode: Mode, wanted: int) -> list[Item]:
    if mode == "demonstration":
        groups: list[tuple[Candidate, ...]] = [()]
    elif mode in ("thumbs", "rating"):
        groups = [(one,) for one in candidates]
    elif mode == "pair":
        groups = list(combinations(candidates, 2))
    else:
        groups = [tuple(candidates)] if len(candidates) >= (2 if mode == "ranking" else 1) else []
    return [Item(prompt, group, mode=mode, wanted=wanted) for group in groups]


def gold_items(path: Path) -> list[Item]:
    """Items whose answer is known: pairs, rankings, or completions with a label."""
    data = read(path)
    origin = Origin("file", data.path.name, data.sha256)
    items = []
    for record in data.records:
        prompt, texts = _parts(record)
        expected = _expected(record)
        if expected is None or len(set(texts)) < len(texts):
            raise DataError(
                f"gold is to be asked, and the file holds {data.mapping.kind}, from which no answer is known. Give "
                "pairs, rankings without repetitions, or completions with a label.",
                path,
            )
        mode = _NATURAL[data.mapping.kind]
        items.append(Item(prompt, tuple(Candidate(text, (origin,)) for text in texts), mode=mode, expected=expected))
    return items


def _expected(record: Any) -> Answer | None:
    match record:
        case PreferencePair():
            return Preference(-1)
        case Ranking():
            return Order(record.ranks)
        case Feedback():
            return Thumb(record.desirable)
    return None


def compared(first: Path, second: Path, wanted: int = 1) -> tuple[list[Item], list[str]]:
    """Pairs of two files' completions for the same prompts, in their order; and what a person should know of them."""
    names = _names(first, second)
    sides = []
    for path, name in zip((first, second), names, strict=True):
        data = read(path, "demonstrations")
        origin, found = Origin("file", name, data.sha256), {}
        for record in data.records:
            found.setdefault(record.prompt.messages, (record.prompt, []))[1].append(
                Candidate(record.completion, (origin,))
            )
        sides.append(found)
    left, right = sides
    both = [key for key in left if key in right]
    pairs = [
        (left[key][0], one, other) for key in both for one, other in zip(left[key][1], right[key][1], strict=False)
    ]
    items = [
        Item(Prompt(prompt.messages, {**prompt.fields, COMPARISON: list(names)}), (one, other), wanted=wanted)
        for prompt, one, other in pairs
        if one.text != other.text
    ]
    if not items:
        raise DataError(
            f"{first} and {second} have {len(both)} prompts in common, and no two different completions for one. Write "
            "both files by `palate generate` from the same prompts.",
            second,
        )
    equal, alone = len(pairs) - len(items), len(left) + len(right) - 2 * len(both)
    said = [f"{equal} prompts have the same completion from both and are not asked."] if equal else []
    said += [f"{alone} prompts stand in one of the two files alone and are left out."] if alone else []
    return items, said


def _names(first: Path, second: Path) -> tuple[str, str]:
    """What the two sides are called in the result."""
    return (first.stem, second.stem) if first.stem != second.stem else (str(first), str(second))


def is_store(path: Path) -> bool:
    """Whether a file is a store, by its first bytes."""
    with path.open("rb") as file:
        return file.read(len(_SQLITE)) == _SQLITE


def _compares(store: Store) -> bool:
    items = store.waiting(OWNER) or store.items()[:1]
    return any(COMPARISON in item.prompt.fields for item in items)


def guideline_of(store: Store, path: Path | None) -> tuple[str, str]:
    """The version and text of the guidelines: those given, or the newest in the store."""
    if path is None:
        return next(reversed(store.guidelines().items()), ("", ""))
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError) as error:
        raise DataError(f"the guidelines cannot be read ({error}). Give a text file in UTF-8.", path) from error
    version = hashlib.sha256(text.encode()).hexdigest()[:12]
    store.add_guideline(version, text)
    return version, text


# ---- who may come, and where to


def _check(serving: Serving) -> None:
    """Before anything is written: hosts, names and the given token."""
    from palate.collect.web.security import NAME

    _hosts(serving)
    for name in serving.annotators:
        if not NAME.fullmatch(name):
            raise UsageError(
                f"An annotator is called {name!r}; a pseudonym has 1 to 64 letters, digits or any of . @ + - _. Take "
                "another."
            )
    given = os.environ.get(TOKEN, "")
    if given and len(given) < SHORTEST_TOKEN:
        raise UsageError(
            f"The environment variable {TOKEN} holds {len(given)} characters; a token needs {SHORTEST_TOKEN} at least, "
            "or it can be guessed. Give a longer one, or unset it and one is made."
        )


def _is_loopback(host: str) -> bool:
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _hosts(serving: Serving) -> tuple[str, ...]:
    """The names under which the page may be asked for, besides loopback's; the first stands in the links."""
    everywhere = _is_address(serving.host) and ipaddress.ip_address(serving.host).is_unspecified
    if everywhere and not serving.allowed:
        raise UsageError(
            f"--host {serving.host} serves on every interface, and no name was allowed. Say under which name or "
            "address raters reach this machine, as in --allow-host label.example.org; all others are refused."
        )
    return serving.allowed if everywhere else (*serving.allowed, serving.host)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _access(store: Store, serving: Serving) -> Access:
    from palate.collect.web.security import Access

    given = os.environ.get(TOKEN, "")
    secret = hashlib.sha256(_secret(store.path) + given.encode()).digest()
    return Access(secret, _is_loopback(serving.host), serving.annotators, OWNER, given)


def _secret(path: Path) -> bytes:
    """What tokens and cookies rest on, in a file beside the store that its owner alone can read; made where there is
    none. Not in the store, which may be given away."""
    beside = path.with_name(f"{path.name}.secret")
    try:
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(32))
    except FileExistsError:
        pass
    return beside.read_bytes()


def _listening(serving: Serving) -> socket.socket:
    family = socket.AF_INET6 if ":" in serving.host else socket.AF_INET
    try:
        return socket.create_server((serving.host, serving.port), family=family, backlog=512)
    except OSError as error:
        raise UsageError(
            f"The address {serving.host}, port {serving.port} cannot be served ({error.strerror or error}). "
            + (
                "Take another by --port N, or any free one by --port auto."
                if error.errno in (errno.EADDRINUSE, errno.EACCES)
                else "--host names an address of this machine, or 0.0.0.0 for all of them, with --allow-host."
            )
        ) from error


def _links(access: Access, serving: Serving, port: int) -> dict[str, str]:
    """A link for the owner and each annotator; with its token where one is needed."""
    base = f"http://{_bracketed(_reached(serving, access))}:{port}/"
    links = {}
    for name in (access.owner, *serving.annotators):
        query = urlencode({"as": name} if access.open else {"as": name, "token": access.token(name)})
        links[name] = base if access.open and name == access.owner else f"{base}?{query}"
    return links


def _reached(serving: Serving, access: Access) -> str:
    """The name or address that stands in the links."""
    if not access.open:
        return _hosts(serving)[0]
    return LOOPBACK if serving.host == "localhost" else serving.host


def _greet(desk: Desk, links: Mapping[str, str], access: Access, serving: Serving, say: Callable[[str], None]) -> None:
    missing = desk.missing()
    say(f"{desk.store.path}: {_counted(missing, 'judgement')} {'is' if missing == 1 else 'are'} wanted.")
    for name, link in links.items():
        say(f"  {name}: {link}")
    if access.open:
        host, _, port = links[access.owner].removeprefix("http://").rstrip("/").rpartition(":")
        say(f"From another machine: ssh -L {port}:{host}:{port} THIS-MACHINE, and the same link there.")
    if serving.log:
        say(f"Feedback on a deployed model: POST /api/log with `Authorization: Bearer {access.log_token}`.")
    say("Ctrl-C stops; every answer that the page shows as saved is on the disk.")
    if serving.browser and access.open and _has_screen():
        threading.Thread(target=webbrowser.open, args=(links[access.owner],), daemon=True).start()


def _has_screen() -> bool:
    """Whether a browser would show on a screen: without one, a text browser would take the terminal."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _farewell(desk: Desk, say: Callable[[str], None]) -> None:
    path, stored = desk.store.path, desk.store.judgements()
    raters = len({judgement.rater for judgement in stored})
    said = f"{_counted(len(stored), 'judgement')} of {_counted(raters, 'rater')}"
    missing = desk.missing()
    say(f"\nStored: {said} in {path}; {missing} {'is' if missing == 1 else 'are'} still wanted.")
    say(f"Next: palate quality {path}, or palate export {path} --as trl")


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
