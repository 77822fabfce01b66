"""Quality against speed, against the number of samples, against the length of the gap: Plotly figures."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from opendllm.core.reporting.figures import (
    LEGEND_ROW,
    LINES_HEIGHT,
    Chart,
    colours_of,
    line_layout,
    plain,
    reach,
)
from opendllm.core.reporting.parallelism import families
from opendllm.core.reporting.records import Estimate, Speed, Study, Variant

Axis = tuple[str, bool, Callable[[Speed], float | None]]
"""What is on it, whether less of it is better, and where it is read."""
SPEEDS: tuple[Axis, ...] = (
    ("forward passes a text", True, lambda speed: speed.passes_a_text),
    ("tokens a forward pass", False, lambda speed: speed.tokens_per_forward_pass),
    ("tokens a second", False, lambda speed: speed.tokens_per_second),
)
UNBEATEN = "not beaten in both"
PASS_AT = re.compile(r"(?P<before>.*)pass@(?P<k>\d+)(?P<after>.*)")
AT_LENGTH = re.compile(r"(?P<metric>.+)_(?:(?P<oracle>oracle)|length-(?P<length>\d+))")


def pareto_charts(study: Study) -> tuple[Chart, ...]:
    """Each benchmark's first headline metric against each measure of speed, where two variants have both."""
    charts = (
        _pareto(study, benchmark, study.headline(benchmark)[0], speed)
        for benchmark in study.benchmarks
        if study.headline(benchmark)
        for speed in SPEEDS
    )
    return tuple(chart for chart in charts if chart is not None)


def pass_at_k_charts(study: Study) -> tuple[Chart, ...]:
    """pass@k over k, a chart for each kind of it that was estimated for several k."""
    return _metric_charts(study, _pass_at_k, "k", "log")


def length_charts(study: Study) -> tuple[Chart, ...]:
    """Infilling by the number of masks, a chart for each metric that was measured at several lengths.

    What is only counted, such as empty answers, has none: of that, less is better.
    """
    return _metric_charts(study, _at_length, "masks", "category")


def have_frontier(charts: Sequence[Chart]) -> bool:
    """Whether any of them has the line of what nothing beats."""
    return any(trace["name"] == UNBEATEN for chart in charts for trace in chart.figure["data"])


def frontier(points: Sequence[tuple[float, float]], less_x: bool, less_y: bool) -> list[tuple[float, float]]:
    """The points that no other one equals or beats in both, in order of x."""
    signs = (1 if less_x else -1, 1 if less_y else -1)
    kept: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda point: (signs[0] * point[0], signs[1] * point[1])):
        if not kept or signs[1] * y < signs[1] * kept[-1][1]:
            kept.append((x, y))
    return sorted(kept)


def _pareto(study: Study, benchmark: str, metric: str, axis: Axis) -> Chart | None:
    name, less_x, read = axis
    points: dict[str, tuple[float, Estimate]] = {}
    for variant in study.variants:
        result = variant.benchmarks.get(benchmark)
        estimate = result.metrics.get(metric) if result else None
        speed = read(result.speed) if result else None
        if estimate is not None and estimate.value is not None and speed:
            points[variant.label] = (speed, estimate)
    if len(points) < 2:
        return None
    colours = colours_of(study)
    values = {label: (x, estimate.value or 0.0) for label, (x, estimate) in points.items()}
    unbeaten = frontier(list(values.values()), less_x, study.lower_is_better(benchmark, metric))
    traces = [_line(UNBEATEN, unbeaten)] if len(unbeaten) > 1 else []
    for family in families(study, benchmark):
        labels = [variant.label for variant in family.variants if variant.label in values]
        if len(labels) > 1:
            by_speed = sorted(values[label] for label in labels)
            traces.append(_line(plain(family.name), by_speed, colours[labels[0]], "solid"))
    traces += [_point(plain(label), x, estimate, colours[label]) for label, (x, estimate) in points.items()]
    layout = line_layout(f"{name} ({'less' if less_x else 'more'} is better)", metric, len(traces))
    return Chart(
        f"{benchmark}: {metric} against {name}",
        LINES_HEIGHT + LEGEND_ROW * len(traces),
        {"data": traces, "layout": layout},
    )


def _line(
    name: str, points: Sequence[tuple[float, float]], colour: str = "rgba(128,128,128,0.8)", dash: str = "dot"
) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": [x for x, _ in points],
        "y": [y for _, y in points],
        "line": {"color": colour, "width": 1.5, "dash": dash},
        "hoverinfo": "skip",
    }


def _point(name: str, x: float, estimate: Estimate, colour: str) -> dict[str, Any]:
    errors = {
        "type": "data",
        "symmetric": False,
        "array": [reach(estimate.high, estimate.value)],
        "arrayminus": [reach(estimate.value, estimate.low)],
        "thickness": 1,
        "width": 3,
    }
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [x],
        "y": [estimate.value],
        "marker": {"color": colour, "size": 9},
        "hovertemplate": "%{x:.4g}: %{y:.4g}",
        **({} if estimate.low == estimate.high else {"error_y": errors}),
    }


Place = tuple[float, str, str]
"""(where a metric stands on the axis, what the axis says there, the metric)."""


def _pass_at_k(metric: str) -> tuple[str, Place] | None:
    match = PASS_AT.fullmatch(metric)
    if match is None:
        return None
    return f"{match['before']}pass@k{match['after']}", (float(match["k"]), match["k"], metric)


def _at_length(metric: str) -> tuple[str, Place] | None:
    match = AT_LENGTH.fullmatch(metric)
    if match is None:
        return None
    if match["oracle"]:
        return match["metric"], (float("inf"), "oracle", metric)
    return match["metric"], (float(match["length"]), match["length"], metric)


def _metric_charts(
    study: Study, placed: Callable[[str], tuple[str, Place] | None], axis: str, kind: str
) -> tuple[Chart, ...]:
    """A chart for each title that `placed` gives to several metrics."""
    charts = []
    for benchmark in study.benchmarks:
        by_title: dict[str, list[Place]] = {}
        metrics = (name for name in study.metrics(benchmark) if not study.lower_is_better(benchmark, name))
        for title, place in filter(None, map(placed, metrics)):
            by_title.setdefault(title, []).append(place)
        for title, places in by_title.items():
            if len(places) > 1:
                layout = line_layout(axis, title, len(study.variants))
                layout["xaxis"] |= _ticks(kind, sorted(places))
                layout["yaxis"]["rangemode"] = "tozero"
                charts.append(_metric_chart(study, benchmark, f"{title} by {axis}", sorted(places), layout))
    return tuple(chart for chart in charts if chart is not None)


def _ticks(kind: str, places: Sequence[Place]) -> dict[str, Any]:
    labels = [label for _, label, _ in places]
    if kind == "category":
        return {"type": kind, "categoryorder": "array", "categoryarray": labels}
    return {
        "type": kind,
        "tickmode": "array",
        "tickvals": [place for place, _, _ in places],
        "ticktext": labels,
    }


def _metric_chart(
    study: Study, benchmark: str, title: str, places: Sequence[Place], layout: Mapping[str, Any]
) -> Chart | None:
    colours = colours_of(study)
    by_label = layout["xaxis"]["type"] == "category"
    traces = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": plain(variant.label),
            "x": [label if by_label else place for place, label, _ in measured],
            "y": [value for _, _, value in measured],
            "line": {"color": colours[variant.label]},
            "hovertemplate": "%{x}: %{y:.4g}",
        }
        for variant in study.variants
        if (measured := list(_measured(variant, benchmark, places)))
    ]
    if not traces:
        return None
    height = LINES_HEIGHT + LEGEND_ROW * len(traces)
    if not any(value for trace in traces for value in trace["y"]):
        layout = {
            **layout,
            "yaxis": {**layout["yaxis"], "range": [0, 1]},
        }  # a line at 0 has no scale of its own
    return Chart(f"{benchmark}: {title}", height, {"data": traces, "layout": layout})


def _measured(
    variant: Variant, benchmark: str, places: Sequence[Place]
) -> Iterator[tuple[float, str, float]]:
    result = variant.benchmarks.get(benchmark)
    for place, label, metric in places:
        estimate = result.metrics.get(metric) if result else None
        if estimate is not None and estimate.value is not None:
            yield place, label, estimate.value
