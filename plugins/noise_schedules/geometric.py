"""The geometric schedule."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from opendllm.plugins.noise_schedules import GeometricOptions
from opendllm.registries.noise_schedules import NoiseSchedule


class Geometric(NoiseSchedule):
    """alpha(t) = exp(-sigma_min^(1-t) sigma_max^t) (SEDD, arXiv:2310.16834).

    It starts short of 1 and stops short of 0; at sigma_max 20 the latter is 2e-9.
    """

    def __init__(self, options: GeometricOptions) -> None:
        self.destination = options.destination
        self._low = math.log(options.sigma_min)
        self._high = math.log(options.sigma_max)

    @property
    def ends(self) -> tuple[float, float]:
        """(exp(-sigma_min), exp(-sigma_max))."""
        return math.exp(-math.exp(self._low)), math.exp(-math.exp(self._high))

    def alpha(self, t: Tensor) -> Tensor:
        """exp(-sigma(t))."""
        return torch.exp(-self._sigma(t))

    def alpha_prime(self, t: Tensor) -> Tensor:
        """-sigma'(t) exp(-sigma(t))."""
        sigma = self._sigma(t)
        return -(self._high - self._low) * sigma * torch.exp(-sigma)

    def _sigma(self, t: Tensor) -> Tensor:
        return torch.exp((1 - t) * self._low + t * self._high)
