"""The reverse process of GIDD's mixture of masks and uniform noise."""

from __future__ import annotations

from torch import Tensor

from opendllm.plugins.samplers import GiddOptions
from opendllm.plugins.samplers.reverse_process import ReverseProcess

MARGIN = 1e-4
"""What the published grid leaves out at both ends."""


class Gidd(ReverseProcess):
    """From masks, N draws from the posterior at evenly spaced times, the last to the clean text.

    GIDD (arXiv:2503.04482). The published loop (dvruette/gidd @f67acc96) starts one time late, and ends
    with a pass that changes nothing at time 1e-4, where masks and a little uniform noise are left; here the
    first step starts at the last time, there is no empty pass, and the last step leaves no noise.
    """

    knows_the_mask = False

    def __init__(self, options: GiddOptions) -> None:
        pass

    def grid(self, index: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
        """Evenly spaced from 1 - 1e-4 to 1e-4, of which the last is 0."""
        left = steps - index
        before, after = ((1 - 2 * MARGIN) * each.double() / steps + MARGIN for each in (left, left - 1))
        return before, after.masked_fill(left <= 1, 0.0)
