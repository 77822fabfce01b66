"""The polynomial schedule."""

from __future__ import annotations

from torch import Tensor

from opendllm.plugins.noise_schedules import PolynomialOptions
from opendllm.plugins.noise_schedules.mapped_schedule import mapped
from opendllm.registries.noise_schedules import NoiseSchedule


class Polynomial(NoiseSchedule):
    """alpha(t) = 1 - t^k; its ELBO weight is k/t (MD4, arXiv:2406.04329, table 1)."""

    def __init__(self, exponent: float) -> None:
        self._exponent = exponent

    @property
    def ends(self) -> tuple[float, float]:
        """(1, 0)."""
        return 1.0, 0.0

    def alpha(self, t: Tensor) -> Tensor:
        """1 - t^k."""
        return 1 - t**self._exponent

    def alpha_prime(self, t: Tensor) -> Tensor:
        """-k t^(k-1)."""
        return -self._exponent * t ** (self._exponent - 1)

    def mask_probability(self, t: Tensor) -> Tensor:
        """t^k, also where 1 - t^k is rounded to 1."""
        return t**self._exponent

    def elbo_weight(self, t: Tensor) -> Tensor:
        """k/t."""
        return self._exponent / t


def polynomial(options: PolynomialOptions) -> NoiseSchedule:
    """The schedule, mapped as its options say."""
    return mapped(Polynomial(options.exponent), options)
