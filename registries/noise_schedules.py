"""The contract of a noise schedule: how much of a token survives, and where the rest goes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

Destination = Literal["mask", "uniform", "mixture"]
"""Where tokens go that don't survive: to the mask, to any token alike, or to both in shares that change."""


@dataclass(frozen=True)
class NoiseMass:
    """b(z, t): the chance that noise has put z in a token's place; or that chance's time derivative.

    A corrupted token is z with probability alpha [z = clean] + b(z). Both have the shape of `t`.

    Attributes:
        mask: of the mask token.
        other: of each other token of the vocabulary, the clean one included.
    """

    mask: Tensor
    other: Tensor


class NoiseSchedule(ABC):
    """How the chance that a token survives falls with time t in [0, 1], and where the rest goes.

    Every tensor is float, of any shape, and results have the shape of `t`.
    """

    interval: tuple[float, float] = (0.0, 1.0)
    """Training times are drawn from here."""
    destination: Destination = "mask"
    """`mixture` says no more than `noise_mass`, which the schedule then gives itself."""

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

    def noise_mass(self, t: Tensor, vocab_size: int) -> NoiseMass:
        """b(z, t); its sum over all tokens is 1 - alpha(t).

        Masks take all of it; uniform noise puts the V-th part on each of the V tokens, the mask token
        included (Duo, arXiv:2506.10892; UDLM, arXiv:2412.10193).

        Args:
            t: times.
            vocab_size: V, the mask token counted in.
        """
        return self._spread(1 - self.alpha(t), vocab_size)

    def noise_mass_prime(self, t: Tensor, vocab_size: int) -> NoiseMass:
        """The time derivative of `noise_mass`."""
        return self._spread(-self.alpha_prime(t), vocab_size)

    def _spread(self, mass: Tensor, vocab_size: int) -> NoiseMass:
        if self.destination == "mask":
            return NoiseMass(mass, mass * 0)
        if self.destination == "uniform":
            return NoiseMass(mass / vocab_size, mass / vocab_size)
        raise NotImplementedError(f"{type(self).__name__} is a mixture and has to say of what")

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
