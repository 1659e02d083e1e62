"""Functions as rewards: what they are given, and what is said of one that misbehaves."""

import pytest
import torch

from palate.engine.interfaces import Completions
from palate.errors import RewardError
from palate.records import Message, Prompt
from palate.rewards import FunctionReward, checked_scores


def seen(*texts: str) -> Completions:
    prompts = tuple(Prompt.of(f"question {row}", answer=str(row)) for row in range(len(texts)))
    ids = torch.zeros((len(texts), 1), dtype=torch.int64)
    return Completions(prompts, tuple((1,) for _ in texts), ids, torch.ones_like(ids, dtype=torch.bool), texts)


def test_a_function_gets_strings_columns_and_messages():
    def reward(prompts, completions, *, answer, messages):
        assert prompts == ["question 0", "question 1"]
        assert messages[1] == [{"role": "user", "content": "question 1"}]
        return [float(text == wanted) for text, wanted in zip(completions, answer, strict=True)]

    assert checked_scores(FunctionReward("exact", reward), seen("0", "7")).tolist() == [1.0, 0.0]


def test_a_conversation_reaches_the_function_with_its_roles_named():
    talk = Prompt((Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "Why?")))
    given = Completions((talk,), ((1,),), torch.zeros((1, 1)), torch.ones((1, 1), dtype=torch.bool), ("Because.",))

    def reward(prompts, completions, **fields):
        assert prompts == ["user: Hi\n\nassistant: Hello\n\nuser: Why?"]
        return [3]

    assert checked_scores(FunctionReward("count", reward), given).tolist() == [3.0]


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (lambda prompts, completions, **fields: [0.0, None], r"returned None \(NoneType\) for 'b'"),
        (lambda prompts, completions, **fields: [0.0, "1"], r"returned '1' \(str\) for 'b'"),
        (lambda prompts, completions, **fields: [0.0, True], r"returned True \(bool\)"),
        (lambda prompts, completions, **fields: [0.0, float("nan")], "gave nan to 'b'"),
        (lambda prompts, completions, **fields: [0.0], "returned 1 number for 2"),
        (lambda prompts, completions, **fields: 1 / 0, "raised ZeroDivisionError"),
    ],
)
def test_a_function_that_misbehaves_is_named(answer, complaint):
    with pytest.raises(RewardError, match=f"'wild'.*{complaint}"):
        checked_scores(FunctionReward("wild", answer), seen("a", "b"))


def test_zero_is_a_score():
    zero = FunctionReward("zero", lambda prompts, completions, **fields: [0.0 for _ in prompts])
    assert checked_scores(zero, seen("a", "b")).tolist() == [0.0, 0.0]
