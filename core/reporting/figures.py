"""The report's charts, as Plotly figures in plain data: nothing here needs Plotly itself.

Colours of text and background are left to the page, which knows whether it is light or dark.
"""

from __future__ import annotations

import html
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opendllm.core.reporting.records import Curve, Estimate, Study
from opendllm.core.reporting.repeats import contenders

PALETTE = ("#4c8bf5", "#e8833a", "#2fa37c", "#c94f9b", "#8f6ee0", "#b8901f", "#1ea7bd", "#dc5555")
"""Readable on white and on black."""
MOST_POINTS = 500
BAR_HEIGHT, BAR_MARGIN = 34, 50


@dataclass(frozen=True)
class Chart:
    """A figure, and what a reader who can't see it is told."""

    title: str
    height: int
    figure: Mapping[str, Any]


def training_chart(study: Study) -> Chart | None:
    """Training and held-out loss of every training run; None where nothing was trained."""
    colours = _colours(study)
    traces: list[dict[str, Any]] = []
    for variant in study.variants:
        if variant.training is None or variant.trained_in is not None:
            continue
        sharing = [other.label for other in study.variants if other.trained_in == variant.label]
        name = _plain(", ".join([variant.label, *sharing]))
        line = {"color": colours[variant.label]}
        traces.append(_curve(variant.training.loss, f"{name}: training", {**line, "width": 1}, "lines"))
        traces[-1]["opacity"] = 0.5
        traces.append(
            _curve(
                variant.training.held_out_loss,
                f"{name}: held-out",
                {**line, "width": 2.5},
                "lines+markers",
            )
        )
    traces = [trace for trace in traces if trace["x"]]
    if not traces:
        return None
    layout = {
        "xaxis": {"title": {"text": "step"}, "automargin": True},
        "yaxis": {"title": {"text": "loss"}, "automargin": True},
        "legend": {"orientation": "h", "y": -0.2, "yanchor": "top", "x": 0},
        "margin": {"l": 50, "r": 15, "t": 10, "b": 10},
        "hovermode": "closest",
    }
    legend_rows = (len(traces) + 1) // 2
    return Chart("Loss by training step", 380 + 22 * legend_rows, {"data": traces, "layout": layout})


def score_charts(study: Study) -> tuple[Chart, ...]:
    """Bars with their intervals, a chart for each headline metric that has a value."""
    charts = (
        _bars(study, benchmark, metric)
        for benchmark in study.benchmarks
        for metric in study.headline(benchmark)
    )
    return tuple(chart for chart in charts if chart is not None)


def _bars(study: Study, benchmark: str, metric: str) -> Chart | None:
    colours = _colours(study)
    bars: list[tuple[str, str, Estimate]] = []
    for variant in study.variants:
        result = variant.benchmarks.get(benchmark)
        estimate = result.metrics.get(metric) if result else None
        if estimate is not None and estimate.value is not None:
            bars.append((_plain(variant.label), colours[variant.label], estimate))
    if not bars:
        return None
    values = [estimate.value or 0.0 for _, _, estimate in bars]
    trace = {
        "type": "bar",
        "orientation": "h",
        "y": [label for label, _, _ in bars],
        "x": values,
        "marker": {"color": [colour for _, colour, _ in bars]},
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [_reach(estimate.high, estimate.value) for _, _, estimate in bars],
            "arrayminus": [_reach(estimate.value, estimate.low) for _, _, estimate in bars],
            "thickness": 1.5,
            "width": 4,
        },
        "hovertemplate": "%{x:.4g}<extra></extra>",
    }
    layout = {
        "xaxis": {"automargin": True, "rangemode": "tozero"},
        "yaxis": {"autorange": "reversed", "automargin": True, "type": "category"},
        "margin": {"l": 10, "r": 15, "t": 5, "b": 30},
        "bargap": 0.35,
    }
    direction = "less is better" if study.lower_is_better(benchmark, metric) else "more is better"
    return Chart(
        f"{benchmark}: {metric} ({direction})",
        BAR_MARGIN + BAR_HEIGHT * len(bars),
        {"data": [trace], "layout": layout},
    )


def _reach(upper: float | None, lower: float | None) -> float:
    """How far an error bar goes; an interval that does not hold its value has none on that side."""
    return 0.0 if upper is None or lower is None else max(0.0, upper - lower)


def _curve(curve: Curve, name: str, line: Mapping[str, Any], mode: str) -> dict[str, Any]:
    thinned = _thin(curve)
    return {
        "type": "scatter",
        "mode": mode,
        "name": name,
        "x": [step for step, _ in thinned],
        "y": [value for _, value in thinned],
        "line": dict(line),
        "hovertemplate": "step %{x}: %{y:.4g}",
    }


def _thin(curve: Curve) -> Sequence[tuple[int, float]]:
    """At most MOST_POINTS points, each the mean of its neighbours: the page stays small."""
    size = -(-len(curve) // MOST_POINTS)
    if size <= 1:
        return curve
    bins = (curve[start : start + size] for start in range(0, len(curve), size))
    return [(points[-1][0], statistics.fmean(value for _, value in points)) for points in bins]


def _colours(study: Study) -> dict[str, str]:
    """One colour a variant; repetitions under other seeds share it."""
    return {
        variant.label: PALETTE[index % len(PALETTE)]
        for index, contender in enumerate(contenders(study))
        for variant in contender.variants
    }


def _plain(text: str) -> str:
    """Plotly reads a few HTML tags in its labels: take none of ours for one."""
    return html.escape(text, quote=False)
