"""Layouts: where every token lands, where the shift by one points, and that nothing is lost or shared."""

import pytest
import torch
from hypothesis import given, settings
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
    assert layout.documents is None
    assert layout.predictors.tolist() == [[1, 2], [4, 0]]
    assert layout.labels.tolist() == [[3, 4], [6, 0]]
    assert layout.last.tolist() == [3, 5]
    assert (layout.useful, layout.total) == (6, 8)


def test_packed_by_hand():
    # Sizes 2, 5, 3 in rows of 5, longest first: 5 fills row 0, 3 and 2 share row 1; B keeps its order.
    ids, mask = completions([[2], [14, 15], [22, 23]], PAD)
    layout = packed([[1], [11, 12, 13], [21]], ids, mask, pad_id=PAD, capacity=5)
    assert layout.ids.tolist() == [[11, 12, 13, 14, 15], [21, 22, 23, 1, 2]]
    assert layout.positions.tolist() == [[0, 1, 2, 3, 4], [0, 1, 2, 0, 1]]
    assert layout.documents is not None
    assert layout.documents.tolist() == [[1, 1, 1, 1, 1], [2, 2, 2, 0, 0]]
    assert layout.predictors.tolist() == [[8, 0], [2, 3], [5, 6]]
    assert layout.labels.tolist() == [[2, 0], [14, 15], [22, 23]]
    assert layout.last.tolist() == [9, 4, 7]
    assert (layout.useful, layout.total) == (10, 10)


def test_padding_of_packed_rows_belongs_to_no_document():
    ids, mask = completions([[2, 3], [5]], PAD)
    layout = packed([[1], [4]], ids, mask, pad_id=PAD, capacity=3)
    assert layout.documents is not None
    assert layout.documents.tolist() == [[0, 0, 0], [1, 1, -1]]
    assert layout.positions.tolist() == [[0, 1, 2], [0, 1, 0]]


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


@settings(deadline=None)
@given(documents_of_any_size, st.integers(0, 20), st.booleans())
def test_every_token_is_predicted_from_the_one_before(documents, slack, packing):
    prompts = [prompt for prompt, _ in documents]
    ids, mask = completions([completion for _, completion in documents], PAD)
    longest = max(len(prompt) + len(completion) for prompt, completion in documents)
    if packing:
        layout = packed(prompts, ids, mask, pad_id=PAD, capacity=longest + slack)
        assert layout.ids.shape[1] <= longest + slack
    else:
        layout = padded(prompts, ids, mask, pad_id=PAD)
        assert layout.ids.shape == (len(documents), longest)
    flat, positions = layout.ids.flatten().tolist(), layout.positions.flatten().tolist()
    for index, (prompt, completion) in enumerate(documents):
        assert document(layout, index, len(prompt)) == prompt + completion
        assert layout.labels[index, : len(completion)].tolist() == completion
        for step, token in enumerate(completion):
            before = int(layout.predictors[index, step])
            assert flat[before + 1] == token
            assert positions[before] == len(prompt) + step - 1
    assert layout.useful == sum(len(prompt) + len(completion) for prompt, completion in documents)
    assert layout.total == layout.ids.numel()


@settings(deadline=None)
@given(documents_of_any_size, st.integers(0, 20))
def test_packed_documents_keep_apart(documents, slack):
    prompts = [prompt for prompt, _ in documents]
    ids, mask = completions([completion for _, completion in documents], PAD)
    sizes = [len(prompt) + len(completion) for prompt, completion in documents]
    layout = packed(prompts, ids, mask, pad_id=PAD, capacity=max(sizes) + slack)
    assert layout.documents is not None
    for index, size in enumerate(sizes):
        own = layout.documents == index
        assert int(own.sum()) == size
        assert own.any(dim=1).sum() == 1  # never split over rows
        assert layout.positions[own].tolist() == list(range(size))
    assert bool((layout.ids[layout.documents == -1] == PAD).all())
    # First fit wastes less than half: two rows that are at most half full would have shared one.
    half_empty = (layout.documents >= 0).sum(dim=1) <= (max(sizes) + slack) // 2
    assert int(half_empty.sum()) <= 1


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


def test_document_longer_than_a_row_is_refused():
    ids, mask = completions([[4, 5]], PAD)
    with pytest.raises(ValueError, match="3 tokens was to go into rows of 2"):
        packed([[1]], ids, mask, pad_id=PAD, capacity=2)


def test_moving_keeps_everything():
    ids, mask = completions([[4], [5, 6]], PAD)
    layout = packed([[1], [2]], ids, mask, pad_id=PAD, capacity=9)
    moved = layout.to("meta")
    assert moved.ids.device.type == moved.documents.device.type == moved.mask.device.type == "meta"
    assert (moved.useful, moved.total) == (layout.useful, layout.total)
