"""The reverse process of uniform noise."""

from __future__ import annotations

from torch import Tensor

from opendllm.plugins.samplers import UniformAncestralOptions
from opendllm.plugins.samplers.reverse_process import ReverseProcess, evenly_from_1


class UniformAncestral(ReverseProcess):
    """From uniform tokens, N draws from the posterior at evenly spaced times, and a tail.

    Duo's ancestral sampler (arXiv:2506.10892; s-sahoo/duo @7c9b498f); with the tail `none` it is UDLM's
    (arXiv:2412.10193). The schedule is the checkpoint's own.
    """

    def __init__(self, options: UniformAncestralOptions) -> None:
        self.tail = options.tail
        self.follows_model = options.tail == "ancestral"

    def grid(self, index: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
        """Evenly spaced from 1 to 1e-5."""
        return evenly_from_1(index, steps), evenly_from_1(index + 1, steps)
