"""What is to be written, and between what."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Gap:
    """Text that is to be written: a completion, or an infilling.

    Attributes:
        prefix: text on the left.
        suffix: text on the right; None to continue the prefix.
        length: how many tokens to write; None for the decoder's `max_new_tokens`.
        templated: whether a chat template wrote the prefix: then what it spells of special tokens is meant.
    """

    prefix: str
    suffix: str | None = None
    length: int | None = None
    templated: bool = False
