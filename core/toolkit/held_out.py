"""Which documents are held out, where a corpus doesn't say it itself."""

from __future__ import annotations

import hashlib

HELD_OUT_SHARE = 20
"""One in so many is held out."""


def is_held_out(name: str) -> bool:
    """Whether something of this name, or text, is held out: by its hash, whatever stands beside it."""
    digest = hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") % HELD_OUT_SHARE == 0
