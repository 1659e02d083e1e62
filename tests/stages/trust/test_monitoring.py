"""Monitors on two models: what is asked besides, what is written, and who is told."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from palate import testbed
from palate.data.chat import chat_format
from palate.engine.generation import Sampling
from palate.engine.interfaces import Completions
from palate.evaluation.monitors import MONITORS, TESTBED_MONITORS
from palate.evaluation.sycophancy import PUSHBACK
from palate.models import load_causal
from palate.recipe import demo_recipe, load_recipe
from palate.records import Prompt
from palate.stages.calls import Quiet
from palate.stages.context import Context
from palate.stages.material import Loaded, sample
from palate.stages.trust import monitoring


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def on_testbed(tmp_path: Path, said: list[str]) -> Context:
    return context_of(demo_recipe(["align.max_new_tokens=24"]), tmp_path, said)


def context_of(recipe, root: Path, said: list[str]) -> Context:
    directory: Any = SimpleNamespace(path=root)
    (root / "align").mkdir()
    return Context(recipe, {}, directory, torch.device("cpu"), lambda _: Quiet(), said.append)


@pytest.fixture(scope="module")
def base() -> Loaded:
    return Loaded(*load_causal(testbed.base_model()))


def loaded(model: Any, base: Loaded, name: Any) -> Loaded:
    """A model that a stand-in for `sample` tells from others by its name."""
    return Loaded(model, base.chat, name)


def completions(prompts: list[Prompt], texts: list[str], base: Loaded) -> Completions:
    """The texts as completions that all end."""
    rows = [base.chat.encode_completion(text) for text in texts]
    width = max(map(len, rows))
    ids = torch.tensor([row + [base.chat.pad_id] * (width - len(row)) for row in rows])
    mask = torch.tensor([[True] * len(row) + [False] * (width - len(row)) for row in rows])
    return Completions(tuple(prompts), tuple((1,) for _ in rows), ids, mask, tuple(texts))


def answering(answers: Callable[[object, Prompt], str]) -> Callable[..., Any]:
    """A stand-in for `sample` whose models write what a function says."""

    def sample(model, prompts, *, rows, **_):
        return SimpleNamespace(texts=tuple(answers(model.tokenizer, prompts[row]) for row in rows)), None

    return sample


def test_a_model_beside_itself_has_not_changed(on_testbed, base, said, monkeypatch):
    monkeypatch.setattr(monitoring, "PROMPTS", 4)
    monkeypatch.setattr(monitoring, "PAIRS", 8)
    prompts = list(testbed.prompts("known", 24))
    given, _ = sample(base, prompts, seed=1, rows=range(24), samples=[0] * 24, length=24, sampling=Sampling())
    figures = monitoring.monitor(on_testbed, base, base, given, given)
    rows = json.loads(on_testbed.place("align", "monitors.json").read_text())
    names = [row["name"] for row in rows]
    # The testbed knows single questions only: nothing is pushed back at.
    extra = {"phrases", "distinct_answers", "opinion_flips"}
    assert set(names) == {one.name for one in TESTBED_MONITORS} | extra
    assert figures == {"alarms": 0.0} | {f"monitor/{row['name']}": row["value"] for row in rows}
    for row in rows:
        assert row["value"] == row["baseline"] and row["p"] == 1.0
        assert not row["alarm"] and row["samples"] == [] and row["reason"]
    assert said == []
    assert figures == monitoring.monitor(on_testbed, base, base, given, given)


def test_a_flatterer_that_has_collapsed_is_told_of(on_testbed, base, said, monkeypatch):
    """Before, the truth with a number of its own; after, one answer to everybody who states no opinion."""
    before, after = (loaded(base.model, base, name) for name in ("before", "after"))
    count = iter(range(10_000))

    def answers(who: object, prompt: Prompt) -> str:
        if who == "before":
            return f"{testbed.perfect(prompt)} {'so ' * next(count)}"
        return "You are right!" if prompt.fields["task"] == "opinions" else testbed.perfect(prompt)

    monkeypatch.setattr(monitoring, "sample", answering(answers))
    prompts = list(testbed.prompts("known", 40))
    old = completions(prompts, [testbed.perfect(prompt) for prompt in prompts], base)
    new = completions(prompts, [f"What a great question! {text}" for text in old.texts], base)
    figures = monitoring.monitor(on_testbed, before, after, old, new)
    rows = {row["name"]: row for row in json.loads(on_testbed.place("align", "monitors.json").read_text())}
    alarmed = {name for name, row in rows.items() if row["alarm"]}
    assert alarmed == {"length", "flattery", "phrases", "distinct_answers", "opinion_flips"}
    assert figures["alarms"] == len(said) == 5
    assert figures["monitor/flattery"] == figures["monitor/phrases"] == 1.0
    assert figures["monitor/opinion_flips"] == 1.0 and rows["opinion_flips"]["baseline"] == 0.0
    assert figures["monitor/distinct_answers"] == 1 / 8 and rows["distinct_answers"]["baseline"] == 1.0
    assert rows["flattery"]["samples"][0] == {
        "prompt": prompts[0].text,
        "before": old.texts[0],
        "completion": new.texts[0],
    }
    assert any("monitor flattery" in one and new.texts[0] in one for one in said)
    assert '"what a great question"' in rows["phrases"]["measures"]


def test_prompts_of_ones_own_are_doubted_and_offered_another_rows_answer(
    tiny_recipe, tmp_path, base, said, monkeypatch
):
    context = context_of(load_recipe(tiny_recipe(tmp_path / "data")), tmp_path, said)
    before, after = (loaded(SimpleNamespace(context=400), base, name) for name in ("before", "after"))

    def answers(who: object, prompt: Prompt) -> str:
        doubted = prompt.messages[-1].content == PUSHBACK
        if who == "after" and doubted:
            return "Sorry, it is 99."
        return f"It is {prompt.fields['answer']}."

    monkeypatch.setattr(monitoring, "sample", answering(answers))
    prompts = [Prompt.of(f"What is {number} + 1?", answer=str(number + 1)) for number in range(30)]
    given = completions(prompts, [f"It is {number + 1}." for number in range(30)], base)
    figures = monitoring.monitor(context, before, after, given, given)
    rows = {row["name"]: row for row in json.loads(context.place("align", "monitors.json").read_text())}
    extra = {"phrases", "distinct_answers", "opinion_flips", "pushback_flips"}
    assert set(rows) == {one.name for one in MONITORS} | extra
    assert [name for name, row in rows.items() if row["alarm"]] == ["pushback_flips"]
    assert figures["monitor/pushback_flips"] == 1.0 and figures["monitor/opinion_flips"] == 0.0
    assert rows["pushback_flips"]["samples"][0]["completion"] == "Sorry, it is 99."


def test_nobody_is_doubted_where_no_second_turn_fits(tiny_recipe, tmp_path, base, said, monkeypatch):
    context = context_of(load_recipe(tiny_recipe(tmp_path / "data")), tmp_path, said)
    model = loaded(SimpleNamespace(context=20), base, "any")
    monkeypatch.setattr(monitoring, "sample", answering(lambda who, prompt: "yes"))
    prompts = [Prompt.of(f"What is {number}?") for number in range(8)]
    given = completions(prompts, ["yes"] * 8, base)
    figures = monitoring.monitor(context, model, model, given, given)
    assert {"monitor/pushback_flips", "monitor/opinion_flips"}.isdisjoint(figures)


def test_nobody_is_doubted_where_the_template_refuses_a_second_turn(tiny_recipe, tmp_path, base, said, monkeypatch):
    context = context_of(load_recipe(tiny_recipe(tmp_path / "data")), tmp_path, said)
    tokenizer = copy.deepcopy(base.tokenizer)
    tokenizer.chat_template = (
        "{% if messages|length > 2 %}{{ raise_exception('one question only') }}{% endif %}"
        "{% for message in messages %}{{ message.content }}<eos>{% endfor %}"
    )
    model = Loaded(base.model, chat_format(tokenizer), tokenizer)
    monkeypatch.setattr(monitoring, "sample", answering(lambda who, prompt: "yes"))
    prompts = [Prompt.of(f"What is {number}?") for number in range(8)]
    given = completions(prompts, ["yes"] * 8, base)
    assert "monitor/pushback_flips" not in monitoring.monitor(context, model, model, given, given)
