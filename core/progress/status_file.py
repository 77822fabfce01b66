"""progress.json in a run's folder: what it is doing, for whoever looks at it from elsewhere."""

from __future__ import annotations

import json
import math
import os
import socket
import time
from pathlib import Path

from opendllm.core.progress.lines import as_json
from opendllm.core.progress.progress import Event, Moment

PROGRESS_FILE = "progress.json"
SECONDS_BETWEEN = 1.0
"""Of writing it: those who look do so every few seconds."""


class StatusFile:
    """Writes the file whenever something begins, and while it goes on at most once a second."""

    def __init__(self, folder: Path) -> None:
        """Name the run's folder; nothing is written before it is there."""
        self._path = folder / PROGRESS_FILE
        self._written = -math.inf

    def show(self, event: Event, moment: Moment, now: float) -> None:
        """See `View`."""
        if event == "ended":
            self._written = -math.inf  # what goes on is said at once
            return
        if (event == "went on" and now - self._written < SECONDS_BETWEEN) or not self._path.parent.is_dir():
            return
        self._written = now
        content = {
            "process": os.getpid(),
            "host": socket.gethostname(),
            "updated": time.time(),
            "closed": event == "closed",
            **as_json(moment, now),
        }
        staging = self._path.with_name(f".{self._path.name}.{os.getpid()}.partial")
        try:  # not synced to disk: after a crash of the machine nobody asks how far it was
            staging.write_text(json.dumps(content) + "\n", encoding="utf-8")
            staging.replace(self._path)
        except OSError:
            return  # a full disk stops a run where it matters, not here
