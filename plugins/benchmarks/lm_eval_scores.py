"""lm-eval's own scores of answers that were given elsewhere, with intervals over documents."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from opendllm.core.scoring.statistics import bootstrap_mean, bootstrap_statistic, normal_interval
from opendllm.registries.benchmarks import (
    Answer,
    GeneratedText,
    Metric,
    MetricKind,
    TextLikelihood,
)

if TYPE_CHECKING:
    from lm_eval.api.group import Group
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import LM
    from lm_eval.api.task import Task


OF_LIKELIHOODS = ("perplexity", "weighted_perplexity", "bits_per_byte")
"""lm-eval's aggregations that grow as likelihoods fall: of lower bounds they make upper ones."""
ENDS = ("value", "low", "high")


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
    results: Mapping[str, Any],
    tasks: Mapping[str, Task],
    groups: Mapping[str, Group],
    failed: Mapping[str, Sequence[int]],
    likelihoods: MetricKind,
) -> tuple[dict[str, Metric], dict[str, dict[str, float]]]:
    """Metrics with intervals over documents, and each document's own values.

    Args:
        results: what `lm_eval.evaluate` returned.
        tasks: by name.
        groups: by name; those within them are found.
        failed: task -> documents that couldn't be answered. They count as 0 in every mean of which more is
            better; of other metrics nobody can say what they would be, so those are of the others.
        likelihoods: what a perplexity made of the answers is.
    """
    metrics: dict[str, Metric] = {}
    per_task: dict[str, dict[str, float]] = defaultdict(dict)
    single = len(tasks) == 1
    of_tasks: dict[str, dict[str, tuple[Metric, int]]] = defaultdict(dict)
    inner = {group.name: group for outer in groups.values() for group in [outer, *outer.get_all_groups()]}
    for name, found in sorted(results["results"].items(), key=lambda item: item[0] not in tasks):
        for key, value in found.items():
            metric, comma, used_filter = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            shown = metric if used_filter == "none" else key
            whole = shown if single else f"{name}/{shown}"
            if name not in tasks:
                metrics[whole] = _of_group(inner[name], metric, used_filter, of_tasks[key])
                continue
            found_samples = [
                sample
                for sample in results["samples"][name]
                if sample["filter"] == used_filter and metric in sample
            ]
            items = [sample[metric] for sample in found_samples]
            wrong: Sequence[int] = ()
            if _is_mean(items, value):
                # What isn't a mean (e to the power of one, say) has no number of its own for a document.
                for sample in found_samples:
                    per_task[f"{name}/{sample['doc_id']}"][shown] = float(sample[metric])
                if tasks[name].higher_is_better().get(metric):
                    wrong = failed.get(name, ())
            for document in wrong:
                per_task[f"{name}/{document}"][shown] = 0.0
            of_all = float(value) * len(items) / (len(items) + len(wrong)) if wrong else float(value)
            items += [0.0] * len(wrong)
            aggregate = tasks[name].aggregation().get(metric)
            kind = likelihoods if getattr(aggregate, "__name__", "") in OF_LIKELIHOODS else "estimate"
            metrics[whole] = replace(_with_interval(of_all, items, aggregate), kind=kind)
            size = results["n-samples"][name]["effective"] + len(failed.get(name, ()))
            of_tasks[key][name] = metrics[whole], size
    for name in tasks:
        asked = [*(sample["doc_id"] for sample in results["samples"].get(name, ())), *failed.get(name, ())]
        for document in asked:
            per_task.setdefault(f"{name}/{document}", {})
    return metrics, dict(per_task)


def _of_group(
    group: Group, metric: str, used_filter: str, of_tasks: Mapping[str, tuple[Metric, int]]
) -> Metric:
    """lm-eval's mean over a group's tasks, with the interval that theirs make together.

    Args:
        group: says whether larger tasks weigh more.
        metric: its name.
        used_filter: the filter's.
        of_tasks: task -> the metric there, and its number of documents.
    """
    configured = next(
        wanted
        for wanted in group.aggregate_metric_list or ()
        if wanted.metric == metric and used_filter in (wanted.filter_list or [used_filter])
    )
    found = [of_tasks[task.task_name] for task in group.get_all_tasks() if task.task_name in of_tasks]
    weights = [size if configured.weight_by_size else 1 for _, size in found]
    shares = [weight / sum(weights) for weight in weights]
    mean = sum(share * of_task.value for share, (of_task, _) in zip(shares, found, strict=True))
    errors = [
        share * (of_task.high - of_task.low) / 2 / 1.96
        for share, (of_task, _) in zip(shares, found, strict=True)
    ]
    kinds = {of_task.kind for of_task, _ in found}
    kind = kinds.pop() if len(kinds) == 1 else "estimate"
    return replace(normal_interval(mean, math.hypot(*errors)), kind=kind)


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
        name: replace(
            runs[0][name],
            **{end: sum(getattr(run[name], end) for run in runs) / len(runs) for end in ENDS},
        )
        for name in runs[0]
        if all(name in run for run in runs)
    }
