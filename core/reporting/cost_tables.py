"""What the numbers cost: time, memory, device-hours, forward passes."""

from __future__ import annotations

from collections.abc import Callable

from opendllm.core.reporting.formatting import count, duration, memory, number
from opendllm.core.reporting.parallelism import accuracy_metric, families, family_score, undefined
from opendllm.core.reporting.records import Study, Variant
from opendllm.core.reporting.tables import Cell, Table, row


def cost_table(study: Study) -> Table:
    """Time, peak memory and device-hours of every variant; a shared training run counts once."""
    header = (
        "variant",
        "training",
        "its device-hours",
        "its peak memory",
        "evaluation",
        "device-hours in all",
        "evaluation's peak memory",
    )
    return Table(header, tuple(_cost(variant) for variant in study.variants))


def _cost(variant: Variant) -> tuple[Cell, ...]:
    training = variant.training
    own = training if variant.trained_in is None else None
    trained = own.device_seconds if own else None
    speeds = [result.speed for result in variant.benchmarks.values()]
    spent = [speed.seconds for speed in speeds if speed.seconds is not None]
    peaks = [speed.peak_memory_bytes for speed in speeds if speed.peak_memory_bytes is not None]
    evaluated = sum(spent) if spent else None
    here = None if variant.endpoint else evaluated  # on a server's devices, of which nobody knows
    total = None if trained is None and here is None else (trained or 0) + (here or 0)
    peak = training.peak_memory_bytes if training else None
    where = f"in {variant.trained_in}" if variant.trained_in else ""
    return (
        Cell(variant.label),
        _measured(own.seconds if own else None, duration, where),
        _measured(None if trained is None else trained / 3600, number),
        _measured(peak, memory),
        _measured(evaluated, duration),
        _measured(None if total is None else total / 3600, number),
        _measured(max(peaks, default=None), memory),
    )


def speed_table(study: Study) -> Table:
    """How fast each benchmark's answers were written."""
    header = (
        "variant",
        "benchmark",
        "tokens/s",
        "forward passes",
        "forward passes a text",
        "tokens a forward pass",
        "seconds",
    )
    rows = []
    for benchmark in study.benchmarks:
        for variant in study.variants:
            result = variant.benchmarks.get(benchmark)
            speed = result.speed if result else None
            rows.append(
                (
                    *row(variant.label, benchmark),
                    _measured(speed.tokens_per_second if speed else None, number),
                    _measured(speed.forward_passes if speed else None, count),
                    _measured(speed.passes_a_text if speed else None, number),
                    _measured(speed.tokens_per_forward_pass if speed else None, number),
                    _measured(speed.seconds if speed else None, number),
                )
            )
    return Table(header, tuple(rows), names=2)


def parallelism_table(study: Study) -> Table:
    """AUP of the families that were decoded at several settings."""
    header = ("family", "benchmark", "metric", "settings", "AUP")
    rows = [
        (
            *row(family.name, benchmark, metric),
            _measured(len(family.variants), count),
            _measured(score, number, "" if score is not None else undefined(study, benchmark, metric)),
        )
        for benchmark in study.benchmarks
        if (metric := accuracy_metric(study, benchmark)) is not None
        for family in families(study, benchmark)
        for score in (family_score(study, benchmark, metric, family),)
    ]
    return Table(header, tuple(rows), names=3)


def _measured(value: float | None, shown: Callable[[float | None], str], detail: str = "") -> Cell:
    return Cell(shown(value), detail, order=value)
