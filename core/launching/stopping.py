"""SIGTERM: a run that is asked to stop finishes its step, saves it, and says how to go on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(BaseException):
    """The run was asked to stop and has; everything that is needed to go on is on disk.

    No `Exception`: nothing that handles errors may swallow it.
    """


class StopRequest:
    """Whether this process was asked to stop."""

    def __init__(self) -> None:
        self.made = False

    def note(self, number: int, frame: FrameType | None) -> None:
        """A signal handler."""
        self.made = True


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Within it SIGTERM is only noted."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request  # signals reach the main thread only
        return
    before = signal.signal(signal.SIGTERM, request.note)
    try:
        yield request
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def stopping_at_once() -> Iterator[None]:
    """Within it SIGTERM raises `Stopped`: for what can be cut off anywhere and done again."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped("stopped; what was finished is kept")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
