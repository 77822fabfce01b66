"""Losses and scores as Plotly figures in plain data: nothing here needs Plotly itself.

Colours of text and background are left to the page, which knows whether it is light or dark.
"""

from __future__ import annotations

import html
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opendllm.core.foundation.visible_text import visible
from opendllm.core.reporting.chart_text import described, values_table
from opendllm.core.reporting.formatting import score
from opendllm.core.reporting.published_figures import published_rows
from opendllm.core.reporting.records import Curve, Estimate, Study, TrainingLog
from opendllm.core.reporting.repeats import contenders
from opendllm.core.reporting.tables import Table

PALETTE = ("#4c8bf5", "#e8833a", "#2fa37c", "#c94f9b", "#8f6ee0", "#b8901f", "#1ea7bd", "#dc5555")
"""Readable on white and on black."""
MOST_POINTS = 500
BAR_HEIGHT, BAR_MARGIN = 34, 50
LINES_HEIGHT, LEGEND_ROW = 300, 19
SMOOTHED_FROM = 20
"""Points of a training loss."""
LOGARITHMIC_FROM = 8
"""How many times its smallest value a loss's largest one is."""
HOLLOW, EDGE = "rgba(128,128,128,0.12)", "rgba(128,128,128,0.9)"


@dataclass(frozen=True)
class Chart:
    """A figure, and what a reader who can't see it is told."""

    title: str
    height: int
    figure: Mapping[str, Any]

    @property
    def label(self) -> str:
        """What a screen reader reads."""
        return f"{self.title}. {described(self.figure)}."

    @property
    def values(self) -> Table:
        """The numbers; empty of bars."""
        return values_table(self.figure)


def held_out_chart(study: Study) -> Chart | None:
    """Held-out loss of every training run; None where none was measured."""
    traces = [
        curve_trace(training.held_out_loss, name, {"color": colour, "width": 2.5}, "lines+markers")
        for name, colour, training in training_runs(study)
        if training.held_out_loss
    ]
    return _loss_chart("Held-out loss by training step, in nats a token", traces)


def training_chart(study: Study) -> Chart | None:
    """Training loss of every run, smoothed, over the losses themselves; None where nothing was trained."""
    traces: list[dict[str, Any]] = []
    for name, colour, training in training_runs(study):
        if len(training.loss) > SMOOTHED_FROM:
            raw = curve_trace(training.loss, name, {"color": colour, "width": 1}, "lines")
            traces.append({**raw, "opacity": 0.25, "showlegend": False, "hoverinfo": "skip"})
        if training.loss:
            traces.append(curve_trace(smoothed(training.loss), name, {"color": colour, "width": 2}, "lines"))
    return _loss_chart("Training loss by step, smoothed; each objective's own", traces)


def smoothed(curve: Curve) -> Curve:
    """An exponential moving average over about a fortieth of the curve, without the bias of its beginning."""
    if len(curve) <= SMOOTHED_FROM:
        return curve
    keep = 1 - 1 / max(2.0, len(curve) / 40)
    total = weight = 0.0
    found = []
    for step, value in curve:
        total, weight = keep * total + value, keep * weight + 1
        found.append((step, total / weight))
    return tuple(found)


def training_runs(study: Study) -> Iterator[tuple[str, str, TrainingLog]]:
    """Each training run once, under the names of all variants that share it."""
    colours = colours_of(study)
    for variant in study.variants:
        if variant.training is not None and variant.trained_in is None:
            sharing = [other.label for other in study.variants if other.trained_in == variant.label]
            yield plain(", ".join([variant.label, *sharing])), colours[variant.label], variant.training


def _loss_chart(title: str, traces: Sequence[dict[str, Any]]) -> Chart | None:
    values = [value for trace in traces for value in trace["y"]]
    if not values:
        return None
    # On a linear axis the end of a long fall is a line along the bottom.
    wide = min(values) > 0 and max(values) > LOGARITHMIC_FROM * min(values)
    shown = sum(trace.get("showlegend", True) for trace in traces)
    layout = line_layout("step", "loss", shown)
    layout["yaxis"]["type"] = "log" if wide else "linear"
    title += "; logarithmic axis" if wide else ""
    return Chart(title, LINES_HEIGHT + LEGEND_ROW * shown, {"data": list(traces), "layout": layout})


def line_layout(x: str, y: str, lines: int) -> dict[str, Any]:
    """Axes with titles, and a legend below that takes a row a line on a phone."""
    return {
        "xaxis": {"title": {"text": plain(x)}, "automargin": True},
        "yaxis": {"title": {"text": plain(y)}, "automargin": True},
        "legend": {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0},
        "margin": {"l": 50, "r": 15, "t": 10, "b": 60 + LEGEND_ROW * lines},
        "hovermode": "closest",
        "showlegend": True,
    }


def score_charts(study: Study) -> tuple[Chart, ...]:
    """Bars with their intervals, a chart for each headline metric that has a value; published ones hollow."""
    charts = (
        _bars(study, benchmark, metric)
        for benchmark in study.benchmarks
        for metric in study.headline(benchmark)
    )
    return tuple(chart for chart in charts if chart is not None)


@dataclass(frozen=True)
class _Bar:
    label: str
    colour: str
    estimate: Estimate
    edge: float = 0.0

    @property
    def score(self) -> str:
        """As the tables have it."""
        return score(self.estimate.value, self.estimate.kind)

    @property
    def has_interval(self) -> bool:
        """One of no width would be drawn as if it were a narrow one."""
        return self.estimate.low is not None and self.estimate.low != self.estimate.high


def _bars(study: Study, benchmark: str, metric: str) -> Chart | None:
    colours = colours_of(study)
    bars = [
        _Bar(plain(variant.label), colours[variant.label], estimate)
        for variant in study.variants
        if (result := variant.benchmarks.get(benchmark)) is not None
        and (estimate := result.metrics.get(metric)) is not None
        and estimate.value is not None
    ]
    if not bars:
        return None
    for model, (figure,), disputed in published_rows(study, [(benchmark, metric)]):
        if figure is not None:
            source = f", {plain(figure.source)}" if disputed else ""
            label = f"{plain(model)} (published{source})"
            again = sum(bar.label.startswith(label) for bar in bars)
            label += f" {again + 1}" if again else ""
            bars.append(_Bar(label, HOLLOW, Estimate(figure.value), edge=1.5))
    drawn = ([bar for bar in bars if bar.has_interval == wanted] for wanted in (True, False))
    all_zero = not any(bar.estimate.value or bar.estimate.high for bar in bars)
    axis = {"automargin": True, "rangemode": "tozero", "nticks": 5}
    layout = {
        "xaxis": {**axis, "range": [0, 1]} if all_zero else axis,  # zeros have no scale of their own
        "yaxis": {
            "autorange": "reversed",
            "automargin": True,
            "type": "category",
            "categoryorder": "array",
            "categoryarray": [bar.label for bar in bars],
            "ticks": "outside",
            "ticklen": 5,
            "tickcolor": "rgba(0,0,0,0)",  # no more than a distance
            "tickmode": "array",
            "tickvals": [bar.label for bar in bars],
            # Beside the bar: in it, or at its end, the interval would cross it out.
            "ticktext": [f"{bar.label}<br>{bar.score}" for bar in bars],
        },
        "margin": {"l": 10, "r": 15, "t": 5, "b": 30},
        "bargap": 0.35,
        "barmode": "overlay",
        "showlegend": False,
    }
    direction = "less is better" if study.lower_is_better(benchmark, metric) else "more is better"
    bounds = "; ≤: upper bounds" if any(bar.estimate.kind == "upper bound" for bar in bars) else ""
    return Chart(
        f"{benchmark}: {metric} ({direction}{bounds})",
        BAR_MARGIN + BAR_HEIGHT * len(bars),
        {"data": [_bar_trace(each) for each in drawn if each], "layout": layout},
    )


def _bar_trace(bars: Sequence[_Bar]) -> dict[str, Any]:
    """Of bars that have intervals, or of bars that have none."""
    estimates = [bar.estimate for bar in bars]
    colours, edges = [bar.colour for bar in bars], [bar.edge for bar in bars]
    errors = {
        "type": "data",
        "symmetric": False,
        "array": [reach(estimate.high, estimate.value) for estimate in estimates],
        "arrayminus": [reach(estimate.value, estimate.low) for estimate in estimates],
        "thickness": 1.5,
        "width": 4,
    }
    return {
        "type": "bar",
        "orientation": "h",
        "y": [bar.label for bar in bars],
        "x": [estimate.value for estimate in estimates],
        "text": [bar.score for bar in bars],
        "textposition": "none",
        "marker": {"color": colours, "line": {"width": edges, "color": EDGE}},
        "hovertemplate": "%{text}<extra></extra>",
        **({"error_x": errors} if bars[0].has_interval else {}),
    }


def reach(upper: float | None, lower: float | None) -> float:
    """How far an error bar goes; an interval that does not hold its value has none on that side."""
    return 0.0 if upper is None or lower is None else max(0.0, upper - lower)


def curve_trace(curve: Curve, name: str, line: Mapping[str, Any], mode: str) -> dict[str, Any]:
    """A curve as Plotly has it."""
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


def colours_of(study: Study) -> dict[str, str]:
    """One colour a variant; repetitions under other seeds share it."""
    return {
        variant.label: PALETTE[index % len(PALETTE)]
        for index, contender in enumerate(contenders(study))
        for variant in contender.variants
    }


def plain(text: str) -> str:
    """Plotly reads a few HTML tags in its labels: take none of ours for one."""
    return html.escape(visible(text), quote=False)
