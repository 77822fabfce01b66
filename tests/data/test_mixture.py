"""Rows of several corpora: exact shares, nothing lost, and the same whatever the batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from opendllm.core.data.packing import pack
from opendllm.core.data.rows import MixedRows, PackedRows
from opendllm.registries.errors import UserError

LENGTH = 8


def corpus(number: int, rows: int, seed: int = 3) -> PackedRows:
    """Its tokens say which corpus and which row they are of."""
    tokens = (np.arange(rows * LENGTH, dtype=np.uint32) // LENGTH) + 1000 * number
    return PackedRows(tokens, pack(np.arange(1, rows + 1) * LENGTH, LENGTH), LENGTH, 0, seed)


def first_tokens(rows: MixedRows, samples: range) -> list[int]:
    return rows.batch(samples).tokens[:, 0].tolist()


@given(weights=st.lists(st.floats(0.05, 10), min_size=1, max_size=5), seed=st.integers(0, 9))
@settings(max_examples=20, deadline=None)
def test_every_period_has_each_corpuss_exact_share(weights: list[float], seed: int) -> None:
    rows = MixedRows([corpus(n, 5) for n in range(len(weights))], weights, seed)
    for start in (0, 3000):
        found = np.bincount(
            np.array(first_tokens(rows, range(start, start + 1000))) // 1000, minlength=len(weights)
        )
        assert np.abs(found - np.array(weights) / sum(weights) * 1000).max() < 1


def test_a_corpus_is_read_through_before_it_begins_again() -> None:
    rows = MixedRows([corpus(0, 30), corpus(1, 400)], [1, 3], seed=0)
    found = first_tokens(rows, range(2000))
    small = [token for token in found if token < 1000]
    assert len(small) == 500
    for start in range(0, 480, 30):
        assert sorted(small[start : start + 30]) != small[start : start + 30]
    counts = np.bincount(small)
    assert counts.min() >= 16 and counts.max() <= 17  # noqa: PT018 (500 / 30)


def test_a_row_depends_on_its_index_only() -> None:
    rows = MixedRows([corpus(0, 30), corpus(1, 40)], [1, 1], seed=0)
    together = rows.batch(range(995, 1005))
    assert together.sample_index.tolist() == list(range(995, 1005))
    for place, index in enumerate(range(995, 1005)):
        assert torch.equal(rows.batch([index]).tokens[0], together.tokens[place])


def test_seeds_differ_and_neighbours_are_mixed() -> None:
    parts = [corpus(0, 30), corpus(1, 40)]
    one, other = (first_tokens(MixedRows(parts, [1, 1], seed), range(40)) for seed in (0, 1))
    assert one != other
    assert 10 < sum(token < 1000 for token in one) < 30


def test_a_weight_that_would_never_be_read_is_refused() -> None:
    with pytest.raises(UserError, match=r"a weight in data.mixture is below 1/1000 of their sum"):
        MixedRows([corpus(0, 5), corpus(1, 5)], [1, 1e-6], seed=0)
