"""The sections of an answer that tags mark."""

from __future__ import annotations


def last_section(text: str, tag: str) -> str:
    """What stands after the last `<tag>`, or else from the beginning, up to the next `</tag>`, stripped."""
    return text.rpartition(f"<{tag}>")[2].partition(f"</{tag}>")[0].strip()
