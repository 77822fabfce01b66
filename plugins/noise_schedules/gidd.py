"""GIDD's mixture of masks and uniform noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from opendllm.plugins.noise_schedules import GiddOptions
from opendllm.registries.noise_schedules import Destination, NoiseMass, NoiseSchedule

LEAST_LOG_SHARE = -20.0
"""Of p_uniform, as published (dvruette/gidd @f67acc96)."""


class Gidd(NoiseSchedule):
    """alpha = (1 - t) / (1 + c) with c = B sqrt(t (1 - t)), B = 2 p_u / (1 - p_u) (GIDD, arXiv:2503.04482).

    b = (t [mask] + c u) / (1 + c), u uniform over the other V - 1 tokens: all text at t = 0, all masks at
    t = 1, and uniform noise, at most p_u of it, in between.
    """

    destination: Destination = "mixture"

    def __init__(self, options: GiddOptions) -> None:
        share = max(options.p_uniform, math.exp(LEAST_LOG_SHARE))
        self._scale = 2 * share / (1 - share)
        self.interval = (options.eps, 1 - options.eps)

    @property
    def ends(self) -> tuple[float, float]:
        """(1, 0)."""
        return 1.0, 0.0

    def alpha(self, t: Tensor) -> Tensor:
        """(1 - t) / (1 + c)."""
        return (1 - t) / (1 + self._uniform(t))

    def alpha_prime(self, t: Tensor) -> Tensor:
        """-(1 + c + (1 - t) c') / (1 + c)^2; minus infinity at t = 0 and 1."""
        uniform, slope = self._uniform(t), self._uniform_prime(t)
        return -(1 + uniform + (1 - t) * slope) / (1 + uniform) ** 2

    def noise_mass(self, t: Tensor, vocab_size: int) -> NoiseMass:
        """t / (1 + c) on the mask and c / (1 + c) shared by the others."""
        uniform = self._uniform(t)
        return NoiseMass(t / (1 + uniform), uniform / (1 + uniform) / (vocab_size - 1))

    def noise_mass_prime(self, t: Tensor, vocab_size: int) -> NoiseMass:
        """(1 + c - t c') / (1 + c)^2 and c' / (1 + c)^2."""
        uniform, slope = self._uniform(t), self._uniform_prime(t)
        square = (1 + uniform) ** 2
        return NoiseMass((1 + uniform - t * slope) / square, slope / square / (vocab_size - 1))

    def _uniform(self, t: Tensor) -> Tensor:
        """c = B sqrt(t (1 - t)), which is how much of it there is beside 1 of text and masks."""
        return self._scale * torch.sqrt(t * (1 - t))

    def _uniform_prime(self, t: Tensor) -> Tensor:
        """c' = B (1 - 2t) / (2 sqrt(t (1 - t)))."""
        return self._scale * (1 - 2 * t) / (2 * torch.sqrt(t * (1 - t)))
