"""What is best, where that is more than chance; and how sure a score is."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from opendllm.core.reporting.comparisons import judge
from opendllm.core.reporting.formatting import interval
from opendllm.core.reporting.records import BenchmarkResult, Estimate, Study
from opendllm.core.reporting.repeats import contenders

EXACT = "exact for these texts"
ABOUT_SCORES = (
    "what is better than every other by more than chance (5 %, see Paired differences; of one seed each, "
    "that says nothing about other trainings). Beside a score, its 95 % interval. “≤”: an upper bound, an "
    "ELBO's perplexity say, which an exact value below it doesn't beat. “exact for these texts”: no error "
    "but in their choice."
)


@lru_cache(1000)
def best(study: Study, benchmark: str, metric: str) -> str | None:
    """The contender with the best score, if it is better than every other one by more than chance.

    Five at 0.000 have no best, nor has a single score.
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
    verdicts = (judge(study, benchmark, metric, first, other).verdict for other in others)
    return first.name if all(verdict == "better" for verdict in verdicts) else None


def certainty(result: BenchmarkResult, metric: str) -> str:
    """What stands beside a score: its interval, that it is exact, or why there is no interval to show.

    No width says nothing: a bootstrap over tasks that are all alike has none either.
    """
    estimate = result.metrics.get(metric, Estimate(None))
    if estimate.value is None or not estimate.low == estimate.value == estimate.high:
        return interval(estimate.low, estimate.high)
    if estimate.kind == "exact":
        return EXACT
    return without_spread([numbers[metric] for numbers in result.per_task.values() if metric in numbers])


def without_spread(values: Sequence[float]) -> str:
    """Why an interval over tasks with these values has no width."""
    if len(values) > 1 and len(set(values)) == 1:
        return f"all {len(values)} alike"
    return "1 task" if len(values) == 1 else "no spread"
