"""A step's batch, made while the device is busy with the step before."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Generic, TypeVar

import torch

T = TypeVar("T")


class Prefetcher(Generic[T]):
    """Holds the batch of one step; that of a step which nobody prepared is made when it is asked for.

    On a GPU it is made in a stream of its own: what it waits for there (copies, lengths) is not the step that
    is under way. A batch must be kept until the step that reads it is done.
    """

    def __init__(self, make: Callable[[int], T], last_step: int, device: torch.device) -> None:
        """Prefetch up to a last step.

        Args:
            make: a step's batch, a pure function of the step.
            last_step: none is made beyond it.
            device: where the batch is.
        """
        self._make = make
        self._last_step = last_step
        self._prepared: dict[int, T] = {}
        # Its kernels are small, and go between those of the step.
        self._stream = torch.cuda.Stream(device, priority=-1) if device.type == "cuda" else None

    def take(self, step: int) -> T:
        """The batch of a step."""
        batch = self._prepared.pop(step) if step in self._prepared else self._made(step)
        if self._stream is not None:
            torch.cuda.current_stream().wait_stream(self._stream)
        return batch

    def prepare(self, step: int) -> None:
        """Make the batch of a step now, if there is such a step."""
        if step <= self._last_step:
            self._prepared = {step: self._made(step)}

    def _made(self, step: int) -> T:
        with nullcontext() if self._stream is None else torch.cuda.stream(self._stream):
            return self._make(step)
