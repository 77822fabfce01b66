"""Differences on the same tasks: whether they are more than chance, and their intervals."""

from __future__ import annotations

import math
import operator
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

NORMAL_QUANTILE = 1.96
RESAMPLES, MOST_TASKS_RESAMPLED = 2000, 200
MOST_FLIPPED_EXACTLY, MOST_FLIPPED, DRAWS = 13, 500, 10_000
LARGEST_EXPONENT = 700.0
DIGITS = 12
"""After the point: means over seeds that are equal differ behind them."""
KEPT = 500
"""Results: each is asked for by several tables."""

Test = Literal["McNemar", "sign flips"]
Totals = tuple[float, float, float, float]
"""Of a task: numerator and denominator of the first variant, then of the second."""


@dataclass(frozen=True)
class PairedTasks:
    """What two variants gave on the tasks that both answered.

    Attributes:
        tasks: at least one; denominators are above 0, and 1 of a mean.
        exponential: whether the metric is e to the power of the ratio of totals.
    """

    tasks: tuple[Totals, ...]
    exponential: bool = False

    @property
    def difference(self) -> float:
        """The second's metric minus the first's."""
        return _difference([math.fsum(column) for column in zip(*self.tasks, strict=True)], self.exponential)

    @cached_property
    def p_value(self) -> float:
        """Of `test`: flipped is what a task adds to the numerator beyond its share of the denominator."""
        numerators = math.fsum(task[0] + task[2] for task in self.tasks)
        whole = numerators / math.fsum(task[1] + task[3] for task in self.tasks)
        return sign_flip_p(
            tuple((task[2] - task[0]) - whole * (task[3] - task[1]) for task in self.tasks),
        )

    @property
    def test(self) -> Test:
        """McNemar's where every task is passed or failed."""
        simple = all(
            task[place] in (0, 1) and task[place + 1] == 1 for task in self.tasks for place in (0, 2)
        )
        return "McNemar" if simple and not self.exponential else "sign flips"

    @property
    def interval(self) -> tuple[float, float]:
        """The difference's 95 % interval over tasks; too narrow where few differ, it decides nothing."""
        return _interval(self.tasks, self.exponential)


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
        return mcnemar_exact(sum(each < 0 for each in nonzero), sum(each > 0 for each in nonzero))
    total = abs(math.fsum(nonzero))
    if len(nonzero) > MOST_FLIPPED:
        deviation = math.sqrt(math.fsum(each * each for each in nonzero))
        return min(1.0, 2 * statistics.NormalDist().cdf((min(sizes) - total) / deviation))
    as_far = total * (1 - 1e-9)
    if len(nonzero) <= MOST_FLIPPED_EXACTLY:
        sums = _all_flips(nonzero)
        return sum(abs(each) >= as_far for each in sums) / len(sums)
    return (1 + sum(abs(each) >= as_far for each in _drawn_flips(nonzero))) / (DRAWS + 1)


def _all_flips(values: Sequence[float]) -> list[float]:
    """Their sum under each of the 2^n choices of signs."""
    sums = [0.0]
    for value in values:
        sums = [each + value for each in sums] + [each - value for each in sums]
    return sums


def _drawn_flips(values: Sequence[float]) -> list[float]:
    """Their sum under drawn choices of signs: a random byte chooses those of eight of them."""
    eights = [_all_flips(values[start : start + 8]) for start in range(0, len(values), 8)]
    sums = [table * (256 // len(table)) for table in eights]
    generator = random.Random(0)  # noqa: S311 (no secret: a report made twice is the same)
    return [sum(map(operator.getitem, sums, generator.randbytes(len(sums)))) for _ in range(DRAWS)]


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
def _interval(tasks: tuple[Totals, ...], exponential: bool) -> tuple[float, float]:
    """The 2.5th and 97.5th percentile of 2000 resamples; of many tasks, the normal limit of those."""
    size = len(tasks)
    if size > MOST_TASKS_RESAMPLED:
        error = NORMAL_QUANTILE * statistics.stdev(_influences(tasks, exponential)) / math.sqrt(size)
        difference = PairedTasks(tasks, exponential).difference
        return difference - error, difference + error
    generator = random.Random(0)  # noqa: S311
    found = sorted(
        _difference(
            [sum(column) for column in zip(*generator.choices(tasks, k=size), strict=True)], exponential
        )
        for _ in range(RESAMPLES)
    )
    return _quantile(found, 0.025), _quantile(found, 0.975)


def _difference(totals: Sequence[float], exponential: bool) -> float:
    before, after = totals[0] / totals[1], totals[2] / totals[3]
    return _power(after) - _power(before) if exponential else after - before


def _power(exponent: float) -> float:
    """e to it; a broken file's isn't to end the report."""
    return math.exp(min(exponent, LARGEST_EXPONENT))


def _influences(tasks: Sequence[Totals], exponential: bool) -> list[float]:
    """How far each task moves the difference, times their number (the delta method)."""
    found = [0.0] * len(tasks)
    for place, sign in ((0, -1), (2, 1)):
        of = math.fsum(task[place + 1] for task in tasks)
        ratio = math.fsum(task[place] for task in tasks) / of
        scale = sign * (_power(ratio) if exponential else 1.0) * len(tasks) / of
        found = [
            moved + scale * (task[place] - ratio * task[place + 1])
            for moved, task in zip(found, tasks, strict=True)
        ]
    return found


def _quantile(ordered: Sequence[float], share: float) -> float:
    rank = share * (len(ordered) - 1)
    below, above = math.floor(rank), math.ceil(rank)
    return ordered[below] + (rank - below) * (ordered[above] - ordered[below])
