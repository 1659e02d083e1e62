"""What a user gets wrong, through the command line: one clear paragraph, the right exit code, nothing half-written."""

import json
import re
import shutil

import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from palate.engine.files import file_sha256


@pytest.fixture
def place(tiny_recipe, tmp_path):
    """A directory with the tiny recipe and its data."""
    tiny_recipe(tmp_path)
    return tmp_path


@pytest.fixture
def complaint(place, palate_command):
    """`complaint(*settings, stage="run", code=2)`: what the command says to a recipe that it must refuse.

    With exit code 2 nothing may have been written.
    """

    def ask(*settings, stage="run", code=2, recipe="tiny.toml"):
        overrides = [word for setting in settings for word in ("--set", setting)]
        result = palate_command(stage, place / recipe, "--runs", place / "runs", *overrides)
        assert result.code == code, result
        if code == 2:
            assert not (place / "runs" / "tiny").exists()
        return well_said(result.err)

    return ask


def well_said(text):
    """The message, after checks that it reads as one paragraph of whole sentences and is no traceback."""
    message = text.strip()
    assert re.match(r"palate: \w+Error: \S", message), message
    assert "Traceback" not in message and "\n" not in message, message
    assert message.endswith((".", "?")), message
    plain = re.sub(r"\S*[/\\]\S*|\S*\.py\S*|'[^']*'|\"[^\"]*\"|`[^`]*`", "X", message)  # paths and quotations aside
    assert not re.search(r"[a-z][.:;,][A-Z]|[.,]{2}| {2}|\( | \)|(?<!\.)\s[.,;:]", plain), message
    assert not re.search(r"\bNone\b", plain), message
    return message


def broken(place, name, line, content):
    """A copy of a data file whose line `line` is `content`."""
    lines = (place / name).read_bytes().splitlines()
    lines[line - 1] = content
    path = place / f"broken-{name}"
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


# ---- data files


def test_a_missing_file(place, complaint):
    message = complaint(f"sft.data={place}/demonstration.jsonl")
    said = f"palate: DataError: {place}/demonstration.jsonl: there is no such file. Did you mean demonstrations.jsonl"
    assert message.startswith(said)


def test_a_file_missing_beside_the_recipe_is_looked_for_there(place, complaint):
    recipe = (place / "tiny.toml").read_text().replace("pairs.jsonl", "pears.jsonl")
    (place / "other.toml").write_text(recipe)
    message = complaint(recipe="other.toml")
    assert f"{place}/pears.jsonl: there is no such file. Did you mean " in message and "pairs.jsonl" in message


@pytest.mark.parametrize("setting", ["sft.heldout", "reward.heldout", "evaluate.prompts"])
def test_a_missing_file_of_a_later_stage_is_noticed_before_the_first(complaint, setting):
    assert "nowhere.jsonl: there is no such file" in complaint(f"{setting}=nowhere.jsonl")


def test_a_directory_instead_of_a_file(place, complaint):
    message = complaint(f"sft.data={place}")
    assert "this is a directory, and a data file is wanted" in message
    assert "demonstrations.jsonl" in message and "name one of them" in message


def test_broken_json_on_line_17(place, complaint):
    path = broken(place, "pairs.jsonl", 17, b'{"prompt": "x", "chosen": ')
    message = complaint(f"reward.data={path}")
    assert f"{path}, line 17: this is no whole JSON object" in message
    assert "Mend this row" in message and 'on_bad = "skip"' in message


def test_invalid_utf8(place, complaint):
    path = broken(place, "demonstrations.jsonl", 2, b'{"prompt": "\xff", "completion": "b"}')
    assert f"{path}, line 2: byte 13 of this line is no UTF-8" in complaint(f"sft.data={path}")


def test_a_missing_column(place, complaint):
    path = broken(place, "pairs.jsonl", 5, b'{"prompt": "a", "chosen": "b"}')
    message = complaint(f"reward.data={path}")
    assert f"{path}, line 5: the column 'rejected' is missing; this row's columns are 'prompt', 'chosen'" in message


def test_a_file_of_another_kind(place, complaint):
    message = complaint(f"reward.data={place}/prompts.jsonl")
    assert "this file holds prompts" in message and "pairs are wanted" in message


def test_an_empty_file(place, complaint):
    (place / "empty.jsonl").touch()
    assert "the file holds no rows" in complaint(f"sft.data={place}/empty.jsonl")


def test_an_empty_completion(place, complaint):
    path = broken(place, "demonstrations.jsonl", 3, b'{"prompt": "a", "completion": ""}')
    assert f"{path}, line 3: 'completion' is an empty reply" in complaint(f"sft.data={path}")


def test_bad_rows_can_be_left_out_and_are_counted(place, palate_command):
    path = broken(place, "demonstrations.jsonl", 3, b'{"prompt": "a", "completion": ""}')
    settings = ["--set", f"sft.data={path}", "--set", "sft.on_bad=skip"]
    result = palate_command("sft", place / "tiny.toml", "--runs", place / "runs", "--force", *settings)
    assert result.code == 0
    assert f"{path}: 1 bad row left out. The first is line 3: 'completion' is an empty reply" in result.out


LONG = "word " * 60  # in the tiny model's bytes far beyond its context of 64 tokens


@pytest.mark.parametrize(
    ("section", "name", "row", "words"),
    [
        ("sft.data", "demonstrations.jsonl", {"prompt": LONG, "completion": "b"}, "prompt and completion have"),
        ("reward.data", "pairs.jsonl", {"prompt": "a", "chosen": LONG, "rejected": "b"}, "prompt and completion have"),
        ("align.prompts", "prompts.jsonl", {"prompt": LONG}, "a prompt has"),
        ("evaluate.prompts", "heldout.jsonl", {"prompt": LONG}, "a prompt has"),
    ],
)
def test_a_row_longer_than_the_context_is_noticed_before_the_first_step(place, complaint, section, name, row, words):
    path = broken(place, name, 7, json.dumps(row).encode())
    message = complaint(f"{section}={path}")
    assert f"{path}, line 7: {words}" in message
    assert "context" in message and "64" in message and f'set {section.partition(".")[0]}.on_bad = "skip"' in message


# ---- settings


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("align.learningrate=1e-4", "align.learningrate = 0.0001: no such setting"),
        ("align.learningrate=1e-4", "Did you mean learning_rate?"),
        ("sft.epochs=0", "sft.epochs = 0: must be greater than or equal to 1"),
        ("sft.epochs=2.5", "sft.epochs = 2.5: must be a valid integer"),
        ("sft.epochs=two", 'sft.epochs = "two": must be a valid integer'),
        ("sft.learning_rate=nan", "sft.learning_rate"),
        ("sft.learning_rate=-1e-4", "sft.learning_rate = -0.0001: must be greater than 0"),
        ("reward.pooling=max", 'reward.pooling = "max": must be last or mean'),
        ("run.threads=0", "run.threads = 0: must be greater than or equal to 1 or be auto"),
        ("run.name=../up", "run.name = '../up': it names the run's directory"),
        ("run.name=..", "run.name = '..': it names the run's directory"),
        ("align.sampling.top_k=5", "align.sampling has top_k = 5. In training every token"),
        ("align.sampling.temperature=0", "Give a temperature above 0"),
        ("align.algorithm=k1", 'align.algorithm = "k1" was given. It must be one of '),
        ("align.ppo.kl.kind=k1", 'align.ppo.kl.kind = "k1": must be fixed or adaptive or budget or dual'),
        ("align.algorithm=nowhere.py:MyPPO", "nowhere.py does not exist, but a Python file is wanted"),
        ("model.scratch.heads=3", "hidden = 16 and heads = 3"),
        ("model.scratch.vocabulary=100", "must be greater than or equal to 262"),
        ("model.path=testbed", "[model] gives both of path and [model.scratch]"),
        ("evaluate.judge=gold", 'evaluate.judge = "gold" was given with prompts of your own'),
        ("align.reward=gold", 'align.reward = "gold" was given with prompts of your own'),
        ("sft.heldout_fraction=0.001", "a share of 0.001 of 52 rows"),
        ("sft.epochs", "--set 'sft.epochs': an override has the form section.key=value"),
        ("sft.data=", "--set sft.data= gives no value"),
        ("=3", "an override has the form section.key=value"),
        ("sft=3", "sft = 3: must be a table"),
        ("sft.data.x=3", "not a section"),
        ("sft.betas=[1", "the value is not valid TOML"),
        ("stf.epochs=3", "Did you mean sft?"),
    ],
)
def test_a_setting_that_cannot_be(complaint, setting, said):
    assert said in complaint(setting)


def test_several_mistakes_get_a_paragraph_each(place, palate_command):
    result = palate_command("run", place / "tiny.toml", "--set", "sft.epochs=0", "--set", "align.batch=0")
    assert result.code == 2
    assert [line.partition(" = ")[0] for line in result.err.strip().splitlines()] == [
        "palate: RecipeError: sft.epochs",
        "align.batch",
    ]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_device_that_is_not_there(complaint):
    assert 'run.device = "cuda" was given' in complaint("run.device=cuda")


def test_a_recipe_that_is_none(place, palate_command):
    (place / "bad.toml").write_text("[run\n")
    for name, said in [
        ("tny.toml", "Did you mean tiny.toml?"),
        ("", "is a directory, but a TOML file is wanted"),
        ("bad.toml", "is not valid TOML"),
    ]:
        result = palate_command("run", place / name, "--runs", place / "runs")
        assert result.code == 2
        assert said in well_said(result.err)


# ---- sections that need each other


@pytest.mark.parametrize(
    ("removed", "said"),
    [
        ("reward", 'align.reward = "model" was given, but this run has no reward model'),
        ("align", "The recipe has [evaluate], but no [align]"),
        ("sft", "[model.scratch] was given without [sft]"),
    ],
)
def test_a_section_that_another_needs(place, complaint, removed, said):
    text = (place / "tiny.toml").read_text()
    sections = re.split(r"\n(?=\[)", text)
    (place / "short.toml").write_text("\n".join(one for one in sections if not one.startswith(f"[{removed}")))
    assert said in complaint(recipe="short.toml")


def test_the_held_out_judge_needs_pairs(place, complaint):
    text = (place / "tiny.toml").read_text()
    sections = re.split(r"\n(?=\[)", text)
    (place / "short.toml").write_text("\n".join(one for one in sections if not one.startswith("[reward]")))
    code = place / "mine.py"
    code.write_text("def zero(prompts, completions, **fields):\n    return [0.0] * len(prompts)\n")
    message = complaint(f"align.reward={code}:zero", recipe="short.toml")
    assert 'evaluate.judge = "heldout-reward" was given, but this run has no such reward model' in message


# ---- models


@pytest.fixture
def from_path(place):
    """`from_path(path)` writes the tiny recipe with a model's path in place of one from nothing."""

    def write(path):
        before, _, rest = (place / "tiny.toml").read_text().partition("[model.scratch]")
        (place / "path.toml").write_text(f'{before}[model]\npath = "{path}"\n\n{rest[rest.index("[sft]") :]}')
        return "path.toml"

    return write


def test_a_pickle_is_never_opened(finished, place, complaint, from_path):
    model = place / "pickled"
    shutil.copytree(finished.run / "sft" / "model", model)
    (model / "model.safetensors").unlink()
    torch.save({"weight": torch.zeros(1)}, model / "pytorch_model.bin")
    message = complaint(recipe=from_path(model))
    assert "has its weights in pytorch_model.bin only. A pickle can run any code" in message


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("{run}/reward/model", "a classifier or reward model. A policy must be able to write"),
        ("{run}/nowhere", "There is no directory"),
        ("{run}", "has no config.json"),
        ("{run}/run.json", "is a file. A model is a directory"),
    ],
)
def test_a_model_that_is_none(finished, complaint, from_path, path, said):
    assert said in complaint(recipe=from_path(path.format(run=finished.run)))


def test_a_plain_language_model_is_no_reward(finished, complaint):
    message = complaint(f"align.reward={finished.run}/sft/model")
    assert "is a LlamaForCausalLM, not a reward model: it has no trained head" in message


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_classifier_of_two_labels_is_no_reward(finished, place, complaint):
    BertForSequenceClassification(
        BertConfig(vocab_size=300, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    ).save_pretrained(place / "two")
    AutoTokenizer.from_pretrained(finished.run / "sft" / "model").save_pretrained(place / "two")
    assert "is a classifier of 2 labels" in complaint(f"align.reward={place}/two")


def test_a_reference_and_a_trunk_are_looked_at_before_the_first_step(finished, complaint):
    assert "A policy must be able to write" in complaint(f"align.reference={finished.run}/reward/model")
    assert "There is no directory" in complaint(f"reward.model={finished.run}/nowhere")


# ---- rewards of one's own

CODE = """
import math

def raises(prompts, completions, **fields):
    raise KeyError("answer")

def nothing(prompts, completions, **fields):
    return None

def nan(prompts, completions, **fields):
    return [math.nan] * len(prompts)

def huge(prompts, completions, **fields):
    return [1e300] * len(prompts)

def word(prompts, completions, **fields):
    return "good"

def words(prompts, completions, **fields):
    return ["good"] * len(prompts)

def few(prompts, completions, **fields):
    return [1.0]

number = 3
"""


@pytest.fixture
def code(place):
    path = place / "mine.py"
    path.write_text(CODE)
    return path


def test_reward_code_that_is_not_there(place, complaint, code):
    assert "nowhere.py does not exist, but a Python file is wanted" in complaint("align.reward=nowhere.py:length")
    assert "defines no rises. Did you mean raises?" in complaint(f"align.reward={code}:rises")
    assert "which is no function" in complaint(f"align.reward={code}:number")
    (place / "wrong.py").write_text("def f(:\n")
    assert "fails when loaded: SyntaxError" in complaint(f"align.reward={place}/wrong.py:f")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("raises", "raised KeyError: 'answer'"),
        ("nothing", "returned None (NoneType) for 16 completions"),
        ("nan", "gave nan to"),
        ("huge", "gave inf to"),
        ("word", "returned 'good' (str) for 16 completions"),
        ("words", "returned 'good' (str) for"),
        ("few", "returned 1 number for 16 completions"),
    ],
)
def test_reward_code_that_fails(finished, palate_command, tmp_path, code, name, said):
    shutil.copytree(finished.run, tmp_path / "runs" / "tiny")
    settings = ["--set", f"align.reward={code}:{name}"]
    result = palate_command("run", finished.recipe, "--runs", tmp_path / "runs", "--force", *settings)
    assert result.code == 1
    message = result.err.strip()
    assert message.startswith(f"palate: RewardError: The reward {name!r} {said}")
    assert "(to the prompt 'Say " in message
    assert message.endswith(".") and "\n" not in message
    # What was done before stays, and the mended reward goes on from there.
    for stage in ("sft", "reward"):
        weights = f"{stage}/model/model.safetensors"
        assert file_sha256(tmp_path / "runs" / "tiny" / weights) == file_sha256(finished.run / weights)
    assert not (tmp_path / "runs" / "tiny" / "align" / "model").exists()
    again = palate_command("run", finished.recipe, "--runs", tmp_path / "runs", "--force")
    assert again.code == 0
    assert again.out.count("done before, and reused") == 2


# ---- what was there stays


@pytest.mark.parametrize(
    "settings",
    [
        ["sft.data=nowhere.jsonl"],
        ["sft.epochs=0"],
        ["reward.heldout=nowhere.jsonl"],
        ["align.reward=nowhere.py:length"],
        ["reward.model=nowhere/at/all"],
        ["align.reference=/nowhere"],
        ["sft.heldout_fraction=0.001"],
    ],
)
@pytest.mark.parametrize("options", [[], ["--fresh"]])
def test_bad_input_leaves_an_existing_run_as_it_was(finished, palate_command, tmp_path, settings, options):
    run = tmp_path / "runs" / "tiny"
    shutil.copytree(finished.run, run)
    before = contents(run)
    overrides = [word for setting in settings for word in ("--set", setting)]
    result = palate_command("run", finished.recipe, "--runs", tmp_path / "runs", *overrides, *options)
    assert result.code == 2
    assert contents(run) == before
    assert [entry.name for entry in (tmp_path / "runs").iterdir()] == ["tiny"]


def contents(run):
    """Hashes of a run's files; the lock's holder and the record of the last command aside."""
    found = {
        str(path.relative_to(run)): file_sha256(path)
        for path in run.rglob("*")
        if path.is_file() and path.name not in (".lock", "run.json")
    }
    record = json.loads((run / "run.json").read_text())
    return found | {"stages": record["stages"], "data": record["data"]}


def test_a_directory_that_is_no_run_is_not_touched(place, palate_command):
    (place / "runs" / "tiny").mkdir(parents=True)
    (place / "runs" / "tiny" / "thesis.txt").write_text("years of work")
    for options in ([], ["--fresh"]):
        result = palate_command("run", place / "tiny.toml", "--runs", place / "runs", *options)
        assert result.code == 2
        assert "holds files but no run.json" in well_said(result.err)
    assert [path.name for path in (place / "runs" / "tiny").iterdir()] == ["thesis.txt"]
