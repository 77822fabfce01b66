"""MDLM's log-linear schedule."""

from __future__ import annotations

import torch
from torch import Tensor

from opendllm.plugins.noise_schedules import LoglinearOptions
from opendllm.registries.noise_schedules import NoiseSchedule


class Loglinear(NoiseSchedule):
    """sigma(t) = -log(1 - (1 - eps) t), so alpha(t) = 1 - (1 - eps) t (MDLM, arXiv:2406.07524).

    Its ELBO weight is 1/t exactly; alpha(1) = eps.
    """

    def __init__(self, options: LoglinearOptions) -> None:
        self.destination = options.destination
        self._eps = options.eps

    @property
    def ends(self) -> tuple[float, float]:
        """(1, eps)."""
        return 1.0, self._eps

    def alpha(self, t: Tensor) -> Tensor:
        """1 - (1 - eps) t."""
        return 1 - (1 - self._eps) * t

    def alpha_prime(self, t: Tensor) -> Tensor:
        """-(1 - eps)."""
        return -(1 - self._eps) * torch.ones_like(t)
