"""The reverse process of GIDD's mixture of masks and uniform noise."""

from __future__ import annotations

from torch import Tensor

from opendllm.plugins.samplers import GiddOptions
from opendllm.plugins.samplers.reverse_process import ReverseProcess

MARGIN = 1e-4
"""What the grid leaves out at both ends."""


class Gidd(ReverseProcess):
    """From masks, a draw from the posterior at each of N evenly spaced times (GIDD, arXiv:2503.04482).

    The published loop (dvruette/gidd @f67acc96) starts one time late, ends with a pass that changes
    nothing, and may leave masks; here the first step starts at the last time, there is no empty pass, and
    the last step fills what is masked.
    """

    knows_the_mask = False

    def __init__(self, options: GiddOptions) -> None:
        pass

    def grid(self, index: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
        """Evenly spaced from 1 - 1e-4 to 1e-4."""
        before = steps - index
        return tuple((1 - 2 * MARGIN) * left.double() / steps + MARGIN for left in (before, before - 1))  # type: ignore[return-value]
