"""The few shapes that a compiled network is read in: every other one would be compiled anew."""

from __future__ import annotations

ROW_LENGTH_MULTIPLE = 128
"""Rows are padded to a multiple of it: the width of a pass that reads everything."""
REFRESH_WIDTH_MULTIPLE = 32
"""A refresh span is widened to a multiple of it: the width of a pass with kept keys, blocks mostly."""


def round_up(length: int, multiple: int) -> int:
    """The least multiple that is at least `length`."""
    return -(-length // multiple) * multiple


def round_up_to_power_of_two(count: int) -> int:
    """The least power of two that is at least `count` (1 or more)."""
    return 1 << (count - 1).bit_length()
