"""train.jsonl, and what is told beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from opendllm.core.training.metrics_log import MetricsLog


class Buffered:
    """A tracker that writes only when it must."""

    def __init__(self) -> None:
        self.held: list[int] = []
        self.written: list[int] = []

    def add(self, step: int, values: Mapping[str, float]) -> None:
        self.held.append(step)

    def flush(self) -> None:
        self.written += self.held
        self.held = []

    def close(self) -> None:
        self.flush()


def test_steps_that_will_not_be_taken_again_are_written_by_every_tracker(tmp_path: Path) -> None:
    tracker = Buffered()
    log = MetricsLog(tmp_path / "train.jsonl", 0, True, [tracker])
    for step in (1, 2):
        log.add(step, loss=1.0)
    assert tracker.written == []
    log.sync()
    assert tracker.written == [1, 2]
