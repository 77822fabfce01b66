"""Who sees whom, by enumeration of the stated rule."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from opendllm.core.toolkit.segments import document_positions, document_starts, inputs_from_mask, visibility
from opendllm.registries.sequences import PADDING_SEGMENT, AttentionPattern, ModelInputs

SEGMENTS = [
    [0, 0, 0, 1, 1, 2, -1, -1],
    [-1, -1, 0, 0, 0, 0, 0, 0],
    [0, 0, 0, 0, 0, 0, 0, 0],
    [3, 3, 1, 1, 1, 7, 7, 7],
]


def inputs(
    segments: list[list[int]], blocks: torch.Tensor | None = None, clean: Tensor | None = None
) -> ModelInputs:
    rows = torch.tensor(segments)
    return ModelInputs(torch.zeros_like(rows), rows, document_positions(rows), blocks, clean)


def by_hand(given: ModelInputs, blocks: torch.Tensor | None) -> torch.Tensor:
    """The rule in `ModelInputs`, one pair at a time."""
    rows, length = given.segments.shape
    seen = torch.zeros(rows, length, length, dtype=torch.bool)
    for row, query, key in itertools.product(range(rows), range(length), range(length)):
        same_segment = given.segments[row, query] == given.segments[row, key]
        of_query, of_key = (0, 0) if blocks is None else (blocks[row, query], blocks[row, key])
        clean_query, clean_key = (
            (True, True) if given.clean is None else given.clean[row, [query, key]].tolist()
        )
        same = of_query == of_key and clean_query == clean_key
        seen[row, query, key] = same_segment and (same or (clean_key and of_key < of_query))
    return seen


@pytest.mark.parametrize(
    "pattern",
    [AttentionPattern(), AttentionPattern("causal"), AttentionPattern("block-causal", 2)],
    ids=lambda pattern: pattern.kind,
)
def test_visibility_of_ordinary_rows(pattern: AttentionPattern) -> None:
    given = inputs(SEGMENTS)
    blocks = pattern.blocks(given.positions)
    seen = visibility(given, blocks)
    assert seen is not None
    assert torch.equal(seen, by_hand(given, blocks))


@pytest.mark.parametrize("with_blocks", [True, False])
def test_visibility_of_noisy_and_clean_halves(with_blocks: bool) -> None:
    """BD3LM: x_t before x_0, the same positions in both."""
    row = [0, 0, 0, 0, 0, 1, 1, PADDING_SEGMENT]
    segments = torch.tensor([row + row])
    positions = document_positions(torch.tensor([row])).repeat(1, 2)
    clean = torch.tensor([[False] * 8 + [True] * 8])
    blocks = positions // 2 if with_blocks else None
    given = ModelInputs(torch.zeros_like(segments), segments, positions, blocks, clean)
    seen = visibility(given, blocks)
    assert seen is not None
    assert torch.equal(seen, by_hand(given, blocks))


def test_halves_spelled_out() -> None:
    """One document of two blocks of one token: queries x_t0, x_t1, x_00, x_01."""
    given = ModelInputs(
        torch.zeros(1, 4, dtype=torch.int64),
        torch.zeros(1, 4, dtype=torch.int64),
        torch.tensor([[0, 1, 0, 1]]),
        torch.tensor([[0, 1, 0, 1]]),
        torch.tensor([[False, False, True, True]]),
    )
    seen = visibility(given, given.blocks)
    assert seen is not None
    assert seen[0].int().tolist() == [[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 1, 1]]


def test_no_mask_where_all_see_all() -> None:
    assert visibility(inputs([[0, 0, 0], [4, 4, 4]]), None) is None
    assert visibility(inputs([[0, 0, 1], [4, 4, 4]]), None) is not None


@pytest.mark.parametrize(
    "pattern", [AttentionPattern(), AttentionPattern("causal"), AttentionPattern("block-causal", 3)]
)
def test_no_query_is_left_without_a_key_and_padding_is_never_seen(pattern: AttentionPattern) -> None:
    for bits in itertools.product([0, 1], repeat=5):
        given = inputs_from_mask(torch.zeros(1, 5, dtype=torch.int64), torch.tensor([bits]))
        seen = visibility(given, pattern.blocks(given.positions))
        if seen is None:
            continue
        real = torch.tensor(bits, dtype=torch.bool)
        assert seen[0].any(-1).all()
        assert not seen[0][real][:, ~real].any()


def test_document_starts_and_positions() -> None:
    segments = torch.tensor([[5, 5, 2, 2, 2, 5, -1, -1]])
    assert document_starts(segments).int().tolist() == [[1, 0, 1, 0, 0, 1, 1, 0]]
    assert document_positions(segments).tolist() == [[0, 1, 0, 1, 2, 0, 0, 1]]


def test_positions_of_padded_rows_count_real_tokens() -> None:
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 1, 0, 1]])
    given = inputs_from_mask(torch.zeros_like(mask), mask)
    assert given.positions[0, 2:].tolist() == [0, 1, 2]
    assert given.positions[1, :3].tolist() == [0, 1, 2]
    assert given.positions[2, ::2].tolist() == [0, 1, 2]
    assert torch.equal(given.segments != PADDING_SEGMENT, mask.bool())
