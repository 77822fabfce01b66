"""Intervals beside scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from opendllm.registries.benchmarks import Metric, MetricKind, TextLikelihood

ItemT = TypeVar("ItemT")

RESAMPLES = 2000
DRAWN_AT_ONCE = 1_000_000
"""Indices in memory at a time: some benchmarks have tens of thousands of tasks."""
SLOW_RESAMPLES = 200
"""Of statistics that aren't means: some take milliseconds each."""


def bootstrap_mean(values: Sequence[float], seed: int = 0) -> Metric:
    """The mean and its 95 % percentile-bootstrap interval over tasks.

    Args:
        values: one a task.
        seed: of the resampling.
    """
    items = np.asarray(values, dtype=np.float64)
    if items.size == 0:
        return Metric(float("nan"), float("nan"), float("nan"))
    generator = np.random.default_rng(seed)
    means = np.empty(RESAMPLES)
    rows = max(1, DRAWN_AT_ONCE // items.size)
    for start in range(0, RESAMPLES, rows):
        part = slice(start, min(start + rows, RESAMPLES))
        chosen = generator.integers(items.size, size=(part.stop - start, items.size))
        means[part] = items[chosen].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Metric(float(items.mean()), float(low), float(high))


def likelihood_kind(answers: Sequence[TextLikelihood]) -> MetricKind:
    """What a perplexity, or anything else that grows as likelihoods fall, is if made of these."""
    if answers and all(answer.exact for answer in answers):
        return "exact"
    return "upper bound" if any(answer.exact is False for answer in answers) else "estimate"


def normal_interval(value: float, standard_error: float) -> Metric:
    """value plus and minus 1.96 standard errors."""
    return Metric(value, value - 1.96 * standard_error, value + 1.96 * standard_error)


def bootstrap_statistic(
    items: Sequence[ItemT], statistic: Callable[[Sequence[ItemT]], float], value: float, seed: int = 0
) -> Metric:
    """A statistic of one item a task, and its 95 % percentile-bootstrap interval.

    Args:
        items: one a task.
        statistic: of as many items.
        value: the statistic of `items` themselves.
        seed: of the resampling.
    """
    generator = np.random.default_rng(seed)
    found = [
        float(statistic([items[index] for index in generator.integers(len(items), size=len(items))]))
        for _ in range(SLOW_RESAMPLES)
    ]
    low, high = np.quantile(found, [0.025, 0.975])
    return Metric(value, min(float(low), value), max(float(high), value))
