"""The progress bars of an evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)


class EvaluationBars:
    """One bar for the answers, and one below it for their scoring, once that begins."""

    def __init__(self, progress: Progress, title: str) -> None:
        self._progress = progress
        self._title = title
        self._bars: dict[str, TaskID] = {}

    def answered(self, done: int, wanted: int, score: float | None) -> None:
        """See `OnProgress`."""
        self._update(self._title, done, wanted, "" if score is None else f"score so far {score:.3f}")

    def judged(self, done: int, wanted: int | None, passed: float | None) -> None:
        """See `OnScoring`."""
        so_far = "" if passed is None else f"passed so far {passed:.3f}"
        self._update(f"{self._title}: scoring", done, wanted, so_far)

    def _update(self, title: str, done: int, wanted: int | None, score: str) -> None:
        if title not in self._bars:
            self._bars[title] = self._progress.add_task(title, total=None, score="")
        self._progress.update(self._bars[title], completed=done, total=wanted, score=score)


@contextmanager
def evaluation_progress(title: str, shown: bool = True) -> Iterator[EvaluationBars]:
    """Shows answers, their score so far, the scoring and the time on standard error.

    Nothing is shown where standard error is no terminal. Of several processes the bar shows the first
    one's share.
    """
    console = Console(stderr=True)
    progress = Progress(
        TextColumn("[bold]{task.description}", markup=True),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[score]}"),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=console,
        disable=not (shown and console.is_terminal),
    )
    with progress:
        yield EvaluationBars(progress, title)
