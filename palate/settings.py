"""Settings: records read from TOML and `--set a.b=c`, checked, described, written back and hashed.

This file knows no section. A settings record is a class under `@record`; its fields are configuration, help
text and Python call at once. A nested table is filled up from its field's default, so that setting one key of
a group leaves the others as they were. The settings of an `inlined` record stand flat among its holder's own.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import hashlib
import json
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, dataclass_transform, get_args, get_origin

import pydantic
import pydantic.dataclasses
import tomli_w
from pydantic.fields import FieldInfo

from palate.errors import RecipeError

Record = TypeVar("Record")

_CONFIG = pydantic.ConfigDict(extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)
_INLINED: Any = {"inlined": True}
_BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def inlined(record_type: type, **defaults: Any) -> Any:
    """A field that holds a record whose settings stand flat among those of the record that holds it."""
    return pydantic.Field(default_factory=lambda: record_type(**defaults), json_schema_extra=_INLINED)


@dataclass_transform(kw_only_default=True, frozen_default=True)
def record(cls: type[Record]) -> type[Record]:
    """Turns a class into a settings record: a frozen, keyword-only dataclass whose values pydantic checks.

    A field's help is its `description`, or else the string below it. Raises TypeError where a field may be
    None and has another default, as TOML has no word for None and an absent key must mean just that; and
    where an inlined setting has the name of another.
    """
    made: Any = pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=_CONFIG)(cls)
    for name, field in _fields(made).items():
        if type(None) in get_args(field.annotation) and field.default is not None:
            raise TypeError(f"{cls.__name__}.{name} may be None, so its default must be None")
    names = [name for one in [made, *_inlined_in(made)] for name in _fields(one)]
    for name in names:
        if names.count(name) > 1:
            raise TypeError(f"{cls.__name__} has two settings of the name {name}: one is inlined")
    return made


@dataclasses.dataclass(frozen=True)
class Setting:
    """One line of help: a setting's dotted name, type, default (None where it is required) and meaning."""

    name: str
    type: str
    default: str | None
    help: str


# Reading


def load_toml(path: str | Path) -> dict[str, Any]:
    """The tables of a TOML file; RecipeError where it is missing, unreadable or broken."""
    path = Path(path)
    _must_be_file(path, "a TOML file")
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise RecipeError(f"{path} cannot be read: {error.strerror}. Check its permissions.") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise RecipeError(f"{path}, line {line}: not UTF-8, as TOML must be. Save it as UTF-8.") from error
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path} is not valid TOML: {error}. Correct it there.") from error


def apply_overrides(table: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """A copy of `table` with every `a.b=value` set; a value is TOML, or else a string as it stands."""
    result = copy.deepcopy(dict(table))
    for override in overrides:
        key, equals, text = override.partition("=")
        parts = [part.strip() for part in key.split(".")]
        if not equals or not all(_BARE_KEY.fullmatch(part) for part in parts):
            raise RecipeError(f"--set {override!a}: an override has the form section.key=value. Write it so.")
        _set(result, parts, _override_value(override, text.strip()))
    return result


def _override_value(override: str, text: str) -> Any:
    try:
        table = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError as error:
        if not text:
            raise RecipeError(f'--set {override} gives no value. Write {override}"" for the empty string.') from None
        if text[0] in "[{\"'":
            raise RecipeError(
                f"--set {override}: the value is not valid TOML: {error}. Quote it for the shell."
            ) from error
        return text
    # A line break in the value must not smuggle in a second key.
    return table["value"] if len(table) == 1 else text


def _set(table: dict[str, Any], parts: Sequence[str], value: Any) -> None:
    *sections, last = parts
    for depth, section in enumerate(sections, start=1):
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            outer = ".".join(sections[:depth])
            raise RecipeError(
                f"--set {'.'.join(parts)}: {outer} is {_shown(table)}, not a section. Set {outer} itself."
            )
    table[last] = value


def build(record_type: type[Record], table: Mapping[str, Any], where: str = "") -> Record:
    """The record that a table of settings spells; RecipeError with a paragraph for each key that is wrong.

    `where` is the dotted name of the section, for messages.
    """
    if not _is_record(record_type):
        raise RecipeError(
            f"{record_type.__name__} is to be filled from {where or 'the recipe'}, but is no settings record."
            " Put @palate.settings.record above the class."
        )
    arranged = _arranged(table, [record_type])
    # JSON in strict mode takes a list for a tuple and a string for a path, but never "3" or true for 3.
    text = json.dumps(arranged, default=str)
    try:
        return pydantic.TypeAdapter(record_type).validate_json(text, strict=True)
    except pydantic.ValidationError as error:
        problems = [_problem(details, record_type, arranged, where) for details in error.errors()]
    raise RecipeError("\n".join(_paragraphs(problems)))


def _arranged(value: Any, candidates: Sequence[type], default: Any = None) -> Any:
    """A table as pydantic wants it: filled up from `default`, inlined settings moved into their record.

    The record `default` no longer counts where the table chose another kind.
    """
    if isinstance(value, (list, tuple)):
        return [_arranged(item, candidates) for item in value]
    default = default if _is_record(type(default)) and _spells(value, type(default)) else None
    spelt = [type(default)] if default is not None else [one for one in candidates if _spells(value, one)]
    if not spelt:
        return value
    table = dict(value)
    for name, field in _fields(spelt[0]).items():
        inner, nested = getattr(default, name, _default(field)), _records_in(field.annotation)
        if _is_inlined(field):
            table[name] = _moved(table, name, nested[0])
        elif default is not None:
            table.setdefault(name, {} if _is_record(type(inner)) else resolve(inner))
        if name in table:
            table[name] = _arranged(table[name], nested, inner)
    return table


def _moved(table: dict[str, Any], name: str, record_type: type) -> dict[str, Any]:
    """Takes the settings of an inlined record out of the table around it."""
    if name in table:
        raise RecipeError(f"{name}: no such setting. What it holds stands in the section itself: move it up there.")
    return {key: table.pop(key) for key in _fields(record_type) if key in table}


def _spells(value: Any, record_type: type) -> bool:
    tags = _tags(record_type)
    return isinstance(value, Mapping) and all(value.get(name, tag) == tag for name, tag in tags.items())


# Saying what is wrong


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "Correct or remove it.") -> str:
    """The sentence that names which of the known names was probably meant, or `otherwise`."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"Did you mean {close[0]}?" if close else otherwise


def _paragraphs(problems: Iterable[tuple[str, str, str]]) -> list[str]:
    """One paragraph a setting; the complaints of a union's members become alternatives."""
    rules: dict[str, tuple[list[str], str]] = {}
    for subject, rule, fix in problems:
        alternatives, _ = rules.setdefault(subject, ([], fix))
        if rule not in alternatives:
            alternatives.append(rule.removeprefix("must ") if alternatives else rule)
    return [f"{subject}: {' or '.join(alternatives)}. {fix}" for subject, (alternatives, fix) in rules.items()]


def _problem(details: Any, record_type: type, table: Mapping[str, Any], where: str) -> tuple[str, str, str]:
    """What was given, the rule it broke and the fix, from one of pydantic's error details."""
    kind, location, context = details["type"], details["loc"], details.get("ctx", {})
    path, fields = _locate(location, record_type, table)
    if kind == "missing":
        path.append(location[-1])
    given = details["input"]
    if kind.startswith("union_tag"):
        tag = context["discriminator"].strip("'")
        path, given = [*path, tag], context.get("tag")
    key, section = _dotted(where, path), _dotted(where, path[:-1])
    if kind == "unexpected_keyword_argument":
        rule = f"no such setting; {section} takes {', '.join(fields)}"
        return f"{key} = {_shown(given)}", rule, did_you_mean(str(path[-1]), fields)
    if kind in ("missing", "union_tag_not_found"):
        return key, "missing, and it has no default", f"Add it to {section}."
    if kind in ("literal_error", "union_tag_invalid"):
        choices = re.findall("'([^']*)'", context.get("expected") or context["expected_tags"])
        return (
            f"{key} = {_shown(given)}",
            f"must be {' or '.join(choices)}",
            did_you_mean(str(given), choices),
        )
    rule = details["msg"].removeprefix("Value error, ").replace("Input should", "must")
    rule = rule.replace("a valid array", "a list").replace("an object", "a table")
    field = fields.get(str(path[-1])) if path else None
    fix = "Change it." if field is None or field.is_required() else "Change it, or leave it out for its default."
    return f"{key} = {_shown(given)}", rule, fix


def _locate(
    location: Sequence[str | int], record_type: type, table: Any
) -> tuple[list[str | int], dict[str, FieldInfo]]:
    """The keys in one of pydantic's locations, and the settings that stand beside the last of them.

    Pydantic names the members of unions between the keys; those only narrow down which record is meant.
    """
    records, beside = [record_type], [record_type]
    path: list[str | int] = []
    for part in location:
        steps: Any = dict(enumerate(table)) if isinstance(table, list) else table
        if not (isinstance(steps, Mapping) and part in steps):
            records = [one for one in records if part == one.__name__ or part in _tags(one).values()] or records
            continue
        table = steps[part]
        held = [_fields(one)[part] for one in records if part in _fields(one)]
        if not any(_is_inlined(field) for field in held):
            path.append(part)
            beside = records
        records = [inner for field in held for inner in _records_in(field.annotation)] or records
    return path, {name: field for one in beside for name, field in _settings(one).items()}


def _dotted(where: str, path: Iterable[str | int]) -> str:
    steps = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return (where + "".join(steps)).lstrip(".") or "the recipe"


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."


# Writing


def resolve(value: Any) -> Any:
    """Every value of a record, defaults included, as plain dicts, lists, strings, numbers and None."""
    if _is_record(type(value)):
        plain: dict[str, Any] = {}
        for name, field in _fields(type(value)).items():
            inner = resolve(getattr(value, name))
            plain |= inner if _is_inlined(field) else {name: inner}
        return plain
    if isinstance(value, Mapping):
        return {str(key): resolve(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [resolve(item) for item in value]
    if isinstance(value, Path):
        return value.as_posix()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a setting is made of tables, lists, strings and numbers; {type(value).__name__} is none of these")


def dump_toml(value: Any, header: str = "") -> str:
    """A record as TOML with every default written out; what is None is left out and reads back as None."""
    comment = "".join(f"# {line}".rstrip() + "\n" for line in header.splitlines())
    return comment + tomli_w.dumps(_without_none(resolve(value)))


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list) else value


def digest(*things: Any) -> str:
    """SHA-256, in hex, of the canonical JSON (sorted keys, no spaces) of records and plain values."""
    text = json.dumps(resolve(things), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


# Describing


def describe(record_type: type) -> list[Setting]:
    """The help of a record, a line a setting; those of a nested record follow it under dotted names.

    Where a setting may be a record of several kinds, the help of each kind's settings begins with the kind.
    """
    return list(_described(record_type))


def _described(record_type: type, instance: Any = None, prefix: str = "", kind: str = "") -> Iterator[Setting]:
    for name, field in _fields(record_type).items():
        value = _default(field) if instance is None else getattr(instance, name)
        nested = _records_in(field.annotation)
        if _is_inlined(field):
            yield from _described(nested[0], value, prefix, kind)
            continue
        if name not in _tags(record_type):
            default = None if instance is None and field.is_required() else _default_name(value)
            help_text = kind + " ".join(field.description.split()) if field.description else ""
            yield Setting(prefix + name, _type_name(field), default, help_text)
        for one in nested:
            inner = value if type(value) is one else None
            label = f"{_kind(one)}: " if len(nested) > 1 else kind
            yield from _described(one, inner, f"{prefix}{name}.", label)


def _default_name(value: Any) -> str:
    if _is_record(type(value)):
        return next(iter(_tags(type(value)).values()), "")
    return "unset" if value is None else _shown(resolve(value))


def _kind(record_type: type) -> str:
    return next(iter(_tags(record_type).values()), record_type.__name__)


def _type_name(field: FieldInfo) -> str:
    bounds = [
        f" {sign} {getattr(constraint, bound)}"
        for constraint in field.metadata
        for bound, sign in _BOUNDS.items()
        if hasattr(constraint, bound)
    ]
    return _annotation_name(field.annotation) + ",".join(bounds)


def _annotation_name(annotation: Any) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation is Ellipsis:
        return "…"
    if origin is Literal:
        return " | ".join(_shown(choice) for choice in inner)
    if origin is Annotated:
        return _annotation_name(inner[0])
    if origin in (Union, UnionType):
        return " | ".join(_annotation_name(one) for one in inner if one is not type(None))
    if inner:
        return f"{origin.__name__}[{', '.join(_annotation_name(one) for one in inner)}]"
    if _is_record(annotation):
        return next(iter(_tags(annotation).values()), "table")
    return getattr(annotation, "__name__", str(annotation))


# Records and their fields


def _is_record(kind: Any) -> bool:
    return isinstance(kind, type) and pydantic.dataclasses.is_pydantic_dataclass(kind)


def _fields(record_type: Any) -> dict[str, FieldInfo]:
    return record_type.__pydantic_fields__


def _is_inlined(field: FieldInfo) -> bool:
    return field.json_schema_extra == _INLINED


def _inlined_in(record_type: type) -> list[type]:
    return [_records_in(field.annotation)[0] for field in _fields(record_type).values() if _is_inlined(field)]


def _settings(record_type: type) -> dict[str, FieldInfo]:
    """The fields as a recipe shows them: those of an inlined record stand for the field that holds it."""
    own = {name: field for name, field in _fields(record_type).items() if not _is_inlined(field)}
    return own | {name: field for one in _inlined_in(record_type) for name, field in _fields(one).items()}


def _default(field: FieldInfo) -> Any:
    """The default of a field, None where it has none."""
    return None if field.is_required() else field.get_default(call_default_factory=True)


def _tags(record_type: type) -> dict[str, Any]:
    """The fields with one possible value (`kind: Literal["adaptive"]`): they tell a union's members apart."""
    choices = {
        name: get_args(field.annotation)
        for name, field in _fields(record_type).items()
        if get_origin(field.annotation) is Literal
    }
    return {name: values[0] for name, values in choices.items() if len(values) == 1}


def _records_in(annotation: Any) -> list[type]:
    """Every record type that an annotation mentions, but for the values of a free table."""
    if _is_record(annotation):
        return [annotation]
    if get_origin(annotation) in (dict, Mapping):
        return []
    return [one for inner in get_args(annotation) for one in _records_in(inner)]


# User code


def load_symbol(specification: str, kind: str) -> Any:
    """What `file.py:Name` names; `kind` says in a RecipeError what it was to be.

    A file is run once in a process, so that its classes stay the same whoever asks for them.
    """
    file, colon, name = specification.rpartition(":")
    if not colon or not file.endswith(".py") or not name.isidentifier():
        raise RecipeError(f"{kind} {specification!r}: own code is named by file and name. Write file.py:Name.")
    _must_be_file(Path(file), "a Python file")
    module = _load_module(Path(file).resolve(), kind)
    if not hasattr(module, name):
        names = [known for known in vars(module) if not known.startswith("_")]
        hint = did_you_mean(name, names, f"It has {', '.join(names) or 'nothing'}.")
        raise RecipeError(f"{kind} {specification!r}: {file} defines no {name}. {hint}")
    return getattr(module, name)


def _load_module(path: Path, kind: str) -> ModuleType:
    name = f"palate_user_{path.stem}_{digest(path)[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    loader = SourceFileLoader(name, str(path))
    specification = spec_from_loader(name, loader)
    assert specification is not None  # it is None only for a loader that knows no source
    module = module_from_spec(specification)
    sys.modules[name] = module  # dataclasses and pydantic look annotations up there
    try:
        loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise RecipeError(
            f"{kind} file {path} fails when loaded: {type(error).__name__}: {error}. Run it with python to see where."
        ) from error
    return module


def _must_be_file(path: Path, wanted: str) -> None:
    if path.is_dir():
        raise RecipeError(f"{path} is a directory, but {wanted} is wanted. Name the file inside it.")
    if not path.exists():
        beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = did_you_mean(path.name, beside, "Check the name, and the directory you are in.")
        raise RecipeError(f"{path} does not exist, but {wanted} is wanted. {hint}")
