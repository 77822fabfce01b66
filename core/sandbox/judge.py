"""The trusted side: runs a benchmark's tests against a candidate in another process.

A judge's script is trusted, and confined all the same, since tests are data. It defines

    def prepare(data): ...                        # optional; once for all trials of a problem
    def judge(candidate, prepared, part): ...     # loads the candidate; raises where it fails
    def remember(prepared): ...                   # optional; a text that `prepare` is given next time

and runs in a process that no candidate can reach but through its channel. Standard library only.
"""

from __future__ import annotations

import os
import socket
import sys
from types import ModuleType
from typing import Any

from opendllm.core.sandbox.remote import Candidate, CandidateLost
from opendllm.core.sandbox.wire import Channel, ChannelClosedError


def run_judge(host: Channel) -> None:
    """Prepare a problem, then judge the trials that come, until the host hangs up."""
    try:
        script, data = host.receive()
        module = sys.modules["judge"] = ModuleType("judge")  # dataclasses look their module up
        namespace = module.__dict__
        try:
            # Our own source, handed over as text: the confined process sees no file of ours.
            exec(compile(script, "<judge>", "exec", dont_inherit=True), namespace)  # noqa: S102
            prepared = namespace["prepare"](data) if "prepare" in namespace else data
        except BaseException as error:
            host.send({"unprepared": _said(error)})
            return
        host.send({"prepared": True})
        while True:
            message = host.receive()
            if message == "remember":
                host.send(_remembered(namespace, prepared))
                continue
            program, part, seconds = message
            stream = socket.socket(fileno=host.descriptors.pop(0))
            candidate = Candidate(
                Channel(stream), program, seconds, lambda limit: host.send({"seconds": limit})
            )
            reason = _judged(namespace["judge"], candidate, prepared, part)
            stream.close()
            host.send({"passed": reason is None, "reason": reason or "passed"})
    except ChannelClosedError:
        pass
    finally:
        os._exit(0)


def _remembered(namespace: dict[str, Any], prepared: Any) -> str | None:
    try:
        text = namespace["remember"](prepared)
    except Exception:  # what can't be written down is computed again
        return None
    return text if isinstance(text, str) else None


def _judged(judge: Any, candidate: Candidate, prepared: Any, part: str) -> str | None:
    """Why the candidate fails, or None."""
    try:
        judge(candidate, prepared, part)
    except CandidateLost as error:
        return str(error)
    except BaseException as error:
        return candidate.lost or _said(error)
    return candidate.lost


def _said(error: BaseException) -> str:
    text = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
