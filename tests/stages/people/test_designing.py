"""palate design: the folder is whole, its recipe runs dry, gold and prompts are read, the page shows the guidelines."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from palate.collect.judgements import Preference
from palate.data.recognition import read
from palate.recipe import load_recipe
from palate.stages.people.designing import behaviour_of, design
from palate.stages.people.labelling import gold_items, guideline_of
from palate.stages.rounds import aim_of

SENTENCE = "answers like a patient maths tutor"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The design of a sentence; nothing may be written to it."""
    said: list[str] = []
    place = design(SENTENCE, tmp_path_factory.mktemp("designs") / "tutor", base="testbed", say=said.append)
    assert said[0].startswith("2 places wait for you") and str(place) in said[1] and "--dry-run" in said[2]
    return place


@pytest.mark.parametrize("wish", ["helpfulness", "coding", "safety", "honesty", SENTENCE])
def test_the_recipe_is_one_and_names_the_folders_files(wish: str, tmp_path: Path) -> None:
    place = design(wish, tmp_path / "it", base="testbed", say=lambda _: None)
    recipe = load_recipe(place / "recipe.toml")
    assert recipe.rounds is not None and recipe.rounds.feedback == "people"
    assert recipe.run.name == behaviour_of(wish).name
    assert recipe.align is not None and recipe.align.prompts == str(place / "prompts.jsonl")
    assert recipe.evaluate is not None and recipe.evaluate.prompts == str(place / "heldout.jsonl")
    # What the rounds hold out is what the plan says, to a few pairs; the first round has random pairs alone.
    assert aim_of(None, recipe.rounds).shares == {"random": 1.0} and recipe.rounds.number == 2
    held = recipe.rounds.judgements * (1 + recipe.rounds.random) * recipe.rounds.heldout
    told = re.search(r"random slice, (\d+) pairs", (place / "protocol.md").read_text())
    assert told is not None and held == pytest.approx(int(told[1]), abs=3)
    # A prompt to test on for each of them, and half a prompt for each of 2,000 training pairs.
    assert recipe.reward is not None
    assert recipe.reward.heldout_fraction == pytest.approx(int(told[1]) / (int(told[1]) + 1000), abs=0.005)


def test_the_recipe_runs_dry(folder: Path, palate_command) -> None:
    result = palate_command("run", folder / "recipe.toml", "--dry-run", "--set", "align.iterations=1")
    assert result.code == 0, result.err
    assert "the first of 2 rounds" in result.out


def test_prompts_and_held_out_prompts_are_read_and_apart(folder: Path) -> None:
    kept, held = (read(folder / name, "prompts").records for name in ("prompts.jsonl", "heldout.jsonl"))
    assert len(kept) == 24 and len(held) == 12
    assert not {one.messages for one in kept} & {one.messages for one in held}
    assert {one.fields["kind"] for one in (*kept, *held)} == {"mathematics"}


def test_the_label_page_takes_gold_with_its_answer(folder: Path) -> None:
    items = gold_items(folder / "gold.jsonl")
    assert len(items) >= 10 and all(one.expected == Preference(-1) for one in items)
    better = {one.prompt.text: one.candidates[0].text for one in items}
    assert better["What is 6 + 7?"] == "13."


def test_guidelines_and_tags_go_to_the_label_page(folder: Path, tmp_path: Path) -> None:
    from palate.collect.store import Store

    with Store(tmp_path / "feedback.sqlite") as store:
        version, text = guideline_of(store, folder / "guidelines.md")
        assert store.guidelines() == {version: text} and text.startswith("# “answers like a patient maths tutor”")
    tags = (folder / "tags.txt").read_text().split()
    assert f"--tags {','.join(tags)}" in (folder / "README.md").read_text()


def test_every_command_of_the_readme_has_options_that_exist(folder: Path) -> None:
    from typer.main import get_command

    from palate.cli.main import app

    commands = get_command(app).commands  # pyright: ignore[reportAttributeAccessIssue]
    block = "".join((folder / "README.md").read_text().split("```")[1::2]).replace("\\\n", " ")
    lines = [line.split()[1:] for line in block.splitlines() if line.startswith("palate ")]
    assert {words[0] for words in lines} == {"collect", "label", "quality", "run", "generate", "export"}
    for words in lines:
        known = {name for one in commands[words[0]].params for name in one.opts}
        assert {word for word in words if word.startswith("--")} <= known, words


def test_a_folder_that_holds_something_is_left_alone(folder: Path, palate_command) -> None:
    before = (folder / "README.md").read_text()
    result = palate_command("design", "safety", "--out", folder)
    assert result.code == 2 and "is there already" in result.err
    assert (folder / "README.md").read_text() == before


def test_the_command_lists_names_and_says_what_it_wrote(palate_command, tmp_path: Path) -> None:
    listed = palate_command("design")
    assert listed.code == 0 and all(name in listed.out for name in ("coding", "helpfulness", "honesty", "safety"))
    result = palate_command("design", "coding", "--out", tmp_path / "it", "--pace", 90, "--pay", 40, "--annotators", 3)
    assert result.code == 0 and f"Written: {tmp_path / 'it'}/" in result.out
    protocol = (tmp_path / "it/protocol.md").read_text()
    assert "Hours at 90 s a vote" in protocol and "At 40 an hour" in protocol and "for 3 people" in protocol


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("helpfulnes",), "Did you mean helpfulness?"),
        (("kindness",), "a sentence such as"),
        (("safety", "--endpoint", "http://localhost:1/v1"), "go together"),
    ],
)
def test_wrong_use_is_told(palate_command, tmp_path: Path, monkeypatch, words, told) -> None:
    monkeypatch.chdir(tmp_path)
    result = palate_command("design", *words)
    assert result.code == 2 and told in " ".join(result.err.split()) and not list(tmp_path.iterdir())


def test_a_model_directory_is_named_so_that_the_folder_finds_it(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    place = design("safety", Path("it"), base="mine", say=lambda _: None)
    assert load_recipe(place / "recipe.toml").model.path == str(tmp_path / "mine")
    assert design("safety", base="models/base", say=lambda _: None) == Path("design-safety")


def test_a_model_behind_an_endpoint_drafts_and_the_bill_is_told(tmp_path: Path, local_server) -> None:
    from palate.collect.endpoint import Endpoint

    said: list[str] = []
    endpoint = Endpoint(local_server.url, "stand-in", key_variable="", attempts=1)
    place = design("like a grumpy old sailor", tmp_path / "it", endpoint=endpoint, say=said.append)
    text = (place / "guidelines.md").read_text()
    # The stand-in gives rules whatever it is asked for, so nothing else can be used.
    assert "Drafted by the model stand-in: rules." in text and "Growls once" in text
    assert sum("gave nothing that can be used" in sentence for sentence in said) == 4


@pytest.fixture
def local_server():
    """An endpoint that answers every request with two rules."""
    import threading
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
    from types import SimpleNamespace

    rules = {"rules": [{"rule": "Growls once.", "detail": "Not twice."}, {"rule": "Knows knots.", "detail": "All."}]}
    message = {"role": "assistant", "content": json.dumps(rules)}
    body = json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}).encode()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield SimpleNamespace(url=f"http://127.0.0.1:{server.server_port}/v1")
    server.shutdown()
    server.server_close()
    thread.join()
