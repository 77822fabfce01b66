"""Which level of confinement this machine holds: found by trying, never assumed."""

from __future__ import annotations

import time
from typing import get_args

from opendllm.core.sandbox.launch import ForkServerHandle, LevelUnavailableError
from opendllm.core.sandbox.limits import Limits
from opendllm.core.sandbox.wire import ChannelClosedError, ChannelTimeoutError
from opendllm.registries.benchmarks import IsolationLevel
from opendllm.registries.errors import UserError

LEVELS: tuple[IsolationLevel, ...] = get_args(IsolationLevel)
"""From the weakest to the strongest."""
_TRIAL_SECONDS = 20.0

_PROBE = """
import os, socket

def facts(canary):
    def fails(action):
        try:
            action()
        except OSError:
            return True
        return False
    return {
        "process": os.getpid(),
        "others": os.path.exists("/proc/self"),
        "home": os.path.exists(canary),
        "writes": not fails(lambda: open("/canary", "w")) or not fails(lambda: open("/usr/canary", "w")),
        "network": not fails(lambda: socket.create_connection(("127.0.0.1", 9), 0.2)),
        "folder": fails(lambda: open("canary", "w")),
    }
"""
_CHECK = """
def judge(candidate, data, part):
    candidate.load()
    facts = candidate.names(["facts"])["facts"](data["canary"])
    wrong = {name: value for name, value in facts.items() if value != data["wanted"].get(name, value)}
    assert not wrong, wrong
"""
_ROOM = {"process": 1, "others": False, "home": False, "writes": False, "network": False, "folder": False}
_WANTED = {"rlimits": {"folder": False}, "namespaces": _ROOM, "bubblewrap": _ROOM}


def start(at_least: IsolationLevel, limits: Limits) -> tuple[ForkServerHandle, IsolationLevel, bool]:
    """A fork server at the strongest level that the machine holds.

    Returns:
        The server, its level, and whether system calls are filtered.

    Raises:
        UserError: no level as strong as `at_least` holds.
    """
    failures: dict[str, list[str]] = {}  # by reason
    for level in reversed(LEVELS[LEVELS.index(at_least) :]):
        try:
            server = ForkServerHandle(level)
        except LevelUnavailableError as reason:
            failures.setdefault(str(reason), []).append(level)
            continue
        try:
            return server, level, _tried(server, level, limits)
        except (LevelUnavailableError, ChannelClosedError, ChannelTimeoutError) as reason:
            server.close()
            failures.setdefault(str(reason), []).append(level)
    weaker = LEVELS[: LEVELS.index(at_least)]
    advice = f"; isolation {weaker[-1]} accepts a weaker one" if weaker else ""
    reasons = "; ".join(f"{', '.join(failed)}: {reason}" for reason, failed in failures.items())
    raise UserError(f"this machine has no sandbox as strong as {at_least} ({reasons}){advice}")


def _tried(server: ForkServerHandle, level: IsolationLevel, limits: Limits) -> bool:
    """Run a probe that looks for what it should not find."""
    judge = server.judge(limits, 20)
    candidate = server.candidate(limits, 20)
    try:
        assert judge.channel is not None
        deadline = time.monotonic() + _TRIAL_SECONDS
        judge.channel.send([_CHECK, {"canary": __file__, "wanted": _WANTED[level]}])
        judge.channel.receive(deadline)
        judge.channel.send([_PROBE, "probe", _TRIAL_SECONDS], [candidate.peer])
        answer = judge.channel.receive(deadline)
    finally:
        server.kill(candidate)
        server.kill(judge)
    if answer.get("passed") is not True:
        raise LevelUnavailableError(f"a probe got out: {answer.get('reason')}")
    return candidate.filtered
