"""How far a benchmark is: its answers, and then their scoring."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from opendllm.core.progress.progress import Progress, Task


class EvaluationProgress:
    """One activity after the other: the problems are read, answered and scored."""

    def __init__(self, progress: Progress, benchmark: str, activities: ExitStack) -> None:
        self._progress = progress
        self._benchmark = benchmark
        self._activities = activities
        self._tasks: dict[str, Task] = {}

    def answered(self, done: int, wanted: int, score: float | None) -> None:
        """See `OnProgress`."""
        self._task("evaluating").update(done, wanted, score_so_far=score)

    def judged(self, done: int, wanted: int | None, passed: float | None) -> None:
        """See `OnScoring`."""
        task = self._task("scoring")
        if wanted is not None:
            task.update(done, wanted, passed_so_far=passed)

    def _task(self, what: str) -> Task:
        if what not in self._tasks:
            self._activities.close()
            activity = self._progress.activity(f"{what} {self._benchmark}")
            self._tasks[what] = self._activities.enter_context(activity)
        return self._tasks[what]


@contextmanager
def evaluation_progress(progress: Progress, benchmark: str) -> Iterator[EvaluationProgress]:
    """Of several processes the first tells its own share."""
    with ExitStack() as activities:
        activities.enter_context(progress.activity(f"reading {benchmark}"))
        yield EvaluationProgress(progress, benchmark, activities)
