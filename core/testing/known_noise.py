"""Two noise schedules of different shape: what holds for one formula only shows with the other."""

from __future__ import annotations

from torch import Tensor

from opendllm.registries.noise_schedules import Destination, NoiseMass, NoiseSchedule

EDGE = 1e-4
"""Noise that isn't masks has no finite weight where nothing, or everything, survives."""


class PowerNoise(NoiseSchedule):
    """alpha = 1 - t^k. A mixture's noise is uniform at first and masks at last: b = (1 - alpha) (t [mask] +
    (1 - t) u), u uniform over all V tokens.
    """

    def __init__(
        self, exponent: int, destination: Destination, interval: tuple[float, float] | None = None
    ) -> None:
        self.destination = destination
        whole = (0.0, 1.0) if destination == "mask" else (EDGE, 1 - EDGE)
        self.interval = interval or whole
        self._exponent = exponent

    def __str__(self) -> str:
        formula = "1 - t" if self._exponent == 1 else f"1 - t^{self._exponent}"
        return f"{self.destination} noise of alpha = {formula}"

    @property
    def ends(self) -> tuple[float, float]:
        """(1, 0)."""
        return 1.0, 0.0

    def alpha(self, t: Tensor) -> Tensor:
        """1 - t^k."""
        return 1 - t**self._exponent

    def alpha_prime(self, t: Tensor) -> Tensor:
        """-k t^(k - 1)."""
        return -self._exponent * t ** (self._exponent - 1)

    def noise_mass(self, t: Tensor, vocab_size: int) -> NoiseMass:
        """See the class."""
        if self.destination != "mixture":
            return super().noise_mass(t, vocab_size)
        gone = 1 - self.alpha(t)
        each = gone * (1 - t) / vocab_size
        return NoiseMass(gone * t + each, each)

    def noise_mass_prime(self, t: Tensor, vocab_size: int) -> NoiseMass:
        """By the product rule."""
        if self.destination != "mixture":
            return super().noise_mass_prime(t, vocab_size)
        gone, slope = 1 - self.alpha(t), -self.alpha_prime(t)
        each = (slope * (1 - t) - gone) / vocab_size
        return NoiseMass(slope * t + gone + each, each)
