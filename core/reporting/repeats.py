"""Variants that are repeated under several seeds."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from functools import lru_cache

from opendllm.core.reporting.records import Estimate, Study, Variant
from opendllm.registries.benchmarks import MetricKind, TaskRatio


@dataclass(frozen=True)
class SeedMean:
    """A metric over a variant's seeds; the standard deviation is the sample's (n - 1)."""

    mean: float
    standard_deviation: float
    seeds: int


_T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""97.5 % of Student's t with 1 to 10 degrees of freedom."""


def differ_beyond_seeds(one: SeedMean, other: SeedMean) -> bool:
    """Welch's t test at 5 % (Biometrika 34, 1947), its degrees of freedom rounded down.

    Seeds that all agree have no spread, and then any difference is one.
    """
    squares = [mean.standard_deviation**2 / mean.seeds for mean in (one, other)]
    if not any(squares):
        return one.mean != other.mean
    freedom = sum(squares) ** 2 / sum(
        square**2 / (mean.seeds - 1) for square, mean in zip(squares, (one, other), strict=True)
    )
    return abs(one.mean - other.mean) > t_quantile(int(freedom)) * math.sqrt(sum(squares))


def t_quantile(freedom: int) -> float:
    """97.5 % of Student's t; from 11 degrees of freedom on to a thousandth (Abramowitz and Stegun 26.7.5)."""
    if freedom <= len(_T_QUANTILES):
        return _T_QUANTILES[freedom - 1]
    normal = statistics.NormalDist().inv_cdf(0.975)
    second = (5 * normal**5 + 16 * normal**3 + 3 * normal) / 96
    return normal + (normal**3 + normal) / (4 * freedom) + second / freedom**2


@dataclass(frozen=True)
class Contender:
    """What is compared: a variant, together with its repetitions under other seeds."""

    name: str
    variants: tuple[Variant, ...]

    def _estimates(self, benchmark: str, metric: str) -> list[Estimate]:
        results = (variant.benchmarks.get(benchmark) for variant in self.variants)
        return [result.metrics[metric] for result in results if result and metric in result.metrics]

    def estimate(self, benchmark: str, metric: str) -> Estimate | None:
        """The score of a variant that isn't repeated."""
        result = self.variants[0].benchmarks.get(benchmark)
        return result.metrics.get(metric) if result and len(self.variants) == 1 else None

    def seed_mean(self, benchmark: str, metric: str) -> SeedMean | None:
        """The mean over the seeds that have a score; None unless two have."""
        values = [
            estimate.value for estimate in self._estimates(benchmark, metric) if estimate.value is not None
        ]
        if len(values) < 2:
            return None
        return SeedMean(statistics.fmean(values), statistics.stdev(values), len(values))

    def value(self, benchmark: str, metric: str) -> float | None:
        """The number by which it is ranked."""
        mean = self.seed_mean(benchmark, metric)
        if mean is not None:
            return mean.mean
        estimate = self.estimate(benchmark, metric)
        return estimate.value if estimate else None

    def kind(self, benchmark: str, metric: str) -> MetricKind:
        """What its score is; a mean over seeds of which one is a bound is one too."""
        kinds = {estimate.kind for estimate in self._estimates(benchmark, metric)}
        return "upper bound" if "upper bound" in kinds else kinds.pop() if len(kinds) == 1 else "estimate"

    def ratio(self, benchmark: str, metric: str) -> TaskRatio | None:
        """How the metric is made of its tasks' numbers; None of a mean, and where its seeds disagree."""
        ratios = {estimate.ratio for estimate in self._estimates(benchmark, metric)}
        return ratios.pop() if len(ratios) == 1 else None

    def per_task(self, benchmark: str, name: str) -> dict[str, float]:
        """A number of `per_task` by task, averaged over the seeds that have it."""
        values: dict[str, list[float]] = {}
        for variant in self.variants:
            result = variant.benchmarks.get(benchmark)
            for task, numbers in result.per_task.items() if result else ():
                if name in numbers:
                    values.setdefault(task, []).append(numbers[name])
        return {task: statistics.fmean(found) for task, found in values.items()}


@lru_cache(8)
def contenders(study: Study) -> tuple[Contender, ...]:
    """The study's variants, repetitions taken together, in order."""
    groups: dict[str, list[Variant]] = {}
    for variant in study.variants:
        groups.setdefault(variant.group, []).append(variant)
    return tuple(
        Contender(group if len(members) > 1 else members[0].label, tuple(members))
        for group, members in groups.items()
    )
