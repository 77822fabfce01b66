"""While an activity goes on without news, whoever shows it is told that it still does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from opendllm.core.progress.progress import Progress

SECONDS_BETWEEN = 10.0
"""Of beats."""


@contextmanager
def heartbeat(
    progress: Progress, wait: Callable[[threading.Event, float], bool] = threading.Event.wait
) -> Iterator[None]:
    """Beats while the block runs, from a thread that keeps no process alive.

    A process that is forked meanwhile has no such thread, and one that is killed beats no more.

    Args:
        progress: what beats.
        wait: waits for an event so many seconds, and says whether it came.
    """
    over = threading.Event()

    def beat() -> None:
        while not wait(over, SECONDS_BETWEEN):
            try:
                progress.beat()
            except Exception:  # of a stream or a disk, which the run itself meets where it matters
                return

    threading.Thread(target=beat, name="heartbeat", daemon=True).start()
    try:
        yield
    finally:
        over.set()  # one that is late finds `progress` closed
