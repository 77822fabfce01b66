"""BD3LM's clipped schedule."""

from __future__ import annotations

from torch import Tensor

from opendllm.plugins.noise_schedules import ClippedOptions
from opendllm.registries.noise_schedules import NoiseSchedule


class Clipped(NoiseSchedule):
    """The linear schedule on [low, high] (BD3LM, arXiv:2503.09573, section 5.2).

    It lowers the variance of training; it covers a part of the NELBO only, so it must never be
    used for a perplexity.
    """

    def __init__(self, options: ClippedOptions) -> None:
        self.destination = options.destination
        self.interval = (options.low, options.high)

    @property
    def ends(self) -> tuple[float, float]:
        """(1 - low, 1 - high): outside the interval nothing changes any more."""
        low, high = self.interval
        return 1 - low, 1 - high

    def alpha(self, t: Tensor) -> Tensor:
        """1 - t, with t held within the interval."""
        return 1 - t.clamp(*self.interval)

    def alpha_prime(self, t: Tensor) -> Tensor:
        """-1 within the interval, 0 outside."""
        low, high = self.interval
        return -((t >= low) & (t <= high)).to(t.dtype)
