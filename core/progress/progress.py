"""What a run is doing and how far it is, handed to whoever shows it. Imports no torch."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from opendllm.core.foundation.visible_text import visible_line

Event = Literal["begun", "went on", "still", "ended", "finished", "cut off"]

_TELLING = threading.RLock()
"""Held while views are told: a heartbeat tells them from a thread of its own. No process is forked meanwhile,
whose copy of a stream or of this lock would be in use for ever."""
os.register_at_fork(
    before=_TELLING.acquire, after_in_parent=_TELLING.release, after_in_child=_TELLING.release
)


@dataclass(frozen=True)
class Moment:
    """How far one activity is.

    Attributes:
        activity: what is being done, as in "training" or "saving step 100".
        variant: whose; empty where it is nobody's in particular.
        number: the variant's place, from 1.
        of: how many variants there are.
        done: how many steps, answers, ... there are already.
        total: of how many; None where nobody knows.
        figures: what else is known by now, as in {"loss": 3.2}.
        since: when the activity began, in seconds of `Progress`'s clock.
        first: what was done already when it was first heard of.
        unit: of `done`, as in "documents"; empty where the activity says it.
    """

    activity: str
    variant: str = ""
    number: int = 0
    of: int = 0
    done: int = 0
    total: int | None = None
    figures: Mapping[str, float] = field(default_factory=dict)
    since: float = 0.0
    first: int | None = None
    unit: str = ""

    @property
    def started(self) -> bool:
        """Whether anything is known but what is being done."""
        return self.first is not None

    def seconds_left(self, now: float) -> float | None:
        """At the pace since it began; None where that can't be told."""
        if self.total is None or self.first is None or self.done <= self.first:
            return None
        return (now - self.since) / (self.done - self.first) * max(0, self.total - self.done)


class View(Protocol):
    """Shows moments."""

    def show(self, event: Event, moment: Moment, now: float) -> None:
        """Told of each; which of them it shows is its own affair.

        Args:
            event: what happened to the activity; "still" comes now and then while nothing does, without an
                activity where none is under way. One of the last two comes once, when everything is over.
            moment: how far it is now.
            now: in seconds of `Progress`'s clock.
        """


class Task:
    """One activity that goes on."""

    def __init__(self, progress: Progress, moment: Moment) -> None:
        self._progress = progress
        self.moment = moment

    def update(self, done: int, total: int | None = None, **figures: float | None) -> None:
        """Tell how far it is.

        Args:
            done: see `Moment`, as are the following.
            total: by default what was said before.
            figures: those that are None are unknown.
        """
        known = {name: value for name, value in figures.items() if value is not None}
        self.moment = replace(
            self.moment,
            done=done,
            total=self.moment.total if total is None else total,
            figures=known,
            first=done if self.moment.first is None else self.moment.first,
        )
        self._progress.tell("went on", self.moment)


class Progress:
    """Knows which activity of which variant is under way, and tells the views."""

    def __init__(self, views: Sequence[View] = (), clock: Callable[[], float] = time.monotonic) -> None:
        """Name who is told; nobody is by default."""
        self._views = list(views)
        self._clock = clock
        self._place: tuple[str, int, int] = ("", 0, 0)
        self._under_way: list[Task] = []
        self._closed = False

    def variant(self, name: str, number: int, of: int) -> None:
        """From now on everything is this variant's, the `number`th of `of`."""
        self._place = (name, number, of)

    @contextmanager
    def activity(self, name: str, total: int | None = None, unit: str = "") -> Iterator[Task]:
        """Something is being done while the block runs; within another activity it takes its place."""
        task = Task(
            self, Moment(visible_line(name), *self._place, total=total, since=self._clock(), unit=unit)
        )
        with _TELLING:
            self._under_way.append(task)
            self.tell("begun", task.moment)
        try:
            yield task
        finally:
            with _TELLING:
                self._under_way.remove(task)
                self.tell("ended", task.moment)
                if self._under_way and self._under_way[-1].moment.started:
                    self.tell("went on", self._under_way[-1].moment)

    def tell(self, event: Event, moment: Moment) -> None:
        """Tell all views; nothing after `close`. One that can't be written to is told no more."""
        with _TELLING:
            if self._closed:
                return
            now = self._clock()
            for view in tuple(self._views):
                try:
                    view.show(event, moment, now)
                except (
                    OSError,
                    ValueError,
                ):  # whoever read it has gone, or the disk is full: the work goes on
                    self._views.remove(view)

    def beat(self) -> None:
        """Tell all views that what is under way goes on; from any thread."""
        with _TELLING:
            nothing = Moment("", *self._place, since=self._clock())
            self.tell("still", self._under_way[-1].moment if self._under_way else nothing)

    def close(self, finished: bool) -> None:
        """Nothing follows: everything is done, or it was cut off."""
        with _TELLING:
            self.tell("finished" if finished else "cut off", Moment("", *self._place, since=self._clock()))
            self._closed = True
