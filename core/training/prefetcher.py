"""What a step needs from the host, made while the device is busy with the step before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetcher(Generic[T]):
    """Keeps one step's worth; a step that nobody prepared is made when it is asked for."""

    def __init__(self, make: Callable[[int], T], last_step: int) -> None:
        """Take in what makes a step's worth, a pure function of the step, and the last step there is."""
        self._make = make
        self._last_step = last_step
        self._kept: dict[int, T] = {}

    def take(self, step: int) -> T:
        """The step's."""
        return self._kept.pop(step) if step in self._kept else self._make(step)

    def prepare(self, step: int) -> None:
        """Make the step's now, if there is such a step."""
        if step <= self._last_step:
            self._kept = {step: self._make(step)}
