"""Variants that are repeated under several seeds."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from opendllm.core.reporting.records import Estimate, Study, Variant


@dataclass(frozen=True)
class SeedMean:
    """A metric over a variant's seeds; the standard deviation is the sample's (n - 1)."""

    mean: float
    standard_deviation: float
    seeds: int

    @property
    def reach(self) -> float:
        """Half the width of the 95 % interval of the mean (Student's t)."""
        return _t_quantile(self.seeds - 1) * self.standard_deviation / math.sqrt(self.seeds)


_T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""97.5 % of Student's t with 1 to 10 degrees of freedom."""


def _t_quantile(freedom: int) -> float:
    """From eleven degrees of freedom on, to a thousandth (Abramowitz and Stegun 26.7.5)."""
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

    def estimate(self, benchmark: str, metric: str) -> Estimate | None:
        """The score of a variant that isn't repeated."""
        result = self.variants[0].benchmarks.get(benchmark)
        return result.metrics.get(metric) if result and len(self.variants) == 1 else None

    def seed_mean(self, benchmark: str, metric: str) -> SeedMean | None:
        """The mean over the seeds that have a score; None unless two have."""
        values = [
            estimate.value
            for variant in self.variants
            if benchmark in variant.benchmarks
            and (estimate := variant.benchmarks[benchmark].metrics.get(metric)) is not None
            and estimate.value is not None
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

    def per_task(self, benchmark: str, metric: str) -> dict[str, float]:
        """The metric by task, averaged over the seeds that have it."""
        values: dict[str, list[float]] = {}
        for variant in self.variants:
            result = variant.benchmarks.get(benchmark)
            for task, numbers in result.per_task.items() if result else ():
                if metric in numbers:
                    values.setdefault(task, []).append(numbers[metric])
        return {task: statistics.fmean(found) for task, found in values.items()}


def contenders(study: Study) -> tuple[Contender, ...]:
    """The study's variants, repetitions taken together, in order."""
    groups: dict[str, list[Variant]] = {}
    for variant in study.variants:
        groups.setdefault(variant.group, []).append(variant)
    return tuple(
        Contender(group if len(members) > 1 else members[0].label, tuple(members))
        for group, members in groups.items()
    )
