"""What a step reads of some rows, before that is on the device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from opendllm.core.decoding.plan import IntArray
from opendllm.registries.backbones import RefreshSpan


@dataclass(frozen=True)
class HostSpan:
    """A `RefreshSpan` before it is on the device.

    Attributes:
        rows: [R] int64; None for all of them.
        first: [R] int64.
        last: [R] int64.
        width: the most columns that one of them has.
        seen: see `RefreshSpan`.
        see_alike: see `RefreshSpan`.
    """

    rows: IntArray | None
    first: IntArray
    last: IntArray
    width: int
    seen: int | None
    see_alike: bool

    def on(self, device: torch.device) -> RefreshSpan:
        """For a reader."""
        rows = None if self.rows is None else _sent(self.rows, device)
        first, last = _sent(self.first, device), _sent(self.last, device)
        return RefreshSpan(rows, first, last, self.width, self.seen, self.see_alike)


def _sent(values: IntArray, device: torch.device) -> Tensor:
    """The same on the device, which isn't waited for."""
    return torch.from_numpy(values).to(device, non_blocking=True)
