"""How many rows fit a device's memory: whole numbers in, a whole number out, no torch."""

from __future__ import annotations

SPARE = 0.1
"""Of the memory, for what an allocator can't use and libraries take for themselves."""


def largest_batch(memory: int, weights: int, a_row: int) -> int:
    """A power of two, so that shapes are few; 0 where not even one row fits. All in bytes.

    Args:
        memory: of the device.
        weights: what lies there whatever is written.
        a_row: what one row more takes at most: keys and values, states, logits.
    """
    rows = int(memory * (1 - SPARE) - weights) // max(1, a_row)
    return 1 << (rows.bit_length() - 1) if rows >= 1 else 0
