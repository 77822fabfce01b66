"""The Linux system calls that confine a process, through ctypes. Standard library only."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from pathlib import Path

NEW_MOUNTS = 0x00020000
NEW_CGROUP = 0x02000000
NEW_UTS = 0x04000000
NEW_IPC = 0x08000000
NEW_USER = 0x10000000
NEW_PIDS = 0x20000000
NEW_NETWORK = 0x40000000

MOUNT_READ_ONLY = 1
MOUNT_NO_SUID = 2
MOUNT_NO_DEVICES = 4
MOUNT_REMOUNT = 32
MOUNT_BIND = 4096
MOUNT_RECURSIVE = 16384
MOUNT_PRIVATE = 1 << 18
DETACH = 2

_SET_PARENT_DEATH_SIGNAL = 1
_SET_DUMPABLE = 4
_SET_KEEP_CAPABILITIES = 8
_SET_SECCOMP = 22
_DROP_BOUNDING_CAPABILITY = 24
_SET_CHILD_SUBREAPER = 36
_SET_NO_NEW_PRIVILEGES = 38
_AMBIENT_CAPABILITIES = 47
_SECCOMP_FILTER = 2
_CLEAR_ALL = 4
_CAPABILITY_VERSION_3 = 0x20080522
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}

_libc = ctypes.CDLL(None, use_errno=True)
_libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
_libc.mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]


def _checked(result: int, call: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    """Leave the namespaces that `flags` name for new ones."""
    _checked(_libc.unshare(flags), "unshare")


def setns(descriptor: int, kind: int) -> None:
    """Enter the namespace of `kind` that the descriptor stands for."""
    _checked(_libc.setns(descriptor, kind), "setns")


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    """mount(2)."""
    arguments = [None if text is None else text.encode() for text in (source, target, kind, data)]
    _checked(_libc.mount(*arguments[:3], flags, arguments[3]), f"mount on {target}")


def read_only(target: str) -> None:
    """Make a bind mount read-only; the flags it was made with can't be taken off and are kept."""
    kept = os.statvfs(target).f_flag & (MOUNT_NO_SUID | MOUNT_NO_DEVICES | 8 | 1024 | 2048)
    relative_atime = 1 << 21 if os.statvfs(target).f_flag & 4096 else 0
    flags = MOUNT_BIND | MOUNT_REMOUNT | MOUNT_READ_ONLY | MOUNT_NO_SUID | kept | relative_atime
    mount(None, target, None, flags)


def pivot_root(new: str) -> None:
    """Make `new` the root and let go of the old one."""
    os.chdir(new)
    number = _PIVOT_ROOT[os.uname().machine]
    _checked(_libc.syscall(number, b".", b"."), "pivot_root")
    _checked(_libc.umount2(b".", DETACH), "umount2")
    os.chdir("/")


def die_with_parent() -> None:
    """SIGKILL this process when the thread that made it ends."""
    _checked(_libc.prctl(_SET_PARENT_DEATH_SIGNAL, 9, 0, 0, 0), "prctl")


def adopt_orphans() -> None:
    """Become the parent of descendants whose parents die."""
    _checked(_libc.prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl")


def hide_memory() -> None:
    """Keep other processes of this user from tracing this one or opening its memory."""
    _checked(_libc.prctl(_SET_DUMPABLE, 0, 0, 0, 0), "prctl")


def become(user: int, group: int, keep: int = 0) -> None:
    """Switch to a user and group for good, keeping only the capabilities in the mask `keep`."""
    _libc.prctl(_SET_KEEP_CAPABILITIES, 1 if keep else 0, 0, 0, 0)
    os.setgroups([])
    os.setresgid(group, group, group)
    os.setresuid(user, user, user)
    if keep:
        _set_capabilities(keep)


def drop_privileges() -> None:
    """Give up every capability, and the ways of getting one back."""
    _checked(_libc.prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0), "prctl")
    _libc.prctl(_AMBIENT_CAPABILITIES, _CLEAR_ALL, 0, 0, 0)
    for capability in range(64):
        if _libc.prctl(_DROP_BOUNDING_CAPABILITY, capability, 0, 0, 0) < 0:
            break  # past the last one, or never held
    _set_capabilities(0)


def _set_capabilities(mask: int) -> None:
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    data = (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)
    _checked(_libc.capset(header, data), "capset")


def install_filter(program: bytes) -> None:
    """Put a seccomp filter (an array of sock_filter) on this process and its children for good."""

    class SocketFilterProgram(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))

    _checked(_libc.prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0), "prctl")
    described = SocketFilterProgram(len(program) // 8, program)
    address = ctypes.addressof(described)
    _checked(_libc.prctl(_SET_SECCOMP, _SECCOMP_FILTER, address, 0, 0), "prctl(seccomp)")


def mounts_below(folder: str) -> list[str]:
    """Mount points inside `folder`, itself excepted."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [line.split()[4].replace("\\040", " ") for line in lines]
    return [point for point in points if point.startswith(folder.rstrip("/") + "/")]


def threads_of(user: int) -> int:
    """Of all processes of a user, which the kernel counts together; those that are seen from here."""
    found = 0
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            if process.stat().st_uid == user:
                found += int((process / "stat").read_text().rsplit(")", 1)[1].split()[17])
    return found
