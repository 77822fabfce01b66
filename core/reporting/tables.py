"""The report's tables as rows of text: what Markdown and HTML both show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from opendllm.core.reporting.comparisons import Comparison
from opendllm.core.reporting.formatting import MISSING, count, interval, number, signed, text
from opendllm.core.reporting.records import Curve, Estimate, Study, Variant
from opendllm.core.reporting.repeats import Contender, best, contenders

Mark = Literal["best", "better", "worse"]


@dataclass(frozen=True)
class Cell:
    """A value; `detail` is the smaller print beside it."""

    value: str
    detail: str = ""
    mark: Mark | None = None


@dataclass(frozen=True)
class Table:
    """Rows of as many cells as the header has; the first `names` columns are words, the others numbers."""

    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    names: int = 1


@dataclass(frozen=True)
class MetricTable:
    """One benchmark's scores."""

    benchmark: str
    table: Table


def score_tables(study: Study) -> tuple[MetricTable, ...]:
    """Variants by headline metrics, a table for each benchmark."""
    return tuple(
        MetricTable(name, _metric_table(study, name, study.headline(name))) for name in study.benchmarks
    )


def other_metric_tables(study: Study) -> tuple[MetricTable, ...]:
    """The metrics that are not in the headline, of the benchmarks that have any."""
    others = {
        name: [metric for metric in study.metrics(name) if metric not in study.headline(name)]
        for name in study.benchmarks
    }
    return tuple(
        MetricTable(name, _metric_table(study, name, metrics)) for name, metrics in others.items() if metrics
    )


def variant_table(study: Study) -> Table:
    """What was compared."""
    header = ("variant", "backbone", "objective", "sampler", "parameters", "seed")
    rows = [
        _row(
            variant.label,
            text(variant.backbone),
            text(variant.objective),
            text(variant.sampler),
            count(variant.parameters),
            MISSING if variant.seed is None else str(variant.seed),
        )
        for variant in study.variants
    ]
    return Table(header, tuple(rows), names=4)


def training_table(study: Study) -> Table:
    """How each variant was trained; losses are those of the first and the last step logged."""
    header = (
        "variant",
        "trained in",
        "digest",
        "steps",
        "tokens",
        "tokens/s",
        "training loss",
        "held-out loss",
    )
    return Table(header, tuple(_training_row(variant) for variant in study.variants), names=3)


def speed_table(study: Study) -> Table:
    """How fast each benchmark's answers were written."""
    header = ("variant", "benchmark", "tokens/s", "forward passes", "seconds")
    rows = []
    for benchmark in study.benchmarks:
        for variant in study.variants:
            result = variant.benchmarks.get(benchmark)
            speed = result.speed if result else None
            rows.append(
                _row(
                    variant.label,
                    benchmark,
                    number(speed.tokens_per_second if speed else None),
                    count(speed.forward_passes if speed else None),
                    number(speed.seconds if speed else None),
                )
            )
    return Table(header, tuple(rows), names=2)


def comparison_table(comparisons: Sequence[Comparison]) -> Table:
    """Paired differences from the first variant."""
    header = ("variant", "benchmark", "metric", "verdict", "difference", "McNemar p", "tasks")
    rows = [
        (
            *_row(comparison.variant, comparison.benchmark, comparison.metric),
            Cell(comparison.verdict, mark=None if comparison.verdict == "undecided" else comparison.verdict),
            Cell(signed(comparison.difference), interval(comparison.low, comparison.high)),
            Cell(number(comparison.mcnemar_p)),
            Cell(count(comparison.tasks)),
        )
        for comparison in comparisons
    ]
    return Table(header, tuple(rows), names=4)


def plugin_table(study: Study) -> Table:
    """Every plugin that some variant used, and the package that brought it."""
    versions: dict[str, dict[str, None]] = {}
    for variant in study.variants:
        for plugin, package in variant.plugins.items():
            versions.setdefault(plugin, {})[package] = None
    rows = [_row(plugin, "; ".join(packages)) for plugin, packages in sorted(versions.items())]
    return Table(("plugin", "package"), tuple(rows), names=2)


def notes(study: Study) -> tuple[str, ...]:
    """What is to be known when reading the numbers, each note once."""
    found = [note for benchmark in study.benchmarks for note in _benchmark_notes(study, benchmark)]
    quoted: dict[str, dict[str, None]] = {}
    for figures in study.published:
        if figures.benchmark in study.benchmarks:
            quoted.setdefault(figures.source, {})[figures.model] = None
    found += [f"published figures of {', '.join(models)}: {source}" for source, models in quoted.items()]
    found += [
        f"{variant.label}: {variant.training.unreadable_lines} lines of its train.jsonl could not be read"
        for variant in study.variants
        if variant.training and variant.training.unreadable_lines
    ]
    found += [
        f"{variant.label}: its losses are no numbers from step {variant.training.lost_from} on: its weights "
        f"are lost"
        for variant in study.variants
        if variant.training and variant.training.lost_from is not None
    ]
    found += [
        f"{variant.label}: its training was extended from step {start} to {total}, with the learning-rate "
        f"schedule of {total} steps from there on"
        for variant in study.variants
        for start, total in variant.extended
    ]
    return tuple(dict.fromkeys(found))


def _benchmark_notes(study: Study, benchmark: str) -> Iterator[str]:
    """Each with the variants whose result says it, where not all of them do."""
    with_result = [variant for variant in study.variants if benchmark in variant.benchmarks]
    saying: dict[str, list[str]] = {}
    for variant in with_result:
        for note in dict.fromkeys(variant.benchmarks[benchmark].notes):
            saying.setdefault(note, []).append(variant.label)
    for note, labels in saying.items():
        of = "" if len(labels) == len(with_result) else f" ({', '.join(labels)})"
        yield f"{benchmark}{of}: {note}"


def _row(*values: str) -> tuple[Cell, ...]:
    return tuple(Cell(value) for value in values)


def _metric_table(study: Study, benchmark: str, metrics: Sequence[str]) -> Table:
    """A row for each variant; below the seeds of a repeated one, their mean; then what was published."""
    header = ["variant"]
    for metric in metrics:
        header.append(f"{metric} {'↓' if study.lower_is_better(benchmark, metric) else '↑'}")
    winners = {metric: best(study, benchmark, metric) for metric in metrics}
    rows: list[tuple[Cell, ...]] = []
    for contender in contenders(study):
        alone = len(contender.variants) == 1
        for variant in contender.variants:
            cells = [
                _score(variant, benchmark, metric, alone and contender.name in winners[metric])
                for metric in metrics
            ]
            rows.append((Cell(variant.label), *cells))
        if not alone:
            means = [
                _seed_mean(contender, benchmark, metric, contender.name in winners[metric])
                for metric in metrics
            ]
            rows.append((Cell(contender.name, "mean ± sd"), *means))
    for figures in study.published:
        if figures.benchmark == benchmark and any(metric in figures.metrics for metric in metrics):
            values = [Cell(number(figures.metrics.get(metric))) for metric in metrics]
            rows.append((Cell(figures.model, "published"), *values))
    return Table(tuple(header), tuple(rows))


def _score(variant: Variant, benchmark: str, metric: str, is_best: bool) -> Cell:
    result = variant.benchmarks.get(benchmark)
    estimate = result.metrics.get(metric, Estimate(None)) if result else Estimate(None)
    return Cell(number(estimate.value), interval(estimate.low, estimate.high), "best" if is_best else None)


def _seed_mean(contender: Contender, benchmark: str, metric: str, is_best: bool) -> Cell:
    mean = contender.seed_mean(benchmark, metric)
    if mean is None:
        return Cell(MISSING)
    return Cell(
        f"{number(mean.mean)} ± {number(mean.standard_deviation)}",
        f"({mean.seeds} seeds)",
        "best" if is_best else None,
    )


def _training_row(variant: Variant) -> tuple[Cell, ...]:
    training = variant.training
    shared = variant.trained_in or (variant.label if training else None)
    digest = text(variant.training_digest and variant.training_digest[:12])
    if training is None:
        return _row(variant.label, text(shared), digest, *[MISSING] * 5)
    return _row(
        variant.label,
        text(shared),
        digest,
        count(training.steps),
        count(training.tokens),
        count(training.tokens_per_second),
        _from_to(training.loss, training.lost_from),
        _from_to(training.held_out_loss, training.lost_from),
    )


def _from_to(curve: Curve, lost_from: int | None) -> str:
    """The first and the last value; no last one where the weights were lost after it."""
    if not curve:
        return MISSING
    return f"{number(curve[0][1])} → {MISSING if lost_from is not None else number(curve[-1][1])}"
