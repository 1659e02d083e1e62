"""Settings: what is accepted, what is refused and how, and that nothing is lost on the way to TOML."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

import palate.settings
from palate.errors import RecipeError
from palate.settings import (
    apply_overrides,
    build,
    describe,
    digest,
    dump_toml,
    inlined,
    load_symbol,
    load_toml,
    record,
    resolve,
)


@record
class FixedLeash:
    """A coefficient that stays."""

    kind: Literal["fixed"] = "fixed"
    coef: float = Field(0.1, ge=0)
    """What the KL is multiplied by."""


@record
class AdaptiveLeash:
    """A coefficient that follows a target."""

    kind: Literal["adaptive"] = "adaptive"
    coef: float = Field(0.1, ge=0)
    target: float = Field(6.0, gt=0, description="Sequence KL in nats.")


@record
class Loop:
    """Settings that stand flat in the section around them."""

    epochs: int = Field(1, ge=1, description="passes")
    rate: float = Field(1e-4, gt=0)


@record
class Method:
    """A section with every shape of setting."""

    data: Path
    clip: float | tuple[float, float] = 0.2
    by: Literal["token", "sequence"] = "token"
    leash: Annotated[FixedLeash | AdaptiveLeash, Field(discriminator="kind")] = AdaptiveLeash(coef=0.3, target=2.0)
    margin: float | None = None
    names: tuple[str, ...] = ()
    biases: dict[str, float] = Field(default_factory=dict)
    ladder: tuple[FixedLeash, ...] = ()
    loop: Loop = inlined(Loop, epochs=2)
    exact: bool = True


@record
class Whole:
    """A recipe of one optional section."""

    method: Method | None = None


def refusal(table: dict[str, Any], record_type: type = Method, where: str = "align.ppo") -> str:
    with pytest.raises(RecipeError) as caught:
        build(record_type, table, where)
    return str(caught.value)


# Building


def test_a_table_becomes_a_record_with_tuples_paths_and_defaults():
    method = build(Method, {"data": "a/b.jsonl", "clip": [0.1, 0.3], "names": ["x"], "rate": 1})
    assert method == Method(data=Path("a/b.jsonl"), clip=(0.1, 0.3), names=("x",), loop=Loop(epochs=2, rate=1.0))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            {"data": "d", "clpi": 0.3},
            "align.ppo.clpi = 0.3: no such setting; align.ppo takes data, clip, by, leash, margin, names,"
            " biases, ladder, exact, epochs, rate. Did you mean clip?",
        ),
        (
            {"data": "d", "zebra": 1},
            "align.ppo.zebra = 1: no such setting; align.ppo takes data, clip, by, leash, margin, names,"
            " biases, ladder, exact, epochs, rate. Correct or remove it.",
        ),
        ({}, "align.ppo.data: missing, and it has no default. Add it to align.ppo."),
        ({"data": 3}, "align.ppo.data = 3: must be a valid string. Change it."),
        (
            {"data": "d", "epochs": 0},
            "align.ppo.epochs = 0: must be greater than or equal to 1. Change it, or leave it out for its default.",
        ),
        (
            {"data": "d", "clip": "wide"},
            'align.ppo.clip = "wide": must be a valid number or be a list. Change it, or leave it out for its default.',
        ),
        (
            {"data": "d", "by": "tokens"},
            'align.ppo.by = "tokens": must be token or sequence. Did you mean token?',
        ),
        (
            {"data": "d", "leash": {"kind": "adaptiv"}},
            'align.ppo.leash.kind = "adaptiv": must be fixed or adaptive. Did you mean adaptive?',
        ),
        (
            {"data": "d", "leash": {"kind": "fixed", "target": 1}},
            "align.ppo.leash.target = 1: no such setting; align.ppo.leash takes kind, coef. Correct or remove it.",
        ),
        (
            {"data": "d", "ladder": [{}, {"coef": -1}]},
            "align.ppo.ladder[1].coef = -1: must be greater than or equal to 0. Change it, or leave it out"
            " for its default.",
        ),
    ],
)
def test_a_wrong_table_is_refused_with_key_value_rule_and_fix(table: dict[str, Any], message: str):
    assert refusal(table) == message


@pytest.mark.parametrize("value", ["3", True, 3.0, None, float("nan")])
def test_only_an_integer_passes_for_an_integer(value: Any):
    assert "align.ppo.epochs" in refusal({"data": "d", "epochs": value})


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_numbers_must_be_finite(value: float):
    assert "align.ppo.rate" in refusal({"data": "d", "rate": value})
    with pytest.raises(ValueError, match="finite"):
        Loop(rate=value)


def test_every_wrong_key_has_its_own_paragraph():
    paragraphs = refusal({"data": 1, "epochs": 0, "zebra": 2}).splitlines()
    keys = {paragraph.partition(" ")[0] for paragraph in paragraphs}
    assert keys == {"align.ppo.data", "align.ppo.epochs", "align.ppo.zebra"}
    assert len(paragraphs) == 3


def test_an_inlined_record_has_no_table_of_its_own():
    assert refusal({"data": "d", "loop": {"epochs": 3}}).startswith("loop: no such setting")


def test_keys_below_an_optional_section_are_named_from_the_top():
    assert refusal({"method": {"data": "d", "epochs": 0}}, Whole, "").startswith("method.epochs = 0: must be")


def test_setting_one_key_of_a_group_leaves_the_groups_other_defaults():
    # The field's own default is coef .3 and target 2; the class's would be .1 and 6.
    assert build(Method, {"data": "d", "leash": {"target": 5.0}}).leash == AdaptiveLeash(coef=0.3, target=5.0)


def test_choosing_another_kind_drops_the_defaults_of_the_first():
    assert build(Method, {"data": "d", "leash": {"kind": "fixed"}}).leash == FixedLeash(coef=0.1)


def test_a_class_that_is_no_record_is_refused():
    class Plain:
        pass

    assert "Put @palate.settings.record above the class." in refusal({}, Plain)


def test_records_are_frozen_and_python_calls_are_checked():
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        Loop(epochs=0)
    with pytest.raises(AttributeError):
        Loop().epochs = 3  # pyright: ignore[reportAttributeAccessIssue]


def test_what_may_be_none_must_default_to_none():
    class Bad:
        margin: float | None = 1.0

    with pytest.raises(TypeError, match="may be None, so its default must be None"):
        record(Bad)


def test_an_inlined_setting_may_not_share_its_name():
    class Twice:
        epochs: int = 1
        loop: Loop = inlined(Loop)

    with pytest.raises(TypeError, match="two settings of the name epochs"):
        record(Twice)


# Writing and reading back

positive = st.floats(min_value=1e-300, allow_nan=False, allow_infinity=False)
leashes = st.one_of(st.builds(FixedLeash, coef=positive), st.builds(AdaptiveLeash, coef=positive, target=positive))
text = st.text(st.characters(blacklist_categories=["Cs"]))
methods = st.builds(
    Method,
    data=st.from_regex(r"[a-z]{1,5}(/[a-z]{1,5}){0,2}", fullmatch=True).map(Path),
    clip=st.one_of(positive, st.tuples(positive, positive)),
    by=st.sampled_from(["token", "sequence"]),
    leash=leashes,
    margin=st.one_of(st.none(), positive),
    names=st.lists(text, max_size=3).map(tuple),
    biases=st.dictionaries(text, positive, max_size=3),
    ladder=st.lists(st.builds(FixedLeash, coef=positive), max_size=2).map(tuple),
    loop=st.builds(Loop, epochs=st.integers(1, 10**12), rate=positive),
    exact=st.booleans(),
)


@given(methods)
def test_a_record_survives_toml_to_the_bit(method: Method):
    written = dump_toml(Whole(method=method), header="What the run was.\n\nAll of it.")
    again = build(Whole, tomllib.loads(written))
    assert again == Whole(method=method)
    assert digest(again) == digest(Whole(method=method))
    assert written.startswith("# What the run was.\n#\n# All of it.\n")


@given(methods)
def test_resolving_gives_every_value_and_builds_the_same_record(method: Method):
    plain = resolve(method)
    assert set(plain) == {
        *("data", "clip", "by", "leash", "margin", "names", "biases", "ladder", "exact", "epochs", "rate")
    }
    assert build(Method, plain) == method


def test_a_digest_is_that_of_canonical_json():
    # printf '[{"coef":0.1,"kind":"fixed"},"a/b",[1]]' | sha256sum
    expected = "ad87f972b970e64f8afb352ae9bc5c204d6a27f7182f36fc9a544549cdd6cb83"
    assert digest(FixedLeash(), Path("a/b"), (1,)) == expected
    assert digest({"b": 1, "a": 2}) == digest({"a": 2, "b": 1})
    assert digest(1) != digest(1.0)
    assert digest("1") != digest(1)


def test_only_plain_values_have_a_digest():
    with pytest.raises(TypeError, match="set is none of these"):
        digest({1, 2})


# Files and overrides


def test_toml_is_read_with_byte_order_mark_and_carriage_returns(tmp_path: Path):
    (tmp_path / "r.toml").write_bytes(b'\xef\xbb\xbf[run]\r\nname = "x"\r\n')
    assert load_toml(tmp_path / "r.toml") == {"run": {"name": "x"}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'a = 1\nb = "\xff"\n', "line 2: not UTF-8"),
        (b"a = 1\nb = \n", "is not valid TOML: Invalid value (at line 2"),
        (b"a = 1\na = 2\n", "is not valid TOML"),
    ],
)
def test_a_broken_file_is_refused_with_its_line(tmp_path: Path, content: bytes, message: str):
    (tmp_path / "r.toml").write_bytes(content)
    with pytest.raises(RecipeError) as caught:
        load_toml(tmp_path / "r.toml")
    assert message in str(caught.value)


def test_a_missing_file_brings_a_near_name(tmp_path: Path):
    (tmp_path / "recipe.toml").touch()
    with pytest.raises(RecipeError, match=r"does not exist.*Did you mean recipe.toml\?"):
        load_toml(tmp_path / "recpie.toml")
    with pytest.raises(RecipeError, match="Check the name"):
        load_toml(tmp_path / "nowhere" / "recipe.toml")
    with pytest.raises(RecipeError, match="is a directory"):
        load_toml(tmp_path)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("a.b=2", {"a": {"b": 2, "c": 1}}),
        ("a.b=1e-5", {"a": {"b": 1e-5, "c": 1}}),
        ("a.b = true", {"a": {"b": True, "c": 1}}),
        ("a.b=[0.1, 0.2]", {"a": {"b": [0.1, 0.2], "c": 1}}),
        ('a.b={kind = "fixed"}', {"a": {"b": {"kind": "fixed"}, "c": 1}}),
        ("a.b=data/my file.jsonl", {"a": {"b": "data/my file.jsonl", "c": 1}}),
        ("a.b=x=y", {"a": {"b": "x=y", "c": 1}}),
        ('a.b="7"', {"a": {"b": "7", "c": 1}}),
        ('a.b=""', {"a": {"b": "", "c": 1}}),
        ("a.b=1\nc=2", {"a": {"b": "1\nc=2", "c": 1}}),
        ("d.e.f=1", {"a": {"c": 1}, "d": {"e": {"f": 1}}}),
    ],
)
def test_an_override_is_toml_or_else_a_bare_string(override: str, expected: dict[str, Any]):
    given_table = {"a": {"c": 1}}
    assert apply_overrides(given_table, [override]) == expected
    assert given_table == {"a": {"c": 1}}


def test_the_last_override_wins():
    assert apply_overrides({}, ["a=1", "a=2"]) == {"a": 2}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("a.b", "has the form section.key=value"),
        ("=1", "has the form section.key=value"),
        ("a..b=1", "has the form section.key=value"),
        ("a b=1", "has the form section.key=value"),
        ("a.b=", 'Write a.b="" for the empty string.'),
        ("a.b=[1,", "is not valid TOML"),
        ("a.c.d=1", "a.c is 1, not a section. Set a.c itself."),
    ],
)
def test_a_wrong_override_is_refused(override: str, message: str):
    with pytest.raises(RecipeError) as caught:
        apply_overrides({"a": {"c": 1}}, [override])
    assert message in str(caught.value)


# Help


def test_help_names_every_setting_with_type_default_and_meaning():
    rows = {(row.name, row.help): (row.type, row.default) for row in describe(Method)}
    assert rows == {
        ("data", ""): ("Path", None),
        ("clip", ""): ("float | tuple[float, float]", "0.2"),
        ("by", ""): ('"token" | "sequence"', '"token"'),
        ("leash", ""): ("fixed | adaptive", "adaptive"),
        ("leash.coef", "fixed: What the KL is multiplied by."): ("float ≥ 0", "0.1"),
        ("leash.coef", ""): ("float ≥ 0", "0.3"),
        ("leash.target", "adaptive: Sequence KL in nats."): ("float > 0", "2.0"),
        ("margin", ""): ("float", "unset"),
        ("names", ""): ("tuple[str, …]", "[]"),
        ("biases", ""): ("dict[str, float]", "{}"),
        ("ladder", ""): ("tuple[fixed, …]", "[]"),
        ("ladder.coef", "What the KL is multiplied by."): ("float ≥ 0", "0.1"),
        ("epochs", "passes"): ("int ≥ 1", "2"),
        ("rate", ""): ("float > 0", "0.0001"),
        ("exact", ""): ("bool", "true"),
    }


def test_help_calls_a_plain_group_a_table_and_shows_no_default_for_it():
    assert [(row.name, row.type, row.default) for row in describe(Whole)][:2] == [
        ("method", "table", "unset"),
        ("method.data", "Path", None),
    ]


# Own code


def test_own_code_is_loaded_once_by_file_and_name(tmp_path: Path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from palate.settings import record\n@record\nclass Mine:\n    speed: int = 3\n    '''How fast.'''\n"
    )
    mine = load_symbol(f"{file}:Mine", "algorithm")
    assert build(mine, {"speed": 4}).speed == 4
    assert describe(mine)[0].help == "How fast."
    assert load_symbol(f"{file}:Mine", "algorithm") is mine


@pytest.mark.parametrize(
    ("specification", "message"),
    [
        ("mine.py", "Write file.py:Name."),
        ("mine.txt:Mine", "Write file.py:Name."),
        ("mine.py:Mine()", "Write file.py:Name."),
        ("mnie.py:Mine", "Did you mean mine.py?"),
        ("mine.py:Mien", "mine.py defines no Mien. Did you mean Mine?"),
        ("broken.py:Mine", "fails when loaded: ZeroDivisionError: division by zero"),
        ("worse.py:Mine", "fails when loaded: SyntaxError"),
    ],
)
def test_own_code_that_cannot_be_had_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, specification: str, message: str
):
    (tmp_path / "mine.py").write_text("Mine = 1\n")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "worse.py").write_text("def\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError) as caught:
        load_symbol(specification, "algorithm")
    assert message in str(caught.value)


def test_own_code_that_was_mended_is_loaded_anew(tmp_path: Path):
    file = tmp_path / "mended.py"
    file.write_text("1 / 0\n")
    with pytest.raises(RecipeError, match="ZeroDivisionError"):
        load_symbol(f"{file}:Mine", "algorithm")
    file.write_text("Mine = 'mended by now'\n")
    assert load_symbol(f"{file}:Mine", "algorithm") == "mended by now"


def test_settings_import_no_torch():
    root = Path(palate.settings.__file__).parents[1]
    code = "import palate.settings, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0
