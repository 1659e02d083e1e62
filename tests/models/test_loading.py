"""Model directories: what is written can be read by anyone, and what is wrong with one is said plainly."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
)

from palate.data.layout import completions, padded
from palate.errors import ModelError
from palate.models import (
    RewardModel,
    load_causal,
    load_reward_model,
    save_causal,
    save_reward_model,
    scratch_model,
    weight_hash,
)
from palate.records import Prompt

TEXTS = ["What is 2 + 2? 4.", "The capital of France is Paris."] * 4


@pytest.fixture
def scratch():
    return scratch_model(TEXTS, hidden=32, layers=2, heads=4, vocabulary=290, context=64, seed=1)


@pytest.fixture
def policy(scratch, tmp_path) -> Path:
    """A directory with a language model."""
    save_causal(scratch[0], scratch[2], tmp_path / "policy")
    return tmp_path / "policy"


def reward_model(scratch, pooling="last") -> RewardModel:
    return RewardModel.on(scratch[0], pooling=pooling, generator=torch.Generator().manual_seed(5))


def a_layout(chat, *, pad_id=None):
    prompts = [chat.encode_prompt(Prompt.of(text)) for text in ("What is 2 + 2?", "capital of France?")]
    pad_id = chat.pad_id if pad_id is None else pad_id
    ids, mask = completions([chat.encode_completion(text) for text in ("4.", "It is Paris.")], pad_id)
    return padded(prompts, ids, mask, pad_id=pad_id)


def test_a_language_model_comes_back_to_the_bit(scratch, policy):
    lm, chat, tokenizer = load_causal(policy)
    assert weight_hash(lm) == weight_hash(scratch[0])
    assert chat == scratch[1]
    assert lm.vocabulary == scratch[0].vocabulary
    assert tokenizer.chat_template == scratch[2].chat_template
    layout = a_layout(chat)
    assert torch.equal(lm.hidden(layout), scratch[0].hidden(layout))


def test_saved_directories_are_transformers_own(scratch, policy):
    model = AutoModelForCausalLM.from_pretrained(policy)
    tokenizer = AutoTokenizer.from_pretrained(policy)
    assert type(model) is LlamaForCausalLM
    assert tokenizer.pad_token_id == model.config.pad_token_id == scratch[1].pad_id
    assert model.config.eos_token_id == model.generation_config.eos_token_id == scratch[1].eos_id
    assert {file.suffix for file in policy.iterdir()} <= {".json", ".safetensors", ".jinja"}


def test_sampling_from_a_saved_directory_is_sampling_from_the_model(policy):
    # No hidden top-k, top-p or temperature: what generate draws from is the softmax of the logits.
    model = AutoModelForCausalLM.from_pretrained(policy)
    settings = model.generation_config
    assert (settings.do_sample, settings.temperature, settings.top_k, settings.top_p) == (True, 1.0, 0, 1.0)
    ids = torch.tensor([[1, 10, 11, 4, 2]])
    with torch.random.fork_rng(devices=[]):
        written = model.generate(ids, max_new_tokens=1, output_scores=True, return_dict_in_generate=True)
    with torch.no_grad():
        torch.testing.assert_close(written.scores[0], model(ids).logits[:, -1])


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_weights_have_the_type_asked_for(dtype, policy):
    lm, _, _ = load_causal(policy, dtype=dtype)
    assert {parameter.dtype for parameter in lm.parameters()} == {getattr(torch, dtype)}


def test_unknown_type_is_refused(policy):
    with pytest.raises(ModelError, match="'int4' was asked for"):
        load_causal(policy, dtype="int4")


def without_padding(policy: Path, **changes) -> None:
    """Makes the directory that of a tokenizer whose padding is its EOS, as GPT-2's and many others are."""
    tokenizer = AutoTokenizer.from_pretrained(policy)
    tokenizer.pad_token = tokenizer.eos_token
    for name, value in changes.items():
        setattr(tokenizer, name, value)
    tokenizer.save_pretrained(policy)


@pytest.mark.parametrize("own_template", [True, False])
def test_padding_token_is_added_inside_the_embedding_and_never_sampled(own_template, scratch, policy):
    # The file's own pad token has the text of the one we would add, so it goes first.
    text = (policy / "tokenizer.json").read_text().replace("<|pad|>", "<|nothing|>")
    (policy / "tokenizer.json").write_text(text)
    without_padding(policy, **({} if own_template else {"chat_template": None}))
    lm, chat, _ = load_causal(policy)
    rows = scratch[0].vocabulary
    assert chat.pad_id == rows
    assert chat.pad_id != chat.eos_id
    assert lm.vocabulary == rows == lm.decoder([[3]]).logits.shape[1]
    assert lm.trunk.get_input_embeddings().weight.shape[0] == rows + 1
    assert not lm.trunk.get_input_embeddings().weight[rows].any()
    layout = a_layout(chat)
    assert bool((layout.ids == chat.pad_id).any())
    expected = scratch[0].logits(scratch[0].hidden(a_layout(chat, pad_id=0)))
    torch.testing.assert_close(lm.logits(lm.hidden(layout))[layout.last], expected[layout.last])


def test_added_padding_survives_saving(policy, tmp_path):
    text = (policy / "tokenizer.json").read_text().replace("<|pad|>", "<|nothing|>")
    (policy / "tokenizer.json").write_text(text)
    without_padding(policy)
    lm, chat, tokenizer = load_causal(policy)
    save_causal(lm, tokenizer, tmp_path / "again")
    again, chat_again, _ = load_causal(tmp_path / "again")
    assert chat_again == chat
    assert again.vocabulary == lm.vocabulary
    assert weight_hash(again) == weight_hash(lm)


def test_embedding_longer_than_the_tokenizer_is_never_sampled_beyond_it(scratch, tmp_path):
    _, chat, tokenizer = scratch
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        pad_token_id=chat.pad_id,
    )
    with torch.random.fork_rng(devices=[]):
        LlamaForCausalLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    lm, _, _ = load_causal(tmp_path)
    assert lm.vocabulary == len(tokenizer) < 320
    assert lm.model.config.vocab_size == 320


def test_ids_that_the_model_never_had_are_never_sampled(scratch, policy):
    tokenizer = AutoTokenizer.from_pretrained(policy)
    tokenizer.add_tokens(["<extra>"])
    tokenizer.save_pretrained(policy)
    lm, _, _ = load_causal(policy)
    assert lm.vocabulary == scratch[0].vocabulary
    assert lm.trunk.get_input_embeddings().weight.shape[0] == scratch[0].vocabulary + 1


def test_loading_leaves_the_random_state_alone(policy):
    without_padding(policy)
    before = torch.get_rng_state()
    load_causal(policy)
    assert torch.equal(before, torch.get_rng_state())


def test_loading_prints_nothing(policy, capfd):
    load_causal(policy)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_weight_hash_sees_names_types_and_values(scratch):
    lm = scratch[0]
    hashes = {weight_hash(lm), weight_hash(lm.model)}
    with torch.no_grad():
        lm.trunk.norm.weight[0] += 1e-7
    hashes.add(weight_hash(lm))
    hashes.add(weight_hash(lm.double()))
    assert len(hashes) == 4


# Reward models


@pytest.mark.parametrize("pooling", ["last", "mean"])
@torch.no_grad()
def test_reward_models_come_back(pooling, scratch, tmp_path):
    model = reward_model(scratch, pooling).calibrated(2.5, -0.75)
    save_reward_model(model, scratch[2], tmp_path)
    loaded, chat, _ = load_reward_model(tmp_path)
    assert loaded.pooling == pooling
    assert chat == scratch[1]
    layout = a_layout(chat)
    torch.testing.assert_close(loaded.scores(layout), model.scores(layout), atol=1e-6, rtol=0)
    assert json.loads((tmp_path / "palate.json").read_text()) == {
        "pooling": pooling,
        "bias": -0.75,
        "fingerprint": chat.fingerprint,
    }


@pytest.mark.parametrize("kind", [{"heads": 3}, {"attributes": ("helpful", "brief", "kind")}, {"attributes": ("one",)}])
@pytest.mark.parametrize("pooling", ["last", "mean"])
@torch.no_grad()
def test_reward_models_of_several_heads_come_back(pooling, kind, scratch, tmp_path):
    model = RewardModel.on(scratch[0], pooling=pooling, generator=torch.Generator().manual_seed(5), **kind)
    count = len(model.head)
    model = model.calibrated((2.0, 0.5, -1.0)[:count], (0.25, -4.0, 0.0)[:count])
    save_reward_model(model, scratch[2], tmp_path)
    loaded, chat, _ = load_reward_model(tmp_path)
    layout = a_layout(chat)
    torch.testing.assert_close(loaded.scores(layout), model.scores(layout), atol=1e-6, rtol=0)
    assert (loaded.members, loaded.attributes) == (model.members, model.attributes)
    if pooling == "last":  # and transformers' own classifier has a label for each
        classifier = AutoModelForSequenceClassification.from_pretrained(tmp_path)
        mask = (layout.ids != classifier.config.pad_token_id).long()
        theirs = classifier(input_ids=layout.ids, attention_mask=mask).logits
        biases = torch.tensor((0.25, -4.0, 0.0)[:count])
        torch.testing.assert_close(theirs + biases, model.scores(layout), atol=1e-5, rtol=0)


@torch.no_grad()
def test_transformers_scores_as_we_do_less_the_bias(scratch, tmp_path):
    model = reward_model(scratch).calibrated(2.5, -0.75)
    save_reward_model(model, scratch[2], tmp_path)
    classifier, report = AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    assert type(classifier) is LlamaForSequenceClassification
    assert classifier.config.pad_token_id != classifier.config.eos_token_id
    layout = a_layout(scratch[1])
    theirs = classifier(input_ids=layout.ids, attention_mask=(layout.ids != classifier.config.pad_token_id).long())
    torch.testing.assert_close(theirs.logits[:, 0] - 0.75, model.scores(layout), atol=1e-5, rtol=0)


def test_saving_a_reward_model_changes_it_in_nothing(scratch, tmp_path):
    model = reward_model(scratch).calibrated(2.5, -0.75)
    before, state = weight_hash(model), torch.get_rng_state()
    save_reward_model(model, scratch[2], tmp_path)
    assert weight_hash(model) == before
    assert (model.gain, model.bias) == (2.5, -0.75)
    assert torch.equal(state, torch.get_rng_state())
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}


def test_low_precision_is_kept(scratch, tmp_path):
    scratch[0].bfloat16()
    save_reward_model(reward_model(scratch), scratch[2], tmp_path)
    assert {tensor.dtype for tensor in load_file(tmp_path / "model.safetensors").values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"


def test_mean_pooled_model_says_that_only_palate_reads_it(scratch, tmp_path):
    save_reward_model(reward_model(scratch, "mean"), scratch[2], tmp_path)
    assert "Only Palate reads it" in (tmp_path / "README.md").read_text()
    assert list(load_file(tmp_path / "palate_mean_head.safetensors")) == ["palate_mean_head"]
    assert "score.weight" not in load_file(tmp_path / "model.safetensors")


def test_reward_models_of_others_load_without_a_sidecar(scratch, tmp_path):
    save_reward_model(reward_model(scratch), scratch[2], tmp_path)
    (tmp_path / "palate.json").unlink()
    loaded, _, _ = load_reward_model(tmp_path)
    assert (loaded.pooling, loaded.gain, loaded.bias) == ("last", 1.0, 0.0)


# What can be wrong


def test_plain_language_model_is_no_reward_model(policy):
    with pytest.raises(ModelError, match="LlamaForCausalLM, not a reward model"):
        load_reward_model(policy)


def test_reward_model_is_no_policy(scratch, tmp_path):
    save_reward_model(reward_model(scratch), scratch[2], tmp_path)
    with pytest.raises(ModelError, match="must be able to write"):
        load_causal(tmp_path)


def test_missing_head_is_never_drawn_anew(scratch, tmp_path):
    save_reward_model(reward_model(scratch), scratch[2], tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["score.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"missing keys: score\.weight"):
        load_reward_model(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda weights: weights.pop("model.norm.weight"), r"missing keys: model\.norm\.weight"),
        (lambda weights: weights.update(extra=torch.zeros(2)), "unexpected keys: extra"),
        (
            lambda weights: weights.update({"model.norm.weight": torch.ones(7)}),
            r"mismatched keys: .*model\.norm\.weight",
        ),
    ],
    ids=["missing", "unexpected", "of another shape"],
)
def test_weights_that_do_not_fit_are_refused(change, words, policy):
    weights = load_file(policy / "model.safetensors")
    change(weights)
    save_file(weights, policy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=words):
        load_causal(policy)


def test_several_labels_are_no_score(scratch, tmp_path):
    save_reward_model(reward_model(scratch), scratch[2], tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"id2label": {"0": "bad", "1": "good"}, "label2id": {"bad": 0, "good": 1}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="classifier of 2 labels"):
        load_reward_model(tmp_path)


@pytest.mark.parametrize(
    ("held", "message"),
    [
        (None, "cannot be read"),
        (b"no safetensors", "cannot be read"),
        ({}, "must hold palate_mean_head of shape"),
        ({"head": (32,)}, "must hold palate_mean_head of shape"),
        ({"palate_mean_head": (32,), "bias": (1,)}, "must hold palate_mean_head of shape"),
        ({"palate_mean_head": (31,)}, r"holds .*\(31,\).* of shape \(32,\)"),
        ({"palate_mean_head": (2, 32)}, r"of shape \(32,\)"),
    ],
)
def test_a_mean_head_that_is_not_that_one_tensor_is_refused(scratch, tmp_path, held, message):
    save_reward_model(reward_model(scratch, "mean"), scratch[2], tmp_path)
    place = tmp_path / "palate_mean_head.safetensors"
    place.unlink()
    if isinstance(held, bytes):
        place.write_bytes(held)
    elif held is not None:
        save_file({name: torch.zeros(shape) for name, shape in held.items()}, place)
    with pytest.raises(ModelError, match=message):
        load_reward_model(tmp_path)


@pytest.mark.parametrize(
    "said",
    [
        *(
            "{",
            "\xff",
            "[]",
            '{"pooling": "max"}',
            '{"bias": "0"}',
            '{"bias": null}',
            '{"bias": NaN}',
            '{"bias": true}',
        ),
        *('{"bias": []}', '{"bias": [0.0, "x"]}', '{"attributes": ["honesty"]}', '{"attributes": "honesty"}'),
        '{"bias": [0.0], "attributes": ["honesty", "helpfulness"]}',
    ],
)
def test_a_sidecar_that_cannot_be_meant_is_refused(scratch, tmp_path, said):
    save_reward_model(reward_model(scratch), scratch[2], tmp_path)
    (tmp_path / "palate.json").write_text(said, encoding="latin-1")
    with pytest.raises(ModelError, match=r"palate\.json"):
        load_reward_model(tmp_path)


def test_changed_tokenizer_is_found_out(scratch, tmp_path):
    save_reward_model(reward_model(scratch), scratch[2], tmp_path)
    template = (tmp_path / "chat_template.jinja").read_text()
    (tmp_path / "chat_template.jinja").write_text(template.replace("<|assistant|>", "<|user|>"))
    with pytest.raises(ModelError, match="another tokenizer or chat template"):
        load_reward_model(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_pickles_are_never_opened(name, policy):
    (policy / "model.safetensors").rename(policy / name)
    with pytest.raises(ModelError, match=f"in {name} only. A pickle can run any code"):
        load_causal(policy)


def test_damaged_weights(policy):
    whole = (policy / "model.safetensors").read_bytes()
    for damaged in (whole[: len(whole) // 2], b"garbage"):
        (policy / "model.safetensors").write_bytes(damaged)
        with pytest.raises(ModelError, match=r"weights of .* cannot be read"):
            load_causal(policy)


def test_directory_without_weights(policy):
    (policy / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="no weights"):
        load_causal(policy)


def test_directory_without_tokenizer(policy):
    for file in policy.glob("*token*"):
        file.unlink()
    with pytest.raises(ModelError, match="has no tokenizer"):
        load_causal(policy)


def test_directory_that_is_no_model(tmp_path):
    with pytest.raises(ModelError, match=r"has no config\.json"):
        load_causal(tmp_path)


def test_file_instead_of_a_directory(policy):
    with pytest.raises(ModelError, match="is a file"):
        load_causal(policy / "config.json")


@pytest.mark.parametrize("source", ["./nowhere", "/no/such/place", "runs/demo/sft/model", "../up"])
def test_missing_directory(source):
    with pytest.raises(ModelError, match="There is no directory"):
        load_causal(source)


def test_name_that_cannot_be_reached(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="no model of that name could be read") as caught:
        load_causal("nobody-at-all/no-such-model")
    assert "\n" not in str(caught.value)


def test_unknown_architecture(policy):
    config = json.loads((policy / "config.json").read_text())
    (policy / "config.json").write_text(json.dumps(config | {"model_type": "never-heard-of"}))
    with pytest.raises(ModelError, match=r"configuration of .* cannot be read"):
        load_causal(policy)


def test_code_in_a_directory_is_not_run(policy):
    config = json.loads((policy / "config.json").read_text())
    config |= {
        "model_type": "homemade",
        "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.M"},
    }
    (policy / "config.json").write_text(json.dumps(config))
    (policy / "evil.py").write_text("raise SystemExit('this code ran')\n")
    with pytest.raises(ModelError, match="without running code"):
        load_causal(policy)


def test_architecture_that_cannot_write(policy):
    config = json.loads((policy / "config.json").read_text())
    (policy / "config.json").write_text(json.dumps(config | {"model_type": "vit", "architectures": ["ViTModel"]}))
    with pytest.raises(ModelError, match="cannot be read"):
        load_causal(policy)
