"""README, CONTRIBUTING and the pages of docs/ are held to the code: names, recipes, commands, links, settings.

The tables of settings are written anew by `PALATE_WRITE_TABLES=1 python -m pytest tests/test_reference_pages.py -k
settings`.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import tomllib
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import typer.main

from palate import errors
from palate import recipe as sections
from palate.algorithms.direct import DIRECT
from palate.algorithms.policies import ALGORITHMS, KL
from palate.cli.doing import INTERRUPTED
from palate.cli.main import app
from palate.data.formats import FORMATS
from palate.data.recognition import read
from palate.recipe import load_recipe, recipe_from
from palate.rewards import RULES
from palate.rewards.sources import Common, Function, Models
from palate.settings import Setting, describe, load_symbol

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [
        *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG")),
        *sorted(DOCS.rglob("*.md")),
    ]
}
README, CONTRIBUTING = PAGES["README.md"], PAGES["CONTRIBUTING.md"]
GLOSSARY, PIPELINES = PAGES["docs/glossary.md"], PAGES["docs/published-pipelines.md"]
PAPERS = ("stiennon", "instructgpt", "hh", "llama2")


FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return [text for found, text in FENCED.findall(page) if found == language]


def code(page: str) -> list[str]:
    """Inline code, and the lines of blocks that have no language: what a reader might type."""
    lines = [line for block in blocks(page, "") for line in block.splitlines()]
    return lines + re.findall(r"`([^`]+)`", FENCED.sub("", page))


RECIPES = blocks(PIPELINES, "toml")
NAMES = sorted(
    {
        name
        for page in PAGES.values()
        for name in re.findall(r"`(palate(?:\.\w+)+)`", page)
        if not name.endswith((".json", ".toml"))
    }
)


# ---- names


def found(name: str) -> object:
    """The module or attribute of that dotted name."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            module = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        return reduce(getattr, parts[end:], module)
    raise ModuleNotFoundError(name)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_in_the_pages_exists(name: str) -> None:
    assert found(name) is not None


def test_the_pages_name_much_of_the_code() -> None:
    assert len(NAMES) > 40


# ---- recipes


ALL_RECIPES = [(name, text) for name, page in PAGES.items() for text in blocks(page, "toml")]


@pytest.fixture
def beside_own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory to stand in, with the algorithm of CONTRIBUTING as `mine.py`."""
    (tmp_path / "mine.py").write_text(blocks(CONTRIBUTING, "python")[0], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("page", "text"), ALL_RECIPES, ids=[name for name, _ in ALL_RECIPES])
@pytest.mark.usefixtures("beside_own_code")
def test_a_recipe_of_a_page_can_be_built(page: str, text: str) -> None:
    recipe = recipe_from(tomllib.loads(text))
    assert any((recipe.sft, recipe.reward, recipe.align, recipe.evaluate)), page


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.toml")), ids=lambda path: path.name)
def test_a_recipe_to_copy_can_be_built(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.align is not None or recipe.reward is not None


@pytest.mark.parametrize(("paper", "text"), list(zip(PAPERS, RECIPES, strict=True)), ids=PAPERS)
def test_a_recipe_of_a_paper_has_what_all_have_in_common(paper: str, text: str) -> None:
    recipe = recipe_from(tomllib.loads(text))
    assert recipe.sft and recipe.reward and recipe.align and recipe.evaluate
    assert recipe.reward.loop.epochs == 1
    assert recipe.align.ppo.kl.kind == "fixed"
    episodes = {"stiennon": 1_000_000, "instructgpt": 256_000}
    if paper in episodes:
        assert recipe.align.loop.iterations * recipe.align.loop.batch == pytest.approx(episodes[paper], rel=1e-3)


def test_minibatches_of_64_out_of_512() -> None:
    for text in (RECIPES[1], RECIPES[3]):
        align = recipe_from(tomllib.loads(text)).align
        assert align is not None and align.loop.batch / align.ppo.minibatches == 64


def test_the_recipe_for_ones_own_data_is_short_and_whole() -> None:
    text = blocks(README, "toml")[0]
    recipe = recipe_from(tomllib.loads(text))
    assert recipe.sft and recipe.reward and recipe.align and recipe.evaluate
    assert len(text.splitlines()) <= 15
    assert f"runs/{recipe.run.name}/report.html" in README


# ---- settings


SECTIONS = {
    "run": sections.Run,
    "model": sections.Model,
    "testbed": sections.Testbed,
    "sft": sections.SFT,
    "reward": sections.Reward,
    "align": sections.Align,
    "evaluate": sections.Evaluate,
    "rounds": sections.Rounds,
    "every_reward": Common,
    "models": Models,
    "function": Function,
    **RULES,
    **ALGORITHMS,
    **DIRECT,
}
MARKED = re.compile(r"(<!-- settings: (\w+) -->\n)(.*?)(<!-- end of settings -->)", flags=re.DOTALL)


def settings_table(section: str) -> str:
    """The settings of a section as a Markdown table."""
    # An algorithm's settings stand on its own page.
    lines = [
        settings_row(setting)
        for setting in describe(SECTIONS[section])
        if section != "align" or setting.name.partition(".")[0] not in SECTIONS or "." not in setting.name
    ]
    return "\n".join(("", "| Setting | Type | Default | Meaning |", "|---|---|---|---|", *lines, "", ""))


def settings_row(setting: Setting) -> str:
    """A setting as a row; a table of settings has no default of its own."""
    default = "required" if setting.default is None else f"`{setting.default}`" if setting.default else "–"
    kind = setting.type.replace(" | ", " or ").replace("tuple[", "list[")
    return f"| `{setting.name}` | {kind} | {default} | {setting.help} |"


@pytest.mark.parametrize("name", [name for name, page in PAGES.items() if MARKED.search(page)])
def test_tables_of_settings_are_current(name: str) -> None:
    current = MARKED.sub(lambda found: found[1] + settings_table(found[2]) + found[4], PAGES[name])
    if os.environ.get("PALATE_WRITE_TABLES"):
        (ROOT / name).write_text(current, encoding="utf-8")
    else:
        assert PAGES[name] == current


def test_every_section_has_its_table_of_settings() -> None:
    assert {found[2] for page in PAGES.values() for found in MARKED.finditer(page)} == set(SECTIONS)


# ---- commands and links


COMMANDS = typer.main.get_command(app)


def subcommands(command: Any) -> dict[str, Any]:
    """The commands of a group, none of a command."""
    return getattr(command, "commands", {})


def resolved(words: list[str]) -> tuple[Any, list[str]]:
    """The command that words name, None where there is none, and what follows its name."""
    command: Any = COMMANDS
    while words and subcommands(command):
        command, words = subcommands(command).get(words[0]), words[1:]
    return command, words


@pytest.mark.parametrize("name", PAGES)
def test_commands_and_their_options_exist(name: str) -> None:
    for text in code(PAGES[name]):
        words = text.partition("  #")[0].split()
        if words[:1] != ["palate"] or words[1:] in ([], ["--help"]):
            continue
        command, rest = resolved(words[1:])
        assert command is not None and not subcommands(command), text
        assert {word for word in rest if word.startswith("--")} <= options(command), text


def options(command: Any) -> set[str]:
    """The options of a command, or of all commands of a group."""
    own = {option for parameter in command.params for option in parameter.opts}
    return own.union(*map(options, subcommands(command).values()))


@pytest.mark.parametrize("name", PAGES)
def test_options_named_alone_exist(name: str) -> None:
    named = {text.split()[0] for text in code(PAGES[name]) if text.startswith("--")}
    assert named <= options(COMMANDS)


def test_every_command_is_explained() -> None:
    documented = "\n".join(code(PAGES["docs/runs.md"]))
    for name, command in subcommands(COMMANDS).items():
        inner = [f"{name} {one}" for one in subcommands(command)] or [name]
        assert all(f"palate {one}" in documented for one in inner)


def anchors(page: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", PAGES[name]):
        if target.startswith(("http://", "https://")):
            continue
        file, _, anchor = target.partition("#")
        path = (ROOT / name).parent / file if file else ROOT / name
        assert path.exists(), target
        assert not anchor or anchor in anchors(path.read_text(encoding="utf-8")), target


def test_every_page_is_in_the_index() -> None:
    listed = re.findall(r"^\| \[([\w./-]+)\]", PAGES["docs/index.md"], flags=re.MULTILINE)
    assert {*listed, "index.md"} == {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}


def test_the_exit_codes_are_those_of_the_errors() -> None:
    codes = set(map(int, re.findall(r"^\| (\d+) \|", PAGES["docs/runs.md"], flags=re.MULTILINE)))
    raised = {one.exit_code for one in vars(errors).values() if isinstance(one, type) and hasattr(one, "exit_code")}
    assert codes == raised | {0, INTERRUPTED}


# ---- single pages


def test_the_tree_of_the_readme_is_short_and_true() -> None:
    tree = next(block for block in blocks(README, "") if block.startswith("palate/"))
    assert len(tree.splitlines()) <= 40
    above: list[str] = []
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        names = line.strip().split("   ")[0].split()
        above = [*above[:depth], names[0]]
        assert all((ROOT / "".join(above[:depth]) / name).exists() for name in names), line


def test_the_rewards_of_the_pages_work() -> None:
    brevity = {}
    exec(blocks(README, "python")[0], brevity)
    assert brevity["brevity"](["?", "?"], ["one two", ""]) == [-0.2, 0.0]
    exact = {}
    exec(blocks(PAGES["docs/align.md"], "python")[0], exact)
    assert exact["exact"](["?", "?"], [" 4\n", "5"], answer=["4", "4"], messages=[[], []]) == [1.0, 0.0]


@pytest.mark.usefixtures("beside_own_code")
def test_the_algorithm_of_contributing_finds_the_known_optimum() -> None:
    names = {"Reinforce": load_symbol("mine.py:Reinforce", "algorithm"), "KL": KL}
    exec(blocks(CONTRIBUTING, "python")[1], names)
    names["test_reinforce_reaches_the_known_optimum"]()


EXAMPLES = re.findall(r"^`([\w-]+)`:.*?```json\n(.*?)\n```", PAGES["docs/data.md"], flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize(("name", "row"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
def test_the_example_row_of_a_format_is_recognised_as_it(name: str, row: str, tmp_path: Path) -> None:
    path = tmp_path / "row.jsonl"
    path.write_text(f"{row}\n", encoding="utf-8")
    data = read(path)
    assert data.mapping.format == name
    assert len(data.records) == 1
    assert set(data.mapping.columns.values()) <= set(json.loads(row))


def test_every_format_has_an_example_row() -> None:
    assert {name for name, _ in EXAMPLES} == {known.name for known in FORMATS}


def test_the_numbers_of_the_glossary_follow_from_its_formulas() -> None:
    agreement = 0.73
    ceiling = (1 + (2 * agreement - 1) ** 0.5) / 2
    assert f"between\n  73 % and {100 * ceiling:.0f} %" in GLOSSARY
    # ln 64 − 63/64 = 4.159 − 0.984 = 3.175
    assert "3.2 nats for n = 64" in GLOSSARY
