"""Checkpoints: exact, never fewer than one whole, whatever happens while one is saved."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from palate.engine import files
from palate.engine.checkpoint import Checkpoint, Checkpoints, flatten_optimiser, restore_optimiser
from palate.errors import CheckpointError, TrainingError


def tensors_at(step: int) -> dict[str, Tensor]:
    return {"weight": torch.full((3,), float(step))}


def save(checkpoints: Checkpoints, step: int) -> Path:
    return checkpoints.save(step, tensors_at(step), {"step": step})


def is_exact(checkpoint: Checkpoint) -> bool:
    expected = tensors_at(checkpoint.step)["weight"]
    return torch.equal(checkpoint.tensors()["weight"], expected) and checkpoint.state == {"step": checkpoint.step}


def newest(checkpoints: Checkpoints) -> Checkpoint:
    found = checkpoints.latest()
    assert found is not None
    return found


def bits(tensor: Tensor) -> bytes:
    flat = tensor.detach().contiguous().flatten()
    return flat.view(torch.uint8).numpy().tobytes()


def names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


# What goes in comes out


def test_tensors_of_every_kind_come_back_bit_for_bit(tmp_path: Path):
    base = torch.arange(12, dtype=torch.float32).reshape(3, 4) / 7
    tensors = {
        "float32": base,
        "shared": base,
        "view of it": base[1],
        "transposed": base.T,
        "bfloat16": base.bfloat16(),
        "float64": base.double() / 3,
        "int64": torch.tensor([-(2**62), 2**62]),
        "bool": torch.tensor([True, False]),
        "scalar": torch.tensor(0.1),
        "empty": torch.empty(0, 3),
        "also empty": torch.empty(0),
        "smallest": torch.tensor([5e-324], dtype=torch.float64),
        "negative zero": torch.tensor([-0.0]),
        "learnt": nn.Parameter(torch.ones(2)),
    }
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, tensors, {})
    again = newest(checkpoints).tensors()
    assert again.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (again[name].dtype, again[name].shape) == (tensor.dtype, tensor.shape)
        assert bits(again[name]) == bits(tensor), name


def test_state_comes_back_to_the_bit(tmp_path: Path):
    state = {"kl": {"coef": 0.1 + 0.2, "pending": None}, "cursor": [3, 2**70], "text": "a\u2028\ud800b"}
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(7, {}, state)
    assert newest(checkpoints).state == state
    assert newest(checkpoints).path.name == "step-00000007"
    assert newest(checkpoints).step == 7


def test_there_is_no_latest_before_the_first(tmp_path: Path):
    assert Checkpoints(tmp_path / "none").latest() is None
    assert not (tmp_path / "none").exists()


# What must not be saved


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_never_become_the_latest(tmp_path: Path, bad: float):
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 1)
    with pytest.raises(TrainingError, match=r"At step 2 head\.bias holds"):
        checkpoints.save(2, {"ok": torch.ones(1), "head.bias": torch.tensor([1.0, bad])}, {})
    with pytest.raises(TrainingError, match="kl = "):
        checkpoints.save(2, {}, {"kl": bad})
    assert names(tmp_path) == ["step-00000001"]
    assert is_exact(newest(checkpoints))


# Which ones stay


def test_the_newest_stay(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3, 100_000_000):
        save(checkpoints, step)
    assert names(tmp_path) == ["step-00000003", "step-100000000"]
    assert newest(checkpoints).step == 100_000_000


def test_a_damaged_later_one_does_not_push_out_the_one_just_saved(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path, keep=1)
    damaged = save(checkpoints, 20)
    (damaged / "tensors.safetensors").write_bytes(b"")
    save(checkpoints, 11)
    assert names(tmp_path) == ["step-00000011"]


def test_at_least_one_is_kept(tmp_path: Path):
    with pytest.raises(ValueError, match="keep = 0"):
        Checkpoints(tmp_path, keep=0)


def test_a_step_may_be_saved_again_over_a_damaged_one(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path)
    (save(checkpoints, 1) / "state.json").write_text("{")
    save(checkpoints, 1)
    assert is_exact(newest(checkpoints))


# Damage


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: flip_a_bit(path / "tensors.safetensors"),
        lambda path: flip_a_bit(path / "state.json"),
        lambda path: (path / "state.json").unlink(),
        lambda path: (path / "manifest.json").unlink(),
        lambda path: (path / "manifest.json").write_text("{"),
        lambda path: (path / "manifest.json").write_text("[]"),
        lambda path: (path / "manifest.json").write_text('{"sha256": {}}'),
        lambda path: shutil.rmtree(path) or path.mkdir(),
        lambda path: shutil.rmtree(path) or path.write_text("a file"),
    ],
)
def test_a_damaged_one_is_passed_over_with_a_sentence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], Any]
):
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 1)
    damage(save(checkpoints, 2))
    with caplog.at_level(logging.WARNING):
        found = newest(checkpoints)
    assert found.step == 1
    assert is_exact(found)
    assert "step-00000002 is damaged and is passed over" in caplog.text


def test_when_all_are_damaged_that_is_an_error(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        flip_a_bit(save(checkpoints, step) / "tensors.safetensors")
    with pytest.raises(CheckpointError, match=r"All 2 checkpoints in .* are damaged"):
        checkpoints.latest()


# Killed at every operation


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Directories in which saving step 3, which retires step 1, or a damaged step 2 anew was killed."""
    root = tmp_path_factory.mktemp("killed")
    for scenario in ("next", "anew"):
        (root / scenario).mkdir()
        for earlier in (1, 2):
            last = save(Checkpoints(root / f"{scenario}-base"), earlier)
    flip_a_bit(last / "state.json")
    script = Path(__file__).with_name("killed_saves.py")
    command = [sys.executable, script, "next-base", "next", "3", "anew-base", "anew", "2"]
    environment = os.environ | {"PYTHONPATH": str(Path(files.__file__).parents[2])}
    subprocess.run(command, cwd=root, env=environment, check=True, timeout=120)
    return {scenario: sorted((root / scenario).iterdir()) for scenario in ("next", "anew")}


@pytest.mark.parametrize(("scenario", "steps"), [("next", {2, 3}), ("anew", {1, 2})])
def test_a_save_killed_at_any_operation_loses_nothing(killed: dict[str, list[Path]], scenario: str, steps: set[int]):
    reached = set()
    for place in killed[scenario]:
        # One that is whole stands under its own name even before anything is tidied up.
        standing = [Checkpoint(int(path.name[5:]), path) for path in place.glob("step-*")]
        assert any(one.fault() is None and is_exact(one) for one in standing), place
        checkpoints = Checkpoints(place)
        found = newest(checkpoints)
        assert is_exact(found), place
        assert all(name.startswith("step-") for name in names(place)), place
        reached.add(found.step)
        save(checkpoints, 4)
        assert newest(checkpoints).step == 4, place
        assert is_exact(newest(checkpoints)), place
        assert len(names(place)) == 2, place
    assert reached == steps


def test_the_kills_fell_on_every_operation(killed: dict[str, list[Path]]):
    # Step 3: mkdir, save_file, (open, write) × 2, fsync × 4, rename, fsync; retiring step 1: rename, fsync,
    # unlink × 3, rmdir. Each of the 18 is killed before, half-way through and after.
    assert len(killed["next"]) == 3 * 18
    # Step 2 anew: the first 12, a rename more, and the deletion (4) of what was replaced.
    assert len(killed["anew"]) == 3 * (12 + 1 + 4)


# A full disk at every operation


class FullDisk:
    """Takes the place of `files.perform`: the disk is full at the N-th operation, half-way in a write."""

    def __init__(self, fails_at: int):
        self.fails_at, self.seen = fails_at, 0

    def __call__(self, operation: Callable[..., Any], *arguments: Any) -> Any:
        self.seen += 1
        if self.seen != self.fails_at:
            return operation(*arguments)
        if operation is os.write:
            os.write(arguments[0], arguments[1][: len(arguments[1]) // 2])
        if operation is save_file:
            Path(arguments[1]).write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_at_any_operation_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    perform = files.perform
    for number in range(1, 1000):
        place = tmp_path / str(number)
        for earlier in (1, 2):
            save(Checkpoints(place), earlier)
        full = FullDisk(number)
        monkeypatch.setattr(files, "perform", full)
        try:
            save(Checkpoints(place), 3)
        except CheckpointError as error:
            assert "No space left on device" in str(error)
        monkeypatch.setattr(files, "perform", perform)
        if full.seen < number:
            assert number == 19  # the 18 operations counted above, and no more
            break
        found = newest(Checkpoints(place))
        assert found.step in (2, 3)
        assert is_exact(found)
        if found.step == 2:
            assert names(place) == ["step-00000001", "step-00000002"]
        save(Checkpoints(place), 4)
        assert len(names(place)) == 2
        assert is_exact(newest(Checkpoints(place)))


# Optimisers


def two_layers() -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def adamw(model: nn.Module, *, flipped: bool = False, rate: float = 0.1) -> torch.optim.AdamW:
    named = list(model.named_parameters())
    matrices = [(name, parameter) for name, parameter in named if parameter.dim() > 1]
    vectors = [(name, parameter) for name, parameter in named if parameter.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    if flipped:
        groups = [{**group, "params": group["params"][::-1]} for group in groups[::-1]]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), amsgrad=True)


def train(model: nn.Module, optimiser: torch.optim.Optimizer, seed: int) -> None:
    inputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(seed))
    optimiser.zero_grad()
    model(inputs).square().sum().backward()
    optimiser.step()


@pytest.mark.parametrize("flipped", [False, True])
def test_training_goes_on_bit_for_bit_whatever_the_order_of_groups(tmp_path: Path, flipped: bool):
    model = two_layers()
    optimiser = adamw(model)
    train(model, optimiser, 1)
    optimiser.param_groups[0]["lr"] = 0.05
    moments, groups = flatten_optimiser(optimiser, "policy.optimiser")
    assert "policy.optimiser.0.weight.exp_avg_sq" in moments
    checkpoints = Checkpoints(tmp_path)
    weights = {f"policy.weights.{name}": tensor for name, tensor in model.state_dict().items()}
    checkpoints.save(1, weights | moments, groups)

    again = two_layers()
    restored = adamw(again, flipped=flipped, rate=0.7)
    saved = newest(checkpoints)
    again.load_state_dict(
        {name.removeprefix("policy.weights."): tensor for name, tensor in saved.tensors().items() if "weights" in name}
    )
    restore_optimiser(restored, "policy.optimiser", saved.tensors(), saved.state)
    for seed in (2, 3):
        train(model, optimiser, seed)
        train(again, restored, seed)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_restoring_copies_so_that_training_does_not_reach_back(tmp_path: Path):
    model = two_layers()
    optimiser = adamw(model)
    train(model, optimiser, 1)
    tensors, state = flatten_optimiser(optimiser, "o")
    kept = {name: tensor.clone() for name, tensor in tensors.items()}
    restored = adamw(model)
    restore_optimiser(restored, "o", kept, json.loads(json.dumps(state)))
    before = {name: tensor.clone() for name, tensor in kept.items()}
    train(model, restored, 2)
    assert all(torch.equal(before[name], kept[name]) for name in kept)


def test_an_optimiser_before_its_first_step_has_no_moments():
    model = two_layers()
    tensors, state = flatten_optimiser(adamw(model), "o")
    assert tensors == {}
    restore_optimiser(adamw(model), "o", tensors, state)


def test_other_parameters_are_refused():
    tensors, state = flatten_optimiser(adamw(two_layers()), "o")
    with pytest.raises(CheckpointError, match="no optimiser group of the 1 parameters weight"):
        restore_optimiser(adamw(nn.Linear(2, 2)), "o", tensors, state)


def test_an_optimiser_without_names_is_refused():
    with pytest.raises(ValueError, match="named parameters"):
        flatten_optimiser(torch.optim.AdamW(two_layers().parameters()), "o")
