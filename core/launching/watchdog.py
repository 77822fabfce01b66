"""What was asked to stop and can't, ends all the same: stuck in a collective, a compilation, any C call.

Python runs a signal's handler only between two of its own instructions. So a thread is told of the signal
(`signal.set_wakeup_fd`), and ends the process where that hasn't ended in time; and the launcher kills those
in which no thread can run.
"""

from __future__ import annotations

import math
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from opendllm.core.foundation.atomic_files import write_text
from opendllm.registries.errors import UserError

SECONDS_VARIABLE = "OPENDLLM_SECONDS_TO_STOP"
"""Environment variable: how long what is asked to stop may take, as a machine that is taken back says."""
SECONDS_TO_STOP = 60.0
OWN_SHARE, LAUNCHERS_SHARE = 0.7, 0.85
"""Of these seconds: when a process ends itself, and when the launcher kills it."""
_DEADLINE_FILE = "deadline"
_ERROR_FILE_VARIABLE = "TORCHELASTIC_ERROR_FILE"


def seconds_to_stop() -> float:
    """As the environment says, or a minute.

    Raises:
        UserError: it says something else than a number of seconds.
    """
    given = os.environ.get(SECONDS_VARIABLE)
    if not given:
        return SECONDS_TO_STOP
    with suppress(ValueError):
        if 0 < float(given) < math.inf:
            return float(given)
    raise UserError(f"{SECONDS_VARIABLE} is {given!r}: give it a number of seconds above 0, such as 30")


_watching: list[Watchdog] = []


_told_before_fork: list[int] = []


def _before_fork() -> None:
    """Nothing is told meanwhile: a forked process's SIGTERM would be, to its parent's thread."""
    if _watching and threading.current_thread() is threading.main_thread():
        _told_before_fork.append(signal.set_wakeup_fd(-1))


def _after_fork_here() -> None:
    if _told_before_fork and threading.current_thread() is threading.main_thread():
        signal.set_wakeup_fd(_told_before_fork.pop())


def _after_fork_there() -> None:
    if _watching:
        _watching.clear()
        _told_before_fork.clear()
        signal.set_wakeup_fd(-1)


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_here, after_in_child=_after_fork_there)


@contextmanager
def unwatched() -> Iterator[None]:
    """Within it no watchdog is told of signals: a launcher's end is that of its processes, or `Killer`'s."""
    told = signal.set_wakeup_fd(-1)
    try:
        yield
    finally:
        signal.set_wakeup_fd(told)


class Watchdog:
    """Within it, SIGTERM or SIGHUP starts a countdown to this process's end.

    Work that usually takes long is waited for, and what is being saved while more of it appears on disk.
    """

    def __init__(self, on_end: Callable[[], object] = lambda: None) -> None:
        """Name what is done before the process is ended, by a thread that isn't the main one.

        Raises:
            UserError: see `seconds_to_stop`.
        """
        self._on_end = on_end
        self._seconds = seconds_to_stop()
        self._usual = 0.0
        self._measured = 0.0
        self._measuring = False
        self._saving: Path | None = None
        self._saved = 0
        self._since = 0.0
        self._asked: float | None = None
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Start the countdown, as SIGTERM does."""
        self._wake(bytes([signal.SIGTERM]))

    def expect(self, seconds: float) -> None:
        """Tell how long a step took: one like it isn't stuck."""
        self._usual = max(self._usual, seconds)

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """While something is measured: as long as before, it isn't stuck."""
        self._measuring, self._since, began = True, time.monotonic(), time.monotonic()
        try:
            yield
        finally:
            self._measured = max(self._measured, time.monotonic() - began)
            self._measuring, self._since = False, time.monotonic()

    @contextmanager
    def saving(self, folder: Path) -> Iterator[None]:
        """While this process or another one saves something somewhere below `folder`."""
        self._saving, self._since = folder, time.monotonic()
        try:
            yield
        finally:
            self._saving, self._since = None, time.monotonic()

    def __enter__(self) -> Watchdog:
        if threading.current_thread() is threading.main_thread():  # no other one is told of signals
            self._process = os.getpid()
            self._reader, self._writer = socket.socketpair()
            self._writer.setblocking(False)
            self._before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
            _watching.append(self)
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is None:
            return
        signal.set_wakeup_fd(self._before)
        _watching.remove(self)
        self._wake(b"\xff")
        self._thread.join()
        self._thread = None
        self._reader.close()
        self._writer.close()

    def _wake(self, word: bytes = b"\0") -> None:
        if self._thread is not None and self._process == os.getpid():  # not a forked one
            with suppress(OSError):
                self._writer.send(word)

    def _watch(self) -> None:
        deadline = None
        while True:
            left = None if deadline is None else max(0.0, min(1.0, deadline - time.monotonic()))
            ready, _, _ = select.select([self._reader], [], [], left)
            told = self._reader.recv(256) if ready else b""
            if b"\xff" in told:
                return
            if (signal.SIGTERM in told or signal.SIGHUP in told) and self._asked is None:
                self._asked = time.monotonic()
            if self._asked is None:
                continue
            later = self._deadline(self._asked)
            if later != deadline:
                deadline = later
                tell_launcher(deadline)
            elif time.monotonic() >= deadline:
                self._on_end()
                os._exit(128 + signal.SIGTERM)

    def _deadline(self, asked: float) -> float:
        if self._saving is not None and (size := _size(self._saving)) != self._saved:
            self._saved, self._since = size, time.monotonic()
        usual = max(self._usual, self._measured if self._measuring else 0.0)
        return max(asked, self._since) + max(OWN_SHARE * self._seconds, 2 * usual)


def _size(folder: Path) -> int:
    """Bytes of all files below it."""
    found = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            found += path.stat().st_size
    return found


def tell_launcher(deadline: float) -> None:
    """Until when (`time.monotonic`) this process ends by itself; nothing where it has no launcher."""
    path = os.environ.get(_ERROR_FILE_VARIABLE)
    if path is not None:
        with suppress(OSError):
            write_text(Path(path).with_name(_DEADLINE_FILE), str(deadline))


def told_deadlines(folder: Path) -> list[float]:
    """What the processes that have their logs somewhere below `folder` told."""
    found = []
    for path in folder.rglob(_DEADLINE_FILE):
        with suppress(OSError, ValueError):
            found.append(float(path.read_text()))
    return found


class Killer:
    """Kills a launcher's processes, and what they started, where they haven't ended in time.

    Attributes:
        killed: whether it had to.
    """

    def __init__(self, folder: Path, children: Callable[[], list[int]]) -> None:
        """Take in what it has to know.

        Args:
            folder: where the processes' logs are.
            children: their ids; each leads a group of its own.
        """
        self.killed = False
        self._seconds = seconds_to_stop()
        self._folder = folder
        self._children = children
        self._began = threading.Event()

    def begin(self) -> None:
        """Start the countdown; once."""
        if not self._began.is_set():
            self._began.set()
            threading.Thread(target=self._wait, args=(time.monotonic(),), daemon=True).start()

    def _wait(self, asked: float) -> None:
        while True:
            told = [
                deadline + (LAUNCHERS_SHARE - OWN_SHARE) * self._seconds
                for deadline in told_deadlines(self._folder)
            ]
            left = max([asked + LAUNCHERS_SHARE * self._seconds, *told]) - time.monotonic()
            if left <= 0:
                break
            time.sleep(min(left, 0.5))
        for child in self._children():
            self.killed = True
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(child, signal.SIGKILL)
