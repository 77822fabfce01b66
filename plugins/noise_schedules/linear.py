"""The linear schedule."""

from __future__ import annotations

import torch
from torch import Tensor

from opendllm.plugins.noise_schedules import LinearOptions
from opendllm.plugins.noise_schedules.mapped_schedule import mapped
from opendllm.registries.noise_schedules import NoiseSchedule


class Linear(NoiseSchedule):
    """alpha(t) = 1 - t; its ELBO weight is 1/t."""

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


def linear(options: LinearOptions) -> NoiseSchedule:
    """The schedule, mapped as its options say."""
    return mapped(Linear(), options)
