"""What the HTML pages share: their templates' environment, scripts and styles, and data packed into them."""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from opendllm.core.foundation.visible_text import visible

HERE = Path(__file__).parent / "page-parts"
GZIP_WINDOW = 31
"""zlib's sign for its largest window and gzip's header."""
UNSEEN = 100_000
"""Bytes that a compressor may hold back."""


def render_page(template: str, **values: object) -> str:
    """A template of the folder `page`.

    Everything that comes from a run is escaped, and what would be unseen is spelt. Besides, each page's own
    policy lets only scripts run that carry its nonce, and nothing be fetched.
    """
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_finalize,
    )
    return environment.get_template(template).render(**values)


def _finalize(value: object) -> object:
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def scripts(names: Sequence[str]) -> Markup:
    """Our own scripts one after the other, as a page has them."""
    return Markup("\n".join((HERE / name).read_text(encoding="utf-8") for name in names))  # noqa: S704


def styles(names: Sequence[str]) -> Markup:
    """Our own style sheets."""
    return scripts(names)


def packed_data(content: object) -> str:
    """JSON as `unpackJson` of packed.js reads it; lone surrogates survive as escapes."""
    return packed_text(json.dumps(content, separators=(",", ":")))


def packed_text(text: str) -> str:
    """Gzip in base64: nothing in it can end a script element, and a report made twice is the same."""
    return base64.b64encode(gzip.compress(text.encode(), compresslevel=6, mtime=0)).decode()


class Packer:
    """Packs text piece by piece, up to a size.

    Attributes:
        pieces: how many were added.
    """

    def __init__(self, most: int) -> None:
        """Take about `most` characters of packed text."""
        self.pieces = 0
        self._most = most * 3 // 4  # bytes in base64
        self._compressed = bytearray()
        self._compressor = zlib.compressobj(6, zlib.DEFLATED, GZIP_WINDOW)

    @property
    def has_room(self) -> bool:
        """Whether there is some left, but for what is still being compressed: tens of kilobytes at most."""
        return len(self._compressed) < self._most - UNSEEN

    def add(self, piece: str) -> None:
        """Pack one more, lone surrogates only as escapes."""
        self.pieces += 1
        self._compressed += self._compressor.compress(piece.encode())

    def finish(self, piece: str) -> str:
        """Pack the last one; the whole, as `packed_text` would have it."""
        self.add(piece)
        return base64.b64encode(self._compressed + self._compressor.flush()).decode()


@cache
def packed_plotly() -> str:
    """Plotly's whole script, a third of its size."""
    from plotly.offline import get_plotlyjs

    return packed_text(get_plotlyjs())
