"""Which positions of a checkpoint see each other. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass

from opendllm.registries.options import AttentionKind


@dataclass(frozen=True)
class Pattern:
    """A checkpoint's attention, and the length of its blocks where it has any."""

    attention: AttentionKind
    block_length: int | None = None
