"""The contract of benchmarks, as tests."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

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
        return self.built(Benchmark)  # type: ignore[type-abstract]

    def test_it_asks_the_same_every_time(self) -> None:
        """And no two requests share task and setting."""
        first = self.benchmark().requests(context())
        again = self.benchmark().requests(context())
        assert list(first) == list(again), (
            f"asked twice, it begins with {first[:1]} and {again[:1]}: draw with `context.seed` only"
        )
        keys = [(request.task_id, request.setting) for request in first]
        repeated = sorted({key for key in keys if keys.count(key) > 1})
        assert not repeated, f"asked more than once: {repeated[:3]}: give each request its own `setting`"

    def test_it_keeps_to_the_limit(self) -> None:
        """`--limit N` means N problems, each in all its settings."""
        tasks = {request.task_id for request in self.benchmark().requests(context(2))}
        assert len(tasks) == 2, f"with a limit of 2 it asks {len(tasks)} problems: keep to `context.limit`"

    def test_the_published_answers_score_best(self) -> None:
        """Right answers beat wrong ones in every headline metric: a harness that passes all is none."""
        right, wrong = self.scores(right=True), self.scores(right=False)
        benchmark = self.benchmark()
        benchmark.requests(context())  # some know only then what they measure
        shown = [name for name in benchmark.headline if name in right.metrics]
        assert shown, f"none of the headline {benchmark.headline} is among {sorted(right.metrics)}"
        for name in shown:
            better, worse = right.metrics[name].value, wrong.metrics[name].value
            if name in benchmark.lower_is_better:
                better, worse = -better, -worse
            assert better > worse, (
                f"{name} is {right.metrics[name].value} of the published answers and "
                f"{wrong.metrics[name].value} of wrong ones: score what is right, or say lower_is_better"
            )

    def test_scores_can_be_written_as_json(self) -> None:
        """They travel in results/BENCHMARK.json: strings, numbers, lists and mappings with string keys."""
        benchmark = self.benchmark()
        scores = benchmark.score(answers(benchmark.requests(context()), right=True))
        for name, value in (("metrics", _plain(scores.metrics)), ("per_task", _plain(scores.per_task))):
            try:
                text = json.dumps(value)
            except (TypeError, ValueError) as error:
                raise AssertionError(
                    f"`{name}` was expected to be plain JSON, and isn't: {error}: give Python's own numbers, "
                    f"`.item()` of a tensor's"
                ) from error
            assert json.loads(text) == value or "NaN" in text, (
                f"`{name}` comes back from JSON as something else: use strings as keys, and lists, no tuples"
            )

    def test_intervals_contain_their_values(self) -> None:
        """And every task is accounted for."""
        scores = self.scores(right=True)
        for name, metric in scores.metrics.items():
            inside = metric.low <= metric.value <= metric.high or math.isnan(metric.value)
            assert inside, f"{name} {metric.value} lies outside its interval {metric.low} to {metric.high}"
        tasks = {request.task_id for request in self.benchmark().requests(context())}
        missing = sorted(tasks ^ set(scores.per_task))
        assert not missing, (
            f"per_task lacks, or makes up, {missing[:5]}: give every task that was asked a line"
        )

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


def _plain(value: Any) -> Any:
    """Mappings and dataclasses as dictionaries; everything else as it is."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return value
