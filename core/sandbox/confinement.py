"""What a freshly forked child does to itself before anything untrusted runs. Standard library only."""

from __future__ import annotations

import fcntl
import os
import resource
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from opendllm.core.sandbox import linux, seccomp
from opendllm.core.sandbox.limits import STRANGER, Limits
from opendllm.core.sandbox.visible import PRIVATE_FOLDER

_MAY_READ_ALL = 1 << 2  # CAP_DAC_READ_SEARCH
_STACK_BYTES = 512 * 2**20


def confine(limits: Limits, cpu_seconds: int, hidden: Sequence[str] | None, folder: str) -> bool:
    """Give up everything that a program doesn't need.

    Args:
        limits: of the program.
        cpu_seconds: after which the kernel kills it.
        hidden: in a room, whose namespaces let this process make mounts of its own: what it sees no more;
            None outside one.
        folder: where the program may write, outside a room.

    Returns:
        Whether system calls are filtered, too.

    Raises:
        OSError: a confinement that this machine was found to have failed.
    """
    os.setsid()
    if hidden is not None:
        _furnish(limits, hidden)
        folder = PRIVATE_FOLDER
        with suppress(OSError):  # threads are counted for each user namespace: one's many are no other's
            linux.unshare(linux.NEW_USER)
    elif os.geteuid() == 0:
        library = Path(os.__file__).resolve()
        readable = library.stat().st_mode & 4 and all(part.stat().st_mode & 1 for part in library.parents)
        with suppress(OSError):  # within somebody's user namespace there may be no such user
            linux.become(STRANGER, STRANGER, keep=0 if readable else _MAY_READ_ALL)
    linux.die_with_parent()  # after any change of user, which would undo it
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(_environment(folder))
    shares_its_user = hidden is None and os.geteuid() not in (0, STRANGER)
    _limit(limits, cpu_seconds, limits.threads + (linux.threads_of(os.geteuid()) if shares_its_user else 0))
    if hidden is not None or os.geteuid() != STRANGER:
        linux.drop_privileges()
    linux.hide_memory()
    if seccomp.supported():
        try:
            linux.install_filter(seccomp.filter_program())
        except OSError:
            return False
        return True
    return False


def _furnish(limits: Limits, hidden: Sequence[str]) -> None:
    """A folder to write in, and nothing to see of this package or of other processes."""
    linux.unshare(linux.NEW_MOUNTS | linux.NEW_IPC)
    flags = linux.MOUNT_NO_SUID | linux.MOUNT_NO_DEVICES
    size = f"mode=700,size={limits.file_bytes},nr_inodes=1024"
    linux.mount("tmpfs", PRIVATE_FOLDER, "tmpfs", flags, size)
    for path in (*hidden, "/proc"):
        if Path(path).exists():
            linux.mount("tmpfs", path, "tmpfs", flags | linux.MOUNT_READ_ONLY, "mode=555,size=4k")


def _environment(folder: str) -> dict[str, str]:
    threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
    return {"HOME": folder, "TMPDIR": folder, "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", **threads}


def _limit(limits: Limits, cpu_seconds: int, tasks: int) -> None:
    wanted = {
        resource.RLIMIT_AS: limits.memory_bytes,
        resource.RLIMIT_DATA: limits.memory_bytes,
        resource.RLIMIT_STACK: min(_STACK_BYTES, limits.memory_bytes),
        resource.RLIMIT_FSIZE: limits.file_bytes,
        resource.RLIMIT_NOFILE: limits.open_files,
        resource.RLIMIT_NPROC: tasks,
        resource.RLIMIT_CPU: cpu_seconds,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    for kind, amount in wanted.items():
        hard = resource.getrlimit(kind)[1]
        bound = amount if hard == resource.RLIM_INFINITY else min(amount, hard)
        resource.setrlimit(kind, (bound, bound))


def settle(channel: int, output: int, told: int) -> int:
    """Descriptors: nothing to read, `output` to write to, the channel as number 3, `told`, and no other.

    Returns:
        The number that `told` has now.
    """
    nothing = os.open("/dev/null", os.O_RDWR)
    wanted = (nothing, nothing if output < 0 else output, nothing if output < 0 else output, channel, told)
    # Out of the way first, so that none is overwritten before it is in its place.
    for target, source in enumerate([fcntl.fcntl(source, fcntl.F_DUPFD, 16) for source in wanted]):
        os.dup2(source, target)
    os.closerange(len(wanted), os.sysconf("SC_OPEN_MAX"))
    sys.stdout = open(1, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    return len(wanted) - 1
