"""What a plan is made for."""

from __future__ import annotations

from dataclasses import dataclass

from opendllm.core.planning.devices import ASSUMED, KNOWN, Device


@dataclass(frozen=True)
class Hardware:
    """What it is to run on.

    Attributes:
        devices: how many, all training together; each evaluates its share.
        device: each of them.
        utilisation: share of its peak that is reached.
    """

    devices: int
    device: Device = KNOWN[ASSUMED]
    utilisation: float = 0.4

    def seconds(self, operations: float, precision: str) -> float:
        """What so many operations take one device."""
        return operations / (self.device.operations[precision] * self.utilisation)
