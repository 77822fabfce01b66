"""What the host tells the device before each step."""

from __future__ import annotations

import torch
from torch import Tensor

from opendllm.core.decoding.plan import IntArray

AHEAD = 8
"""Steps that the host may be ahead of the device."""


class SentArray:
    """An int64 tensor on the device that the host writes over before each step, without waiting for it.

    A copy from ordinary memory would wait until the device has nothing left to do.

    Attributes:
        tensor: on the device; it stays where it is.
    """

    def __init__(self, shape: tuple[int, ...], device: torch.device) -> None:
        """Begin with zeros."""
        self.tensor: Tensor = torch.zeros(shape, dtype=torch.int64, device=device)
        self._places: list[tuple[Tensor, torch.cuda.Event]] = []
        if device.type == "cuda":
            self._places = [
                (torch.zeros(shape, dtype=torch.int64, pin_memory=True), torch.cuda.Event())
                for _ in range(AHEAD)
            ]
        self._turn = 0

    def send(self, values: IntArray) -> None:
        """Write `values`, of the tensor's shape, once the device has done what it was given before."""
        given = torch.from_numpy(values)
        if not self._places:
            self.tensor.copy_(given)
            return
        self._turn = (self._turn + 1) % AHEAD
        place, has_left = self._places[self._turn]
        has_left.synchronize()
        place.copy_(given)
        self.tensor.copy_(place, non_blocking=True)
        has_left.record()
