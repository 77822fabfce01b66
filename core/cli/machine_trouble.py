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
from opendllm.registries.machine_errors import in_words, machine_error

_FULL = (errno.ENOSPC, errno.EDQUOT)
_OF_FILES = {
    errno.ENOENT: "bring it back if it was moved or removed",
    errno.EEXIST: "move away what stands there",
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
    if isinstance(error, FileNotFoundError) and error.filename is None and not Path(os.curdir).exists():
        return UserError(
            "the folder that this was started in is gone: change to one that is there, and run again"
        )
    if trouble is None:
        if isinstance(error, OSError) and error.filename and error.errno in _OF_FILES:
            return UserError(f"{error.filename}: {error.strerror}: {_OF_FILES[error.errno]}, and run again")
        return None
    full = sorted(set(_full_disks())) if trouble.errno in _FULL and not trouble.filename else []
    where = trouble.filename or " and ".join(full)
    return UserError(f"{f'{where}: ' if where else ''}{in_words(trouble)}")


def _full_disks() -> Iterator[str]:
    """Of what a command writes to without being told: whatever is on a full disk."""
    with suppress(OSError):
        if _is_full(os.fstatvfs(1)):
            yield "standard output"
    kept = cache_folder()
    for folder in (os.curdir, os.environ.get("TMPDIR", ""), tempfile.gettempdir(), str(kept or "")):
        with suppress(OSError):
            path = Path(folder).absolute()
            there = next(part for part in (path, *path.parents) if part.exists())
            if folder and _is_full(os.statvfs(there)):
                yield str(path)


def _is_full(disk: os.statvfs_result) -> bool:
    """Of bytes or of files; some file systems count neither."""
    bytes_left = disk.f_bavail * disk.f_frsize
    return (disk.f_blocks > 0 and bytes_left < _LITTLE) or (disk.f_files > 0 and disk.f_favail == 0)
