"""Errors that no code could have prevented: the machine has no room, memory, process or descriptor left."""

from __future__ import annotations

import errno
import os
import re

_ABOUT_THE_MACHINE = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there",
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
    number = error.errno if isinstance(error, OSError) else None
    told = _SYSTEM_ERROR.search(str(error))
    if number is None and told is not None:
        number = int(told[1])
    if number in _ABOUT_THE_MACHINE:
        name = error.filename if isinstance(error, OSError) else None
        return OSError(number, os.strerror(number), name)
    return machine_error(error.__cause__) if error.__cause__ is not None else None


def what_to_do(error: OSError) -> str:
    """About a `machine_error`, in a few words."""
    return _ABOUT_THE_MACHINE[error.errno or 0]
