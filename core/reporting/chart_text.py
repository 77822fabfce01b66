"""What a chart shows, in words and as a table: for whoever can't see it, and whoever wants its numbers."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from opendllm.core.reporting.formatting import MISSING, number
from opendllm.core.reporting.tables import Cell, Table

MOST_ROWS = 12


def described(figure: Mapping[str, Any]) -> str:
    """A Plotly figure in a sentence: bars' values, points, the ends of lines."""
    parts = []
    for trace in _shown(figure):
        if trace["type"] == "bar":
            bars = zip(trace["y"], trace["text"], strict=True)
            parts += [f"{html.unescape(label)} {text}" for label, text in bars]
        else:
            ends = dict.fromkeys([(trace["x"][0], trace["y"][0]), (trace["x"][-1], trace["y"][-1])])
            said = " to ".join(f"{number(y)} at {_amount(x)}" for x, y in ends)
            parts.append(f"{_name(trace)} {said}")
    return "; ".join(parts)


def values_table(figure: Mapping[str, Any]) -> Table:
    """Lines by what is on the axis, in a dozen rows at most; points one a row; nothing of bars."""
    traces = [trace for trace in _shown(figure) if trace["type"] != "bar"]
    axes = [str(figure["layout"][axis]["title"]["text"]) for axis in ("xaxis", "yaxis")] if traces else []
    axes = [html.unescape(axis) for axis in axes]
    if all(len(trace["x"]) == 1 for trace in traces):
        points = [(trace, trace["x"][0], trace["y"][0]) for trace in traces]
        rows = [(Cell(_name(trace)), _cell(x), _cell(y)) for trace, x, y in points]
        return Table(("variant", *axes), tuple(rows))
    lines = [dict(zip(trace["x"], trace["y"], strict=True)) for trace in traces]
    labels = figure["layout"]["xaxis"].get("categoryarray")
    places = labels or sorted({x for line in lines for x in line})
    header = (axes[0], *map(_name, traces))
    chosen = _spread(places)
    return Table(header, tuple((_place(x), *(_cell(line.get(x)) for line in lines)) for x in chosen))


def _shown(figure: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Traces that have a name of their own in the legend, or bars; no guides."""
    return [
        trace
        for trace in figure["data"]
        if trace.get("showlegend", True) and trace.get("hoverinfo") != "skip" and trace["x"]
    ]


def _spread(places: Sequence[Any]) -> list[Any]:
    """The first, the last and some between them."""
    if len(places) <= MOST_ROWS:
        return list(places)
    step = (len(places) - 1) / (MOST_ROWS - 1)
    return [places[round(index * step)] for index in range(MOST_ROWS)]


def _name(trace: Mapping[str, Any]) -> str:
    return html.unescape(str(trace["name"]))


def _amount(x: float | str) -> str:
    return x if isinstance(x, str) else f"{x:,.0f}" if x == round(x) else number(x)


def _place(x: float | str) -> Cell:
    return Cell(_amount(x), order=None if isinstance(x, str) else x)


def _cell(value: float | None) -> Cell:
    return Cell(MISSING if value is None else number(value), order=value)
