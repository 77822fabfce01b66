"""What files hold, as a short digest."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from opendllm.core.foundation.globs import MatchedFile
from opendllm.registries.errors import UserError

WHOLE_BYTES = 4 << 30
"""Files of so many bytes together are hashed whole, which takes some seconds."""
_BLOCK = 1 << 20


def content_digest(files: Sequence[MatchedFile], settings: object, whole_bytes: int = WHOLE_BYTES) -> str:
    """Changes with the files' names, relative to their folder, and with their bytes; not with where they lie.

    Up to `whole_bytes` in all every byte counts. Of larger sets each file's size does, and of what each
    holds blocks of a MiB, spread evenly from its first to its last byte, about `whole_bytes` in all.

    Args:
        files: in a fixed order.
        settings: whatever else the digest should change with; its `repr` counts.
        whole_bytes: see above.

    Raises:
        UserError: one can't be read.
    """
    digest = hashlib.blake2b(repr(settings).encode(errors="backslashreplace"), digest_size=16)
    try:
        sizes = [file.path.stat().st_size for file in files]
        share = min(1.0, whole_bytes / max(1, sum(sizes)))
        for file, size in zip(files, sizes, strict=True):
            digest.update(f"\n{size} {file.name}\n".encode())
            digest.update(_file_digest(file.path, size, share))
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read: {error.strerror or error}") from error
    return digest.hexdigest()


def _file_digest(path: Path, size: int, share: float) -> bytes:
    with path.open("rb") as file:
        blocks = max(2, int(size * share) // _BLOCK)
        if share == 1 or blocks * _BLOCK >= size:
            return hashlib.file_digest(file, "blake2b").digest()
        digest = hashlib.blake2b()
        for number in range(blocks):
            file.seek((size - _BLOCK) * number // (blocks - 1))
            digest.update(file.read(_BLOCK))
        return digest.digest()
