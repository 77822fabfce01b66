"""Few shapes, planned before the first pass; and how many rows fit."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opendllm.core.decoding.batch_memory import largest_batch
from opendllm.core.decoding.compiled_shapes import (
    MOST_SHAPES,
    plan_shapes,
    refresh_width,
    seen_bucket,
    shapes_line,
)


@given(
    st.lists(st.integers(1, 900), min_size=1, max_size=60), st.integers(1, 9), st.booleans(), st.booleans()
)
def test_every_row_has_one_place_that_is_long_enough(
    lengths: list[int], most: int, padded: bool, together: bool
) -> None:
    shapes = plan_shapes(lengths, most, padded, together)
    assert sorted(row for shape in shapes for row in shape.members) == list(range(len(lengths)))
    assert len(shapes) <= MOST_SHAPES
    for shape in shapes:
        longest = max(lengths[row] for row in shape.members)
        assert shape.length >= longest if padded else shape.length == longest
        assert shape.length % 128 == 0 or not padded
        rounds = -(-len(shape.members) // most)
        assert -(-len(shape.members) // shape.rows) == rounds
        idle = rounds * shape.rows - len(shape.members)
        assert idle < rounds if padded and together else shape.rows == min(most, len(shape.members))
    assert [shape.length for shape in shapes] == sorted((shape.length for shape in shapes), reverse=True)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=12), st.integers(1, 4))
def test_no_other_cuts_cost_less(sizes: list[int], most: int) -> None:
    lengths = [128 * size for size in sizes]
    ordered = sorted(lengths, reverse=True)

    def cost(groups: list[list[int]]) -> float:
        return sum(group[0] * (len(group) + min(most, len(group)) / 2) for group in groups)

    def cut(at: tuple[int, ...]) -> list[list[int]]:
        edges = [0, *at, len(ordered)]
        return [ordered[edges[n] : edges[n + 1]] for n in range(len(edges) - 1)]

    places = range(1, len(ordered))
    best = min(cost(cut(at)) for count in range(MOST_SHAPES) for at in combinations(places, count))
    found = [[lengths[row] for row in shape.members] for shape in plan_shapes(lengths, most, padded=True)]
    assert cost(found) == pytest.approx(best)


def test_shapes_are_said_in_a_line() -> None:
    lengths = [300] * 40 + [900] * 40
    assert shapes_line(plan_shapes(lengths, 32, padded=True)) == (
        "decoding: 80 texts in 2 shapes (rows x tokens): 32 x 1024, 32 x 384"
    )
    assert shapes_line(plan_shapes(lengths, 32, padded=True, together=True)) == (
        "decoding: 80 texts in 2 shapes (rows x tokens): 20 x 1024, 20 x 384"
    )
    assert "1 text in 1 shape (" in shapes_line(plan_shapes([5], 32, padded=True))


def test_few_widths_and_few_lengths_of_keys() -> None:
    assert [refresh_width(columns, 384) for columns in (1, 32, 33, 65, 200, 384)] == [
        32,
        32,
        64,
        128,
        256,
        384,
    ]
    assert [seen_bucket(columns, fused=False) for columns in (1, 256, 257, 700)] == [256, 256, 512, 768]
    assert [seen_bucket(columns, fused=True) for columns in (1, 257, 700)] == [256, 512, 1024]


def test_rows_fit_beside_the_weights() -> None:
    """LLaDA-8B in bf16 keeps 524,288 bytes a position: 257 MiB a row of 512, on a card of 80 GB."""
    weights, a_row = 16_030_000_000, 524_288 * 513
    batch = largest_batch(80 * 10**9, weights, a_row)
    assert batch == 128
    assert weights + batch * a_row < 80 * 10**9 < weights + 2 * batch * a_row
    assert largest_batch(18 * 10**9, weights, a_row) == 0
