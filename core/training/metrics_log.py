"""train.jsonl: one line a step, and the trackers beside it."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from opendllm.core.foundation.atomic_files import write_text, writing
from opendllm.core.foundation.json_lines import json_lines
from opendllm.core.training.trackers import Tracker


class MetricsLog:
    """Appends lines; on a resume, lines of steps that will be taken again are dropped first."""

    def __init__(self, path: Path, last_step: int, write: bool, trackers: Sequence[Tracker] = ()) -> None:
        """Open the log.

        Args:
            path: of train.jsonl.
            last_step: the step that training goes on after; 0 starts a new log.
            write: False on every rank but the first.
            trackers: told the same as the file.
        """
        self._path = path
        self._write = write
        self._trackers = trackers
        if write:
            kept = [line for line in _lines(path) if line["step"] <= last_step] if last_step else []
            _write(path, kept)

    def add(self, step: int, **values: float) -> None:
        """One line; every number is finite (the trainer sees to it)."""
        if self._write:
            line: dict[str, Any] = {"step": step, **values}
            with writing(self._path), self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, allow_nan=False) + "\n")
        for tracker in self._trackers:
            tracker.add(step, values)

    def amend(self, step: int, **values: float) -> None:
        """More values for the line of `step`, the last one; where it is lost, a line of these alone."""
        if self._write:
            lines = _lines(self._path)
            if not lines or lines[-1]["step"] != step:
                lines.append({"step": step})
            lines[-1] |= values
            _write(self._path, lines)
        for tracker in self._trackers:
            tracker.add(step, values)

    def sync(self) -> None:
        """Put it on disk: the lines of a checkpoint's steps must outlive the machine as it does."""
        if self._write:
            with writing(self._path), self._path.open("a", encoding="utf-8") as file:
                os.fsync(file.fileno())
        for tracker in self._trackers:
            tracker.flush()

    def close(self) -> None:
        """Close the trackers."""
        for tracker in self._trackers:
            tracker.close()


def _write(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines))


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    whole = itertools.takewhile(lambda line: line.issue is None, json_lines(path))  # a kill cuts the last one
    return [line.content for line in whole]
