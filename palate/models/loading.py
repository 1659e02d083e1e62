"""Model directories: loading and saving language and reward models, and what can be wrong with one.

Only safetensors are read and written, and no code from a model's repository is ever run.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from palate.data.chat import ChatFormat, chat_format, stop_id
from palate.errors import ModelError
from palate.models.causal import CausalLM
from palate.models.heads import Pooling, RewardModel

SIDECAR = "palate.json"
MEAN_HEAD = "palate_mean_head"
MEAN_HEAD_FILE = f"{MEAN_HEAD}.safetensors"
PAD = "<|pad|>"

_DTYPES = ("float32", "float64", "bfloat16", "float16")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "tekken.json",
)


def load_causal(
    source: str | Path, *, device: str | torch.device = "cpu", dtype: str = "float32"
) -> tuple[CausalLM, ChatFormat, PreTrainedTokenizerBase]:
    """A causal language model from a directory, or from the Hugging Face hub by name.

    A tokenizer without a padding token of its own is given one, inside the embedding. Raises ModelError where
    the source is missing, holds pickles only, has no tokenizer, is no causal language model, or does not fit
    its weights.
    """
    source = _checked(source)
    config = _config(source)
    _refuse_other_kinds(source, config)
    tokenizer = _tokenizer(source)
    model = _weights(AutoModelForCausalLM, source, config, dtype)
    vocabulary = _fit_tokenizer(model, tokenizer)
    chat = chat_format(tokenizer)
    _name_special_ids(model.config, tokenizer, chat)
    nn.Module.to(model, device)
    return CausalLM(model, vocabulary).eval(), chat, tokenizer


def save_causal(model: CausalLM, tokenizer: PreTrainedTokenizerBase, directory: str | Path) -> None:
    """Writes a directory for any transformers user; sampling from it is sampling from the model itself."""
    chat = chat_format(tokenizer)
    _name_special_ids(model.model.config, tokenizer, chat)
    # transformers' own default for sampling is top_k = 50, which is not the distribution that was trained.
    model.model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=chat.eos_id,
        pad_token_id=chat.pad_id,
    )
    with _quietly():
        model.model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def load_reward_model(
    source: str | Path, *, device: str | torch.device = "cpu", dtype: str = "float32"
) -> tuple[RewardModel, ChatFormat, PreTrainedTokenizerBase]:
    """A reward model that `save_reward_model` wrote, or any sequence classifier with one label.

    Raises ModelError as `load_causal` does, and where the source is a plain language model, the tokenizer has changed,
    or what Palate wrote beside the weights is not whole.
    """
    source = _checked(source)
    config = _config(source)
    sidecar = _sidecar(source)
    tokenizer = _tokenizer(source)
    if sidecar.get("pooling", "last") == "mean":
        trunk = _weights(AutoModel, source, config, dtype)
        head = _mean_head(trunk, source, sidecar)
    else:
        _refuse_non_classifiers(source, config, sidecar)
        classifier = _weights(AutoModelForSequenceClassification, source, config, dtype)
        trunk, head = classifier.base_model, _score_weight(classifier, source, sidecar)
    _fit_tokenizer(trunk, tokenizer)
    chat = chat_format(tokenizer)
    if sidecar.get("fingerprint", chat.fingerprint) != chat.fingerprint:
        raise ModelError(
            f"{source} was trained with another tokenizer or chat template than the one now in it. Its "
            "scores would mean nothing. Restore the tokenizer's files, or train the reward model again."
        )
    _name_special_ids(trunk.config, tokenizer, chat)
    pooling, bias = sidecar.get("pooling", "last"), sidecar.get("bias", 0.0)
    bias = tuple(bias) if isinstance(bias, list) else bias
    model = RewardModel(trunk, head, pooling=pooling, bias=bias, attributes=sidecar.get("attributes", ()))
    return model.to(device).eval(), chat, tokenizer


def save_reward_model(model: RewardModel, tokenizer: PreTrainedTokenizerBase, directory: str | Path) -> None:
    """Writes a last-token model as a sequence classifier, a label a head, a mean-pooled one for Palate alone.

    transformers' `score` has no bias: the gains are folded into its weight, and the biases stand in
    `palate.json`.
    """
    directory = Path(directory)
    chat = chat_format(tokenizer)
    _name_special_ids(model.trunk.config, tokenizer, chat)
    folded, bias = model.folded()
    head = folded.reshape(model.head.shape).to(model.head)
    with _quietly():
        if model.pooling == "last":
            _classifier(model.trunk, head).save_pretrained(directory)
        else:
            model.trunk.save_pretrained(directory)
            save_file({MEAN_HEAD: head.cpu().contiguous()}, directory / MEAN_HEAD_FILE)
    tokenizer.save_pretrained(directory)
    sidecar: dict[str, Any] = {"pooling": model.pooling, "fingerprint": chat.fingerprint}
    sidecar["bias"] = bias.tolist() if model.head.dim() == 2 else float(bias)
    if model.attributes:
        sidecar["attributes"] = model.attributes
    (directory / SIDECAR).write_text(json.dumps(sidecar, indent=2) + "\n", encoding="utf-8")
    (directory / "README.md").write_text(_card(model), encoding="utf-8")


def weight_hash(module: nn.Module) -> str:
    """sha256 over names, types, shapes and bytes of a module's tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


_CARDS = {
    "last": """# Reward model

A sequence classifier: it reads a prompt and its completion, stop token included, and scores the last real token.
`palate.json` holds a bias to add to each score; the gain is part of the weight.
""",
    "mean": f"""# Reward model

Its score is taken from the mean over the completion's tokens. **Only Palate reads it**: the head stands in
`{MEAN_HEAD_FILE}`, and transformers would put a random one in its place.
""",
}


def _card(model: RewardModel) -> str:
    card = _CARDS[model.pooling]
    if model.attributes:
        return f"{card}\nIt has a score for each of: {', '.join(model.attributes)}.\n"
    return card if model.members == 1 else f"{card}\nIts {model.members} heads are an ensemble on one trunk.\n"


def _checked(source: str | Path) -> str:
    """The source as transformers wants it; raises where a directory is missing or holds no safetensors."""
    path = Path(source).expanduser()
    if path.is_dir():
        _check_directory(path)
        return str(path)
    if path.exists():
        raise ModelError(
            f"{source} is a file. A model is a directory with config.json, safetensors and a tokenizer. Name "
            "the directory."
        )
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(source)) or str(source).startswith("."):
        raise ModelError(
            f"There is no directory {source}. A model is a directory on disk or a name on the Hugging Face "
            "hub. Check the path."
        )
    return str(source)


def _check_directory(path: Path) -> None:
    if not (path / "config.json").is_file():
        raise ModelError(
            f"{path} has no config.json. A model directory holds config.json, safetensors and a tokenizer. "
            "Name the directory that save_pretrained wrote (in a run: the model/ folder of a stage)."
        )
    if any(path.glob("*.safetensors")):
        return
    pickles = sorted(file.name for pattern in _PICKLES for file in path.glob(pattern))
    if pickles:
        raise ModelError(
            f"{path} has its weights in {', '.join(pickles[:3])} only. A pickle can run any code when it is "
            "opened, so Palate reads safetensors alone. Convert it where you trust it: load it with "
            "transformers and save it again."
        )
    raise ModelError(
        f"{path} has a config.json and no weights. A model directory holds *.safetensors. Download or save it again."
    )


def _config(source: str) -> PreTrainedConfig:
    try:
        return AutoConfig.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(_unreadable(source, "configuration", error)) from error


def _tokenizer(source: str) -> PreTrainedTokenizerBase:
    path = Path(source)
    if path.is_dir() and not any((path / name).is_file() for name in _TOKENIZER_FILES):
        raise ModelError(
            f"{source} has no tokenizer. Palate reads the tokenizer from the model's own directory. Save it "
            "there with tokenizer.save_pretrained, or copy tokenizer.json and tokenizer_config.json."
        )
    try:
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(_unreadable(source, "tokenizer", error)) from error


def _weights(kind: Any, source: str, config: PreTrainedConfig, dtype: str) -> Any:
    if dtype not in _DTYPES:
        raise ModelError(
            f"The dtype {dtype!r} was asked for. It must be one of {', '.join(_DTYPES)}. Choose one of them."
        )
    try:
        with _quietly():
            model, report = kind.from_pretrained(
                source,
                config=config,
                dtype=getattr(torch, dtype),
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are in the report, and refused below
            )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(_unreadable(source, "weights", error)) from error
    wrong = {name.replace("_", " "): sorted(map(str, keys)) for name, keys in report.items() if keys}
    if wrong:
        found = "; ".join(f"{name}: {', '.join(keys[:3])}" for name, keys in wrong.items())
        raise ModelError(
            f"The weights of {source} do not fit a {type(model).__name__} ({found}). Every weight must be in "
            "the file and every weight in the file must be used, or part of the model would be random. Use "
            "the directory of a model of this kind."
        )
    return model


def _refuse_other_kinds(source: str, config: PreTrainedConfig) -> None:
    architecture = _architecture(config)
    if architecture.endswith("ForSequenceClassification"):
        raise ModelError(
            f"{source} is a {architecture}, a classifier or reward model. A policy must be able to write. "
            "Give a causal language model, and this one as reward model."
        )


def _refuse_non_classifiers(source: str, config: PreTrainedConfig, sidecar: Mapping[str, Any]) -> None:
    architecture = _architecture(config)
    if architecture and not architecture.endswith("ForSequenceClassification"):
        raise ModelError(
            f"{source} is a {architecture}, not a reward model: it has no trained head, and its scores would "
            "be random. A reward model is a sequence classifier with one label. Train one with `palate "
            "reward`."
        )
    heads = len(sidecar["bias"]) if isinstance(sidecar.get("bias"), list) else 1
    if config.num_labels != heads:
        raise ModelError(
            f"{source} is a classifier of {config.num_labels} labels, and what they mean is not said. A reward model "
            f"has one label, or as many as its {SIDECAR} names biases. Use a reward model, or train one with `palate "
            "reward`."
        )


def _architecture(config: PreTrainedConfig) -> str:
    return (config.architectures or [""])[0]


def _score_weight(classifier: PreTrainedModel, source: str, sidecar: Mapping[str, Any]) -> Tensor:
    score = getattr(classifier, "score", None)
    if not isinstance(score, nn.Linear) or score.bias is not None:
        raise ModelError(
            f"{source} is a {type(classifier).__name__}, whose head is not the plain `score` matrix of a "
            "decoder. Palate reads reward models on decoders. Use one of these."
        )
    weight = score.weight.detach().clone()
    return weight if isinstance(sidecar.get("bias"), list) else weight[0]


def _classifier(trunk: PreTrainedModel, head: Tensor) -> Any:
    """The trunk and heads as transformers' own classifier, a label a head, sharing the trunk's tensors."""
    weight = head.reshape(-1, head.shape[-1])
    config = type(trunk.config).from_dict(trunk.config.to_dict() | {"num_labels": len(weight)})
    with torch.device("meta"):
        classifier = AutoModelForSequenceClassification.from_config(config)
    prefix = classifier.base_model_prefix
    weights = {f"{prefix}.{name}": tensor for name, tensor in trunk.state_dict().items()}
    classifier.load_state_dict(weights | {"score.weight": weight}, assign=True)
    return classifier


def _fit_tokenizer(model: Any, tokenizer: PreTrainedTokenizerBase) -> int:
    """Gives the tokenizer a padding token and every id an embedding; returns how many ids may be sampled."""
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id, stop_id(tokenizer)):
        tokenizer.add_special_tokens({"pad_token": PAD})
    ids = 1 + max(tokenizer.get_vocab().values())
    rows = model.get_input_embeddings().weight.shape[0]
    if ids > rows:
        with torch.random.fork_rng(devices=[]), _quietly():
            model.resize_token_embeddings(ids, mean_resizing=False)
        with torch.no_grad():
            for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
                if layer is not None:
                    layer.weight[rows:] = 0.0
    # What was added to the model's own vocabulary is never sampled, nor a padding token added earlier.
    return min(rows, ids - 1 if tokenizer.pad_token_id == ids - 1 else ids)


def _name_special_ids(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, chat: ChatFormat) -> None:
    config.bos_token_id = tokenizer.bos_token_id
    config.eos_token_id = chat.eos_id
    config.pad_token_id = chat.pad_id


def _sidecar(source: str) -> dict[str, Any]:
    """What stands beside a reward model that Palate saved; nothing beside those of others."""
    path = Path(source) / SIDECAR
    if not path.is_file():
        return {}
    try:
        said = json.loads(path.read_bytes())
    except ValueError as error:
        raise ModelError(_unreadable(source, SIDECAR, error)) from error
    if not _is_sidecar(said):
        raise ModelError(
            f"{path} holds {str(said)[:200]}. It says how the scores beside it are made: pooling is last or mean, bias "
            "a finite number or a list of one for each head, attributes a name for each of these. Restore the file, or "
            "save the reward model again."
        )
    return said


def _is_sidecar(said: Any) -> bool:
    if not isinstance(said, dict) or said.get("pooling", "last") not in get_args(Pooling):
        return False
    bias, attributes = said.get("bias", 0.0), said.get("attributes", [])
    biases = bias if isinstance(bias, list) else [bias]
    numbers = bool(biases) and all(type(one) in (int, float) and math.isfinite(one) for one in biases)
    named = isinstance(attributes, list) and all(isinstance(one, str) for one in attributes)
    return numbers and named and (not attributes or (isinstance(bias, list) and len(attributes) == len(bias)))


def _mean_head(trunk: PreTrainedModel, source: str, sidecar: Mapping[str, Any]) -> Tensor:
    """The head of a mean-pooled model; ModelError where the file is not that one tensor, in the shape it must have."""
    try:
        held = load_file(Path(source) / MEAN_HEAD_FILE)
    except (OSError, SafetensorError) as error:
        raise ModelError(_unreadable(source, MEAN_HEAD_FILE, error)) from error
    bias, width = sidecar.get("bias", 0.0), trunk.config.hidden_size
    wanted = (len(bias), width) if isinstance(bias, list) else (width,)
    found = {name: tuple(tensor.shape) for name, tensor in held.items()}
    if found != {MEAN_HEAD: wanted}:
        raise ModelError(
            f"{source}/{MEAN_HEAD_FILE} holds {found}. It must hold {MEAN_HEAD} of shape {wanted} and nothing else, or "
            "the scores would be those of another model. Restore the file, or save the reward model again."
        )
    return held[MEAN_HEAD].to(trunk.dtype)


def _unreadable(source: str, part: str, error: Exception) -> str:
    reason = " ".join(str(error).split())[:300].rstrip(".")
    if "trust_remote_code" in reason:
        reason = "it brings code of its own"
    if Path(source).is_dir():
        return (
            f"The {part} of {source} cannot be read ({reason}). Palate reads what transformers itself can, "
            "without running code from the model's directory. Save the model again with save_pretrained, or "
            "use another."
        )
    return (
        f"{source} is no directory here, and no model of that name could be read from the Hugging Face hub "
        f"({reason}). Check the path or the name; without a network, or with HF_HUB_OFFLINE set, download "
        "the model first and give its directory."
    )


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without transformers' progress bars and load reports: what matters of them is raised as an error."""
    bars, level = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
