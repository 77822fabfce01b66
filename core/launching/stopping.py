"""SIGTERM, Ctrl-C, SIGHUP: a run that is asked to stop finishes its step, saves it, and says how to go on."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from opendllm.core.foundation.ranks import is_first_process
from opendllm.core.launching.launcher import this_command
from opendllm.core.launching.watchdog import Watchdog
from opendllm.core.launching.worker_errors import launcher_reports

_SIGNALS_FROM = 128
"""A shell's exit code for a process that a signal ended, before the signal's number."""
ENDED_WITHOUT_SAVING = "ended without saving the step that was under way, which did not end in time"
EXIT_CODES = tuple(_SIGNALS_FROM + number for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
"""Of a run that was asked to stop, and did."""


class Stopped(BaseException):
    """The run was asked to stop and has; everything that is needed to go on is on disk.

    No `Exception`: nothing that handles errors may swallow it.
    """

    def __init__(self, message: str, exit_code: int = _SIGNALS_FROM + signal.SIGTERM) -> None:
        """Say what is kept; empty where another process says so."""
        super().__init__(message)
        self.exit_code = exit_code


class StopRequest:
    """Whether this process was asked to stop, and by which signal first.

    Attributes:
        made: whether it was.
        insisted: whether Ctrl-C came after that.
        exit_code: says by which signal.
        watchdog: ends this process where it doesn't come to an end by itself.
    """

    def __init__(self, on_end: Callable[[], object] = lambda: None) -> None:
        """Name what is said where the watchdog ends it."""
        self.watchdog = Watchdog(on_end)
        self.made = False
        self.insisted = False
        self.exit_code = _SIGNALS_FROM + signal.SIGTERM

    def note(self, number: int, frame: FrameType | None) -> None:
        """A signal handler."""
        if not self.made:
            self.exit_code = _SIGNALS_FROM + number
        self.made = True
        if number != signal.SIGINT:  # during a fork nobody else tells it
            self.watchdog.begin()


@contextmanager
def stop_requests(what_is_saved: Callable[[], str]) -> Iterator[StopRequest]:
    """Within it SIGTERM, SIGHUP and a first Ctrl-C are only noted; a later Ctrl-C ends the process at once.

    Args:
        what_is_saved: to be said then, in a few words.
    """

    def say_it_is_ended() -> None:
        if not launcher_reports():  # which says it itself
            _say(f"{ENDED_WITHOUT_SAVING}; {what_is_saved()}; resume with: {this_command()}")

    request = StopRequest(say_it_is_ended)
    if threading.current_thread() is not threading.main_thread():
        yield request  # signals reach the main thread only
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        if request.made:
            _say(f"stopped at once; {what_is_saved()}; resume with: {this_command()}")
            os._exit(_SIGNALS_FROM + signal.SIGINT)  # other ranks may never come to a common end
        request.note(number, frame)
        _say("stopping after this step, which will be saved; Ctrl-C again ends at once")

    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, request.note)}
    for number, handler in ((signal.SIGINT, interrupt), (signal.SIGHUP, request.note)):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as that of a job in the background, or nohup's
            before[number] = signal.signal(number, handler)
    try:
        with request.watchdog:
            yield request
    finally:
        for number, earlier in before.items():
            # A process that stops needs to hear no more of it, and has to say so undisturbed.
            signal.signal(number, signal.SIG_IGN if request.made else earlier)


@contextmanager
def stopping_at_once() -> Iterator[None]:
    """Within it SIGTERM raises `Stopped`: for what can be cut off anywhere and done again."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped("stopped; what was finished is kept")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        with Watchdog():
            yield
    finally:
        if signal.getsignal(signal.SIGTERM) is stop:
            signal.signal(signal.SIGTERM, before)


def _say(line: str) -> None:
    """From a signal handler, which may have interrupted a print; to a terminal that may be gone."""
    if is_first_process():
        with suppress(OSError):
            os.write(2, f"{line}\n".encode())
