"""Differences on the same tasks: whether they are more than chance, and their intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from functools import lru_cache

NORMAL_QUANTILE = 1.96
MOST_TASKS_RESAMPLED = 200
MOST_FLIPPED_EXACTLY, MOST_FLIPPED, DRAWS = 13, 2000, 10_000
AT_ONCE = 1_000_000
"""Signs in memory at a time."""
DIGITS = 12
"""After the point: means over seeds that are equal differ behind them."""
KEPT = 500
"""Results: each is asked for by several tables."""


@lru_cache(KEPT)
def sign_flip_p(differences: tuple[float, ...]) -> float:
    """The two-sided p-value of their mean, if each could as well have the other sign (Fisher, 1935).

    That is, if it made no difference which of two variants gave which answer to a task. Exact where all are
    as large (McNemar's test) or 13 at most aren't 0, over 10,000 drawn flips of up to 2000, and of more the
    normal limit with its continuity correction. Fewer than six that aren't 0 never come below 5 %
    (2 * 0.5^5 > 0.05).

    Args:
        differences: one a task.
    """
    nonzero = [rounded for each in differences if (rounded := round(each, DIGITS))]
    sizes = {abs(difference) for difference in nonzero}
    if len(sizes) <= 1:
        return mcnemar_exact(
            sum(each < 0 for each in nonzero),
            sum(each > 0 for each in nonzero),
        )
    if len(nonzero) > MOST_FLIPPED:
        reach = abs(math.fsum(nonzero)) - min(sizes)
        deviation = math.sqrt(math.fsum(each * each for each in nonzero))
        return min(1.0, 2 * statistics.NormalDist().cdf(-reach / deviation))
    return _flipped(nonzero)


def _flipped(nonzero: Sequence[float]) -> float:
    """Over all flips of few, and over as many as `DRAWS` of more."""
    import numpy as np

    values = np.asarray(nonzero)
    as_far = abs(values.sum()) * (1 - 1e-9)
    size = len(nonzero)
    if size <= MOST_FLIPPED_EXACTLY:
        flipped = (np.arange(2**size)[:, None] >> np.arange(size)) & 1
        return float((abs((1 - 2 * flipped) @ values) >= as_far).mean())
    generator = np.random.default_rng(0)  # a report made twice is the same
    rows = max(1, AT_ONCE // size)
    found = 0
    for start in range(0, DRAWS, rows):
        flipped = generator.integers(2, size=(min(rows, DRAWS - start), size), dtype=np.int8)
        found += int((abs((1 - 2 * flipped) @ values) >= as_far).sum())
    return (found + 1) / (DRAWS + 1)


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """The two-sided p-value of McNemar's exact test (Psychometrika 12, 1947; binomial form).

    Args:
        only_first: tasks that only the first one passed.
        only_second: tasks that only the second one passed.
    """
    discordant = only_first + only_second
    ways = tail = 1
    for count in range(min(only_first, only_second)):
        ways = ways * (discordant - count) // (count + 1)
        tail += ways
    return min(1.0, float(2 * tail / 2**discordant))


@lru_cache(KEPT)
def paired_interval(differences: tuple[float, ...]) -> tuple[float, float, float]:
    """Mean, and the ends of its 95 % interval over tasks: of 2000 resamples, or the normal one of many tasks.

    It is too narrow where few tasks differ, and decides nothing: see `sign_flip_p`.

    Args:
        differences: one a task, at least one.
    """
    size = len(differences)
    if size > MOST_TASKS_RESAMPLED:
        # Over so many tasks the bootstrap is the normal interval, and would take seconds.
        mean = statistics.fmean(differences)
        error = NORMAL_QUANTILE * statistics.stdev(differences) / math.sqrt(size)
        return mean, mean - error, mean + error
    from opendllm.core.scoring.statistics import bootstrap_mean

    found = bootstrap_mean(differences)
    return found.value, found.low, found.high


Totals = tuple[float, float, float, float]
"""Of a task: numerator and denominator of the first variant, then of the second."""


@lru_cache(KEPT)
def paired_ratio_interval(tasks: tuple[Totals, ...], exponential: bool) -> tuple[float, float, float]:
    """The second variant's ratio of totals minus the first's, with its 95 % bootstrap interval over tasks.

    Args:
        tasks: at least one.
        exponential: whether it is e to the power of the ratio that is subtracted.
    """
    import numpy as np

    from opendllm.core.scoring.statistics import resampled_means

    items = np.asarray(tasks)
    means = np.concatenate([items.mean(0, keepdims=True), resampled_means(items)])
    before, after = means[:, 0] / means[:, 1], means[:, 2] / means[:, 3]
    differences = np.exp(after) - np.exp(before) if exponential else after - before
    low, high = np.quantile(differences[1:], [0.025, 0.975])
    return float(differences[0]), float(low), float(high)
