"""A step's batch, made on the host while the device is busy with the step before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetcher(Generic[T]):
    """Holds the batch of one step; that of a step which nobody prepared is made when it is asked for."""

    def __init__(self, make: Callable[[int], T], last_step: int) -> None:
        """Prefetch up to a last step.

        Args:
            make: a step's batch, a pure function of the step.
            last_step: none is made beyond it.
        """
        self._make = make
        self._last_step = last_step
        self._prepared: dict[int, T] = {}

    def take(self, step: int) -> T:
        """The batch of a step."""
        return self._prepared.pop(step) if step in self._prepared else self._make(step)

    def prepare(self, step: int) -> None:
        """Make the batch of a step now, if there is such a step."""
        if step <= self._last_step:
            self._prepared = {step: self._make(step)}
