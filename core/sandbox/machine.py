"""What the machine, and the shell that a run was started from, leave for programs."""

from __future__ import annotations

import os
import resource
from pathlib import Path

from opendllm.core.sandbox.limits import Limits
from opendllm.core.sandbox.linux import threads_of
from opendllm.registries.errors import UserError

_OF_A_SHELL = (
    (resource.RLIMIT_AS, "memory_bytes", "ulimit -v", "; or set memory_gib lower"),
    (resource.RLIMIT_DATA, "memory_bytes", "ulimit -d", "; or set memory_gib lower"),
    (resource.RLIMIT_FSIZE, "file_bytes", "ulimit -f", ""),
    (resource.RLIMIT_NOFILE, "open_files", "ulimit -n", ""),
    (resource.RLIMIT_NPROC, "threads", "ulimit -u", ""),
)
"""A limit of the system's, which of a program's it is, the shell's word for it, and another way out."""


def check_shell_limits(limits: Limits) -> None:
    """See that programs can be given what they may use.

    Raises:
        UserError: this process was given less itself: what a program fails by would depend on the shell.
    """
    for kind, name, command, instead in _OF_A_SHELL:
        wanted, left = getattr(limits, name), resource.getrlimit(kind)[1]
        if left == resource.RLIM_INFINITY:
            continue
        if kind == resource.RLIMIT_NPROC and os.geteuid() != 0:  # root's programs are another user's
            left = max(0, left - threads_of(os.geteuid()))
        if left < wanted:
            raise UserError(
                f"a limit of this shell or job ({command}) leaves generated programs {left} of the {wanted} "
                f"{name} that they may use: raise it{instead}"
            )


def out_of_memory_kills() -> int | None:
    """How many processes the kernel has killed because memory ran out; None where it doesn't say."""
    try:
        counters = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in counters if line.startswith("oom_kill ")), None)
