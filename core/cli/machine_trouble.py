"""What a command says where the machine has no room, memory, process or descriptor left."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from opendllm.core.foundation.cache_folder import cache_folder
from opendllm.registries.errors import UserError
from opendllm.registries.machine_errors import machine_error, what_to_do

_FULL = (errno.ENOSPC, errno.EDQUOT)
_OF_FILES = {
    errno.ENOENT: "bring it back if it was moved or removed",
    errno.EACCES: "let this user have it",
    errno.EPERM: "let this user have it",
    errno.EISDIR: "move the folder away that stands where a file should",
    errno.ENOTDIR: "move the file away that stands where a folder should",
    errno.ESTALE: "mount its disk again",
    errno.EIO: "look after its disk",
}
_LITTLE = 1 << 20
"""Bytes: a disk with less is as good as full."""


def machine_trouble(error: Exception) -> UserError | None:
    """The error for people; None where the machine isn't to blame, or where it is said already."""
    if isinstance(error, UserError):
        return None
    trouble = machine_error(error)
    if trouble is None:
        if isinstance(error, OSError) and error.filename and error.errno in _OF_FILES:
            return UserError(f"{error.filename}: {error.strerror}: {_OF_FILES[error.errno]}, and run again")
        return None
    full = sorted(set(_full_disks())) if trouble.errno in _FULL and not trouble.filename else []
    where = trouble.filename or " and ".join(full)
    return UserError(
        f"{f'{where}: ' if where else ''}{trouble.strerror}: {what_to_do(trouble)}, and run again"
    )


def _full_disks() -> Iterator[str]:
    """Of the folders that a command writes in without being told: those whose disk is full."""
    folders: list[Path | None] = [Path.cwd(), cache_folder()]
    with suppress(OSError):
        folders.append(Path(tempfile.gettempdir()))
    if named := os.environ.get("TMPDIR"):
        folders.append(Path(named))
    for folder in folders:
        there = next((part for part in (folder, *folder.parents) if part.exists()), None) if folder else None
        if there is not None:
            found = os.statvfs(there)
            if found.f_blocks and (
                found.f_bavail * found.f_frsize < _LITTLE or (found.f_files and not found.f_favail)
            ):
                yield str(folder)
