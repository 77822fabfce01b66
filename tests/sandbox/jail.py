"""Runs programs through the sandbox inside a jail, so that a sandbox that fails harms nobody.

The jail is a user, process, network and mount namespace of its own, in which all that the machine has is
read-only, with caps on processes and memory. Started as a script: reads a JSON object from standard input
(`level`, `folder` and `programs`: name -> [text, seconds]) and writes one to standard output.
"""

from __future__ import annotations

import fcntl
import json
import os
import resource
import signal
import socket
import struct
import sys
import threading
import time
from pathlib import Path
from typing import Any

from opendllm.core.sandbox import assertion_judge, levels, linux
from opendllm.core.sandbox.cases import Case, Trial
from opendllm.core.sandbox.limits import Limits
from opendllm.core.sandbox.sandbox import Sandbox

MOST_PROCESSES = 400
MOST_SECONDS = 240
GIB = 2**30
GOLD = "def solve(x):\n    return 3 * x + 1\n"
TESTS = """
def check(candidate):
    assert candidate(0) == 1
    assert candidate(3) == 10
    assert [candidate(x) for x in range(20)] == [3 * x + 1 for x in range(20)]
"""


def enter() -> None:
    """Go on as process 1 of the jail; a helper outside waits, and kills the jail when time is up."""
    user, group = os.geteuid(), os.getegid()
    linux.unshare(
        linux.NEW_USER | linux.NEW_PIDS | linux.NEW_MOUNTS | linux.NEW_NETWORK | linux.NEW_IPC | linux.NEW_UTS
    )
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1\n")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1\n")
    first = os.fork()
    if first:
        signal.signal(signal.SIGALRM, lambda *_: os.kill(first, signal.SIGKILL))
        signal.alarm(MOST_SECONDS)
        os._exit(0 if os.waitpid(first, 0)[1] == 0 else 1)
    linux.die_with_parent()
    linux.mount(None, "/", None, linux.MOUNT_PRIVATE | linux.MOUNT_RECURSIVE)
    linux.mount("proc", "/proc", "proc", linux.MOUNT_NO_SUID | linux.MOUNT_NO_DEVICES)


def close_up(folder: Path) -> None:
    """Everything read-only but `folder`, which is new; and the caps."""
    for point in ["/", *linux.mounts_below("/")]:
        try:
            linux.read_only(point)
        except OSError:
            continue  # covered by another mount, or nobody's to change
    linux.mount("tmpfs", str(folder), "tmpfs", linux.MOUNT_NO_SUID | linux.MOUNT_NO_DEVICES, "size=1g")
    linux.mount("proc", "/proc", "proc", linux.MOUNT_NO_SUID | linux.MOUNT_NO_DEVICES)  # it may be written
    cap_processes()
    resource.setrlimit(resource.RLIMIT_AS, (8 * GIB, 8 * GIB))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def cap_processes() -> None:
    """Root's processes are not counted against its limit, so its namespace's numbers are made few."""
    if Path("/proc/self/uid_map").read_text().split()[1] != "0":
        resource.setrlimit(resource.RLIMIT_NPROC, (MOST_PROCESSES, MOST_PROCESSES))
    elif tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2]) >= (6, 14):
        Path("/proc/sys/kernel/pid_max").write_text(str(MOST_PROCESSES))  # of this namespace alone
    else:
        print(
            json.dumps({"skip": "before Linux 6.14 root's processes can't be capped: run as somebody else"})
        )
        os._exit(0)


def loopback() -> None:
    """Bring the jail's own loopback interface up."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh14x", b"lo", 0x1 | 0x40))  # SIOCSIFFLAGS, up


def listen(connections: list[str]) -> int:
    """A server on loopback that notes who comes."""
    server = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            connections.append(str(server.accept()[1]))

    threading.Thread(target=accept, daemon=True).start()
    return int(server.getsockname()[1])


def reap() -> None:
    """Wait a little for orphans, which become process 1's children: a dead one is no survivor."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(0.05)
        except ChildProcessError:
            return


def main() -> None:
    request = json.load(sys.stdin)
    folder = Path(request["folder"])
    try:
        enter()
    except OSError as error:
        print(json.dumps({"skip": f"no user namespaces here: {error}"}))
        return
    close_up(folder)
    outside, private = folder / "home", folder / "private"
    outside.mkdir()
    outside.chmod(0o777)
    private.mkdir()
    private.chmod(0o777)
    os.environ["TMPDIR"] = str(private)
    (outside / "secret").write_text("secret")
    (outside / "secret").chmod(0o666)
    os.environ["SECRET"] = "secret"
    loopback()
    connections: list[str] = []
    port = listen(connections)
    levels.LEVELS = (request["level"],)
    result: dict[str, Any] = {"verdicts": {}}
    limits = Limits(memory_bytes=GIB, output_bytes=8 << 20, file_bytes=16 << 20)

    def filled(text: str) -> str:
        return text.replace("HOME", str(outside)).replace("PORT", str(port))

    script = Path(assertion_judge.__file__).read_text()
    data = {"gold": GOLD, "tests": TESTS, "entry_point": "solve"}
    cases = [
        Case(name, script, data, (Trial(filled(text), seconds=seconds),))
        for name, (text, seconds) in request["programs"].items()
    ]
    with Sandbox(request["level"], 2, limits) as sandbox:
        result["described"] = sandbox.described
        for case, (verdict,) in zip(cases, sandbox.judge(cases), strict=True):
            result["verdicts"][case.name] = [sorted(verdict.passed), verdict.reason, verdict.unscorable]
    result["home"] = {path.name: path.read_text() for path in outside.iterdir()}
    result["left_behind"] = [path.name for path in private.iterdir()]
    result["connections"] = connections
    reap()
    result["survivors"] = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    print(json.dumps(result), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
