"""Differences between variants on the same tasks: a paired bootstrap's 95 % interval, McNemar's test."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from opendllm.core.reporting.records import Study
from opendllm.core.reporting.repeats import contenders

RESAMPLES = 2000
MOST_TASKS_RESAMPLED = 200
NORMAL_QUANTILE = 1.96

Verdict = Literal["better", "worse", "undecided"]


@dataclass(frozen=True)
class Comparison:
    """The mean over tasks of `variant` minus `baseline`.

    Attributes:
        tasks: how many tasks both answered.
        verdict: "undecided" where the interval holds 0.
        mcnemar_p: of the exact test, where every task is passed or failed; else None.
    """

    benchmark: str
    metric: str
    variant: str
    baseline: str
    tasks: int
    difference: float
    low: float
    high: float
    verdict: Verdict
    mcnemar_p: float | None = None


def compare(study: Study) -> tuple[Comparison, ...]:
    """Each variant against the first one, for every headline metric that is known task by task.

    Repetitions under other seeds are averaged task by task first; so the interval is that over
    tasks, not over seeds.
    """
    baseline, *others = contenders(study)
    found = []
    for benchmark in study.benchmarks:
        for metric in study.headline(benchmark):
            reference = baseline.per_task(benchmark, metric)
            for other in others:
                values = other.per_task(benchmark, metric)
                pairs = [(reference[task], values[task]) for task in reference if task in values]
                if not pairs:
                    continue
                differences = [after - before for before, after in pairs]
                mean, low, high = paired_interval(differences)
                found.append(
                    Comparison(
                        benchmark=benchmark,
                        metric=metric,
                        variant=other.name,
                        baseline=baseline.name,
                        tasks=len(differences),
                        difference=mean,
                        low=low,
                        high=high,
                        verdict=_verdict(low, high, study.lower_is_better(benchmark, metric)),
                        mcnemar_p=_mcnemar(pairs),
                    )
                )
    return tuple(found)


def paired_interval(differences: Sequence[float]) -> tuple[float, float, float]:
    """Mean, and the 2.5th and 97.5th percentile of the means of 2000 resamples.

    Args:
        differences: one a task, at least one.
    """
    mean = statistics.fmean(differences)
    size = len(differences)
    if size > MOST_TASKS_RESAMPLED:
        # Over so many tasks the bootstrap is the normal interval, and would take seconds.
        error = NORMAL_QUANTILE * statistics.stdev(differences) / math.sqrt(size)
        return mean, mean - error, mean + error
    generator = random.Random(0)  # noqa: S311 (no secret: a report made twice is the same)
    means = sorted(sum(generator.choices(differences, k=size)) / size for _ in range(RESAMPLES))
    return mean, _quantile(means, 0.025), _quantile(means, 0.975)


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """The two-sided p-value of McNemar's exact test (Psychometrika 12, 1947; binomial form).

    Args:
        only_first: tasks that only the first one passed.
        only_second: tasks that only the second one passed.
    """
    discordant = only_first + only_second
    tail = sum(math.comb(discordant, count) for count in range(min(only_first, only_second) + 1))
    return min(1.0, float(2 * tail / 2**discordant))


def _mcnemar(pairs: Sequence[tuple[float, float]]) -> float | None:
    """None where a task is neither passed nor failed but something between."""
    if any(value not in (0.0, 1.0) for pair in pairs for value in pair):
        return None
    return mcnemar_exact(
        sum(before > after for before, after in pairs), sum(after > before for before, after in pairs)
    )


def _quantile(ordered: Sequence[float], share: float) -> float:
    rank = share * (len(ordered) - 1)
    below = math.floor(rank)
    above = math.ceil(rank)
    return ordered[below] + (rank - below) * (ordered[above] - ordered[below])


def _verdict(low: float, high: float, lower_is_better: bool) -> Verdict:
    if low <= 0 <= high:
        return "undecided"
    return "better" if (high < 0) == lower_is_better else "worse"
