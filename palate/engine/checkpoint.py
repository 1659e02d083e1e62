"""Checkpoints: the whole state of a loop on disk, of which a complete one stands there at every instant.

A checkpoint is a directory `step-00000012/` of `tensors.safetensors`, `state.json` and `manifest.json`, which
holds the SHA-256 of the other two.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from palate.engine import files
from palate.errors import CheckpointError, TrainingError

TENSORS, STATE, MANIFEST = "tensors.safetensors", "state.json", "manifest.json"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint on disk."""

    step: int
    path: Path

    def tensors(self) -> dict[str, Tensor]:
        """The saved tensors by name, on the CPU."""
        return load_file(self.path / TENSORS)

    @property
    def state(self) -> dict[str, Any]:
        """The saved state; what was a tuple comes back as a list."""
        return json.loads((self.path / STATE).read_bytes())

    def fault(self) -> str | None:
        """Why this checkpoint cannot be used; None where every checksum holds."""
        try:
            expected = json.loads((self.path / MANIFEST).read_bytes())["sha256"]
            wrong = [name for name in (TENSORS, STATE) if files.file_sha256(self.path / name) != expected[name]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            return f"{type(error).__name__}: {error}"
        return f"the checksum of {wrong[0]} does not hold" if wrong else None


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one training, of which the newest `keep` stay; for one process at a time."""

    directory: Path
    keep: int = 2

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise ValueError(f"keep = {self.keep}: at least one checkpoint must stay")
        if self.directory.exists():
            files.recover(self.directory)

    def save(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
        """Saves durably, then removes those beyond `keep`; returns the checkpoint's directory.

        TrainingError where a number is not finite: such a state must never become the latest.
        CheckpointError where the disk refuses; the checkpoints before this one stand as they were.
        """
        _must_be_finite(step, tensors)
        text = files.encode_json(dict(state))
        path = self.directory / f"step-{step:08d}"
        try:
            files.make_directory(self.directory)
            with files.atomic_directory(path) as partial:
                files.perform(save_file, _storable(tensors), str(partial / TENSORS))
                files.write(partial / STATE, text)
                sums = {name: files.file_sha256(partial / name) for name in (TENSORS, STATE)}
                files.write(partial / MANIFEST, files.encode_json({"step": step, "sha256": sums}))
            self._retire(step)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"Saving step {step} in {self.directory} failed: {error}. The disk must take the whole"
                " checkpoint; free space on it and run again, which goes on from the checkpoint before."
            ) from error
        return path

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint whose checksums hold, None where there is none at all.

        Damaged ones are passed over with a warning in the log; CheckpointError where all are damaged.
        """
        found = self._found()
        for checkpoint in found:
            fault = checkpoint.fault()
            if fault is None:
                return checkpoint
            _log.warning("Checkpoint %s is damaged and is passed over: %s.", checkpoint.path, fault)
        if found:
            raise CheckpointError(
                f"All {len(found)} checkpoints in {self.directory} are damaged; one must be whole to go on."
                " Restore one from a copy, or begin again with --fresh."
            )
        return None

    def _found(self) -> list[Checkpoint]:
        """Every checkpoint, newest first."""
        paths = [path for path in self.directory.glob("step-*") if re.fullmatch(r"step-\d{8,}", path.name)]
        found = [Checkpoint(int(path.name.removeprefix("step-")), path) for path in paths]
        return sorted(found, key=lambda checkpoint: checkpoint.step, reverse=True)

    def _retire(self, step: int) -> None:
        """Removes the older ones beyond `keep`, and any later one, of a future that was given up."""
        found = self._found()
        past = [checkpoint for checkpoint in found if checkpoint.step <= step]
        for checkpoint in found:
            if checkpoint not in past[: self.keep]:
                files.remove(checkpoint.path)


def _must_be_finite(step: int, tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise TrainingError(
                f"At step {step} {name} holds numbers that are not finite, and such a state is not saved."
                " Lower the learning rate, the usual cause, and go on from the last checkpoint."
            )


def _storable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as safetensors wants them: dense, on the CPU, and none sharing memory with another."""
    storable: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        dense = tensor.detach().cpu().contiguous()
        address = dense.untyped_storage().data_ptr()
        storable[name] = dense.clone() if address in seen else dense
        seen.add(address)
    return storable


# Optimisers


def flatten_optimiser(optimiser: torch.optim.Optimizer, prefix: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state of a torch optimiser: tensors named `prefix.PARAMETER.KEY`, and its groups as plain values.

    ValueError where it was not made from named parameters: only names outlive the order of parameters.
    """
    tensors = {
        f"{prefix}.{name}.{key}": value
        for group in optimiser.param_groups
        for name, parameter in zip(_names(group), group["params"], strict=True)
        for key, value in optimiser.state.get(parameter, {}).items()
    }
    groups = [{**_options(group), "names": _names(group)} for group in optimiser.param_groups]
    return tensors, {"groups": groups}


def restore_optimiser(
    optimiser: torch.optim.Optimizer, prefix: str, tensors: Mapping[str, Tensor], state: Mapping[str, Any]
) -> None:
    """Puts back, bit for bit, what `flatten_optimiser` gave, in whatever order parameters and groups are now.

    CheckpointError where the groups do not hold the same parameters as then.
    """
    saved = {frozenset(group["names"]): group for group in state["groups"]}
    kept: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith(f"{prefix}."):
            parameter, _, key = name.removeprefix(f"{prefix}.").rpartition(".")
            kept.setdefault(parameter, {})[key] = tensor.clone()
    groups = []
    for group in optimiser.param_groups:
        names = _names(group)
        if frozenset(names) not in saved:
            raise CheckpointError(
                f"The checkpoint has no optimiser group of the {len(names)} parameters {names[0]}, …, and one"
                " must match. Go on with the model that it was saved from, or begin again with --fresh."
            )
        options = saved[frozenset(names)]
        groups.append({key: _tupled(options[key]) for key in _options(group)} | {"params": names})
    optimiser.load_state_dict({"state": kept, "param_groups": groups})


def _names(group: Mapping[str, Any]) -> list[str]:
    if "param_names" not in group:
        raise ValueError("the optimiser must be made from named parameters: AdamW(model.named_parameters(), …)")
    return group["param_names"]


def _options(group: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key not in ("params", "param_names")}


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
