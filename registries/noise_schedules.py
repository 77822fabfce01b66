"""The contract of a noise schedule."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class NoiseSchedule(ABC):
    """How the chance that a token survives falls with time t in [0, 1].

    Every tensor is float, of any shape, and results have the shape of `t`.
    """

    interval: tuple[float, float] = (0.0, 1.0)
    """Training times are drawn from here."""

    @property
    @abstractmethod
    def ends(self) -> tuple[float, float]:
        """(alpha(0), alpha(1)): the reader's check whether all-mask decoding starts where training ended."""

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """The chance that a token is still itself at time t; falls monotonically."""

    @abstractmethod
    def alpha_prime(self, t: Tensor) -> Tensor:
        """The derivative of alpha; never positive."""

    def mask_probability(self, t: Tensor) -> Tensor:
        """p(t) = 1 - alpha(t)."""
        return 1 - self.alpha(t)

    def elbo_weight(self, t: Tensor) -> Tensor:
        """w(t) = -alpha'(t) / (1 - alpha(t)), for t > 0 (MDLM, arXiv:2406.07524, eq. 10)."""
        return -self.alpha_prime(t) / (1 - self.alpha(t))

    def time_of(self, mask_probability: Tensor) -> Tensor:
        """The time, float64, at which tokens are masked with that probability; by bisection."""
        low = mask_probability.double() * 0 + self.interval[0]
        high = low - self.interval[0] + self.interval[1]
        for _ in range(60):
            middle = (low + high) / 2
            too_early = self.mask_probability(middle) < mask_probability
            low = middle.where(too_early, low)
            high = high.where(too_early, middle)
        return (low + high) / 2
