"""Quality against speed: the variants as points, families of settings, AUP."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from opendllm.core.reporting.differences import leaves
from opendllm.core.reporting.records import Study, Variant

ALPHA, MOST_LOST = 3.0, 5.0
OF_SPEED = (
    "decoder.steps",
    "decoder.block_length",
    "decoder.cache_refresh",
    "decoder.cache_delay",
    "sampler.options.",
)
"""Settings that trade quality for speed; a curve over temperatures would say something else."""
SEVERAL_ATTEMPTS = re.compile(r"pass@(?!1(?!\d))\d")
_OF_MODEL = ("training_digest",)
AUP_SOURCE = "d3LLM (arXiv:2601.07568): accuracy in per cent over tokens per forward pass"


@dataclass(frozen=True)
class Family:
    """Variants of one checkpoint and sampler that differ in nothing but one setting."""

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


@lru_cache(100)
def families(study: Study, benchmark: str) -> tuple[Family, ...]:
    """Those of which a benchmark was answered at several values of one setting, and at several speeds.

    A variant may belong to one family for each of its settings: a grid of two makes curves both ways.
    """
    groups: dict[tuple[object, ...], list[_Setting]] = {}
    for variant in study.variants:
        result = variant.benchmarks.get(benchmark)
        if result is not None and result.speed.tokens_per_forward_pass is not None:
            values = dict(
                leaves({key: value for key, value in result.settings.items() if key not in _OF_MODEL})
            )
            checkpoint = variant.training_digest or variant.trained_in or variant.label
            key = checkpoint, variant.seed, values.get("sampler.name", variant.sampler)
            groups.setdefault(key, []).append(_Setting(variant, values, result.speed.tokens_per_forward_pass))
    return tuple(family for members in groups.values() for family in _of_group(members))


@dataclass(frozen=True)
class _Setting:
    variant: Variant
    values: Mapping[str, str]
    speed: float


def _of_group(members: Sequence[_Setting]) -> Iterator[Family]:
    """The curves through the settings of one checkpoint and sampler."""
    names = dict.fromkeys(name for member in members for name in member.values)
    varying = [name for name in names if len({member.values.get(name) for member in members}) > 1]
    for varied in varying:
        if not varied.startswith(OF_SPEED) or not all(
            _is_amount(member.values.get(varied)) for member in members
        ):
            continue
        others = [name for name in varying if name != varied]
        curves: dict[tuple[str | None, ...], list[_Setting]] = {}
        for member in members:
            curves.setdefault(tuple(member.values.get(name) for name in others), []).append(member)
        for fixed, curve in curves.items():
            if len({member.speed for member in curve}) > 1:
                said = [f"{varied.rpartition('.')[2]} varied"]
                if len(curves) > 1:
                    said += [
                        f"{name.rpartition('.')[2]} {value}"
                        for name, value in zip(others, fixed, strict=True)
                    ]
                variants = tuple(member.variant for member in curve)
                yield Family(f"{_shared_name(variants)} ({', '.join(said)})", variants)


def _is_amount(value: str | None) -> bool:
    """A number, or a default that isn't spelt out."""
    if value in (None, "null"):
        return True
    try:
        return math.isfinite(float(str(value)))
    except ValueError:
        return False


def accuracy_metric(study: Study, benchmark: str) -> str | None:
    """The first headline metric, if that is a share of right answers to a single attempt: what AUP is of."""
    metric = next(iter(study.headline(benchmark)), None)
    values = [
        estimate.value
        for result in study.results(benchmark)
        if metric is not None
        and (estimate := result.metrics.get(metric)) is not None
        and estimate.value is not None
    ]
    if metric is None or study.lower_is_better(benchmark, metric) or SEVERAL_ATTEMPTS.search(metric):
        return None
    return metric if values and 0 <= min(values) <= max(values) <= 1 else None


def family_score(study: Study, benchmark: str, metric: str, family: Family) -> float | None:
    """A family's AUP; None where it isn't defined."""
    best = max(
        estimate.value
        for result in study.results(benchmark)
        if (estimate := result.metrics.get(metric)) is not None and estimate.value is not None
    )
    points = [
        (result.speed.tokens_per_forward_pass, 100 * estimate.value)
        for variant in family.variants
        if (result := variant.benchmarks.get(benchmark)) is not None
        and (estimate := result.metrics.get(metric)) is not None
        and estimate.value is not None
        and result.speed.tokens_per_forward_pass is not None
    ]
    return accuracy_under_parallelism(points, 100 * best)


def undefined(study: Study, benchmark: str, metric: str) -> str:
    """Why a family has no AUP."""
    values = [
        estimate.value or 0.0
        for result in study.results(benchmark)
        if (estimate := result.metrics.get(metric)) is not None
    ]
    return f"loses over {MOST_LOST:g} points" if max(values, default=0.0) > 0 else "nothing right"


def _shared_name(variants: Sequence[Variant]) -> str:
    """What the variants' names begin with, up to a whole word; else the first one's."""
    columns = zip(*(variant.label for variant in variants), strict=False)
    alike = itertools.takewhile(lambda letters: len(set(letters)) == 1, columns)
    shared = "".join(letters[0] for letters in alike)
    return shared.rstrip("0123456789.").rstrip("-_=/ ") or variants[0].label
