"""How many logits are there at once where a loss is worked out. Imports nothing heavy."""

LOGITS_AT_ONCE = {"cpu": 1 << 23, "cuda": 1 << 27}
"""A chunk's logits: on a CPU they should stay near its caches, on a GPU a matrix product wants many rows."""
FUSED_LOGITS_AT_ONCE = 1 << 29
"""Of a chunk whose slopes overwrite its logits as they are, without float32 copies (`fused_slopes`): the same
memory holds more of them, and the head's gradient is added up less often."""


def rows_at_once(vocabulary: int, device_type: str, fused: bool = False) -> int:
    """How many positions' logits a chunk has."""
    if fused:
        return max(1, FUSED_LOGITS_AT_ONCE // vocabulary)
    return max(1, LOGITS_AT_ONCE.get(device_type, LOGITS_AT_ONCE["cuda"]) // vocabulary)
