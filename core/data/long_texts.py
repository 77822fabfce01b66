"""Long texts in parts: a tokenizer holds a few hundred bytes for each character that it is given at once."""

from __future__ import annotations

import re
from collections.abc import Iterator

MAX_CHARACTERS = 1 << 16
_SEARCHED_CHARACTERS = 1 << 12
_BOUNDARY = re.compile(r"[^\W_](?=\s)")
"""After a letter or a digit, before white space: there every usual pre-tokenizer cuts by itself."""


def parts(text: str) -> Iterator[str]:
    """`text`, cut where its tokens stay the same; of one without white space, wherever it grows too long."""
    start = 0
    while len(text) - start > MAX_CHARACTERS:
        end = start + MAX_CHARACTERS
        for boundary in _BOUNDARY.finditer(text, max(start, end - _SEARCHED_CHARACTERS), end):
            end = boundary.end()
        yield text[start:end]
        start = end
    yield text[start:]
