"""The page: self-contained, the same bytes each time, whole with any stage missing, deaf to markup."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from palate.report import build, chosen_samples, write

MakeRun = Callable[..., Path]
STAGES = ("sft", "reward", "align", "evaluate")
PAYLOAD = "</pre></title></style><script>alert(1)</script><img src=x onerror=alert(1)>\"' onload=alert(1) x='&amp;"

FILES = [
    *("align/metrics.jsonl", "align/points.jsonl", "align/overoptimisation.json", "align/monitors.json"),
    *("reward/report.json", "reward/metrics.jsonl", "evaluate/results.json", "evaluate/comparisons.jsonl"),
]

VOID = {"meta", "link"}
ELEMENTS = (
    {
        "html",
        "head",
        "meta",
        "title",
        "link",
        "style",
        "body",
        "main",
        "header",
        "section",
        "article",
        "div",
        "p",
    }
    | {
        "span",
        "h1",
        "h2",
        "h3",
        "ul",
        "li",
        "dl",
        "dt",
        "dd",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "pre",
    }
    | {"code", "b", "ins", "del", "figure", "figcaption", "svg", "g", "path", "text", "defs", "use", "clippath", "rect"}
)


class Outline(HTMLParser):
    """The elements, attributes and text of a page, and whether every element was closed in its turn."""

    def __init__(self, page: str):
        super().__init__()
        self.elements: set[str] = set()
        self.attributes: set[tuple[str, str]] = set()
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.attributes |= {(name, value or "") for name, value in attrs}
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.attributes |= {(name, value or "") for name, value in attrs}

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def outline(page: str) -> Outline:
    read = Outline(page)
    assert read.open == []
    assert read.elements <= ELEMENTS
    assert not [name for name, _ in read.attributes if name.startswith("on")]
    return read


def test_the_same_directory_gives_the_same_bytes(make_run: MakeRun) -> None:
    directory = make_run()
    assert build(directory) == build(str(directory))


def test_the_page_does_not_depend_on_where_the_directory_lies(make_run: MakeRun, tmp_path: Path) -> None:
    first = build(make_run())
    (tmp_path / "demo").rename(tmp_path / "elsewhere")
    assert build(tmp_path / "elsewhere") == first


def test_the_page_is_self_contained(make_run: MakeRun) -> None:
    page = build(make_run())
    read = outline(page)
    loaded = [value for name, value in read.attributes if name in {"src", "href", "xlink:href", "action"}]
    assert loaded and all(value.startswith(("#", "data:,")) for value in loaded)
    assert set(re.findall(r"url\((.)", page)) == {"#"}
    assert "@import" not in page and "<script" not in page
    assert "default-src 'none'" in page


@pytest.mark.parametrize("stages", [kept for n in range(5) for kept in itertools.combinations(STAGES, n)], ids="-".join)
def test_any_stage_may_be_missing(make_run: MakeRun, stages: tuple[str, ...]) -> None:
    page = build(make_run(stages))
    words = " ".join(outline(page).words)
    absences = {
        "sft": "No supervised fine-tuning in this run directory",
        "reward": "No reward model in this run directory",
        "align": "No alignment in this run directory",
        "evaluate": "No evaluation in this run directory",
    }
    for stage, sentence in absences.items():
        assert (sentence in words) == (stage not in stages)


@pytest.mark.parametrize("name", ["recipe.toml", "summary.json", "evaluate", *FILES])
def test_any_file_may_be_missing(make_run: MakeRun, name: str) -> None:
    directory = make_run()
    path = directory / name
    if path.is_dir():
        for file in path.iterdir():
            file.unlink()
    else:
        path.unlink()
    outline(build(directory))


def poisoned(value: Any) -> Any:
    """A JSON value with the payload at the end of each string that is free text."""
    fixed = {"win", "tie", "loss", "done", "pass", "warn", "gold", "evaluate", "sft", "reward", "align", "rl", "lower"}
    if isinstance(value, dict):
        return {key: poisoned(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [poisoned(inner) for inner in value]
    return value + PAYLOAD if isinstance(value, str) and value not in fixed else value


def test_markup_in_the_data_is_text(make_run: MakeRun) -> None:
    directory = make_run()
    manifest = poisoned(json.loads((directory / "run.json").read_text()))
    manifest["parents"] = [PAYLOAD]
    manifest["data"] = {PAYLOAD: PAYLOAD}
    manifest["versions"] = {PAYLOAD: PAYLOAD}
    manifest["stages"][PAYLOAD] = {"status": "done", "verdict": {"level": "warn", "reasons": [PAYLOAD]}}
    (directory / "run.json").write_text(json.dumps(manifest))
    path = directory / "evaluate" / "results.json"
    results = json.loads(path.read_text()) | {"judge": PAYLOAD}
    path.write_text(json.dumps(poisoned(results)))
    path = directory / "evaluate" / "comparisons.jsonl"
    rows = [poisoned(json.loads(line)) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with (directory / "recipe.toml").open("a") as file:
        file.write(f"# {PAYLOAD}\n")
    for name in ("align/monitors.json", "align/overoptimisation.json", "reward/report.json"):
        path = directory / name
        path.write_text(json.dumps(poisoned(json.loads(path.read_text()))))
    path = directory / "align" / "points.jsonl"
    path.write_text("".join(json.dumps(poisoned(json.loads(line))) + "\n" for line in path.read_text().splitlines()))
    page = build(directory)
    assert "could not be read" not in page and "left out" not in page
    assert "script" not in outline(page).elements and "img" not in outline(page).elements
    assert page.count("&lt;script&gt;") > 30


def test_every_text_field_that_is_shown_is_shown_escaped(make_run: MakeRun) -> None:
    directory = make_run()
    (directory / "recipe.toml").write_text('name = "<b>&\'"')
    assert "name = &quot;&lt;b&gt;&amp;&#x27;&quot;" in build(directory)


def test_control_characters_and_lone_surrogates_do_not_stop_the_page(make_run: MakeRun) -> None:
    directory = make_run(["evaluate"])
    path = directory / "evaluate" / "comparisons.jsonl"
    row = json.loads(path.read_text().splitlines()[0]) | {"after": "a\ud800\x00\x1b[31m", "before": " \n"}
    path.write_text(json.dumps(row) + "\n")
    written = write(directory).read_text(encoding="utf-8")
    assert "a\ufffd\ufffd\ufffd[31m" in written
    assert "(empty)" in written


def test_a_long_completion_is_cut_and_says_so(make_run: MakeRun) -> None:
    directory = make_run(["evaluate"])
    path = directory / "evaluate" / "comparisons.jsonl"
    row = json.loads(path.read_text().splitlines()[0]) | {"after": "x" * 4000}
    path.write_text(json.dumps(row) + "\n")
    page = build(directory)
    assert "(2,500 more characters)" in page and "x" * 1501 not in page  # 4,000 − 1,500


def test_the_figures_of_the_run_stand_on_the_page(make_run: MakeRun) -> None:
    words = " ".join(outline(build(make_run())).words)
    for figure in (
        "held-out loss against base",
        "98.0%",
        "71.2%",
        "(69.9% to 72.5%)",
        "it is at most 10 nats a completion",
        "1 min 22 s",
        "warned",
        "requests to decline",
        "palate demo --set 'run.name=my demo'",
        "torch 2.13.0",
        "9f2c9f2c",
        "target 6.00",
        "Score that is not: gold",
        "That of the score that is not optimised peaks at 1.0",
        "confident wrong",
        "Stopped: by gold the policy fell",
        "expected calibration error 1",
        "words that say nothing make a reply longer",
        "36,000 pairs judged by the testbed’s simulated annotators",
        "runs/before/reward/model of runs/before",
        "palate run runs/demo/recipe.toml --fresh",
        "2 cores, 7.8 GB memory",
    ):
        assert figure in words


def test_prompts_without_kinds_have_no_table_of_kinds(make_run: MakeRun) -> None:
    directory = make_run(["evaluate"])
    path = directory / "evaluate" / "results.json"
    group = {"name": "all", "count": 400, "before": 0.1, "after": 0.2, "win_rate": 0.6}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"groups": [group]}))
    assert "Kind of prompt" not in build(directory)


def test_the_terminal_shows_the_samples_of_the_page(make_run: MakeRun) -> None:
    directory = make_run()
    page = build(directory)
    assert len(chosen_samples(directory)) == page.count("<article") - 1 == 5  # the page also shows what was flagged
    assert all(one.prompt in page for one in chosen_samples(directory))


def without_looks(directory: Path) -> Path:
    """The run as one in which nobody looked on at fixed KL steps."""
    (directory / "align" / "points.jsonl").unlink()
    return directory


def test_without_looks_the_independent_score_of_the_iterations_stands_over_kl(make_run: MakeRun) -> None:
    page = build(without_looks(make_run()))
    assert "The gold score of each iteration against its KL" in page


def test_gold_that_is_optimised_is_no_independent_score(make_run: MakeRun) -> None:
    directory = without_looks(make_run())
    path = directory / "align" / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row | {"score/gold": row["score/mean"]}) + "\n" for row in rows))
    page = build(directory)
    assert "Gold score" not in page
    assert "Not measured: no judge that was not optimised looked on during alignment." in page


def test_held_out_score_stands_in_where_there_is_no_gold(make_run: MakeRun) -> None:
    directory = without_looks(make_run())
    path = directory / "align" / "metrics.jsonl"
    path.write_text(path.read_text().replace("score/gold", "score/heldout"))
    page = build(directory)
    assert "The held-out score of each iteration against its KL" in page and "Gold score" not in page


def test_a_stage_without_checks_shows_its_key_figure_and_its_reasons(make_run: MakeRun) -> None:
    directory = make_run()
    run = json.loads((directory / "run.json").read_text())
    for stage in run["stages"].values():
        stage["verdict"]["checks"] = []
    (directory / "run.json").write_text(json.dumps(run))
    words = " ".join(outline(build(directory)).words)
    for figure in ("held-out perplexity 1.92", "accuracy 71.2%", "KL in nats 6.21", "win rate 80.9%"):
        assert figure in words
    assert words.count("812 pairs hold contradicting labels") == 2  # among the cautions, and under its stage


def test_settings_of_methods_that_were_not_used_are_left_out(make_run: MakeRun) -> None:
    directory = make_run()
    with (directory / "recipe.toml").open("a") as file:
        file.write('\n[align.grpo]\nsamples = 8\n\n[align.grpo.kl]\ncoef = 0.77\n\n[align.watch]\njudge = "auto"\n')
    shown = build(directory).partition('<pre class="recipe">')[2]
    assert "clip = 0.2" in shown and "[align.watch]" in shown
    assert "grpo" not in shown and "0.77" not in shown


@pytest.mark.parametrize("stage", STAGES)
def test_what_was_not_measured_is_said_to_be_so(make_run: MakeRun, stage: str) -> None:
    words = " ".join(outline(build(make_run([stage]))).words)
    assert ("Not measured: no monitors" in words) == (stage != "align")


@pytest.mark.parametrize("content", ["{", "[1, 2]", '{"a": NaN}', '{"a": 1e999}'])
@pytest.mark.parametrize(
    "name", ["align/monitors.json", "align/overoptimisation.json", "reward/report.json", "evaluate/results.json"]
)
def test_a_file_that_is_not_what_it_should_be_is_noted(make_run: MakeRun, name: str, content: str) -> None:
    directory = make_run()
    (directory / name).write_text(content)
    page = build(directory)
    assert f"{name} could not be read" in page
    outline(page)


def test_looks_that_are_none_are_noted(make_run: MakeRun) -> None:
    directory = make_run()
    with (directory / "align" / "points.jsonl").open("a") as file:
        file.write('{"step": 45, "kl": "far"}\n')
    assert "1 rows of align/points.jsonl are not looks and were left out." in build(directory)


def test_the_page_is_small(make_run: MakeRun) -> None:
    directory = make_run()
    rows = [{"step": i, "score/mean": i % 7, "kl/sequence": i / 1e4, "entropy": 1.0} for i in range(20_000)]
    (directory / "align" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert len(build(directory).encode()) < 500_000  # four times a long run must still be below 2 MB


def test_write_puts_the_page_into_the_directory(make_run: MakeRun) -> None:
    directory = make_run()
    path = write(directory)
    assert path == directory / "report.html"
    assert path.read_text(encoding="utf-8") == build(directory)
    assert build(directory) == build(directory)  # the report itself is no input of the report
