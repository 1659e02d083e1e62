"""Rules and verifiers against numbers worked out by hand."""

import time
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palate.errors import DataError, RewardError
from palate.records import Prompt
from palate.rewards import RuleReward, checked_scores
from palate.rewards.rules import Answer, Code, Format, Length, Overlong, Regex, Repetition


def scores(rule, completions):
    return checked_scores(RuleReward("rule", rule), completions).tolist()


# ---- form


def test_length_is_the_distance_to_the_target_in_targets(completions):
    # target 4: |0|/4, |4 − 2|/4, |4 − 8|/4, |4 − 10|/4
    given = completions("a", "b", "c", "d", lengths=[4, 2, 8, 10])
    assert scores(Length(target=4), given) == [0.0, -0.5, -1.0, -1.5]


def test_overlong_follows_the_equation_of_dapo(completions):
    # limit 10, buffer 4: nothing up to 6; (6 − 8)/4 = −.5 for 8; (6 − 10)/4 = −1 for 10; −1 beyond
    given = completions("a", "b", "c", "d", "e", lengths=[1, 6, 8, 10, 12])
    assert scores(Overlong(limit=10, buffer=4), given) == [0.0, 0.0, -0.5, -1.0, -1.0]


def test_repetition_is_the_share_of_ngrams_that_were_there_before(completions):
    given = completions("a", "b", "c", lengths=[6, 6, 2])
    ids = torch.tensor([[1, 2, 1, 2, 1, 2], [1, 2, 3, 4, 5, 6], [7, 7, 0, 0, 0, 0]])
    # bigrams of the first: 12 21 12 21 12, 2 distinct of 5; the second repeats none; the third has one bigram alone
    assert scores(Repetition(n=2), replace(given, ids=ids)) == pytest.approx([-0.6, 0.0, 0.0])
    # the third has no trigram, and what stands in its padding does not count
    assert scores(Repetition(n=3), replace(given, ids=ids)) == pytest.approx([-0.5, 0.0, 0.0])
    assert scores(Repetition(n=1), replace(given, ids=ids))[2] == -0.5


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.integers(1, 4))
def test_repetition_lies_between_minus_one_and_none(ids, n):
    share = Repetition(n=n)._repeated(ids)
    assert 0 <= share < 1
    assert share == 0 or len(ids) > n


@pytest.mark.parametrize(
    ("shape", "text", "fits"),
    [
        ("json", '{"a": [1, 2.5, null]}', 1),
        ("json", " 3 ", 1),
        ("json", "{a: 1}", 0),
        ("json", "NaN", 0),
        ("json", "[" * 100_000, 0),
        ("json", "", 0),
        ("think", "<think>six\nsevens</think>\n<answer>42</answer>", 1),
        ("think", "<think>a</think><answer>42</answer> and more", 0),
        ("think", "<think>a</think><think>b</think><answer>42</answer>", 0),
        ("think", "<think></think><answer>42</answer>", 0),
        ("think", "<answer>42</answer>", 0),
        ("think", "<think>" * 2000, 0),
    ],
)
def test_format(completions, shape, text, fits):
    assert scores(Format(shape=shape), completions(text, lengths=[1])) == [fits]


def test_regex_is_searched_for(completions):
    given = completions("Sure!\nDone.", "Done. Not", "", lengths=[1, 1, 1])
    assert scores(Regex(pattern=r"Done\.$"), given) == [1.0, 0.0, 0.0]


def test_a_pattern_that_takes_for_ever_names_the_completion(completions):
    given = completions("ab", "a" * 40 + "b", lengths=[1, 1])
    with pytest.raises(RewardError, match=r"did not return within 0\.5 s.*'a{40}b' \(to the prompt 'question 1'\)"):
        scores(Regex(pattern=r"^(a+)+$", seconds=0.5), given)


# ---- answers


def test_answers_are_compared_as_numbers(completions):
    texts = ("I say 72.", "72 or 73", "#### $1,000", "none", r"\boxed{144/2}")
    wanted = ["#### 72", 72, 1000.0, "0", "72"]
    given = completions(*texts, lengths=[1] * 5, answer=wanted)
    assert scores(Answer(), given) == [1.0, 0.0, 1.0, 0.0, 1.0]


def test_answers_are_compared_as_words(completions):
    given = completions("paris.", "It is Paris", lengths=[1, 1], capital=["Paris", "Paris"])
    assert scores(Answer(column="capital", match="text"), given) == [1.0, 0.0]


@pytest.mark.parametrize("fields", [{}, {"answer": None}, {"answer": ""}, {"answer": "none"}, {"answer": True}])
def test_a_row_without_an_answer_is_named(fields):
    with pytest.raises(DataError) as error:
        Answer().wanted(replace(Prompt.of("How many?", **fields), line=7))
    assert error.value.line == 7
    assert "answer" in str(error.value)


# ---- programs


def test_a_program_is_judged_by_the_tests_of_its_row(completions):
    texts = (
        "def double(x):\n    return 2 * x",
        "Here:\n```python\ndouble = abs\n```\nor better\n```python\ndef double(x):\n    return 2 * x\n```",
        "def double(x):\n    return x",
        "def double(x:",
        "import sys; sys.exit(0)",
        "score = 1",
        "import os; os._exit(0)",
        "print('1'); double = None",
    )
    given = completions(*texts, lengths=[1] * 8, tests=["assert double(3) == 6"] * 8)
    assert scores(Code(), given) == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    "text",
    [
        "```Python\ndouble = lambda x: 2 * x\n```",
        "```python3\ndouble = lambda x: 2 * x\n```",
        '``` {.python title="a b"}\ndouble = lambda x: 2 * x\n```',
        "1. So:\n\n   ```py\n   def double(x):\n       return 2 * x\n   ```\n\nDone.",
        "  ```py\ndef double(x):\n  return 2 * x\n  ```",
        "```PY\r\ndouble = lambda x: 2 * x\r\n```\r\nDone.",
        '````python\nnote = """\n```\n"""\ndouble = lambda x: 2 * x\n````',
    ],
)
def test_a_fence_may_say_anything_and_stand_anywhere(completions, text):
    assert scores(Code(), completions(text, lengths=[1], tests=["assert double(3) == 6"])) == [1.0]


def test_a_program_that_writes_to_every_descriptor_does_not_stop_the_run(completions):
    writes = "import os\nfor k in range(20):\n    try: os.write(k, b'5')\n    except OSError: pass\nos._exit(0)"
    given = completions(writes, "x = 1", lengths=[1, 1], tests=["assert True"] * 2)
    assert scores(Code(), given) == [0.0, 1.0]


def test_tests_may_give_a_number(completions):
    tests = "score = sum(double(x) == 2 * x for x in (0, 1)) / 2 + (completion == 'double = abs') / 4"
    given = completions("double = abs", "double = lambda x: x + x", lengths=[1, 1], tests=[tests, tests])
    assert scores(Code(), given) == [0.75, 1.0]


def test_a_program_does_not_mark_itself(completions):
    text = "double = lambda x: 2 * x\nscore = 100\ncompletion = prompt = ''"
    tests = ["assert double(3) == 6", "assert prompt == 'question 1' and completion.startswith('double')"]
    assert scores(Code(), completions(text, text, lengths=[1, 1], tests=tests)) == [1.0, 1.0]


def test_tests_that_are_no_python_are_found_before_anything_is_run(completions):
    with pytest.raises(DataError, match=r"'question 0' has tests .* no Python \(SyntaxError"):
        Code().wanted(completions("x = 1", lengths=[1], tests=["assert ("]).prompts[0])


@pytest.mark.parametrize("score", ["'high'", "1e999", "None", "float('nan')"])
def test_a_score_that_is_no_finite_number_is_none(score, completions):
    # The program had its part in it, so it cannot stop the run.
    assert scores(Code(), completions("x = 1", lengths=[1], tests=[f"score = {score}"])) == [0.0]


def test_a_program_has_limits_of_time_and_memory(completions):
    began = time.perf_counter()
    endless, huge = "while True: pass", "x = bytearray(2 * 2**30)"
    given = completions(endless, huge, "x = bytearray(2**20)", lengths=[1] * 3, tests=["assert True"] * 3)
    assert scores(Code(seconds=1, megabytes=256), given) == [0.0, 0.0, 1.0]
    assert time.perf_counter() - began < 20
