"""Functions as rewards: what they are given, and what is said of one that misbehaves."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from palate.data.layout import completions as right_padded
from palate.data.layout import padded
from palate.engine.interfaces import Completions
from palate.errors import RewardError
from palate.models import RewardModel, scratch_model
from palate.records import Message, Prompt
from palate.rewards import FunctionReward, ModelReward, checked_scores


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


@pytest.mark.parametrize(
    "numbers",
    [
        [1, 2.5],
        (1.0, 2.5),
        np.array([1.0, 2.5], dtype=np.float32),
        [np.float32(1.0), np.float64(2.5)],
        [np.int64(1), 2.5],
        torch.tensor([1.0, 2.5]),
        iter([1.0, 2.5]),
    ],
    ids=["list", "tuple", "array", "scalars", "integer", "tensor", "iterator"],
)
def test_numbers_may_come_in_any_form(numbers):
    reward = FunctionReward("numbers", lambda prompts, completions, **fields: numbers)
    assert checked_scores(reward, seen("a", "b")).tolist() == [1.0, 2.5]


@pytest.mark.parametrize(
    ("returned", "complaint"),
    [
        (None, r"returned None \(NoneType\) for 2 completions, the first 'a'"),
        ("good", r"returned 'good' \(str\) for 2 completions"),
        (3.0, r"returned 3.0 \(float\) for 2 completions"),
        ([0.0, 1e300], "gave inf to 'b'"),
        ([0.0] * 3, "returned 3 numbers for 2 completions"),
    ],
)
def test_what_is_no_list_of_numbers_is_named(returned, complaint):
    with pytest.raises(RewardError, match=f"'wild'.*{complaint}"):
        checked_scores(FunctionReward("wild", lambda prompts, completions, **fields: returned), seen("a", "b"))


# ---- reward models


@pytest.fixture(scope="module")
def judge():
    words = ("red", "green", "blue", "sky")
    model, chat, _ = scratch_model(words, hidden=16, layers=1, heads=2, vocabulary=280, context=64, seed=0)
    made = RewardModel.on(model, pooling="last", generator=torch.Generator().manual_seed(0))
    return ModelReward("judge", made.calibrated(gain=2.0, bias=-1.0), chat, batch=3)


def written(chat, texts, ended=True):
    """Completions as a policy with this tokenizer wrote them."""
    prompts = tuple(Prompt.of(f"Say {'red ' * row}") for row in range(1, len(texts) + 1))
    rows = [chat.encode_completion(text)[: None if ended else -1] for text in texts]
    ids, mask = right_padded(rows, chat.pad_id)
    return Completions(prompts, tuple(tuple(chat.encode_prompt(prompt)) for prompt in prompts), ids, mask, texts)


TEXTS = ("red", "green blue sky", "blue", "sky sky sky red", "green", "red blue", "a word it never saw")


def test_a_model_scores_every_completion_as_if_it_were_alone(judge):
    together = checked_scores(judge, written(judge.chat, TEXTS))
    for row, text in enumerate(TEXTS):
        whole = written(judge.chat, TEXTS)
        count = int(whole.mask[row].sum())
        layout = padded(
            [whole.prompt_ids[row]],
            whole.ids[row : row + 1, :count],
            whole.mask[row : row + 1, :count],
            pad_id=judge.chat.pad_id,
        )
        assert float(together[row]) == pytest.approx(float(judge.model.scores(layout).detach()), abs=1e-5), text


def test_a_model_with_the_policys_tokenizer_reads_the_ids_and_not_the_text(judge):
    completions = written(judge.chat, TEXTS)
    lying = replace(completions, texts=tuple("something else" for _ in TEXTS))
    assert torch.equal(checked_scores(judge, completions), checked_scores(judge, lying))
    # One that was cut before its end is another completion.
    assert not torch.equal(checked_scores(judge, completions), checked_scores(judge, written(judge.chat, TEXTS, False)))


def test_a_model_with_a_tokenizer_of_its_own_reads_the_text_and_not_the_ids(judge):
    rereading = replace(judge, rereads=True)
    completions = written(judge.chat, TEXTS)
    foreign = replace(completions, ids=completions.ids.flip(dims=[0]), prompt_ids=((1,),) * len(TEXTS))
    # The text carries no stop token: the judge's own template puts its own there.
    torch.testing.assert_close(checked_scores(rereading, foreign), checked_scores(judge, completions))


def test_zero_is_a_score():
    zero = FunctionReward("zero", lambda prompts, completions, **fields: [0.0 for _ in prompts])
    assert checked_scores(zero, seen("a", "b")).tolist() == [0.0, 0.0]
