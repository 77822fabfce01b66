"""Noise schedules with one mistake each."""

from __future__ import annotations

import torch
from torch import Tensor

from opendllm.registries import NoiseScheduleOptions
from opendllm.registries.noise_schedules import Destination, NoiseMass, NoiseSchedule

from .wrong import Wrong

OPTIONS = NoiseScheduleOptions


class Right(NoiseSchedule):
    """alpha = 1 - t^2."""

    def __init__(self, options: NoiseScheduleOptions) -> None:
        pass

    @property
    def ends(self) -> tuple[float, float]:
        return 1.0, 0.0

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t**2

    def alpha_prime(self, t: Tensor) -> Tensor:
        return -2 * t


class GoesBack(Right):
    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t - 0.2 * torch.sin(2 * torch.pi * t)

    def alpha_prime(self, t: Tensor) -> Tensor:
        return -1 - 0.4 * torch.pi * torch.cos(2 * torch.pi * t)


class OtherEnds(Right):
    @property
    def ends(self) -> tuple[float, float]:
        return 1.0, 0.1


class HalfTheSlope(Right):
    def alpha_prime(self, t: Tensor) -> Tensor:
        return -t


class InfiniteWeight(Right):
    def elbo_weight(self, t: Tensor) -> Tensor:
        return torch.where(t == t.min(), torch.inf, super().elbo_weight(t))


class WeightOfAnother(Right):
    def elbo_weight(self, t: Tensor) -> Tensor:
        return 1 / t


class LinearTime(Right):
    def time_of(self, mask_probability: Tensor) -> Tensor:
        return mask_probability


class SaysMasks(Right):
    destination: Destination = "uniform"


class ForgetsTheMask(Right):
    destination: Destination = "mask"

    def noise_mass(self, t: Tensor, vocab_size: int) -> NoiseMass:
        mass = (1 - self.alpha(t)) / vocab_size
        return NoiseMass(mass * 0, mass)

    def noise_mass_prime(self, t: Tensor, vocab_size: int) -> NoiseMass:
        mass = -self.alpha_prime(t) / vocab_size
        return NoiseMass(mass * 0, mass)


class Flattens(Right):
    def alpha(self, t: Tensor) -> Tensor:
        return super().alpha(t).flatten() if t.ndim > 1 else super().alpha(t)


WRONG = [
    Wrong(
        GoesBack,
        "test_alpha_falls_and_stays_a_probability",
        "it rises before t",
        frozenset({"test_a_mask_probability_leads_back_to_its_time"}),
    ),
    Wrong(OtherEnds, "test_the_declared_ends_are_true", "ends says alpha(1) is 0.1, and alpha gives 0"),
    Wrong(
        HalfTheSlope,
        "test_alpha_prime_is_the_derivative",
        "it is the derivative of alpha",
        frozenset(
            {
                "test_the_weight_integrates_to_what_alpha_falls_by",
                "test_the_derivatives_of_noise_are_derivatives",
            }
        ),
    ),
    Wrong(
        InfiniteWeight,
        "test_the_weight_is_finite",
        "it is inf at t",
        frozenset({"test_the_weight_integrates_to_what_alpha_falls_by"}),
    ),
    Wrong(WeightOfAnother, "test_the_weight_integrates_to_what_alpha_falls_by", "-alpha' / (1 - alpha)"),
    Wrong(LinearTime, "test_a_mask_probability_leads_back_to_its_time", "the inverse of mask_probability"),
    Wrong(SaysMasks, "test_the_destination_is_what_the_options_say", "NoiseScheduleOptions"),
    Wrong(ForgetsTheMask, "test_noise_takes_what_does_not_survive", "which is 1 - alpha"),
    Wrong(Flattens, "test_shapes_are_kept", "alpha gave float64"),
]
