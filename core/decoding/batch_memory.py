"""How many rows fit a device's memory: whole numbers in, a whole number out, no torch."""

from __future__ import annotations

SPARE = 0.1
"""Of the memory, for what an allocator can't use and libraries take for themselves."""
ROWS_ON_A_CPU = 32
"""Where memory is shared with everything else, and more rows are no faster."""
MOST_ROWS = 64
"""More are no faster: with 32 columns each they are 2,048 tokens a pass, when some 400 suffice on an H100
for its operations to take longer than reading the weights; and the last rows of few texts read in vain."""
LOGIT_BYTES = 8
"""Of each logit that exists at a time: in float32, and what a draw works with. What the head gives in fewer
bits comes on top."""


def largest_batch(memory: int, fixed: int, a_row: int) -> int:
    """A power of two, so that shapes are few; 0 where not even one row fits. All in bytes.

    Args:
        memory: of the device.
        fixed: what lies there however many rows there are: weights, and the logits of a chunk.
        a_row: what one row more takes at most: keys and values, states.
    """
    rows = int(memory * (1 - SPARE) - fixed) // max(1, a_row)
    return 1 << (rows.bit_length() - 1) if rows >= 1 else 0


def rows_by_memory(texts: int, memory: int, fixed: int, a_row: int) -> int:
    """`batch_size: auto` on a GPU: as many rows as fit, one at least; see `largest_batch`.

    Args:
        texts: that are to be written.
        memory: see `largest_batch`; so are `fixed` and `a_row`.
        fixed: in bytes.
        a_row: in bytes.
    """
    return max(1, min(texts, MOST_ROWS, largest_batch(memory, fixed, a_row)))
