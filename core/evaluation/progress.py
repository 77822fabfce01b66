"""How far a benchmark is: its answers, and then their scoring."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager

from opendllm.core.foundation.sample_records import SampleRecord
from opendllm.core.progress.progress import Progress, Task
from opendllm.registries.benchmarks import Benchmark

OnProgress = Callable[[int, int, float | None], None]
"""Told (answers on file, answers wanted, their score so far where that is cheap)."""
OnScoring = Callable[[int, int | None, float | None], None]
"""Told (problems judged, of how many, the share of their programs that passed); None where nobody knows."""


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


class AnswerProgress:
    """Counts answers, and averages their `quick_score`, where the benchmark has one."""

    def __init__(self, benchmark: Benchmark, on_progress: OnProgress, wanted: int) -> None:
        self._benchmark = benchmark
        self._on_progress = on_progress
        self._wanted = wanted
        self._done = 0
        self._values: list[float] = []

    def start(self, records: Iterable[SampleRecord]) -> None:
        """Count what was on file before."""
        for record in records:
            self._count(record)
        self._tell()

    def add(self, record: SampleRecord) -> None:
        """Count an answer that was just given."""
        self._count(record)
        self._tell()

    def _count(self, record: SampleRecord) -> None:
        self._done += 1
        value = None if record.failure is not None else self._benchmark.quick_score(record.answer)
        if value is not None:
            self._values.append(value)

    def _tell(self) -> None:
        score = sum(self._values) / len(self._values) if self._values else None
        self._on_progress(self._done, self._wanted, score)
