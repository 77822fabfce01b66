"""How many logits are there at once where a loss is worked out. Imports nothing heavy."""

LOGITS_AT_ONCE = {"cpu": 1 << 23, "cuda": 1 << 27}
"""A chunk's logits: on a CPU they should stay near its caches, on a GPU a matrix product wants many rows."""


def rows_at_once(vocabulary: int, device_type: str) -> int:
    """How many positions' logits a chunk has."""
    return max(1, LOGITS_AT_ONCE.get(device_type, LOGITS_AT_ONCE["cuda"]) // vocabulary)
