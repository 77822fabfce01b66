"""Starts the fork server, at a level that this machine was seen to hold."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass
from typing import Any

from opendllm.core.sandbox.limits import Limits
from opendllm.core.sandbox.visible import DEVICES, OWN_CODE, PRIVATE_FOLDER, Layout, layout_here
from opendllm.core.sandbox.wire import Channel, ChannelClosedError, channel_pair
from opendllm.registries.benchmarks import IsolationLevel

_START = """
import sys, types
for name, folders in (("opendllm", []), ("opendllm.core", [sys.argv.pop(1)])):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = folders
from opendllm.core.sandbox.fork_server import main
main()
"""
"""Finds this package where its argument says, and nowhere else."""


class LevelUnavailableError(Exception):
    """Why a level can't be had here."""


@dataclass(frozen=True)
class Child:
    """A confined process, and this side of its channel.

    Attributes:
        process: its number in the fork server's eyes.
        channel: to a judge; None for a candidate, whose channel the judge has.
        peer: a candidate's end of the channel for its judge, a descriptor to be closed when passed on.
        output: what a candidate writes, to be read; -1 for a judge.
        filtered: whether its system calls are filtered.
    """

    process: int
    channel: Channel | None
    peer: int
    output: int
    filtered: bool


@dataclass(frozen=True)
class Ending:
    """What the machine had to do with a child's end.

    Attributes:
        killed: whether it was killed from outside, when memory ran out say.
        no_room: whether the disk has less room than a program may use.
    """

    killed: bool
    no_room: bool


class ForkServerHandle:
    """The host's hold on a fork server; safe to use from several threads."""

    def __init__(self, level: IsolationLevel) -> None:
        """Start it.

        Raises:
            LevelUnavailableError: the machine doesn't allow this level.
        """
        layout = layout_here()
        command = _command(level, layout)
        self._lock = threading.Lock()
        self._control, theirs = channel_pair()
        with theirs:
            self._process = subprocess.Popen(
                [*command, level, str(theirs.fileno()), json.dumps(asdict(layout))],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,
                env={
                    **{name: value for name, value in os.environ.items() if name == "TMPDIR"},
                    "PATH": "/usr/bin:/bin",
                    "LANG": "C.UTF-8",
                    "PYTHONDONTWRITEBYTECODE": "1",
                },
            )
        try:
            answer = self._control.receive()
        except ChannelClosedError:
            assert self._process.stderr is not None
            answer = {"error": self._process.stderr.read().decode(errors="replace")}
        if "ready" not in answer:
            self.close()
            said = str(answer.get("error", "")).strip().splitlines()
            raise LevelUnavailableError(said[-1].strip()[:200] if said else "it doesn't start")

    def judge(self, limits: Limits, cpu_seconds: int) -> Child:
        """Fork a judge."""
        ours, theirs = channel_pair()
        try:
            answer = self._spawn("judge", limits, cpu_seconds, [theirs.fileno()])
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return Child(answer["process"], ours, -1, -1, answer["filtered"])

    def candidate(self, limits: Limits, cpu_seconds: int) -> Child:
        """Fork a candidate."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        output, written = os.pipe()
        try:
            answer = self._spawn("candidate", limits, cpu_seconds, [theirs.fileno(), written])
        except BaseException:
            ours.close()
            os.close(output)
            raise
        finally:
            theirs.close()
            os.close(written)
        return Child(answer["process"], None, ours.detach(), output, answer["filtered"])

    def kill(self, child: Child, patience: float = 0.0) -> Ending:
        """End a child, and let go of what this side holds of it.

        Args:
            child: of this server.
            patience: seconds that it is given to end by itself.
        """
        if child.channel is not None:
            child.channel.close()
        for descriptor in (child.peer, child.output):
            if descriptor >= 0:
                os.close(descriptor)
        answer = self._ask("kill", [child.process, patience])
        return Ending(answer["killed"], answer["no_room"])

    def close(self) -> None:
        """End the server and every child."""
        self._control.close()
        self._process.wait()
        if self._process.stderr is not None:
            self._process.stderr.close()

    def _spawn(self, role: str, limits: Limits, cpu_seconds: int, descriptors: list[int]) -> dict[str, Any]:
        content = {"role": role, "limits": asdict(limits), "cpu_seconds": cpu_seconds}
        answer = self._ask("spawn", content, descriptors)
        if "error" in answer:
            raise LevelUnavailableError(answer["error"])
        return answer

    def _ask(self, action: str, content: Any, descriptors: list[int] | None = None) -> dict[str, Any]:
        with self._lock:
            try:
                self._control.send([action, content], descriptors or ())
                answer: dict[str, Any] = self._control.receive()
            except ChannelClosedError:
                raise ChannelClosedError("its server was ended") from None
        return answer


def _command(level: IsolationLevel, layout: Layout) -> list[str]:
    python = [sys.executable, "-I", "-X", "utf8", "-c", _START]
    if level != "bubblewrap":
        return [*python, layout.own]
    program = shutil.which("bwrap")
    if program is None:
        raise LevelUnavailableError("there is no bwrap command")
    room = [program, "--unshare-all", "--unshare-user", "--new-session", "--die-with-parent"]
    room += ["--cap-add", "ALL"]
    for path in layout.readable_paths():
        room += ["--ro-bind", path, path]
    for device in DEVICES:
        room += ["--dev-bind", device, device]
    room += ["--ro-bind", layout.own, OWN_CODE, "--dir", PRIVATE_FOLDER, "--remount-ro", "/"]
    return [*room, "--chdir", "/", "--", *python, OWN_CODE]
