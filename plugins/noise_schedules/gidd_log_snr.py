"""The mixture of GIDD's successor, which the log signal-to-noise ratio alone decides."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from opendllm.plugins.noise_schedules import GiddLogSnrOptions
from opendllm.registries.noise_schedules import Destination, NoiseMass, NoiseSchedule


class GiddLogSnr(NoiseSchedule):
    """alpha = sigmoid(l), l = ln((1 - t) / t), so 1 - t; of the rest, s = sigmoid(l + shift) is uniform.

    b = t (s u + (1 - s) [mask]), u uniform over the other V - 1 tokens (dvruette/gidd-easydel @6525e88f). A
    shift of -1000 leaves masks only, one of 1000 uniform noise only.
    """

    destination: Destination = "mixture"

    def __init__(self, options: GiddLogSnrOptions) -> None:
        self._shift = options.shift
        least = 1 / (1 + math.exp(options.largest_log_snr))
        self.interval = (least, 1 - least)

    @property
    def ends(self) -> tuple[float, float]:
        """(1, 0)."""
        return 1.0, 0.0

    def alpha(self, t: Tensor) -> Tensor:
        """1 - t."""
        return 1 - t

    def alpha_prime(self, t: Tensor) -> Tensor:
        """-1."""
        return -torch.ones_like(t)

    def noise_mass(self, t: Tensor, vocab_size: int) -> NoiseMass:
        """t (1 - s) on the mask and t s shared by the others."""
        uniform, masked = self._shares(t)
        return NoiseMass(t * masked, t * uniform / (vocab_size - 1))

    def noise_mass_prime(self, t: Tensor, vocab_size: int) -> NoiseMass:
        """1 - s + s (1 - s) / (1 - t) and s - s (1 - s) / (1 - t), since t l' = -1 / (1 - t)."""
        uniform, masked = self._shares(t)
        turning = uniform * masked / (1 - t)
        return NoiseMass(masked + turning, (uniform - turning) / (vocab_size - 1))

    def _shares(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(s, 1 - s)."""
        log_snr = torch.log1p(-t) - torch.log(t)
        return torch.sigmoid(log_snr + self._shift), torch.sigmoid(-log_snr - self._shift)
