"""The few shapes that a compiled network is read in: every other one would be compiled anew."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

ROW_LENGTH_MULTIPLE = 128
"""Rows are padded to a multiple of it: the width of a pass that reads everything."""
REFRESH_WIDTH_MULTIPLE = 32
"""A refresh span is widened to a multiple of it, by a power of two: blocks mostly, or a prompt and one."""

MOST_SHAPES = 4
"""Of canvases in one call."""
SEEN_MULTIPLE = 256
"""Of the keys that a pass reads where none right of its block is seen: few shapes, little read in vain."""


def refresh_width(columns: int, length: int) -> int:
    """How many columns a pass reads that refreshes so many, of a canvas of `length`."""
    multiples = round_up_to_power_of_two(round_up(columns, REFRESH_WIDTH_MULTIPLE) // REFRESH_WIDTH_MULTIPLE)
    return min(REFRESH_WIDTH_MULTIPLE * multiples, round_up(length, REFRESH_WIDTH_MULTIPLE))


def seen_bucket(columns: int, fused: bool) -> int:
    """How many keys a pass reads that sees `columns`: a multiple, and one in a power of two of them where
    each shape's kernels are `fused`, which takes long."""
    multiples = round_up(columns, SEEN_MULTIPLE) // SEEN_MULTIPLE
    return SEEN_MULTIPLE * (round_up_to_power_of_two(multiples) if fused else multiples)


def round_up(length: int, multiple: int) -> int:
    """The least multiple that is at least `length`."""
    return -(-length // multiple) * multiple


def round_up_to_power_of_two(count: int) -> int:
    """The least power of two that is at least `count` (1 or more)."""
    return 1 << (count - 1).bit_length()


@dataclass(frozen=True)
class CanvasShape:
    """Rows that share a canvas, one after the other.

    Attributes:
        rows: side by side.
        length: of each, padding counted.
        members: the rows' numbers, the longest first.
    """

    rows: int
    length: int
    members: tuple[int, ...]


def plan_shapes(
    lengths: Sequence[int], most_rows: int, padded: bool, together: bool = False
) -> list[CanvasShape]:
    """A few shapes of canvases for rows of many lengths, the largest first.

    A shape more reads less padding, but when its last rows are written the others' places stay empty: at
    most half of the steps of one more row in each place, as is assumed here.

    Args:
        lengths: of the rows.
        most_rows: side by side.
        padded: whether lengths are rounded up, so that other rows have the same shapes.
        together: whether all rows take as many steps. Then those of a shape that begin together end together,
            and none of its places need stay empty in the last round.
    """
    multiple = ROW_LENGTH_MULTIPLE if padded else REFRESH_WIDTH_MULTIPLE
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    sizes = [round_up(lengths[row], multiple) for row in order]
    # Where groups of rows of one size begin; and the end.
    starts = [at for at in range(len(sizes)) if at == 0 or sizes[at] != sizes[at - 1]] + [len(sizes)]
    # best[i]: (cost, cuts) of the rows from starts[i] on, by how many shapes are left to take.
    best: list[tuple[float, tuple[int, ...]]] = [*[(math.inf, ())] * (len(starts) - 1), (0.0, ())]
    for _ in range(MOST_SHAPES):
        best = [
            min(
                (
                    sizes[start] * (end - start + min(most_rows, end - start) / 2) + best[then][0],
                    (end, *best[then][1]),
                )
                for then, end in list(enumerate(starts))[at + 1 :]
            )
            for at, start in enumerate(starts[:-1])
        ] + [(0.0, ())]
    cuts = (0, *best[0][1])
    return [
        CanvasShape(
            _rows(end - start, most_rows, padded and together),
            sizes[start] if padded else lengths[order[start]],
            tuple(order[start:end]),
        )
        for start, end in itertools.pairwise(cuts)
    ]


def _rows(members: int, most: int, even: bool) -> int:
    """How many side by side; `even` in as few rounds as there must be, each as large as the others."""
    return -(-members // -(-members // most)) if even else min(most, members)


def shapes_line(shapes: Sequence[CanvasShape]) -> str:
    """What is going to be decoded in which shapes."""
    count = sum(len(shape.members) for shape in shapes)
    each = ", ".join(f"{shape.rows} x {shape.length}" for shape in shapes)
    texts = f"{count} text{'s' if count > 1 else ''}"
    found = f"{len(shapes)} shape{'s' if len(shapes) > 1 else ''}"
    return f"decoding: {texts} in {found} (rows x tokens): {each}"
