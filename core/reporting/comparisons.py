"""Which of two variants is better, where that is more than chance: one answer, for tables and stars."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from opendllm.core.reporting.paired_tests import PairedTasks
from opendllm.core.reporting.records import Study
from opendllm.core.reporting.repeats import Contender, contenders, differ_beyond_seeds

SIGNIFICANCE = 0.05
ABOUT_DIFFERENCES = (
    "over the tasks that both answered. p decides, below 5 %: of McNemar's exact test where tasks are passed "
    "or failed, else of sign flips. In brackets, the paired bootstrap's 95 % interval, which is too narrow "
    "where few tasks differ. Of several seeds, Welch's test over them must agree; where no tasks are known, "
    "it decides, or intervals that don't meet."
)

Verdict = Literal["better", "worse", "undecided"]


@dataclass(frozen=True)
class Judgement:
    """Whether a contender is better than another one in a metric.

    Attributes:
        verdict: "undecided" where the difference may be chance, or proves nothing.
        why: it is undecided, where that isn't chance over tasks.
        paired: what the tasks say; None where none in common are known.
    """

    verdict: Verdict
    why: str = ""
    paired: PairedTasks | None = None


@dataclass(frozen=True)
class Comparison:
    """`variant` minus `baseline`, and the judgement that rests on it."""

    benchmark: str
    metric: str
    variant: str
    baseline: str
    verdict: Verdict
    why: str
    paired: PairedTasks


@lru_cache(8)
def compare(study: Study) -> tuple[Comparison, ...]:
    """Each variant against the first one, for every headline metric that is known task by task."""
    baseline, *others = contenders(study)
    found = []
    for benchmark in study.benchmarks:
        for metric in study.headline(benchmark):
            for other in others:
                judged = judge(study, benchmark, metric, other, baseline)
                if judged.paired is not None:
                    names = other.name, baseline.name
                    found.append(
                        Comparison(benchmark, metric, *names, judged.verdict, judged.why, judged.paired)
                    )
    return tuple(found)


def judge(study: Study, benchmark: str, metric: str, one: Contender, other: Contender) -> Judgement:
    """Whether `one` is better than `other`.

    Over tasks that both answered: the test must come below 5 %. Where variants are repeated under several
    seeds, which are averaged task by task, Welch's test over their seeds must besides. Without tasks the
    seeds decide alone, or the intervals of both, which must not meet. A value below an upper bound proves
    nothing, unless it is one itself.
    """
    values = one.value(benchmark, metric), other.value(benchmark, metric)
    paired = _paired(benchmark, metric, one, other)
    if values[0] is None or values[1] is None:
        return Judgement("undecided", "no score", paired)
    difference = values[0] - values[1] if paired is None else paired.difference
    why = _doubt(benchmark, metric, one, other, paired)
    if why is None:
        lower, higher = (one, other) if difference < 0 else (other, one)
        kinds = lower.kind(benchmark, metric), higher.kind(benchmark, metric)
        if difference and kinds[1] == "upper bound" != kinds[0]:
            why = "a bound above a value proves nothing"
    if why is not None or difference == 0:
        return Judgement("undecided", why or "", paired)
    better = (difference < 0) == study.lower_is_better(benchmark, metric)
    return Judgement("better" if better else "worse", "", paired)


def _doubt(
    benchmark: str, metric: str, one: Contender, other: Contender, paired: PairedTasks | None
) -> str | None:
    """Why a difference may be chance; None where it isn't."""
    seeds = one.seed_mean(benchmark, metric), other.seed_mean(benchmark, metric)
    if paired is not None and paired.p_value >= SIGNIFICANCE:
        return ""
    if seeds[0] is not None and seeds[1] is not None:
        spread = seeds[0].standard_deviation or seeds[1].standard_deviation
        if not differ_beyond_seeds(seeds[0], seeds[1]) or (paired is None and not spread):
            return "within the seeds' spread"
        return None
    if seeds[0] is not None or seeds[1] is not None:
        return "one seed against several"
    if paired is not None:
        return None
    return None if _are_apart(benchmark, metric, one, other) else "intervals meet"


def _are_apart(benchmark: str, metric: str, one: Contender, other: Contender) -> bool:
    """Whether both intervals are known and don't meet; one of no width only counts where that is exact."""
    ends = []
    for contender in (one, other):
        estimate = contender.estimate(benchmark, metric)
        if estimate is None or estimate.low is None or estimate.high is None:
            return False
        if estimate.low == estimate.high and estimate.kind != "exact":
            return False
        ends.append((estimate.low, estimate.high))
    return ends[0][1] < ends[1][0] or ends[1][1] < ends[0][0]


def _paired(benchmark: str, metric: str, one: Contender, other: Contender) -> PairedTasks | None:
    """`one` minus `other`; None where no task is known of both."""
    ratio = one.ratio(benchmark, metric)
    if ratio is None or ratio != other.ratio(benchmark, metric):
        before, after = other.per_task(benchmark, metric), one.per_task(benchmark, metric)
        tasks = [(before[task], 1.0, after[task], 1.0) for task in before if task in after]
        return PairedTasks(tuple(tasks)) if tasks else None
    numbers = [
        contender.per_task(benchmark, name)
        for contender in (other, one)
        for name in (ratio.numerator, ratio.denominator)
    ]
    first, first_of, second, second_of = numbers
    tasks = [
        (first[task], first_of[task], second[task], second_of[task])
        for task in first
        if all(task in found for found in numbers) and min(first_of[task], second_of[task]) > 0
    ]
    return PairedTasks(tuple(tasks), ratio.exponential) if tasks else None
