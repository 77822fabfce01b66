"""Choosing positions: best first, ties by position."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from opendllm.core.toolkit import ranking
from opendllm.core.toolkit.ranking import best_in_row, rank_in_row

SCORES = st.sampled_from([-math.inf, -1.0, 0.0, 0.5, 0.5, 1.0])


@given(
    rows=st.lists(st.lists(st.tuples(SCORES, st.booleans()), min_size=6, max_size=6), min_size=1, max_size=4)
)
def test_ranks(rows: list[list[tuple[float, bool]]]) -> None:
    scores = torch.tensor([[score for score, _ in row] for row in rows])
    among = torch.tensor([[inside for _, inside in row] for row in rows])
    ranks = rank_in_row(scores, among)
    for number, row in enumerate(rows):
        order = [
            place for _, _, place in sorted((not inside, -score, n) for n, (score, inside) in enumerate(row))
        ]
        inside = [place for place in order if row[place][1]]
        assert [int(ranks[number, place]) for place in inside] == list(range(len(inside)))
        assert sorted(ranks[number].tolist()) == list(range(6))


def test_ties_go_to_the_earliest_positions() -> None:
    scores = torch.zeros(1, 500)
    chosen = best_in_row(scores, torch.ones_like(scores, dtype=torch.bool), torch.tensor([7]))
    assert chosen[0].nonzero()[:, 0].tolist() == list(range(7))


def test_no_more_than_there_are() -> None:
    among = torch.tensor([[True, False, True]])
    assert torch.equal(best_in_row(torch.rand(1, 3), among, torch.tensor([5])), among)
    assert not best_in_row(torch.rand(1, 3), among, torch.tensor([0])).any()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="a kernel of a GPU, and none is here")
@pytest.mark.parametrize("length", [1, 64, 129, 700])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_gpu_ranks_as_sorting_does(length: int, dtype: torch.dtype) -> None:
    draws = torch.Generator().manual_seed(length)
    scores = torch.randint(-3, 4, (3, length), generator=draws).cuda().to(dtype)
    scores[0, ::5], scores[1, ::7], scores[2, ::9] = -math.inf, math.nan, -0.0
    among = torch.randint(0, 2, (3, length), generator=draws).cuda().bool()
    assert ranking._kernel_serves(scores.device)
    assert torch.equal(rank_in_row(scores, among), ranking.rank_by_sorting(scores, among))
