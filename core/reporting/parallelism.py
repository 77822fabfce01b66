"""Quality against speed: the variants as points, families of settings, AUP."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from opendllm.core.reporting.records import Study, Variant

ALPHA, MOST_LOST = 3.0, 5.0
AUP_SOURCE = "d3LLM (arXiv:2601.07568): accuracy in per cent over tokens per forward pass"


@dataclass(frozen=True)
class Family:
    """Variants that differ in nothing but how they are decoded, by one sampler."""

    name: str
    variants: tuple[Variant, ...]


def accuracy_under_parallelism(
    points: Iterable[tuple[float, float]], best: float, alpha: float = ALPHA, most_lost: float = MOST_LOST
) -> float | None:
    """AUP, the weighted area under accuracy over parallelism (d3LLM, arXiv:2601.07568, and its `aup_utils`).

    rho_1 y_1 + sum of (rho_i - rho_(i-1)) (y_i W(y_i) + y_(i-1) W(y_(i-1))) / 2 over the points in order of
    rho that lose at most `most_lost` points of accuracy from the first.

    Args:
        points: (tokens per forward pass, accuracy in per cent) of each setting.
        best: y_max, the highest accuracy that any method reached.
        alpha: see `accuracy_weight`.
        most_lost: points of accuracy.

    Returns:
        None where it isn't defined: no points, or the most parallel one loses more than `most_lost`.
    """
    ordered = sorted(points, key=lambda point: point[0])
    if not ordered or best <= 0 or ordered[0][1] - ordered[-1][1] > most_lost:
        return None
    kept = [(rho, y) for rho, y in ordered if y >= ordered[0][1] - most_lost]
    weighted = [(rho, y * accuracy_weight(y, best, alpha)) for rho, y in kept]
    area = kept[0][0] * kept[0][1]
    for (rho, y), (rho_before, y_before) in zip(weighted[1:], weighted, strict=False):
        area += (rho - rho_before) * (y + y_before) / 2
    return area


def accuracy_weight(accuracy: float, best: float, alpha: float = ALPHA) -> float:
    """W(y) = min(exp(-alpha (1 - y / y_max)), 1): how much of an accuracy counts beside the best one."""
    return min(math.exp(-alpha * (1 - accuracy / best)), 1.0)


def families(study: Study, benchmark: str) -> tuple[Family, ...]:
    """Those of which a benchmark was answered at several settings."""
    groups: dict[tuple[str, str], list[Variant]] = {}
    for variant in study.variants:
        result = variant.benchmarks.get(benchmark)
        if result is not None and result.speed.tokens_a_pass is not None:
            trained = variant.trained_in or variant.label
            sampler = result.settings.get("sampler")
            name = sampler.get("name") if isinstance(sampler, dict) else variant.sampler
            groups.setdefault((trained, str(name)), []).append(variant)
    return tuple(
        Family(_shared_name(members, sampler), tuple(members))
        for (_, sampler), members in groups.items()
        if len({variant.benchmarks[benchmark].speed.tokens_a_pass for variant in members}) > 1
    )


def family_score(study: Study, benchmark: str, metric: str, family: Family) -> float | None:
    """A family's AUP; None where the metric is no share of right answers, or AUP isn't defined."""
    values = [
        estimate.value
        for result in study.results(benchmark)
        if (estimate := result.metrics.get(metric)) is not None and estimate.value is not None
    ]
    if study.lower_is_better(benchmark, metric) or not values or not 0 <= min(values) <= max(values) <= 1:
        return None
    points = [
        (result.speed.tokens_a_pass, 100 * estimate.value)
        for variant in family.variants
        if (result := variant.benchmarks.get(benchmark)) is not None
        and (estimate := result.metrics.get(metric)) is not None
        and estimate.value is not None
        and result.speed.tokens_a_pass is not None
    ]
    return accuracy_under_parallelism(points, 100 * max(values))


def _shared_name(variants: Sequence[Variant], sampler: str) -> str:
    """What the variants' names begin with, up to a whole word."""
    columns = zip(*(variant.label for variant in variants), strict=False)
    alike = itertools.takewhile(lambda letters: len(set(letters)) == 1, columns)
    shared = "".join(letters[0] for letters in alike)
    whole = shared.rstrip("0123456789.").rstrip("-_=/ ")
    return whole or sampler
