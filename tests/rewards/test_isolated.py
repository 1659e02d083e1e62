"""A user's function in a process of its own: what reaches it, and what is said when it fails."""

import gc
import os
import time
from pathlib import Path

import numpy as np
import pytest

from palate.errors import RewardError
from palate.rewards import FunctionReward, IsolatedFunction, checked_scores

CODE = """
import os, subprocess, sys, time
import numpy as np

calls = 0

def count(prompts, completions, **fields):
    global calls
    calls += 1
    return [calls] * len(prompts)

def columns(prompts, completions, *, answer, messages, unit=1, **fields):
    assert messages[0] == [{"role": "user", "content": prompts[0]}]
    return (unit * float(one) for one in answer)

def arrays(prompts, completions, **fields):
    return np.array([float(len(text)) for text in completions], dtype=np.float32)

def process(prompts, completions, **fields):
    return [os.getpid()] * len(prompts)

def raises(prompts, completions, **fields):
    if "bad" in completions:
        raise ZeroDivisionError("by nothing")
    return [0.0] * len(prompts)

def hangs(prompts, completions, **fields):
    if "bad" in completions:
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        time.sleep(60)
    return [0.0] * len(prompts)

def dies(prompts, completions, **fields):
    os._exit(3)

def unsendable(prompts, completions, **fields):
    return [lambda: 1.0 for _ in prompts]

def nothing(prompts, completions, **fields):
    return None
"""


@pytest.fixture(scope="module")
def code(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("code") / "own.py"
    path.write_text(CODE)
    return path


def reward(code, name, seconds=20.0, **options):
    return FunctionReward(name, IsolatedFunction(f"{code}:{name}", seconds), options)


def test_what_a_function_is_given_and_returns_is_what_it_would_be_here(code, completions):
    given = completions("a", "bcd", lengths=[1, 1], answer=["1", "2.5"])
    assert checked_scores(reward(code, "columns"), given).tolist() == [1.0, 2.5]
    assert checked_scores(reward(code, "columns", unit=2), given).tolist() == [2.0, 5.0]
    assert checked_scores(reward(code, "arrays"), given).tolist() == [1.0, 3.0]


def test_one_process_serves_all_calls_and_ends_with_the_function(code, completions):
    counting = reward(code, "count")
    assert [checked_scores(counting, completions("a", lengths=[1])).item() for _ in range(3)] == [1, 2, 3]
    other = reward(code, "process")
    process = int(other.score(completions("a", lengths=[1])).item())
    assert process != os.getpid()
    del other
    gc.collect()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


@pytest.mark.parametrize(
    ("name", "seconds", "said"),
    [
        ("raises", 20.0, "raised ZeroDivisionError: by nothing"),
        ("hangs", 0.5, r"did not return within 0\.5 s \(it was at .*own\.py, line \d+ in hangs\)"),
    ],
)
def test_the_completion_that_is_to_blame_is_named(code, completions, name, seconds, said):
    given = completions("good", "bad", "good too", lengths=[1] * 3)
    with pytest.raises(RewardError, match=f"The reward '{name}' {said}.*'bad' .to the prompt 'question 1'"):
        checked_scores(reward(code, name, seconds), given)


def test_a_function_that_hung_can_be_called_again(code, completions):
    hanging = reward(code, "hangs", 0.5)
    with pytest.raises(RewardError):
        hanging.score(completions("bad", lengths=[1]))
    assert hanging.score(completions("good", lengths=[1])).tolist() == [0.0]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("dies", r"ended its process \(exit code 3\)"),
        ("unsendable", "raised .*[Pp]ickl"),
        ("nothing", r"returned None \(NoneType\) for 2 completions"),
        ("missing", "raised RecipeError: .* defines no missing"),
    ],
)
def test_other_failures_are_told_apart(code, completions, name, said):
    with pytest.raises(RewardError, match=f"'{name}' {said}.*'a' .to the prompt 'question 0'"):
        checked_scores(reward(code, name), completions("a", "b", lengths=[1, 1]))


def test_a_hang_costs_no_more_than_its_time(code, completions):
    began = time.perf_counter()
    with pytest.raises(RewardError):
        reward(code, "hangs", 0.5).score(completions("bad", lengths=[1]))
    assert time.perf_counter() - began < 15


def test_numpy_numbers_survive_the_way(code, completions):
    texts = ("a" * 3, "b" * 5)
    found = checked_scores(reward(code, "arrays"), completions(*texts))
    np.testing.assert_array_equal(found.numpy(), [3, 5])
