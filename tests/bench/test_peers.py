"""The peers' sides at a tiny size, where an environment is named: they count the same tokens and find the same loss."""

import os
import sys

import pytest

from bench.sides import PEERS, ROOT, Run, execute, variable


def peer_run(task: str, job, tmp_path) -> Run:
    peer = PEERS[task]
    python = sys.executable
    if peer.environment is not None:
        python = os.environ.get(variable(peer.environment), "")
        if not python:
            pytest.skip(f"{variable(peer.environment)} names no Python with {peer.name}")
    job.save(tmp_path / "job.json")
    return Run.parse(execute(python, peer.module, tmp_path / "job.json", threads=1))


def our_run(task: str, tmp_path) -> Run:
    return Run.parse(execute(sys.executable, f"bench.ours.{task}", tmp_path / "job.json", threads=1))


@pytest.mark.parametrize("task", ["sft", "reward", "dpo"])
def test_both_sides_start_from_the_same_loss(job, tmp_path, task):
    theirs = peer_run(task, job(task, new_tokens=64), tmp_path)
    ours = our_run(task, tmp_path)
    assert theirs.samples[0]["loss"] == pytest.approx(ours.samples[0]["loss"], rel=1e-5)
    for one, other in zip(ours.samples, theirs.samples, strict=True):
        assert one["prompt_tokens"] == other["prompt_tokens"]
        assert one["completion_tokens"] == other["completion_tokens"]


def test_ppo_counts_real_tokens(job, tmp_path):
    wanted = job("ppo", batch=8)
    theirs = peer_run("ppo", wanted, tmp_path)
    assert len(theirs.samples) == 3
    prompts = sum(len(row["prompt"]) for row in wanted.rows())
    for found in theirs.samples:
        assert found["prompt_tokens"] == prompts
        assert 8 <= found["completion_tokens"] <= 8 * 8
        assert {"rollout", "score", "update", "garbage"} <= found["phases"].keys()


def test_no_peer_imports_palate():
    sources = [ROOT / "bench" / "side.py", *sorted((ROOT / "bench" / "peers").glob("*.py"))]
    assert len(sources) > 5
    for source in sources:
        for line in source.read_text(encoding="utf-8").splitlines():
            assert not line.strip().startswith(("import palate", "from palate", "from bench.ours")), source
