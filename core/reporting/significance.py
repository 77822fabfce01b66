"""What is best, where that is more than chance; and how sure a score is."""

from __future__ import annotations

from opendllm.core.reporting.comparisons import paired_interval
from opendllm.core.reporting.formatting import interval
from opendllm.core.reporting.records import BenchmarkResult, Estimate, Study
from opendllm.core.reporting.repeats import Contender, contenders

FEWEST_TASKS = 6
"""Of fewer pairs, no test at 5 % can find any difference (2 * 0.5^5 > 0.05)."""


def best(study: Study, benchmark: str, metric: str) -> str | None:
    """The contender with the best score, if it differs from every other one by more than chance.

    Where both have the metric task by task, the paired bootstrap's 95 % interval must leave out 0; else their
    own intervals must not meet. Five at 0.000 have no best, nor has a single score.
    """
    scored = [
        (value, contender)
        for contender in contenders(study)
        if (value := contender.value(benchmark, metric)) is not None
    ]
    lower = study.lower_is_better(benchmark, metric)
    scored.sort(key=lambda pair: pair[0] if lower else -pair[0])
    if len(scored) < 2 or scored[0][0] == scored[1][0]:
        return None
    first, *others = (contender for _, contender in scored)
    differs = (_differ(first, other, benchmark, metric, lower) for other in others)
    return first.name if all(differs) else None


def _differ(better: Contender, worse: Contender, benchmark: str, metric: str, lower: bool) -> bool:
    values = worse.per_task(benchmark, metric)
    differences = [
        value - values[task] for task, value in better.per_task(benchmark, metric).items() if task in values
    ]
    if differences:
        _, low, high = paired_interval(differences)
        return len(differences) >= FEWEST_TASKS and (high < 0 if lower else low > 0)
    one, other = _ends(better, benchmark, metric), _ends(worse, benchmark, metric)
    if one is None or other is None:
        return False
    return one[1] < other[0] if lower else one[0] > other[1]


def _ends(contender: Contender, benchmark: str, metric: str) -> tuple[float, float] | None:
    mean = contender.seed_mean(benchmark, metric)
    if mean is not None:
        return mean.mean - mean.reach, mean.mean + mean.reach
    estimate = contender.estimate(benchmark, metric)
    if estimate is None or estimate.low is None or estimate.high is None:
        return None
    return estimate.low, estimate.high


def certainty(result: BenchmarkResult, metric: str) -> str:
    """What stands beside a score: its interval; "exact" where there is no error; or that nothing varies.

    A bootstrap over tasks that are all alike has no width either, and is anything but exact.
    """
    estimate = result.metrics.get(metric, Estimate(None))
    if estimate.value is None or not estimate.low == estimate.value == estimate.high:
        return interval(estimate.low, estimate.high)
    values = [numbers[metric] for numbers in result.per_task.values() if metric in numbers]
    if len(values) > 1 and len(set(values)) == 1:
        return f"all {len(values)} alike"
    return "1 task" if len(values) == 1 else "exact"
