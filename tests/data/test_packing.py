"""Documents in rows: nothing lost, nothing doubled, little padding, and an order that is a permutation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from opendllm.core.data import packing as packing_module
from opendllm.core.data.packing import Packer, pack
from opendllm.core.data.rows import PackedRows, permuted
from opendllm.registries.sequences import PADDING_SEGMENT


@given(lengths=st.lists(st.integers(1, 70), min_size=1, max_size=40), row_length=st.integers(8, 32))
@settings(max_examples=100, deadline=None)
def test_every_token_is_in_exactly_one_row_and_no_row_overflows(lengths: list[int], row_length: int) -> None:
    packing = pack(np.cumsum(lengths), row_length)
    seen: list[int] = []
    for row in range(len(packing.row_ends)):
        pieces = packing.pieces(row)
        assert 0 < sum(length for _, length in pieces) <= row_length
        seen += [token for start, length in pieces for token in range(start, start + length)]
    assert sorted(seen) == list(range(sum(lengths)))


@given(lengths=st.lists(st.integers(1, 70), min_size=1, max_size=30))
@settings(max_examples=50, deadline=None)
def test_a_piece_never_spans_two_documents(lengths: list[int]) -> None:
    ends = np.cumsum(lengths)
    packing = pack(ends, 16)
    for row in range(len(packing.row_ends)):
        for start, length in packing.pieces(row):
            assert np.searchsorted(ends, start, "right") == np.searchsorted(ends, start + length - 1, "right")


def test_rows_of_mixed_documents_are_at_least_98_percent_full() -> None:
    lengths = np.exp(np.random.default_rng(0).uniform(np.log(32), np.log(512), 2000)).astype(int)
    packing = pack(np.cumsum(lengths), 512)
    assert lengths.sum() / (len(packing.row_ends) * 512) >= 0.98


@given(lengths=st.lists(st.integers(1, 16), min_size=1, max_size=40))
@settings(max_examples=100, deadline=None)
def test_each_piece_goes_into_the_fullest_row_that_has_room_the_longest_first(lengths: list[int]) -> None:
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [room for room in rooms if room >= length]
        if fitting:
            rooms.remove(min(fitting))
        rooms.append((min(fitting) if fitting else 16) - length)
    packing = pack(np.cumsum(lengths), 16)
    filled = [sum(length for _, length in packing.pieces(row)) for row in range(len(packing.row_ends))]
    assert sorted(16 - tokens for tokens in filled) == sorted(rooms)


def test_a_corpus_of_many_windows_is_packed_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """With lengths of source files, in rows of 4096."""
    monkeypatch.setattr(packing_module, "PIECES_AT_ONCE", 2000)
    lengths = np.exp(np.random.default_rng(0).normal(6.7, 1.2, 20_000)).astype(int) + 1
    packing = pack(np.cumsum(lengths), 4096)
    assert packing.lengths.sum() == lengths.sum()
    assert lengths.sum() / (len(packing.row_ends) * 4096) >= 0.98
    assert (
        max(sum(length for _, length in packing.pieces(row)) for row in range(len(packing.row_ends))) <= 4096
    )


def test_of_a_document_with_a_prompt_only_the_first_row_is_kept() -> None:
    packer = Packer(10)
    lengths, prompts = np.array([25, 6, 12, 10]), np.array([4, 2, 10, 3])  # the last one just fits
    (window,) = [*packer.add(lengths, prompts), *packer.finish()]
    found = sorted(zip(window.starts, window.lengths, window.prompts, strict=True))
    assert found == [(0, 10, 4), (25, 6, 2), (43, 10, 3)]
    assert (packer.shortened, packer.dropped) == (1, 1)


def test_rows_are_made_while_documents_still_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing_module, "PIECES_AT_ONCE", 8)
    packer, nothing = Packer(16), np.zeros(8, dtype=np.int64)
    assert len(list(packer.add(np.full(8, 4), nothing))) == 1
    assert not list(packer.finish())


@given(size=st.integers(1, 300), seed=st.integers(0, 10), epoch=st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_an_epoch_visits_every_row_once(size: int, seed: int, epoch: int) -> None:
    sent = permuted(torch.arange(size), size, seed, torch.full((size,), epoch))
    assert sorted(sent.tolist()) == list(range(size))


def test_epochs_and_seeds_differ_in_order() -> None:
    orders = {
        tuple(permuted(torch.arange(50), 50, seed, torch.full((50,), epoch)).tolist())
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len(orders) == 4


def rows_of(lengths: list[int], row_length: int = 16, seed: int | None = 3) -> PackedRows:
    tokens = np.arange(1, sum(lengths) + 1, dtype=np.uint32)
    return PackedRows(tokens, pack(np.cumsum(lengths), row_length), row_length, 0, seed)


def test_positions_restart_and_segments_change_with_each_document() -> None:
    batch = rows_of([9, 5], seed=None).batch([0])
    assert batch.tokens[0].tolist() == [*range(1, 15), 0, 0]
    assert batch.positions[0].tolist() == [*range(9), *range(5), 0, 0]
    assert batch.segments[0].tolist() == [0] * 9 + [1] * 5 + [PADDING_SEGMENT] * 2
    assert batch.maskable[0].tolist() == [True] * 14 + [False] * 2


def test_a_row_depends_on_its_index_only() -> None:
    rows = rows_of([7] * 40)
    together = rows.batch(range(90, 96))
    for place, index in enumerate(range(90, 96)):
        alone = rows.batch([index])
        assert alone.tokens[0].tolist() == together.tokens[place].tolist()
        assert alone.sample_index[0] == index


def test_samples_count_on_across_epochs() -> None:
    rows = rows_of([16] * 5)
    first = [rows.batch([index]).tokens[0, 0].item() for index in range(5)]
    second = [rows.batch([index]).tokens[0, 0].item() for index in range(5, 10)]
    assert sorted(first) == sorted(second) == [1, 17, 33, 49, 65]
    assert first != second
