"""What others measured, as the manifests quote it: each figure once, and all that contradict each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from opendllm.core.reporting.records import Study

Column = tuple[str, str]
"""(benchmark, metric)."""


@dataclass(frozen=True)
class Figure:
    """One number of one source."""

    model: str
    benchmark: str
    metric: str
    value: float
    source: str


@lru_cache(8)
def published_figures(study: Study) -> tuple[Figure, ...]:
    """In the order of the manifests."""
    found = (
        Figure(entry.model, entry.benchmark, metric, value, entry.source)
        for run in study.runs
        for entry in run.published
        for metric, value in entry.metrics.items()
    )
    return tuple(dict.fromkeys(found))


def published_rows(
    study: Study, columns: Sequence[Column]
) -> Iterator[tuple[str, tuple[Figure | None, ...], bool]]:
    """(model, its figures by column, whether it has others besides): a row more where sources disagree."""
    by_model: dict[str, dict[Column, list[Figure]]] = {}
    for figure in published_figures(study):
        column = (figure.benchmark, figure.metric)
        if column in columns:
            by_model.setdefault(figure.model, {}).setdefault(column, []).append(figure)
    for model, found in by_model.items():
        rows = max(map(len, found.values()))
        for number in range(rows):
            figures = (found.get(column, []) for column in columns)
            yield model, tuple(each[number] if number < len(each) else None for each in figures), rows > 1
