"""The command line itself: help, exit codes, what is said while a stage runs, and what a system refuses."""

import errno
import io
import os
import re
import signal
import subprocess
import sys

import pytest
from rich.console import Console

from palate.cli.main import app
from palate.cli.progress import Interruption, Watcher
from palate.engine import files
from palate.errors import CheckpointError, RewardError, StageStopped, UsageError

COMMANDS = [
    *(
        ("demo",),
        ("run",),
        ("sft",),
        ("reward",),
        ("align",),
        ("evaluate",),
        ("compare",),
        ("lab",),
        ("report",),
        ("verify",),
        ("doctor",),
    ),
    *(
        ("generate",),
        ("logprobs",),
        ("score",),
        ("winrate",),
        ("probe",),
        ("collect",),
        ("import",),
        ("export",),
        ("label",),
        ("judge",),
        ("constitution",),
        ("quality",),
        ("design",),
        ("data", "inspect"),
        ("testbed", "pretrain"),
    ),
]


@pytest.mark.parametrize("words", [(), *COMMANDS], ids=" ".join)
def test_every_command_has_help(palate_command, words):
    result = palate_command(*words, "--help")
    assert result.code == 0
    assert result.out.startswith("Usage: ") and result.err == ""
    for line in re.findall(r"^  (--\S+|\w\S*)$", result.out, flags=re.MULTILINE):
        raise AssertionError(f"{line} of {words} has no help")


def test_the_commands_are_the_ones_that_are_tested_here():
    groups = {
        group.name: [one.callback.__name__ for one in group.typer_instance.registered_commands]
        for group in app.registered_groups
    }
    names = {(one.name or one.callback.__name__,) for one in app.registered_commands}
    assert names | {
        (group, "inspect" if group == "data" else name) for group in groups for name in groups[group]
    } == set(COMMANDS)


@pytest.mark.parametrize("words", [(), ("data",), ("testbed",)])
def test_a_command_without_words_shows_its_help(palate_command, words):
    result = palate_command(*words)
    assert "Usage: " in result.out + result.err
    assert result.code in (0, 2)


@pytest.mark.parametrize(
    "words", [("rum",), ("run",), ("run", "a", "b"), ("run", "a.toml", "--iterations", "3"), ("generate", "model")]
)
def test_wrong_use_ends_with_two(palate_command, words):
    result = palate_command(*words)
    assert result.code == 2
    assert "Traceback" not in result.err and result.out == ""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("a rule"), 2),
        (RewardError("a rule"), 1),
        (CheckpointError("a rule"), 1),
        (StageStopped("a rule"), 3),
    ],
)
def test_the_kind_of_error_decides_the_exit_code(finished, palate_command, monkeypatch, error, code):
    def failing(*arguments, **options):
        raise error

    monkeypatch.setattr("palate.stages.run.execute", failing)
    result = palate_command("run", finished.recipe)
    assert result.code == code
    assert result.err == f"\npalate: {type(error).__name__}: a rule\n"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_what_the_system_refuses_is_said_without_a_traceback(finished, palate_command, monkeypatch, tmp_path, number):
    perform = files.perform

    def refused(operation, *arguments):
        if operation is os.open and ".run.json." in str(arguments[0]):
            raise OSError(number, os.strerror(number), str(arguments[0]))
        return perform(operation, *arguments)

    monkeypatch.setattr(files, "perform", refused)
    result = palate_command("run", finished.recipe, "--runs", tmp_path)
    assert result.code == 1
    assert os.strerror(number) in result.err and "run the same command again" in result.err
    assert "Traceback" not in result.err


def test_a_mistake_of_the_program_keeps_its_traceback(finished, palate_command, monkeypatch):
    def failing(*arguments, **options):
        raise FileNotFoundError(errno.ENOENT, "a bug")

    monkeypatch.setattr("palate.stages.run.execute", failing)
    with pytest.raises(FileNotFoundError):
        palate_command("run", finished.recipe)


@pytest.mark.parametrize(("holds", "code"), [(True, 0), (False, 1)])
def test_verify_ends_with_one_when_a_property_fails(palate_command, monkeypatch, holds, code):
    from palate.stages.trust import verify

    monkeypatch.setattr(verify, "CHECKS", {"two and two": lambda: ("4", "4" if holds else "5", holds)})
    result = palate_command("verify")
    assert result.code == code
    assert ("ok   two and two" in result.out) == holds
    assert "expected 4" in result.out


def test_the_module_runs_as_a_program():
    done = subprocess.run([sys.executable, "-m", "palate.cli.main", "rum"], capture_output=True, text=True)
    assert done.returncode == 2 and "rum" in done.stderr


# ---- progress


def watcher(terminal=False):
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, soft_wrap=True, width=100)
    return Watcher("align", console, Interruption()), text


def test_plain_lines_where_there_is_no_terminal():
    onlooker, text = watcher()
    onlooker.begin(3, 0)
    for step in range(1, 4):
        onlooker.advance({"step": step, "score/mean": 0.5 * step, "kl/sequence": 0.25})
    assert re.fullmatch(r"align: 3/3, \d+ s  score 1.5  KL 0.25\n", text.getvalue())


def test_a_line_every_few_seconds_says_how_long_it_will_take(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("palate.cli.progress.time.monotonic", lambda: clock[0])
    onlooker, text = watcher()
    onlooker.begin(10, 4)
    for step in range(5, 8):
        clock[0] += 10.0
        onlooker.advance({"step": step, "loss": 1.0})
    # Steps 5 and 6 took 20 s; four more take 40 s.
    assert text.getvalue().splitlines() == [
        "align: going on from step 4 of 10.",
        "align: 6/10, about 40 s left  loss 1",
    ]


def test_a_bar_on_a_terminal():
    onlooker, text = watcher(terminal=True)
    onlooker.begin(2, 0)
    onlooker.advance({"step": 1, "loss": 2.0})
    onlooker.advance({"step": 2, "loss": 1.0})
    assert onlooker.bar.finished and "2/2" in text.getvalue() and "loss 1" in text.getvalue()


def test_the_first_interrupt_asks_and_the_second_stops(capfd):
    interruption = Interruption()
    onlooker, text = watcher()
    onlooker.interruption = interruption
    before = signal.getsignal(signal.SIGINT)
    with interruption.listening():
        onlooker.begin(5, 0)
        onlooker.advance({"step": 1})
        onlooker.check()  # nothing was heard
        os.kill(os.getpid(), signal.SIGINT)
        assert onlooker.stopping()
        with pytest.raises(KeyboardInterrupt):
            onlooker.check()
        assert "align: saved at step 1 of 5." in text.getvalue()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    assert "Ctrl-C again stops at once" in capfd.readouterr().err
