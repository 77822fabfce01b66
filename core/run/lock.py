"""One run at a time in one folder. Imports no torch."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from opendllm.core.foundation.ranks import is_first_process
from opendllm.registries.errors import UserError
from opendllm.registries.machine_errors import in_words

LOCK_FILE = ".lock"


_FLOCK = "hhqqi"
"""Linux's `struct flock`: type, whence, start, length, process."""


def is_locked(folder: Path) -> bool:
    """Whether a run of this machine writes into `folder` just now; asking disturbs nobody."""
    try:
        with (folder / LOCK_FILE).open("rb") as file:
            asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            answer = struct.unpack(_FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, asked))
    except OSError:
        return False
    return bool(answer[0] != fcntl.F_UNLCK)


@contextmanager
def locked_run(folder: Path) -> Iterator[None]:
    """Within it no other `platform run` writes into the same folder, which is made where it is missing.

    The lock is the process's: it ends with it, however it ends.

    Raises:
        UserError: another run holds it, or the folder can't be written.
    """
    if not is_first_process():
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK_FILE).open("a+", encoding="utf-8")
    except OSError as error:
        raise UserError(f"the run folder {folder} cannot be written: {in_words(error)}") from error
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise UserError(
                f"the run folder {folder} is in use by {holder}: wait for it to end, or choose "
                f"another folder with --set output=DIR"
            ) from error
        file.truncate(0)
        with suppress(OSError):  # a full disk: whoever is refused meanwhile isn't told by whom
            os.write(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        try:
            yield
        finally:
            with suppress(OSError):
                file.truncate(0)
