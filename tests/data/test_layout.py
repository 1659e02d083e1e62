"""Layouts: where every token lands, where the shift by one points, and that nothing is lost or shared."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palate.data.layout import Layout, completions, packed, padded

PAD = 99


def document(layout: Layout, index: int, prompt_length: int) -> list[int]:
    """The tokens of a document, read back from the rows by its last index and its length."""
    length = prompt_length + int(layout.mask[index].sum())
    end = int(layout.last[index]) + 1
    return layout.ids.flatten()[end - length : end].tolist()


def test_completions_are_padded_on_the_right():
    ids, mask = completions([[5], [], [6, 7]], PAD)
    assert ids.tolist() == [[5, PAD], [PAD, PAD], [6, 7]]
    assert mask.tolist() == [[True, False], [False, False], [True, True]]


def test_no_completions_at_all():
    ids, mask = completions([[], []], PAD)
    assert ids.shape == mask.shape == (2, 0)


def test_padded_by_hand():
    # Row 0: prompt 1 2, completion 3 4. Token 3 is at 2, predicted at 1; token 4 at 3, predicted at 2.
    # Row 1 begins at flat index 4: prompt 5, completion 6, which stands at 5 and is predicted at 4.
    ids, mask = completions([[3, 4], [6]], PAD)
    layout = padded([[1, 2], [5]], ids, mask, pad_id=PAD)
    assert layout.ids.tolist() == [[1, 2, 3, 4], [5, 6, PAD, PAD]]
    assert layout.positions.tolist() == [[0, 1, 2, 3], [0, 1, 2, 3]]
    assert layout.spans is None
    assert layout.predictors.tolist() == [[1, 2], [4, 0]]
    assert layout.own.tolist() == [[2, 3], [5, 0]]
    assert layout.labels.tolist() == [[3, 4], [6, 0]]
    assert layout.last.tolist() == [3, 5]
    assert (layout.useful, layout.total) == (6, 8)


def test_packed_by_hand():
    # Documents 1 2 | 11 12 13 14 15 | 21 22 23 stand one after the other at 0, 2 and 7. Longest first, 5 is alone (3 is
    # less than two thirds of it), and 3 and 2 share a block of width 3 whose last place is padding.
    ids, mask = completions([[2], [14, 15], [22, 23]], PAD)
    layout = packed([[1], [11, 12, 13], [21]], ids, mask)
    assert layout.ids.tolist() == [[1, 2, 11, 12, 13, 14, 15, 21, 22, 23]]
    assert layout.positions.tolist() == [[0, 1, 0, 1, 2, 3, 4, 0, 1, 2]]
    assert layout.predictors.tolist() == [[0, 0], [4, 5], [7, 8]]
    assert layout.own.tolist() == [[1, 0], [5, 6], [8, 9]]
    assert layout.labels.tolist() == [[2, 0], [14, 15], [22, 23]]
    assert layout.last.tolist() == [1, 6, 9]
    assert (layout.useful, layout.total) == (10, 10)
    assert layout.spans is not None
    assert layout.spans.shapes == ((1, 5), (2, 3))
    assert layout.spans.tokens.tolist() == [2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 0]
    assert layout.spans.places.tolist() == [8, 9, 0, 1, 2, 3, 4, 5, 6, 7]
    assert layout.spans.repeats.tolist() == []


def test_a_shared_prompt_stands_once_by_hand():
    # Prompt 1 2 at 0, its completions 3 4 at 2 and 5 at 4; both first tokens are predicted at 1. In the block the
    # prompt stands in both lines: its second copy is at places 4 and 5.
    ids, mask = completions([[3, 4], [5]], PAD)
    layout = packed([[1, 2], [1, 2]], ids, mask)
    assert layout.ids.tolist() == [[1, 2, 3, 4, 5]]
    assert layout.positions.tolist() == [[0, 1, 2, 3, 2]]
    assert layout.predictors.tolist() == [[1, 2], [1, 0]]
    assert layout.own.tolist() == [[2, 3], [4, 0]]
    assert layout.last.tolist() == [3, 4]
    assert (layout.useful, layout.total) == (5, 5)
    assert layout.spans is not None
    assert layout.spans.shapes == ((2, 4),)
    assert layout.spans.tokens.tolist() == [0, 1, 2, 3, 0, 1, 4, 0]
    assert layout.spans.places.tolist() == [0, 1, 2, 3, 6]
    assert layout.spans.repeats.tolist() == [4, 5]


def test_fully_masked_row_ends_with_its_prompt():
    ids, mask = completions([[], [8]], PAD)
    layout = padded([[1, 2], [3]], ids, mask, pad_id=PAD)
    assert layout.last.tolist() == [1, 3]
    assert layout.predictors.tolist() == [[0], [2]]
    assert not layout.mask[0].any()


def test_ids_under_the_mask_never_reach_the_model():
    ids, mask = torch.tensor([[3, 7777]]), torch.tensor([[True, False]])
    layout = padded([[1]], ids, mask, pad_id=PAD)
    assert layout.ids.tolist() == [[1, 3]]
    assert layout.labels.tolist() == [[3, 0]]


documents_of_any_size = st.lists(
    st.tuples(st.lists(st.integers(0, 50), min_size=1, max_size=9), st.lists(st.integers(0, 50), max_size=9)),
    min_size=1,
    max_size=12,
)


@given(documents_of_any_size)
def test_in_padded_rows_every_token_is_predicted_from_the_one_before(documents):
    prompts = [prompt for prompt, _ in documents]
    ids, mask = completions([completion for _, completion in documents], PAD)
    layout = padded(prompts, ids, mask, pad_id=PAD)
    assert layout.ids.shape == (len(documents), max(len(prompt) + len(completion) for prompt, completion in documents))
    tokens = layout.ids.flatten().tolist()
    for index, (prompt, completion) in enumerate(documents):
        assert document(layout, index, len(prompt)) == prompt + completion
        assert layout.labels[index, : len(completion)].tolist() == completion
        for step, token in enumerate(completion):
            assert tokens[layout.own[index, step]] == token
            assert layout.predictors[index, step] == layout.own[index, step] - 1
    assert layout.useful == sum(len(prompt) + len(completion) for prompt, completion in documents)
    assert layout.total == layout.ids.numel()


@given(documents_of_any_size)
def test_in_a_packed_row_every_token_is_once_and_predicted_from_the_one_before(documents):
    prompts = [prompt for prompt, _ in documents]
    ids, mask = completions([completion for _, completion in documents], PAD)
    layout = packed(prompts, ids, mask)
    different = {tuple(prompt) for prompt in prompts}
    assert layout.useful == layout.total == layout.ids.numel() == sum(map(len, different)) + int(mask.sum())
    tokens, positions = layout.ids[0].tolist(), layout.positions[0].tolist()
    for index, (prompt, completion) in enumerate(documents):
        before = [int(place) for place in layout.predictors[index, : len(completion)]]
        own = [int(place) for place in layout.own[index, : len(completion)]]
        assert [tokens[place] for place in own] == completion == layout.labels[index, : len(completion)].tolist()
        assert [positions[place] for place in own] == [len(prompt) + step for step in range(len(completion))]
        for step, place in enumerate(before):
            assert tokens[place] == (prompt[-1] if step == 0 else completion[step - 1])
            assert positions[place] == len(prompt) + step - 1
        assert tokens[layout.last[index]] == (prompt + completion)[-1]


@given(documents_of_any_size)
def test_the_blocks_of_attention_hold_every_document_whole_and_nothing_else(documents):
    prompts = [prompt for prompt, _ in documents]
    ids, mask = completions([completion for _, completion in documents], PAD)
    layout = packed(prompts, ids, mask)
    spans = layout.spans
    assert spans is not None
    tokens, sizes = layout.ids[0], [count * width for count, width in spans.shapes]
    lines = [
        line for part, shape in zip(spans.tokens.split(sizes), spans.shapes, strict=True) for line in part.view(shape)
    ]
    texts = sorted((prompt + completion for prompt, completion in documents), key=lambda text: -len(text))
    found = [tokens[line[: len(text)]].tolist() for line, text in zip(lines, texts, strict=True)]
    assert sorted(found) == sorted(texts)
    # Every position is found at its place, and each further copy where `repeats` says.
    assert spans.tokens[spans.places].tolist() == list(range(layout.total))
    assert len(spans.places) + len(spans.repeats) == sum(map(len, texts))
    assert not set(spans.places.tolist()) & set(spans.repeats.tolist())
    for block, (count, width) in zip(spans.tokens.split(sizes), spans.shapes, strict=True):
        assert len(block) == count * width
    assert sum(sizes) <= 1.5 * sum(map(len, texts))  # a block's shortest has two thirds of its longest


def test_more_padding_changes_only_the_padding():
    prompts = [[1, 2], [3]]
    ids, mask = completions([[4], [5, 6]], PAD)
    wider = [torch.nn.functional.pad(tensor, (0, 3), value=value) for tensor, value in ((ids, 123), (mask, False))]
    narrow, wide = padded(prompts, ids, mask, pad_id=PAD), padded(prompts, *wider, pad_id=PAD)
    assert torch.equal(narrow.ids, wide.ids)
    assert torch.equal(narrow.last, wide.last)
    assert torch.equal(narrow.predictors, wide.predictors[:, :2])
    assert torch.equal(narrow.labels, wide.labels[:, :2])


def test_empty_prompt_is_refused():
    ids, mask = completions([[4]], PAD)
    with pytest.raises(ValueError, match="BOS"):
        padded([[]], ids, mask, pad_id=PAD)


@pytest.mark.parametrize("mask", [[[False, True]], [[True, False, True]]])
def test_masks_with_gaps_are_refused(mask):
    with pytest.raises(ValueError, match="right-padded"):
        padded([[1]], torch.zeros_like(torch.tensor(mask), dtype=torch.long), torch.tensor(mask), pad_id=PAD)


def test_shapes_must_agree():
    ids, mask = completions([[4]], PAD)
    with pytest.raises(ValueError, match="2 prompts"):
        padded([[1], [2]], ids, mask, pad_id=PAD)


def test_moving_keeps_everything():
    ids, mask = completions([[4], [5, 6]], PAD)
    layout = packed([[1], [2]], ids, mask)
    moved = layout.to("meta")
    assert moved.spans is not None
    assert {tensor.device.type for tensor in (moved.ids, moved.mask, moved.spans.tokens, moved.spans.places)} == {
        "meta"
    }
    assert (moved.useful, moved.total) == (layout.useful, layout.total)
