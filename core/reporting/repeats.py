"""Variants that are repeated under several seeds, and what is best among those that are not the same."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from opendllm.core.reporting.records import Estimate, Study, Variant


@dataclass(frozen=True)
class SeedMean:
    """A metric over a variant's seeds; the standard deviation is the sample's (n - 1)."""

    mean: float
    standard_deviation: float
    seeds: int


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


def best(study: Study, benchmark: str, metric: str) -> frozenset[str]:
    """Names of the contenders with the best score: several on a tie, none if there is only one score."""
    values = {
        contender.name: value
        for contender in contenders(study)
        if (value := contender.value(benchmark, metric)) is not None
    }
    if len(values) < 2:
        return frozenset()
    choose = min if study.lower_is_better(benchmark, metric) else max
    target = choose(values.values())
    return frozenset(name for name, value in values.items() if value == target)
