"""train.jsonl: one line a step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from opendllm.core.checkpoints.files import write_text


class MetricsLog:
    """Appends lines; on a resume, lines of steps that will be taken again are dropped first."""

    def __init__(self, path: Path, last_step: int | None, write: bool) -> None:
        """Open the log.

        Args:
            path: of train.jsonl.
            last_step: the step that training goes on after; None starts a new log.
            write: False on every rank but the first.
        """
        self._path = path
        self._write = write
        if write:
            kept = [] if last_step is None else [line for line in _lines(path) if line["step"] <= last_step]
            write_text(path, "".join(json.dumps(line) + "\n" for line in kept))

    def add(self, step: int, **values: float | None) -> None:
        """One line."""
        if self._write:
            line: dict[str, Any] = {"step": step, **values}
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def last_tokens(self) -> int:
        """Tokens seen so far, by the log."""
        return max((line.get("tokens", 0) for line in _lines(self._path)), default=0)


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            break  # the last line of a killed run
    return lines
