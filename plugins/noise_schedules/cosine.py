"""The cosine schedule."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from opendllm.plugins.noise_schedules import CosineOptions
from opendllm.plugins.noise_schedules.mapped_schedule import mapped
from opendllm.registries.noise_schedules import NoiseSchedule


class Cosine(NoiseSchedule):
    """alpha(t) = 1 - cos(pi/2 (1 - t)) (MD4, arXiv:2406.04329, table 1).

    alpha'(1) = 0, so the ELBO weight vanishes there.
    """

    @property
    def ends(self) -> tuple[float, float]:
        """(1, 0)."""
        return 1.0, 0.0

    def alpha(self, t: Tensor) -> Tensor:
        """1 - cos(pi/2 (1 - t))."""
        return 1 - torch.cos(math.pi / 2 * (1 - t))

    def alpha_prime(self, t: Tensor) -> Tensor:
        """-pi/2 sin(pi/2 (1 - t))."""
        return -math.pi / 2 * torch.sin(math.pi / 2 * (1 - t))


def cosine(options: CosineOptions) -> NoiseSchedule:
    """The schedule, mapped as its options say."""
    return mapped(Cosine(), options)
