"""Numbers between a host and a device, for which neither waits longer than it has to."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class NumbersUnderWay:
    """Numbers of a device, on their way to the host: there before what the device is asked for later."""

    def __init__(self, numbers: Tensor) -> None:
        """Begin the copy of `numbers` [N]."""
        self._numbers = numbers.detach()
        if numbers.is_cuda:
            self._numbers = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
            self._numbers.copy_(numbers.detach(), non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()

    def tolist(self) -> list[float]:
        """Wait for them, and for nothing later."""
        if self._numbers.is_pinned():
            self._copied.synchronize()
        found: list[float] = self._numbers.tolist()
        return found


def on_device(numbers: Sequence[float], device: torch.device) -> Tensor:
    """[N] float64, which a GPU gets when it comes to it: the host doesn't wait for what it is busy with."""
    on_gpu = device.type == "cuda"
    return torch.tensor(numbers, dtype=torch.float64, pin_memory=on_gpu).to(device, non_blocking=True)
