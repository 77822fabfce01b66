"""Choosing positions: best first, ties by position."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

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
