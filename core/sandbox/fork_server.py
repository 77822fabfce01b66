"""A small warm process that forks confined children: judges and candidates.

It sees no test, no solution and no program: each child gets its end of a channel that the host made, and
talks to the other end itself. When the host's end of the control channel closes, the server ends, and
every child with it. Standard library only.
"""

from __future__ import annotations

import gc
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opendllm.core.sandbox import linux
from opendllm.core.sandbox.candidate import run_candidate
from opendllm.core.sandbox.confinement import confine, settle
from opendllm.core.sandbox.judge import run_judge
from opendllm.core.sandbox.limits import Limits
from opendllm.core.sandbox.namespaces import enter_room
from opendllm.core.sandbox.visible import Layout
from opendllm.core.sandbox.wire import Channel, ChannelClosedError

WARM_MODULES = (
    *("abc", "array", "bisect", "cmath", "collections.abc", "copy", "datetime", "decimal", "enum"),
    *("fractions", "functools", "hashlib", "heapq", "io", "itertools", "json", "math", "numbers"),
    *("operator", "random", "re", "statistics", "string", "textwrap", "typing", "dataclasses"),
)
"""What programs import most often, loaded once."""
_ROLES = {"judge": run_judge, "candidate": run_candidate}


@dataclass(frozen=True)
class _Child:
    """What was given to a child: a folder outside a room, processor time, and the size of a file."""

    folder: str
    cpu_seconds: int
    file_bytes: int


class ForkServer:
    """Forks children on demand and kills them on demand."""

    def __init__(self, control: Channel, in_room: bool, hidden: Sequence[str]) -> None:
        self._control = control
        self._in_room = in_room
        self._hidden = hidden
        self._children: dict[int, _Child] = {}
        self._filtered = False
        self._own_namespace = os.pidfd_open(os.getpid()) if in_room else -1

    def serve(self) -> None:
        """Obey until the control channel closes; then leave nobody behind."""
        try:
            while True:
                action, content = self._control.receive()
                answer = self._spawned(content) if action == "spawn" else self._kill(*content)
                self._control.send(answer)
        except ChannelClosedError:
            for process in list(self._children):
                self._kill(process)

    def _spawned(self, content: dict[str, Any]) -> dict[str, Any]:
        try:
            return self._spawn(**content)
        except (OSError, MemoryError) as error:  # no process, descriptor, folder or memory to be had
            return {"error": f"no program can be started: {error or type(error).__name__}"}

    def _spawn(self, role: str, limits: dict[str, int], cpu_seconds: int) -> dict[str, Any]:
        """Fork a child with the descriptors that came along: its channel, and a candidate's output."""
        descriptors, self._control.descriptors = self._control.descriptors, []
        folder = "" if self._in_room else _private_folder(limits["file_bytes"])
        confined, told = os.pipe()
        if self._in_room:
            linux.unshare(linux.NEW_PIDS)
        process = os.fork()
        if process == 0:
            self._be_child(role, Limits(**limits), cpu_seconds, folder, descriptors, told)
        if self._in_room:
            linux.setns(self._own_namespace, linux.NEW_PIDS)
        self._children[process] = _Child(folder, cpu_seconds, limits["file_bytes"])
        for descriptor in (*descriptors, told):
            os.close(descriptor)
        with os.fdopen(confined, "rb") as report:
            said = report.read(400)
        if not said.startswith(b"confined"):
            status = self._kill(process)["status"]
            return {
                "error": said.decode(errors="replace") or f"a child ended with status {status} unconfined"
            }
        self._filtered = said.endswith(b"filtered")
        return {"process": process, "filtered": self._filtered}

    def _be_child(
        self,
        role: str,
        limits: Limits,
        cpu_seconds: int,
        folder: str,
        descriptors: list[int],
        told: int,
    ) -> None:
        """Confine this process, say so, and play the role; never returns."""
        try:
            told = settle(descriptors[0], descriptors[1] if len(descriptors) > 1 else -1, told)
            filtered = confine(limits, cpu_seconds, self._hidden if self._in_room else None, folder)
            os.write(told, b"confined, filtered" if filtered else b"confined")
            os.close(told)
        except BaseException as error:
            with suppress(OSError):
                os.write(told, f"{type(error).__name__}: {error}".encode()[:300])
            os._exit(1)
        _ROLES[role](Channel(socket.socket(fileno=3), takes_descriptors=role == "judge"))

    def _kill(self, process: int, patience: float = 0.0) -> dict[str, Any]:
        """End a child and whatever it started; in a room its whole process namespace ends with it.

        Args:
            process: its number.
            patience: seconds that it is given to end by itself.

        Returns:
            `status`: how it ended; `killed`: whether it had been killed before, not for its processor time;
            `no_room`: whether there is less room than a program may use.
        """
        killed = _ends_by(process, patience) == signal.SIGKILL
        if not self._in_room:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process, signal.SIGKILL)
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
        _, status, used = os.wait4(process, 0)
        child = self._children.pop(process)
        killed = killed and used.ru_utime + used.ru_stime < child.cpu_seconds - 1
        no_room = False
        if not self._in_room:
            if not self._filtered:
                self._kill_orphans()
            _remove(child.folder)
            no_room = not _has_room(str(Path(child.folder).parent), child.file_bytes)
        return {"status": status, "killed": killed, "no_room": no_room}

    def _kill_orphans(self) -> None:
        """Kill what a child left behind: its orphans are this process's children by now."""
        own = str(os.getpid())
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                fields = stat.read_text().rsplit(")", 1)[1].split()
                process = int(stat.parent.name)
                if fields[1] == own and process not in self._children:
                    os.kill(process, signal.SIGKILL)
                    os.waitpid(process, 0)


def _ends_by(process: int, patience: float) -> int | None:
    """The signal that a child was ended by, 0 where it was none; None where it runs on. It stays a zombie."""
    descriptor = os.pidfd_open(process)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        if not poll.poll(patience * 1000):
            return None
    finally:
        os.close(descriptor)
    found = os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)
    return found.si_status if found is not None and found.si_code == os.CLD_KILLED else 0


def _private_folder(bytes_wanted: int) -> str:
    """Where a program may write as much as it may.

    Raises:
        OSError: there is none.
    """
    folder = tempfile.mkdtemp(prefix="opendllm-sandbox-")
    parent = str(Path(folder).parent)
    if not _has_room(parent, bytes_wanted):
        _remove(folder)
        raise OSError(
            f"a program may write {bytes_wanted >> 20} MiB, and {parent} has no room for that (TMPDIR=FOLDER "
            f"names another)"
        )
    if os.geteuid() == 0:
        Path(folder).chmod(0o777)  # the child becomes somebody else
    return folder


def _has_room(folder: str, bytes_wanted: int) -> bool:
    """For anybody's file of that size; some file systems count no blocks, or (btrfs) no entries."""
    found = os.statvfs(folder)
    blocks = found.f_blocks == 0 or found.f_bavail * found.f_frsize >= bytes_wanted
    return blocks and (found.f_files == 0 or found.f_favail > 0)


def _remove(folder: str) -> None:
    """Whatever a program made there: read-only folders, or ones nested too deep for Python to walk."""
    shutil.rmtree(folder, ignore_errors=True)
    if Path(folder).exists():
        for command in (["/bin/chmod", "-R", "u+rwX", folder], ["/bin/rm", "-rf", folder]):
            subprocess.run(command, check=False, stderr=subprocess.DEVNULL)


def main() -> None:
    """`fork_server LEVEL DESCRIPTOR LAYOUT`."""
    level, descriptor, written = sys.argv[1:]
    layout = Layout(**json.loads(written))
    sys.path += [folder for folder in layout.libraries if folder not in sys.path]
    for name in WARM_MODULES:
        __import__(name)
    control = Channel(socket.socket(fileno=int(descriptor)), takes_descriptors=True)
    with suppress(OSError):  # where memory runs out, a program goes first, and no model or trainer
        Path("/proc/self/oom_score_adj").write_text("1000")
    if level == "namespaces":
        try:
            enter_room(layout.readable_paths())
        except OSError as error:
            control.send({"error": str(error)})
            os._exit(1)
    elif level == "rlimits":
        linux.adopt_orphans()
    linux.hide_memory()
    control.send({"ready": os.getpid()})
    gc.collect()
    gc.freeze()
    ForkServer(control, level != "rlimits", layout.hidden_paths()).serve()
    os._exit(0)
