"""progress.json in a run's folder: what it is doing, for whoever looks at it from elsewhere."""

from __future__ import annotations

import json
import math
import os
import socket
import time
from contextlib import suppress
from pathlib import Path

from opendllm.core.progress.lines import as_json
from opendllm.core.progress.progress import Event, Moment

PROGRESS_FILE = "progress.json"
SECONDS_BETWEEN = 1.0
"""Of writing it: those who look do so every few seconds."""


class StatusFile:
    """Writes the file whenever something begins or still goes on; of its course at most once a second."""

    def __init__(self, folder: Path) -> None:
        """Name the run's folder; nothing is written before it is there."""
        self._path = folder / PROGRESS_FILE
        self._written = -math.inf
        self._last = Moment("")

    def show(self, event: Event, moment: Moment, now: float) -> None:
        """See `View`."""
        if event in ("still", "cut off") and not moment.activity and not self._last.activity:
            return  # before anything was done: another run may be at work in the folder
        if moment.activity or event == "finished":
            self._last = moment  # an activity that is cut off ends first, and is what is remembered
        if event == "ended":
            self._written = -math.inf  # what goes on is said at once
            return
        if event == "went on" and now - self._written < SECONDS_BETWEEN:
            return
        self._written = now
        self._write(event, as_json(self._last, now))

    def _write(self, event: Event, said: dict[str, object]) -> None:
        if not self._path.parent.is_dir():
            return
        content = {
            "process": os.getpid(),
            "host": socket.gethostname(),
            "updated": time.time(),
            "closed": event in ("finished", "cut off"),
            "finished": event == "finished",
            **said,
        }
        staging = self._path.with_name(f".{self._path.name}.{os.getpid()}.partial")
        try:  # not synced to disk: after a crash of the machine nobody asks how far it was
            staging.write_text(json.dumps(content) + "\n", encoding="utf-8")
            staging.replace(self._path)
        except OSError:
            with suppress(OSError):
                staging.unlink()
            return  # a full disk stops a run where it matters, not here
