"""What to ask next, on tiny models: candidates that depend on their own stream alone, slices, stores filled once."""

import copy
import json

import numpy as np
import pytest

import palate
from palate.collect import Origin, Store
from palate.collect.candidates import Drawing
from palate.collect.selection import Selection
from palate.evaluation.monitors import LENGTH, MONITORS
from palate.records import Prompt
from palate.stages.calls import Quiet
from palate.stages.people import collecting
from palate.stages.people.collecting import Writer, directory_hash, gather, writer_of
from palate.stages.trust.probing import scores_of

WORDS = ("apple", "bread", "cloud", "door", "eagle", "fire")
PROMPTS = [Prompt.of(f"Say {first} and {second}.", kind=first) for first in WORDS for second in WORDS[:3]]
DRAWING = Drawing(samples=3, max_new_tokens=6)


@pytest.fixture(scope="module")
def writers(finished):
    return [writer_of(finished.run / stage / "model") for stage in ("sft", "align")]


@pytest.fixture(scope="module")
def reward(finished):
    return palate.load_reward_model(finished.run / "reward/model")


@pytest.fixture(scope="module")
def fond_of_length(reward):
    """The tiny reward model has learnt that the longer reply is worse; this one thinks the opposite."""
    model = copy.deepcopy(reward.model)
    model.head.data.neg_()
    return palate.rewards.ModelReward("other", model, reward.chat)


def asked(writers, **settings):
    settings = {
        "drawing": DRAWING,
        "selection": Selection(count=20),
        "seed": 0,
        "watch": lambda phase: Quiet(),
    } | settings
    return gather(writers, PROMPTS, **settings)


def texts(item):
    return [one.text for one in item.candidates]


# ---- candidates


def test_the_same_call_gives_the_same_items_and_another_round_others(writers, reward):
    once = asked(writers, rewards=[reward])
    assert once.items == asked(writers, rewards=[reward]).items
    assert len(once.items) == 20 == sum(once.slices.values())
    assert (once.prompts, once.drawn) == (len(PROMPTS), len(PROMPTS) * 2 * 3)
    assert set(once.seconds) == {writers[0].name, writers[1].name, "scoring"}
    later = asked(writers, rewards=[reward], round=2).items
    assert {item.round for item in later} == {2}
    assert {tuple(texts(item)) for item in later} != {tuple(texts(item)) for item in once.items}
    assert asked(writers, seed=1).items != asked(writers).items


def written(found):
    """Every completion that an item shows, with what wrote it."""
    return {
        (item.prompt.text, one.text, origin.name, origin.sampling["temperature"], origin.sampling["sample"])
        for item in found.items
        for one in item.candidates
        for origin in one.origins
    }


def test_a_sample_depends_on_its_own_model_temperature_and_number_alone(writers):
    every = Selection(count=10_000, per_prompt=10_000)
    few = written(asked(writers[:1], selection=every, mode="thumbs"))
    drawing = Drawing(samples=4, temperatures=(0.5, 1.0), max_new_tokens=6)
    many = written(asked(writers[::-1], selection=every, mode="thumbs", drawing=drawing))
    assert len(few) == len(PROMPTS) * 3
    assert len(many) == len(PROMPTS) * 2 * 2 * 4
    assert few < many


def test_models_temperatures_and_rounds_have_streams_of_their_own(writers):
    every = {"selection": Selection(count=10_000, per_prompt=10_000), "mode": "thumbs"}
    drawing = Drawing(samples=1, temperatures=(0.5, 1.0), max_new_tokens=6)
    streams = {
        (origin.name, origin.sampling["temperature"], number): origin.sampling["seed"]
        for number in (1, 2)
        for item in asked(writers, round=number, drawing=drawing, **every).items
        for origin in item.candidates[0].origins
    }
    assert len(streams) == len(set(streams.values())) == 2 * 2 * 2


def test_temperature_nought_gives_one_sample(writers):
    drawing = Drawing(samples=5, temperatures=(0.0,), max_new_tokens=6)
    assert asked(writers[:1], drawing=drawing, mode="thumbs").drawn == len(PROMPTS)


def test_every_completion_says_where_it_came_from(writers, finished):
    for item in asked(writers).items:
        assert item.prompt.fields["kind"] in WORDS
        for origin in (origin for one in item.candidates for origin in one.origins):
            assert origin.kind == "model"
            assert origin.hash == directory_hash(finished.run / origin.name.rpartition("tiny/")[2])
            assert set(origin.sampling) == {"temperature", "top_p", "max_new_tokens", "seed", "row", "sample", "finish"}
    assert len({writer.hash for writer in writers}) == 2


def test_a_directorys_hash_is_of_what_it_holds(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    for path in (one, other):
        path.mkdir()
        (path / "config.json").write_text("{}")
        (path / "README.md").write_text(str(path))
    assert directory_hash(one) == directory_hash(other)
    (other / "config.json").write_text("{ }")
    assert directory_hash(one) != directory_hash(other)


# ---- what is asked


def test_without_a_reward_model_all_is_random(writers):
    found = asked(writers)
    assert found.slices == {"random": 20} and found.fooled == 0
    assert [item.propensity for item in found.items] == pytest.approx([20 / found.possible] * 20)


def test_the_adversarial_slice_prefers_what_monitors_count(writers, fond_of_length):
    found = asked(writers, rewards=[fond_of_length], monitors=[LENGTH], probes=(), selection=Selection(count=40))
    adversarial = [item for item in found.items if item.slice == "adversarial"]
    assert adversarial
    encode = writers[0].loaded.chat.encode_completion
    for item in adversarial:
        first, second = scores_of(fond_of_length, [(item.prompt, text) for text in texts(item)])
        longer = len(encode(texts(item)[0])) - len(encode(texts(item)[1]))
        assert (first - second) * longer > 0


def test_the_uncertain_slice_has_the_smaller_margins(writers, reward):
    wanted = Selection(count=14, random=1, uncertain=1, adversarial=0, per_prompt=15)
    sizes = {"random": [], "uncertain": []}
    for item in asked(writers, rewards=[reward], selection=wanted).items:
        first, second = scores_of(reward, [(item.prompt, text) for text in texts(item)])
        sizes[item.slice].append(abs(first - second))
    assert np.median(sizes["uncertain"]) < 0.5 * np.median(sizes["random"])


def test_edits_that_fool_the_reward_model_are_asked_by_the_adversarial_slice_alone(writers, fond_of_length, reward):
    only = Selection(count=200, random=0.1, uncertain=0.1, adversarial=1, per_prompt=50)
    found = asked(writers, rewards=[fond_of_length], selection=only)
    edited = [
        item for item in found.items if any(who.kind == "program" for one in item.candidates for who in one.origins)
    ]
    assert found.fooled >= len(edited) > 0
    for item in edited:
        assert item.slice == "adversarial"
        (edit,) = [one for one in item.candidates if one.origins[0].kind == "program"]
        (original,) = [one for one in item.candidates if one != edit]
        assert edit.origins[0].name in {f"probe {probe.name}" for probe in collecting.FOOLING}
        assert edit.origins == (Origin("program", edit.origins[0].name),)
        first, second = scores_of(fond_of_length, [(item.prompt, edit.text), (item.prompt, original.text)])
        assert first > second
    # One that finds length worse is fooled less.
    assert asked(writers, rewards=[reward], selection=only).fooled < found.fooled
    assert asked(writers, rewards=[fond_of_length], selection=only, probes=()).fooled == 0


def test_heads_and_models_are_one_ensemble(writers, reward, fond_of_length):
    scores = collecting._scores([reward, fond_of_length], [(PROMPTS[0], "apple bread"), (PROMPTS[1], "bread")])
    assert {one.shape for one in scores.values()} == {(2,)}
    first, second = scores[PROMPTS[0], "apple bread"]
    assert first == pytest.approx(scores_of(reward, [(PROMPTS[0], "apple bread")])[0])
    assert second == pytest.approx(scores_of(fond_of_length, [(PROMPTS[0], "apple bread")])[0])


def test_what_does_not_fit_the_reward_model_is_asked_at_random_alone(writers, reward):
    scores = collecting._scores([reward], [(PROMPTS[0], "word " * 80), (PROMPTS[0], "apple")])
    assert np.isnan(scores[PROMPTS[0], "word " * 80]).all() and np.isfinite(scores[PROMPTS[0], "apple"]).all()


@pytest.mark.parametrize(("mode", "shown"), [("ranking", None), ("thumbs", 1), ("demonstration", 0), ("edit", 2)])
def test_other_modes_are_selected_too(writers, reward, mode, shown):
    found = asked(writers, rewards=[reward], mode=mode, overlap=3)
    assert found.fooled == 0 and len(found.items) >= len(PROMPTS)
    for item in found.items:
        assert (item.mode, item.wanted) == (mode, 3)
        assert len(item.candidates) == shown or (shown is None and 2 <= len(item.candidates) <= 6)
    assert set(found.slices) > {"random"}


def test_demonstrations_need_no_model(reward):
    found = asked([], mode="demonstration", rewards=[reward])
    assert (found.drawn, len(found.items), found.slices) == (0, len(PROMPTS), {"random": len(PROMPTS)})


def test_monitors_are_counted_the_bad_way_round(writers):
    candidates = [tuple(collecting.Candidate(text) for text in ("one two", "I am not sure. I am not sure."))]
    counted = collecting._counted(MONITORS, PROMPTS[:1], candidates, writers)
    named = dict(zip([monitor.name for monitor in MONITORS], (counted[1] - counted[0]).tolist(), strict=True))
    assert named["hedging"] == 2 and named["length"] > 0
    assert named["distinct_pairs"] > 0  # fewer distinct pairs are worse
    assert named["longest_repeat"] > 0 and named["formatting"] == 0


# ---- the command


@pytest.fixture
def collect(finished, palate_command, tmp_path):
    """`collect(*more)`: the command on the tiny models, with a store of its own."""

    def collect(*more, models=("sft", "align")):
        places = [finished.run / stage / "model" for stage in models]
        arguments = ("--prompts", finished.recipe.parent / "prompts.jsonl", "--max-new-tokens", 6, "--count", 12)
        return palate_command("collect", *places, *arguments, "--out", tmp_path / "f.sqlite", *more)

    return collect


def test_a_store_is_filled_once(collect, finished, tmp_path):
    judge = ("--reward-model", finished.run / "reward/model", "--repeat-share", 0.25, "--overlap", 2)
    result = collect(*judge)
    assert result.code == 0, result.err
    assert result.out.endswith(f"Written: {tmp_path / 'f.sqlite'}\nNext: palate label {tmp_path / 'f.sqlite'}\n")
    assert "15 items" in result.out and "3 hidden repetitions. 15 are new." in result.out
    again = collect(*judge)
    assert "3 hidden repetitions. 0 are new." in again.out
    with Store(tmp_path / "f.sqlite") as store:
        items = store.items()
    assert len(items) == 15 and sum(bool(item.repeats) for item in items) == 3
    assert {item.wanted for item in items} == {2}
    later = collect(*judge, "--round", 2)
    assert "15 are new" in later.out


@pytest.mark.parametrize("more", [("--seed", 1), ("--overlap", 3), ("--count", 11)])
def test_a_round_is_one_selection(collect, tmp_path, more):
    assert collect().code == 0
    result = collect(*more)
    assert result.code == 2 and "Give the same again, --round 2" in result.err
    with Store(tmp_path / "f.sqlite") as store:
        assert len(store.items()) == 12
    # What was imported or is of another mode is no part of the selection.
    assert collect("--mode", "thumbs", *more).code == 0


def test_a_plan_does_nothing(collect, tmp_path):
    result = collect("--dry-run")
    assert result.code == 0, result.err
    # 26 prompts, 2 models, 4 samples
    assert "26 prompts, 2 models, 4 samples of each: 208 completions" in result.out
    assert "all at random, as there is no reward model" in result.out and "Nothing was done." in result.out
    assert list(tmp_path.iterdir()) == []


def test_of_many_prompts_a_random_few_are_asked(collect, tmp_path):
    result = collect("--count", 3)
    assert "12 prompts, 96 completions" in result.out


def test_fewer_than_wanted_is_said(collect):
    result = collect("--count", 100, "--per-prompt", 1)
    assert "100 were wanted; with at most 1 a prompt there are no more" in result.out


def test_the_testbeds_questions_can_be_asked(palate_command, tmp_path):
    out = tmp_path / "f.sqlite"
    result = palate_command("collect", "--prompts", "testbed", "--mode", "demonstration", "--count", 5, "--out", out)
    assert result.code == 0, result.err
    with Store(out) as store:
        assert all("task" in item.prompt.fields for item in store.items())


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--mode", "pears"), "The mode 'pears' was given. Items are of mode pair, ranking"),
        (("--random", 0), "collect.random = 0"),
        (("--temperature", 0, "--samples", 1), "hold no two that differ"),
        (("--mode", "ranking", "--samples", 20, "--temperature", 2), "a person ranks at most 9"),
        (("--prompts", "nowhere.jsonl"), "nowhere.jsonl: there is no such file"),
        (("--reward-model", "nowhere/here/there"), "There is no directory nowhere/here/there"),
    ],
)
def test_what_cannot_be_collected_is_refused(collect, tmp_path, more, said):
    result = collect(*more, models=("sft",))
    assert result.code == 2 and said in result.err, result
    assert list(tmp_path.iterdir()) == []


def test_a_model_must_be_given_and_a_prompt_must_leave_room(collect, tmp_path):
    assert "No model was given" in collect(models=()).err
    (tmp_path / "long.jsonl").write_text(json.dumps({"prompt": "word " * 60}) + "\n")
    assert "long.jsonl, line 1: a prompt has" in collect("--prompts", tmp_path / "long.jsonl").err


def test_what_is_no_store_is_refused_before_the_work(collect, tmp_path):
    (tmp_path / "f.sqlite").write_text("not a database, and longer than the header of one " * 10)
    result = collect()
    assert result.code == 1 and "cannot be opened as a store" in result.err and "sample" not in result.out


def test_loaded_models_are_writers_too(writers):
    own = Writer("mine", writers[0].loaded, "abc")
    assert asked([own]).items[0].candidates[0].origins[0].hash == "abc"
