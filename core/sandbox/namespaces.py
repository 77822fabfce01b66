"""A root of its own, without network and other processes, from Linux namespaces alone.

The same room that bubblewrap makes, for machines without it. Standard library only.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from opendllm.core.sandbox import linux
from opendllm.core.sandbox.limits import STRANGER
from opendllm.core.sandbox.visible import DEVICES, PRIVATE_FOLDER

_ROOM = (
    linux.NEW_USER
    | linux.NEW_MOUNTS
    | linux.NEW_PIDS
    | linux.NEW_NETWORK
    | linux.NEW_IPC
    | linux.NEW_UTS
    | linux.NEW_CGROUP
)
_NOBODY = 65534
_BASE = "/tmp"  # noqa: S108 - covered by a mount of ours, in a mount namespace of ours


def enter_room(readable: Sequence[str]) -> None:
    """Move this process into a room of its own, as process 1 there.

    Two helpers stay behind: one outside, which this process leaves by ending, and one in between.

    Args:
        readable: folders and files that are seen from within.

    Raises:
        OSError: the machine doesn't allow it.
    """
    ready, told = os.pipe()
    mapped, map_told = os.pipe()
    inside = os.fork()
    if inside:
        os.close(told)
        os.close(mapped)
        if os.read(ready, 1):
            _map_users(inside)
            os.write(map_told, b"x")
        os.close(map_told)
        _wait_and_exit(inside)
    os.close(ready)
    os.close(map_told)
    linux.die_with_parent()
    linux.unshare(_ROOM)
    os.write(told, b"x")
    os.close(told)
    if not os.read(mapped, 1):
        raise OSError("no user of the outside can be mapped")
    os.close(mapped)
    # Opened while this is still the user that may walk to them; mounted by descriptor.
    sources = [(path, os.open(path, os.O_PATH)) for path in (*readable, *DEVICES)]
    with suppress(PermissionError):  # an ordinary user can't leave its groups
        os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    linux.die_with_parent()  # a change of user undoes it
    _furnish(sources)
    first = os.fork()
    if first:
        _wait_and_exit(first)
    linux.die_with_parent()


def _map_users(process: int) -> None:
    """Make user and group 0 of the room somebody harmless outside, or whoever this is."""
    own = (os.geteuid(), os.getegid())
    strangers = [(STRANGER, STRANGER), (_NOBODY, _NOBODY)] if own[0] == 0 else []
    for user, group in [*strangers, own]:
        try:
            # One after the other: a map is written once. Without privileges, groups must be given up first.
            Path(f"/proc/{process}/uid_map").write_text(f"0 {user} 1\n")
            if own[0] != 0:
                Path(f"/proc/{process}/setgroups").write_text("deny")
            Path(f"/proc/{process}/gid_map").write_text(f"0 {group} 1\n")
        except PermissionError:
            continue
        return
    os._exit(1)


def _furnish(sources: list[tuple[str, int]]) -> None:
    """Build a read-only root of what may be read, and make it the root."""
    linux.mount(None, "/", None, linux.MOUNT_PRIVATE | linux.MOUNT_RECURSIVE)
    linux.mount("tmpfs", _BASE, "tmpfs", linux.MOUNT_NO_SUID | linux.MOUNT_NO_DEVICES, "mode=755,size=1m")
    root = Path(_BASE) / "root"
    for path, descriptor in sources:
        target = Path(f"{root}{path}")
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch()
        linux.mount(
            f"/proc/self/fd/{descriptor}", str(target), None, linux.MOUNT_BIND | linux.MOUNT_RECURSIVE
        )
        os.close(descriptor)
        if path not in DEVICES:
            for point in (str(target), *linux.mounts_below(str(target))):
                linux.read_only(point)
    (root / PRIVATE_FOLDER.lstrip("/")).mkdir(exist_ok=True)
    linux.mount(str(root), str(root), None, linux.MOUNT_BIND | linux.MOUNT_RECURSIVE)
    linux.read_only(str(root))
    linux.pivot_root(str(root))


def _wait_and_exit(child: int) -> None:
    """Hold no descriptor that the child talks through, and end when it does."""
    os.closerange(0, os.sysconf("SC_OPEN_MAX"))
    status = os.waitpid(child, 0)[1]
    os._exit(0 if status == 0 else 1)
