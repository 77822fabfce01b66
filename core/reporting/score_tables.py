"""Scores: variants by metrics, and below them what was published."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from opendllm.core.reporting.formatting import MISSING, number, score
from opendllm.core.reporting.published_figures import Column, Figure, published_rows
from opendllm.core.reporting.records import Study, Variant
from opendllm.core.reporting.repeats import Contender, contenders
from opendllm.core.reporting.significance import best, certainty
from opendllm.core.reporting.tables import Cell, Table


@dataclass(frozen=True)
class MetricTable:
    """One benchmark's scores."""

    benchmark: str
    table: Table


def score_tables(study: Study) -> tuple[MetricTable, ...]:
    """Variants by headline metrics, a table for each benchmark; the best are marked."""
    return tuple(
        MetricTable(name, _table(study, [(name, metric) for metric in study.headline(name)], marked=True))
        for name in study.benchmarks
    )


def other_metric_tables(study: Study) -> tuple[MetricTable, ...]:
    """The metrics that are not in the headline, of the benchmarks that have any."""
    others = {
        name: [(name, metric) for metric in study.metrics(name) if metric not in study.headline(name)]
        for name in study.benchmarks
    }
    return tuple(
        MetricTable(name, _table(study, columns, marked=False)) for name, columns in others.items() if columns
    )


def overview_columns(study: Study) -> list[Column]:
    """Every benchmark's headline metrics."""
    return [(name, metric) for name in study.benchmarks for metric in study.headline(name)]


def overview_table(study: Study) -> Table:
    """All variants by all headline metrics; the best are marked."""
    return _table(study, overview_columns(study), marked=True)


def _table(study: Study, columns: Sequence[Column], marked: bool) -> Table:
    """A row for each variant; below the seeds of a repeated one, their mean; then what was published."""
    header = ["variant"]
    for benchmark, metric in columns:
        header.append(f"{metric} {'↓' if study.lower_is_better(benchmark, metric) else '↑'}")
    winners = {column: best(study, *column) if marked else None for column in columns}
    rows: list[tuple[Cell, ...]] = []
    for contender in contenders(study):
        alone = len(contender.variants) == 1
        for variant in contender.variants:
            won = {column: alone and contender.name == winners[column] for column in columns}
            rows.append((Cell(variant.label), *(_score(variant, column, won[column]) for column in columns)))
        if not alone:
            means = [_seed_mean(contender, column, contender.name == winners[column]) for column in columns]
            rows.append((Cell(contender.name, "mean ± sd"), *means))
    rows += [
        (Cell(model, "published"), *(_quoted(figure, disputed) for figure in figures))
        for model, figures, disputed in published_rows(study, columns)
    ]
    return Table(tuple(header), tuple(rows))


def _score(variant: Variant, column: Column, is_best: bool) -> Cell:
    benchmark, metric = column
    result = variant.benchmarks.get(benchmark)
    if result is None:
        lacks = variant.lacks(benchmark)
        return Cell(lacks or MISSING, mark="broken" if lacks else None)
    estimate = result.metrics.get(metric)
    value = estimate.value if estimate else None
    kind = estimate.kind if estimate else "estimate"
    return Cell(score(value, kind), certainty(result, metric), "best" if is_best else None, value)


def _quoted(figure: Figure | None, disputed: bool) -> Cell:
    """With its source where the model has several figures of one metric."""
    if figure is None:
        return Cell(MISSING)
    return Cell(number(figure.value), figure.source if disputed else "", order=figure.value)


def _seed_mean(contender: Contender, column: Column, is_best: bool) -> Cell:
    mean = contender.seed_mean(*column)
    if mean is None:
        return Cell(MISSING)
    return Cell(
        f"{score(mean.mean, contender.kind(*column))} ± {number(mean.standard_deviation)}",
        f"({mean.seeds} seeds)",
        "best" if is_best else None,
        mean.mean,
    )
