"""What a run that learnt from rewards came to: its curves and its table."""

from __future__ import annotations

import statistics

from opendllm.core.reporting import figures
from opendllm.core.reporting.figures import (
    LEGEND_ROW,
    LINES_HEIGHT,
    SMOOTHED_FROM,
    Chart,
    line_layout,
    smoothed,
)
from opendllm.core.reporting.formatting import MISSING, count, number
from opendllm.core.reporting.records import Curve, RewardLog, Study
from opendllm.core.reporting.tables import Table, row

REWARD_COLUMNS = (
    *("variant", "phases", "reward: first fifth → last", "spread in a group", "groups without spread"),
    *("KL", "clipped", "tokens an answer", "ended", "held-out passes"),
)


def reward_charts(study: Study) -> list[Chart]:
    """The mean reward of each phase's answers, smoothed over the rewards themselves; held-out pass rates."""
    rewards, passes = [], []
    for name, colour, training in figures.training_runs(study):
        log = training.rewards
        if log is None:
            continue
        if len(log.reward) > SMOOTHED_FROM:
            raw = figures.curve_trace(log.reward, name, {"color": colour, "width": 1}, "lines")
            rewards.append({**raw, "opacity": 0.25, "showlegend": False, "hoverinfo": "skip"})
        if log.reward:
            line = {"color": colour, "width": 2}
            rewards.append(figures.curve_trace(smoothed(log.reward), name, line, "lines"))
        if log.held_out_pass_rate:
            line = {"color": colour, "width": 2.5}
            passes.append(figures.curve_trace(log.held_out_pass_rate, name, line, "lines+markers"))
    found = [
        _chart("Mean reward of the answers by training step, smoothed", "reward", rewards),
        _chart("Held-out problems that pass, by training step", "share", passes),
    ]
    return [chart for chart in found if chart is not None]


def reward_table(study: Study) -> Table:
    """One row a training run that learnt from rewards."""
    rows = [
        row(
            name,
            count(len(training.rewards.reward)),
            _fifths(training.rewards.reward),
            _last(training.rewards.reward_deviation),
            _last(training.rewards.groups_without_spread),
            _last(training.rewards.kl),
            _last(training.rewards.clip_fraction),
            _last(training.rewards.completion_length),
            _last(training.rewards.ended),
            _ends(training.rewards),
        )
        for name, _, training in figures.training_runs(study)
        if training.rewards is not None
    ]
    return Table(REWARD_COLUMNS, tuple(rows))


def _chart(title: str, unit: str, traces: list[dict[str, object]]) -> Chart | None:
    if not traces:
        return None
    shown = sum(bool(trace.get("showlegend", True)) for trace in traces)
    layout = line_layout("step", unit, shown)
    return Chart(title, LINES_HEIGHT + LEGEND_ROW * shown, {"data": traces, "layout": layout})


def _fifths(curve: Curve) -> str:
    """The means of the first and the last fifth of the phases."""
    if not curve:
        return MISSING
    size = max(1, len(curve) // 5)
    first, last = (statistics.fmean(value for _, value in part) for part in (curve[:size], curve[-size:]))
    return f"{number(first)} → {number(last)}"


def _last(curve: Curve) -> str:
    """The mean of the last fifth."""
    if not curve:
        return MISSING
    return number(statistics.fmean(value for _, value in curve[-max(1, len(curve) // 5) :]))


def _ends(log: RewardLog) -> str:
    if not log.held_out_pass_rate:
        return MISSING
    return f"{number(log.held_out_pass_rate[0][1])} → {number(log.held_out_pass_rate[-1][1])}"
