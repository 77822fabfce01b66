"""lm-eval's own scores of answers that were given elsewhere, with intervals over documents."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
    results: Mapping[str, Any], tasks: Mapping[str, Task], failed: Mapping[str, Sequence[int]]
) -> tuple[dict[str, Metric], dict[str, dict[str, float]]]:
    """Metrics with intervals over documents, and each document's own values.

    Args:
        results: what `lm_eval.evaluate` returned.
        tasks: by name.
        failed: task -> documents that couldn't be answered. They count as 0 in every mean of which more is
            better; of other metrics nobody can say what they would be, so those are of the others.
    """
    metrics: dict[str, Metric] = {}
    per_task: dict[str, dict[str, float]] = defaultdict(dict)
    single = len(tasks) == 1
    of_tasks: dict[str, list[_OfTask]] = defaultdict(list)
    for name, found in sorted(results["results"].items(), key=lambda item: item[0] not in tasks):
        for key, value in found.items():
            metric, comma, used_filter = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            shown = metric if used_filter == "none" else key
            whole = shown if single else f"{name}/{shown}"
            if name not in tasks:
                group = _of_group(float(value), of_tasks[shown])
                metrics |= {} if group is None else {whole: group}
                continue
            items = []
            for sample in results["samples"][name]:
                if sample["filter"] == used_filter and metric in sample:
                    items.append(sample[metric])
                    if isinstance(sample[metric], bool | int | float | np.number):
                        per_task[f"{name}/{sample['doc_id']}"][shown] = float(sample[metric])
            wrong: Sequence[int] = ()
            if _is_mean(items, value) and tasks[name].higher_is_better().get(metric):
                wrong = failed.get(name, ())
            for document in wrong:
                per_task[f"{name}/{document}"][shown] = 0.0
            of_all = float(value) * len(items) / (len(items) + len(wrong)) if wrong else float(value)
            items += [0.0] * len(wrong)
            metrics[whole] = _with_interval(of_all, items, tasks[name].aggregation().get(metric))
            size = results["n-samples"][name]["effective"]
            of_tasks[shown].append(
                _OfTask(float(value), size, metrics[whole], size + len(failed.get(name, ())))
            )
    for name in tasks:
        for sample in results["samples"].get(name, ()):
            per_task.setdefault(f"{name}/{sample['doc_id']}", {})
        for document in failed.get(name, ()):
            per_task.setdefault(f"{name}/{document}", {})
    return metrics, dict(per_task)


@dataclass(frozen=True)
class _OfTask:
    """A metric of a task of a group: lm-eval's value and size, and those with what failed counted in."""

    value: float
    size: int
    metric: Metric
    whole_size: int


def _of_group(value: float, tasks: Sequence[_OfTask]) -> Metric | None:
    """lm-eval's mean over tasks, by size or not, with the interval that theirs make together.

    What failed is counted in. None where something failed and nobody can say how lm-eval weighs the tasks.
    """
    for by_size in (True, False):
        sizes = [task.size if by_size else 1 for task in tasks]
        mean = sum(task.value * size for task, size in zip(tasks, sizes, strict=True)) / sum(sizes)
        if math.isclose(mean, value, rel_tol=1e-9, abs_tol=1e-12):
            weights = [task.whole_size if by_size else 1 for task in tasks]
            of_all = sum(
                task.metric.value * weight for task, weight in zip(tasks, weights, strict=True)
            ) / sum(weights)
            errors = [
                (task.metric.high - task.metric.low) / 2 / 1.96 * weight / sum(weights)
                for task, weight in zip(tasks, weights, strict=True)
            ]
            return normal_interval(of_all, math.hypot(*errors))
    if any(task.size != task.whole_size for task in tasks):
        return None
    return Metric(value, math.nan, math.nan)


def _is_mean(items: Sequence[Any], value: float) -> bool:
    if not items or not all(isinstance(item, bool | int | float | np.number) for item in items):
        return False
    mean = sum(float(item) for item in items) / len(items)
    return math.isclose(mean, value, rel_tol=1e-9, abs_tol=1e-12)


def _with_interval(
    value: float, items: Sequence[Any], aggregate: Callable[[Sequence[Any]], float] | None
) -> Metric:
    """The value of these items, and the interval of resampling them."""
    if _is_mean(items, value):
        plain = bootstrap_mean([float(item) for item in items])
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
