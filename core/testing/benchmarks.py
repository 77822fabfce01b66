"""The contract of benchmarks, as tests."""

from __future__ import annotations

import math
from collections.abc import Sequence

from opendllm.core.testing.contract import PluginContract
from opendllm.registries.benchmarks import (
    Answer,
    Benchmark,
    BenchmarkContext,
    CodeExecution,
    GeneratedText,
    GenerationRequest,
    Request,
    Scores,
    TextLikelihood,
)
from opendllm.registries.corpora import Document

PROBLEMS = 6


def context(limit: int | None = PROBLEMS) -> BenchmarkContext:
    """A run with a small held-out corpus, in which the references may be executed."""
    documents = [Document(f"file{n}.py", f"def f{n}(x):\n    y = x + {n}\n    return y\n") for n in range(8)]
    return BenchmarkContext(limit, 0, 128, lambda: iter(documents), CodeExecution())


class BenchmarkContract(PluginContract):
    """Asks the same every time, and tells right answers from wrong ones."""

    kind = "benchmarks"

    def benchmark(self) -> Benchmark:
        """The plugin."""
        benchmark = self.build()
        assert isinstance(benchmark, Benchmark)
        return benchmark

    def test_it_asks_the_same_every_time(self) -> None:
        """And no two requests share task and setting."""
        first = self.benchmark().requests(context())
        assert list(first) == list(self.benchmark().requests(context()))
        keys = [(request.task_id, request.setting) for request in first]
        assert len(set(keys)) == len(keys)

    def test_it_keeps_to_the_limit(self) -> None:
        """`--limit N` means N problems, each in all its settings."""
        assert len({request.task_id for request in self.benchmark().requests(context(2))}) == 2

    def test_the_published_answers_score_best(self) -> None:
        """Right answers beat wrong ones in every headline metric: a harness that passes all is none."""
        right, wrong = self.scores(right=True), self.scores(right=False)
        benchmark = self.benchmark()
        benchmark.requests(context())  # some know only then what they measure
        shown = [name for name in benchmark.headline if name in right.metrics]
        assert shown
        for name in shown:
            better, worse = right.metrics[name].value, wrong.metrics[name].value
            if name in benchmark.lower_is_better:
                better, worse = -better, -worse
            assert better > worse, name

    def test_intervals_contain_their_values(self) -> None:
        """And every task is accounted for."""
        scores = self.scores(right=True)
        for metric in scores.metrics.values():
            assert metric.low <= metric.value <= metric.high or math.isnan(metric.value)
        tasks = {request.task_id for request in self.benchmark().requests(context())}
        assert set(scores.per_task) == tasks

    def scores(self, right: bool) -> Scores:
        """Of right answers, or of empty and unlikely ones."""
        benchmark = self.benchmark()
        return benchmark.score(answers(benchmark.requests(context()), right))


def answers(requests: Sequence[Request], right: bool) -> list[Answer]:
    """The references, or nothing; likely texts, or unlikely ones."""
    given: list[Answer] = []
    for request in requests:
        if isinstance(request, GenerationRequest):
            reference = request.reference or ""
            text = reference if right else ")"
            tokens = tuple(text.encode())
            given.append(
                GeneratedText(request.task_id, request.setting, 0, text, tokens, tuple(reference.encode()))
            )
        else:
            size = len(request.text.encode())
            nats = size * (0.5 if right else 5.0)
            given.append(TextLikelihood(request.task_id, request.setting, -nats, 0.01, size, size))
    return given
