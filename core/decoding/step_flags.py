"""What a step came to, on its way from the device to the host."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from opendllm.core.decoding.plan import IntArray


class FlagsOnHost:
    """Copies a tensor to the host after each step, which is waited for only when it is read."""

    def __init__(self, flags: Tensor) -> None:
        """Copy `flags`, int64, whenever told."""
        self._flags = flags
        self._turn = 0
        self._places = (
            [torch.empty(flags.shape, dtype=flags.dtype, pin_memory=True) for _ in range(2)]
            if flags.is_cuda
            else []
        )

    def send(self) -> Callable[[], IntArray]:
        """Copy the values of now; what is given back waits for them. Two may be on their way at a time."""
        if not self._places:
            now = self._flags.clone()
            return now.numpy
        self._turn = 1 - self._turn
        place, arrived = self._places[self._turn], torch.cuda.Event()
        place.copy_(self._flags, non_blocking=True)
        arrived.record()

        def read() -> IntArray:
            arrived.synchronize()
            return place.numpy()

        return read
