"""Progress on a terminal: one bar for what is under way, with the course of the loss."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from opendllm.core.progress.lines import details
from opendllm.core.progress.progress import Event, Moment

SPARKS = "▁▂▃▄▅▆▇█"
POINTS = 24
"""How wide a sparkline is."""


class BarView:
    """Bars on standard error; an activity that ends leaves its bar where it had something to count."""

    def __init__(self, console: Console) -> None:
        """Name the terminal."""
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[said]}", markup=False),
            TimeElapsedColumn(),
            console=console,
        )
        self._bars: dict[tuple[str, str], TaskID] = {}
        self._losses: dict[tuple[str, str], deque[float]] = {}
        self._shown: dict[tuple[str, str], Moment] = {}

    def show(self, event: Event, moment: Moment, now: float) -> None:
        """See `View`."""
        if event in ("finished", "cut off"):
            self._progress.stop()
            return
        if event == "still":
            return  # seconds pass on the terminal by themselves
        key = (moment.variant, moment.activity)
        if key not in self._bars:
            self._progress.start()
            place = f" {moment.number}/{moment.of}" if moment.of > 1 else ""
            title = f"{moment.variant}{place}: " if moment.variant else ""
            self._bars[key] = self._progress.add_task(f"{title}{moment.activity}", total=None, said="")
            self._losses[key] = deque(maxlen=POINTS * 8)
        bar = self._bars[key]
        if moment.started:
            if "loss" in moment.figures and event == "went on" and moment is not self._shown.get(key):
                self._losses[key].append(moment.figures["loss"])
            self._shown[key] = moment
            said = ", ".join([*filter(None, [sparkline(self._losses[key])]), *details(moment, now)])
            self._progress.update(bar, completed=moment.done, total=moment.total, said=Text(said).plain)
        if event == "ended":
            del self._bars[key], self._losses[key]
            self._shown.pop(key, None)
            if not moment.started:
                self._progress.remove_task(bar)
            else:
                self._progress.update(bar, completed=moment.done, total=moment.total or moment.done)


def sparkline(values: Iterable[float]) -> str:
    """The course of some numbers in one line of blocks, each the mean of as many."""
    finite = [value for value in values if math.isfinite(value)]
    if len(finite) < 2:
        return ""
    width = -(-len(finite) // POINTS)
    means = [sum(part) / len(part) for part in (finite[i : i + width] for i in range(0, len(finite), width))]
    low, high = min(means), max(means)
    scale = (len(SPARKS) - 1) / (high - low) if high > low else 0.0
    return "".join(SPARKS[round((value - low) * scale)] for value in means)
