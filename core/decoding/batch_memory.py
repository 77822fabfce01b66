"""How much of a device's memory decoding takes: whole numbers in, whole numbers out, no torch."""

from __future__ import annotations

from dataclasses import dataclass

LOGIT_BYTES = 4
"""Logits are worked on in float32."""
LOGIT_COPIES = 4
"""Of a position's logits: as they come, sorted out by filters, their weights, and one in the making."""
LAYER_STATES = 8
"""Of a column, as wide as the hidden state, while a layer reads it: itself, queries, keys, values..."""
SPARE = 0.1
"""Of the memory, for what an allocator can't use and a library takes for itself."""


@dataclass(frozen=True)
class NetworkSizes:
    """What a pass's memory hangs on.

    Attributes:
        layers: of the network.
        key_heads: heads that keys and values have.
        head_size: of each.
        hidden_size: of a column's state.
        inner_size: of the widest state within a layer.
        vocab_size: logits of a position.
        weight_bytes: of all parameters on the device.
        number_bytes: of a number in keys and states: 2 in bf16.
    """

    layers: int
    key_heads: int
    head_size: int
    hidden_size: int
    inner_size: int
    vocab_size: int
    weight_bytes: int
    number_bytes: int


def row_bytes(sizes: NetworkSizes, length: int, asked: int, keeps_keys: bool, canvases: int = 1) -> int:
    """What one row more takes, at most.

    Args:
        sizes: the network's.
        length: of the row, padding counted.
        asked: positions whose logits are made at a step: those of a block, or of all that is written.
        keeps_keys: whether keys and values are kept.
        canvases: that are read for it: 2 with guidance.
    """
    keys = 2 * sizes.layers * sizes.key_heads * sizes.head_size * (length + 1) * sizes.number_bytes
    states = length * (LAYER_STATES * sizes.hidden_size + 2 * sizes.inner_size) * sizes.number_bytes
    logits = asked * sizes.vocab_size * LOGIT_BYTES * LOGIT_COPIES
    return canvases * (keys * keeps_keys + states) + logits


def largest_batch(memory_bytes: int, sizes: NetworkSizes, a_row: int) -> int:
    """How many rows of `a_row` bytes fit beside the weights: a power of two, so that shapes are few; or 0."""
    rows = int(memory_bytes * (1 - SPARE) - sizes.weight_bytes) // max(1, a_row)
    return 1 << (rows.bit_length() - 1) if rows >= 1 else 0
