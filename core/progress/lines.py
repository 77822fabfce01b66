"""Progress without a terminal: a line for each activity, and some while it goes on, with news or without."""

from __future__ import annotations

import json
import math
from typing import TextIO

from opendllm.core.progress.progress import Event, Moment

SECONDS_BETWEEN = 5.0
"""Of lines about the same activity."""
SECONDS_OF_SILENCE = 20.0
"""After which a line says what still goes on."""


class _Paced:
    """Chooses the moments that get a line."""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}
        self._shown: Moment | None = None
        self._spoke = -math.inf

    def wants(self, event: Event, moment: Moment, now: float) -> bool:
        """Each activity's beginning; its course now and then, or that it goes on; its last state, unless
        that was just said.
        """
        wanted = self._wants(event, moment, now)
        self._spoke = now if wanted else self._spoke
        return wanted

    def _wants(self, event: Event, moment: Moment, now: float) -> bool:
        if event == "begun":
            self._last[moment.activity] = now
            return True
        if event == "went on" and now - self._last.get(moment.activity, -math.inf) >= SECONDS_BETWEEN:
            self._last[moment.activity] = now
            self._shown = moment
            return True
        if event == "still":
            return bool(moment.activity) and now - self._spoke >= SECONDS_OF_SILENCE
        if event == "ended":
            self._last.pop(moment.activity, None)
            return moment.started and moment is not self._shown
        return False


class PlainView:
    """Lines for people."""

    def __init__(self, file: TextIO) -> None:
        """Name the file."""
        self._file = file
        self._paced = _Paced()
        self._origin: float | None = None

    def show(self, event: Event, moment: Moment, now: float) -> None:
        """See `View`."""
        self._origin = now if self._origin is None else self._origin
        if self._paced.wants(event, moment, now):
            said = still_line(moment, now) if event == "still" else line(moment, now)
            print(f"[{duration(now - self._origin)}] {said}", file=self._file, flush=True)


class JsonView:
    """The same moments, a JSON object a line."""

    def __init__(self, file: TextIO) -> None:
        """Name the file."""
        self._file = file
        self._paced = _Paced()

    def show(self, event: Event, moment: Moment, now: float) -> None:
        """See `View`."""
        if self._paced.wants(event, moment, now):
            print(json.dumps({"event": event, **as_json(moment, now)}), file=self._file, flush=True)


def as_json(moment: Moment, now: float) -> dict[str, object]:
    """A moment as JSON has it; what is not finite is left out."""
    left = moment.seconds_left(now)
    return {
        "variant": moment.variant or None,
        "variant_number": moment.number or None,
        "variants": moment.of or None,
        "activity": moment.activity,
        "done": moment.done if moment.started else None,
        "total": moment.total,
        "seconds": round(now - moment.since, 3),
        "seconds_left": None if left is None else round(left, 3),
        **{name: value for name, value in moment.figures.items() if math.isfinite(value)},
    }


def line(moment: Moment, now: float) -> str:
    """A moment in a line: `llada (2 of 5): training: 40 of 200, loss 3.41, 8,900 tokens/s, 0:41 left`."""
    return _whose(moment) + ": ".join(filter(None, (moment.activity, ", ".join(details(moment, now)))))


def still_line(moment: Moment, now: float) -> str:
    """A moment that hasn't changed in a line: `llada: still compiling, 2:00`."""
    said = f"still {moment.activity}, {duration(now - moment.since)}"
    return _whose(moment) + ": ".join(filter(None, (said, ", ".join(details(moment, now)))))


def _whose(moment: Moment) -> str:
    place = f" ({moment.number} of {moment.of})" if moment.of > 1 else ""
    return f"{moment.variant}{place}: " if moment.variant else ""


def details(moment: Moment, now: float) -> list[str]:
    """What is known of how far it is."""
    if not moment.started:
        return []
    count = f"{moment.done:,}" if moment.total is None else f"{moment.done:,} of {moment.total:,}"
    said = [f"{count} {moment.unit}".rstrip()]
    said += [figure(name, value) for name, value in moment.figures.items()]
    left = moment.seconds_left(now)
    if left is not None and moment.total is not None and moment.done < moment.total:
        said.append(f"{duration(left)} left")
    return said


def figure(name: str, value: float) -> str:
    """A figure with its name and unit."""
    if name == "tokens_per_second":
        return f"{value:,.0f} tokens/s"
    if name == "characters_per_second":
        return f"{value / 1e6:,.1f} million characters/s"
    if name == "utilisation":
        return f"{value:.0%} busy"
    words = name.replace("_", " ")
    return f"{value:,.0f} {words}" if name == "tokens" else f"{words} {value:.3f}"


def duration(seconds: float) -> str:
    """As in 0:07 or 2:10:00."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
