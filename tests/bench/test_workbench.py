"""A measurement from end to end, with sides that are only acted: who runs when, what is asked for, what is written."""

import json
import os
import sys
from pathlib import Path

import pytest

from bench import scaling, sides, workbench
from bench.__main__ import main, measurement, parser
from bench.side import Job
from bench.sides import PEERS, Run, SideFailed, execute, python_of, variable


def sample(seconds: float, warm_up: bool = False) -> dict:
    return {
        "seconds": seconds,
        "prompt_tokens": 10,
        "completion_tokens": 30,
        "warm_up": warm_up,
        "own_cores": 1.0,
        "other_cores": 0.0,
        "phases": {},
    }


def printed(seconds: float) -> str:
    about = {"memory": int(seconds * 1e9), "memory_before": 1, "versions": {}}
    return "\n".join(map(json.dumps, (sample(9.0, warm_up=True), sample(seconds), about)))


class Stage:
    """Stands in for `execute`: keeps who was called, and prints what a process would have printed."""

    def __init__(self):
        self.called: list[str] = []
        self.jobs: list[Job] = []

    def __call__(self, python: str, module: str, *arguments: object, threads: int) -> str:
        self.called.append(module)
        if module == "bench.machine":
            return json.dumps({"square": 2e9 + len(self.called), "training": 1e9})
        if module == "bench.models":
            return ""
        job = Job.load(Path(str(arguments[0])))
        self.jobs.append(job)
        if "rollout" in module or "generate" in module:
            Path(job.greedy).write_text(json.dumps({"ids": [[5, 1]], "gaps": [[1.0, 1.0]]}))
        return printed(1.0 if module.startswith("bench.ours") else 3.0)


@pytest.fixture
def stage(monkeypatch, tmp_path) -> Stage:
    acted = Stage()
    monkeypatch.setattr(workbench, "execute", acted)
    monkeypatch.setattr(workbench, "SCRATCH", tmp_path)
    monkeypatch.setattr(workbench, "python_of", lambda peer, say: "peer-python")
    return acted


def test_the_sides_take_turns_between_two_readings_of_the_machine(stage, tmp_path, capsys):
    out = tmp_path / "found.json"
    assert main(["ppo", "--rounds", "2", "--iterations", "1", "--threads", "1", "--out", str(out)]) == 0
    ours, peer = "bench.ours.ppo", "bench.peers.trl_ppo"
    assert stage.called == ["bench.models", "bench.machine", ours, peer, ours, peer, "bench.machine"]
    assert [job.seed for job in stage.jobs] == [0, 0, 1, 1]
    assert stage.jobs[0].inputs == stage.jobs[1].inputs
    written = json.loads(out.read_text())
    assert written["summary"]["ratio"]["seconds_by_round"] == [3.0, 3.0]
    assert written["rounds"][1]["peer"]["samples"][0]["warm_up"] is True
    assert written["matrix_rate"]["square"] == 2e9 + 7  # the better of the two readings
    # One iteration: 4 · 4 minibatches; D = 40, C = 30. Ours has one pass more, for the old log-probabilities.
    body, head = 730_240, 65_536
    policy, trunk = body * 40 + head * 30, body * 40
    assert written["summary"]["palate"]["fraction"] == pytest.approx((30 * policy + 28 * trunk) / (2e9 + 7))
    assert written["summary"]["peer"]["fraction"] == pytest.approx((28 * policy + 28 * trunk) / 3 / (2e9 + 7))
    told = capsys.readouterr().out
    assert "TRL 1.12" in told
    assert "3.00" in told


def test_a_rollout_that_ends_early_has_a_queue(stage, tmp_path, capsys):
    out = tmp_path / "found.json"
    for ending, prompts in (("early", 512), ("full", 64)):
        assert main(["rollout", "--ending", ending, "--rounds", "1", "--out", str(out)]) == 0
        assert len(stage.jobs[-1].rows()) == prompts
        assert stage.jobs[-1].batch == 64
    assert json.loads(out.read_text())["summary"]["greedy"] == {
        "rows": 1,
        "tokens": 2,
        "differing": 0,
        "parted_at_a_tie": 0,
    }
    assert "1 rows compared" in capsys.readouterr().out


@pytest.mark.parametrize("task", ["sft", "reward", "dpo"])
def test_supervised_tasks_have_a_row_for_every_step(stage, tmp_path, task):
    assert main([task, "--peer", "none", "--rounds", "1", "--out", str(tmp_path / "found.json")]) == 0
    (job,) = stage.jobs
    assert len(job.rows()) == job.batch * (job.warm_up + job.iterations) == 32 * 28
    assert json.loads((tmp_path / "found.json").read_text())["summary"]["peer"] is None


def test_scaling_varies_one_thing_at_a_time(stage, tmp_path, capsys):
    out = tmp_path / "found.json"
    assert main(["scaling", "--rounds", "1", "--out", str(out)]) == 0
    taken = [(line["against"], line["measurement"]) for line in json.loads(out.read_text())["lines"]]
    assert [(name, one["batch"], one["new_tokens"], one["model"]) for name, one in taken] == [
        *(("batch", size, 64, "small") for size in (16, 32, 64, 128)),
        *(("length", 64, size, "small") for size in (16, 32, 64, 128)),
        ("model", 64, 64, "small"),
        ("model", 64, 64, "large"),
    ]
    assert "× first" in capsys.readouterr().out
    # 40 tokens in a second are 25 s for a thousand.
    given = parser().parse_args(["scaling"])
    lines, _ = scaling.scale(measurement(given), lambda sentence: None)
    assert lines[0].seconds_a_thousand == 25.0


def test_a_side_that_fails_is_told_with_its_last_words(monkeypatch, tmp_path, capsys):
    def fail(*arguments, **more):
        raise SideFailed("it ended with code 1:\nno room")

    monkeypatch.setattr(workbench, "execute", fail)
    monkeypatch.setattr(workbench, "SCRATCH", tmp_path)
    assert main(["sft", "--peer", "none"]) == 1
    assert "no room" in capsys.readouterr().out


def test_a_process_that_fails_is_a_side_that_failed():
    with pytest.raises(SideFailed, match=r"bench\.nothing ended with code 1:\n(.|\n)*No module named"):
        execute(sys.executable, "bench.nothing", threads=1)


@pytest.mark.parametrize("wrong", [["kto"], ["ppo", "--rounds", "0"], ["ppo", "--ending", "late"], []])
def test_wrong_use_is_refused(wrong, capsys):
    with pytest.raises(SystemExit) as end:
        main(wrong)
    assert end.value.code == 2
    assert "usage: python -m bench" in capsys.readouterr().err


def test_what_is_usual():
    small = measurement(parser().parse_args(["ppo"]))
    assert (small.batch, small.new_tokens, small.rounds, small.iterations) == (64, 64, 3, 3)
    assert small.threads == os.cpu_count()
    large = measurement(parser().parse_args(["ppo", "--model", "large", "--device", "cuda", "--critic", "shared"]))
    assert (large.batch, large.new_tokens, large.iterations) == (256, 256, 2)
    assert large.name == "ppo-large-early-cuda-shared"


def test_a_side_that_stopped_is_no_run():
    found = Run.parse(printed(2.0))
    assert [line["seconds"] for line in found.timed] == [2.0]
    with pytest.raises(ValueError, match="stopped before"):
        Run.parse(json.dumps(sample(1.0)))


def test_a_peers_environment_may_be_given(monkeypatch, tmp_path):
    assert variable("trl-1.12") == "PALATE_BENCH_TRL_1_12"
    monkeypatch.setenv("PALATE_BENCH_TRL_1_12", "/somewhere/python")
    assert python_of(PEERS["ppo"], print) == "/somewhere/python"
    assert python_of(PEERS["rollout"], print) == sys.executable


def test_a_peers_environment_is_made_once(monkeypatch, tmp_path):
    monkeypatch.delenv("PALATE_BENCH_TRL_1_16", raising=False)
    monkeypatch.setattr(sides, "SCRATCH", tmp_path)
    commands = []

    def run(command, check):
        commands.append(command)
        (tmp_path / "trl-1.16").mkdir(exist_ok=True)

    monkeypatch.setattr(sides.subprocess, "run", run)
    said = []
    first, second = (python_of(PEERS["sft"], said.append) for _ in range(2))
    assert first == second == str(tmp_path / "trl-1.16" / "bin" / "python")
    assert len(said) == 1
    assert [command[1:3] for command in commands] == [["-m", "venv"], ["-m", "pip"]]
    assert Path(commands[1][-1]).read_text().count("trl==1.16.*") == 1
