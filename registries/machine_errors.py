"""Errors that no code could have prevented: the machine has no room, memory, process or descriptor left."""

from __future__ import annotations

import errno
import os
import re

_ABOUT_THE_MACHINE = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there",
    errno.EFBIG: "raise this shell's limit of a file's size (ulimit -f)",
    errno.EROFS: "choose a folder that can be written",
    errno.EMFILE: "raise this shell's limit of open files (ulimit -n)",
    errno.ENFILE: "close other programs' files",
    errno.ENOMEM: "end what else needs memory",
    errno.EAGAIN: "end other processes, or raise this shell's limit of them (ulimit -u)",
}
"""An error of the system's that no code could have prevented -> what can be done."""
_SYSTEM_ERROR = re.compile(r"\(os error (\d+)\)")
"""How libraries written in Rust put it: safetensors, tokenizers."""


def machine_error(error: BaseException) -> OSError | None:
    """What the machine lacks, where that is what an error came of; None where it is about something else."""
    number = error.errno if isinstance(error, OSError) else _told(str(error))
    if isinstance(error, MemoryError):
        number = errno.ENOMEM
    if number in _ABOUT_THE_MACHINE:
        name = error.filename if isinstance(error, OSError) else None
        return OSError(number, os.strerror(number), name)
    return machine_error(error.__cause__) if error.__cause__ is not None else None


def _told(text: str) -> int | None:
    """The number of the error that a library puts in words."""
    numbered = _SYSTEM_ERROR.search(text)
    if numbered is not None:
        return int(numbered[1])
    return next((number for number in _ABOUT_THE_MACHINE if os.strerror(number) in text), None)


def in_words(error: OSError) -> str:
    """An error of the system's without a file's name; where the machine is at fault, what to do."""
    machine = machine_error(error)
    if machine is None:
        return error.strerror or str(error)
    return f"{machine.strerror}: {_ABOUT_THE_MACHINE[machine.errno or 0]}, and run again"
