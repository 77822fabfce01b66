"""The few shapes that a compiled network is read in: every other one would be compiled anew."""

from __future__ import annotations

ROW_LENGTH_MULTIPLE = 128
"""Rows are padded to a multiple of it: the width of a pass that reads everything."""
REFRESH_WIDTH_MULTIPLE = 32
"""A refresh span is widened to a multiple of it, by a power of two: blocks mostly, or a prompt and one."""

SEEN_MULTIPLE = 256
"""Of the keys that a pass reads where none right of its block is seen: few shapes, and little read in vain."""


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
