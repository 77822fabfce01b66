"""lm-eval's own scores of answers that were given elsewhere, with intervals over documents."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from opendllm.core.scoring.statistics import bootstrap_mean, bootstrap_statistic, normal_interval
from opendllm.registries.benchmarks import Answer, GeneratedText, Metric, TextLikelihood

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import LM
    from lm_eval.api.task import Task


def replaying_model(
    answers: Mapping[tuple[str, int], Sequence[Answer]], chosen: Mapping[str, Sequence[int]]
) -> LM:
    """A model for lm-eval that gives the answers on file.

    Args:
        answers: (task, document) -> its answers, in the order of its instances and their repeats.
        chosen: task -> the documents that are evaluated; lm-eval numbers them anew.
    """
    from lm_eval.api.model import LM

    waiting = {key: list(found) for key, found in answers.items()}

    def take(instance: Instance) -> Answer:
        assert instance.task_name is not None
        return waiting[(instance.task_name, chosen[instance.task_name][instance.doc_id])].pop(0)

    class Replaying(LM):
        """Says what was said before."""

        def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
            found = [take(request) for request in requests]
            return [
                (answer.log_likelihood, bool(answer.greedy))
                for answer in found
                if isinstance(answer, TextLikelihood)
            ]

        def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
            return [value for value, _ in self.loglikelihood(requests)]

        def generate_until(self, requests: list[Instance]) -> list[str]:
            found = [take(request) for request in requests]
            return [answer.text for answer in found if isinstance(answer, GeneratedText)]

    return Replaying()


def read_results(
    results: Mapping[str, Any], tasks: Mapping[str, Task]
) -> tuple[dict[str, Metric], dict[str, dict[str, float]]]:
    """Metrics with intervals over documents, and each document's own values."""
    metrics: dict[str, Metric] = {}
    per_task: dict[str, dict[str, float]] = defaultdict(dict)
    single = len(tasks) == 1
    for name, found in sorted(results["results"].items(), key=lambda item: item[0] not in tasks):
        for key, value in found.items():
            metric, comma, used_filter = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            shown = metric if used_filter == "none" else key
            whole = shown if single else f"{name}/{shown}"
            if name not in tasks:
                of_tasks = [
                    (metrics[f"{task}/{shown}"], results["n-samples"][task]["effective"])
                    for task in tasks
                    if f"{task}/{shown}" in metrics
                ]
                metrics[whole] = _of_group(float(value), of_tasks)
                continue
            items = []
            for sample in results["samples"][name]:
                if sample["filter"] == used_filter and metric in sample:
                    items.append(sample[metric])
                    if isinstance(sample[metric], bool | int | float | np.number):
                        per_task[f"{name}/{sample['doc_id']}"][shown] = float(sample[metric])
            metrics[whole] = _with_interval(float(value), items, tasks[name].aggregation().get(metric))
    for name in tasks:
        for sample in results["samples"].get(name, ()):
            per_task.setdefault(f"{name}/{sample['doc_id']}", {})
    return metrics, dict(per_task)


def _of_group(value: float, tasks: Sequence[tuple[Metric, int]]) -> Metric:
    """lm-eval's mean over tasks, by size or not, with the interval that theirs make together."""
    for sizes in ([size for _, size in tasks], [1] * len(tasks)):
        mean = sum(metric.value * size for (metric, _), size in zip(tasks, sizes, strict=True)) / sum(sizes)
        if math.isclose(mean, value, rel_tol=1e-9, abs_tol=1e-12):
            errors = [
                (metric.high - metric.low) / 2 / 1.96 * size / sum(sizes)
                for (metric, _), size in zip(tasks, sizes, strict=True)
            ]
            return normal_interval(value, math.hypot(*errors))
    return Metric(value, math.nan, math.nan)


def _with_interval(
    value: float, items: Sequence[Any], aggregate: Callable[[Sequence[Any]], float] | None
) -> Metric:
    """lm-eval's own value, and the interval of resampling the documents."""
    if all(isinstance(item, bool | int | float | np.number) for item in items):
        plain = bootstrap_mean([float(item) for item in items])
        if math.isclose(plain.value, value, rel_tol=1e-9, abs_tol=1e-12):
            return Metric(value, min(plain.low, value), max(plain.high, value))
    assert aggregate is not None
    return bootstrap_statistic(items, aggregate, value)


def mean_metrics(runs: Sequence[Mapping[str, Metric]]) -> dict[str, Metric]:
    """Each metric's mean over the samples; so is its interval, since they share their documents."""
    return {
        name: Metric(
            *(sum(getattr(run[name], end) for run in runs) / len(runs) for end in ("value", "low", "high"))
        )
        for name in runs[0]
        if all(name in run for run in runs)
    }
