"""The sigmoid schedule."""

from __future__ import annotations

import math

from opendllm.registries.noise_schedules import NoiseSchedule
from torch import Tensor

from opendllm_examples import SigmoidOptions


class Sigmoid(NoiseSchedule):
    """alpha(t) = (s(k (1/2 - t)) - s(-k/2)) / (s(k/2) - s(-k/2)), s the logistic function.

    The rescaled sigmoid of Jabri et al. (arXiv:2212.11972, section 3) between -k/2 and k/2: much survives for
    long, then most is lost in the middle.
    """

    def __init__(self, options: SigmoidOptions) -> None:
        self.destination = options.destination
        self._steepness = options.steepness
        self._lowest = 1 / (1 + math.exp(options.steepness / 2))
        self._span = 1 - 2 * self._lowest  # s(k/2) = 1 - s(-k/2)

    @property
    def ends(self) -> tuple[float, float]:
        """(1, 0)."""
        return 1.0, 0.0

    def alpha(self, t: Tensor) -> Tensor:
        """The rescaled sigmoid; rounding never takes it out of [0, 1]."""
        falling = (self._steepness * (0.5 - t)).sigmoid()
        return ((falling - self._lowest) / self._span).clamp(0, 1)

    def alpha_prime(self, t: Tensor) -> Tensor:
        """-k s (1 - s) / span."""
        falling = (self._steepness * (0.5 - t)).sigmoid()
        return -self._steepness * falling * (1 - falling) / self._span
