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


class PowerOfTwenty(Right):
    """1 - t^20, which is 1 to float64 for a while."""

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t**20

    def alpha_prime(self, t: Tensor) -> Tensor:
        return -20 * t**19


class ExactPowerOfTwenty(PowerOfTwenty):
    def mask_probability(self, t: Tensor) -> Tensor:
        return t**20

    def elbo_weight(self, t: Tensor) -> Tensor:
        return 20 / t


class Steep(Right):
    """A sigmoid of steepness 60, which stands still at both ends."""

    def alpha(self, t: Tensor) -> Tensor:
        return (60 * (0.5 - t)).sigmoid()

    def alpha_prime(self, t: Tensor) -> Tensor:
        return -60 * self.alpha(t) * self.alpha(1 - t)


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


class FallingMasks(Right):
    """A survival taken for a chance of noise, which no bisection inverts."""

    def mask_probability(self, t: Tensor) -> Tensor:
        return self.alpha(t)


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


class NarrowInterval(Right):
    """Leaves out most of its noise, and with it whatever is wrong there."""

    interval = (0.45, 0.55)

    def elbo_weight(self, t: Tensor) -> Tensor:
        return torch.where(t < 0.4, torch.inf, super().elbo_weight(t))


class IntervalBackwards(Right):
    interval = (1.0, 0.0)


class HalfTheMasks(Right):
    """Masks half as many, and weighs them twice."""

    def mask_probability(self, t: Tensor) -> Tensor:
        return (1 - self.alpha(t)) / 2

    def elbo_weight(self, t: Tensor) -> Tensor:
        return 2 * super().elbo_weight(t)

    def time_of(self, mask_probability: Tensor) -> Tensor:
        return (2 * mask_probability).sqrt()


class MinSnr(Right):
    """A weight that is cut, as training tricks have it."""

    def elbo_weight(self, t: Tensor) -> Tensor:
        return super().elbo_weight(t).clamp(max=5)


class SingleTimes(Right):
    """Computes in float32."""

    def alpha(self, t: Tensor) -> Tensor:
        return super().alpha(t.float())

    def alpha_prime(self, t: Tensor) -> Tensor:
        return super().alpha_prime(t.float())


class OfTheLargestTime(Right):
    """Takes the last of its times for 1."""

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - (t / t.max().clamp(min=0.995)) ** 2 if t.ndim else 1 - t**2


class ClampsInPlace(Right):
    def alpha_prime(self, t: Tensor) -> Tensor:
        return -2 * (t if t.requires_grad else t.clamp_(0.01, 1))


class SlopeUpwards(Right):
    """Gives the slope of the noise, not of what survives."""

    def alpha_prime(self, t: Tensor) -> Tensor:
        return 2 * t


class MixtureOptions(NoiseScheduleOptions):
    """Of masks with uniform noise."""

    @property
    def noise_destination(self) -> Destination:
        return "mixture"


class RightMixture(Right):
    """Uniform at first, masks at last."""

    destination: Destination = "mixture"

    def share(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return 1 - t, -torch.ones_like(t)

    def noise_mass(self, t: Tensor, vocab_size: int) -> NoiseMass:
        gone, (share, _) = 1 - self.alpha(t), self.share(t)
        each = gone * share / vocab_size
        return NoiseMass(gone * (1 - share) + each, each)

    def noise_mass_prime(self, t: Tensor, vocab_size: int) -> NoiseMass:
        gone, slope, (share, turn) = 1 - self.alpha(t), -self.alpha_prime(t), self.share(t)
        each = (slope * share + gone * turn) / vocab_size
        return NoiseMass(slope * (1 - share) - gone * turn + each, each)


class TakesBack(RightMixture):
    """Uniform noise is gone in the middle, and masks turn back into tokens at last."""

    def share(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return (1 - 2 * t) ** 2, -4 * (1 - 2 * t)


class OfTwelveTokens(RightMixture):
    """Knows one size of vocabulary only."""

    def noise_mass(self, t: Tensor, vocab_size: int) -> NoiseMass:
        return super().noise_mass(t, 12)

    def noise_mass_prime(self, t: Tensor, vocab_size: int) -> NoiseMass:
        return super().noise_mass_prime(t, 12)


class MixesInSecret(RightMixture):
    """Says masks, and gives a mixture."""

    destination: Destination = "mask"


ALPHA = "test_alpha_falls_and_stays_a_probability"
DERIVATIVE = "test_alpha_prime_is_the_derivative"
DERIVATIVES = "test_the_derivatives_of_noise_are_derivatives"
FINITE = "test_the_weight_is_finite"
BELONGS = "test_the_weight_belongs_to_alpha"
TIME_OF = "test_a_mask_probability_leads_back_to_its_time"
TAKEN = "test_noise_takes_what_does_not_survive"
NEVER_BACK = "test_noise_never_takes_tokens_back"
GOES_TO = "test_noise_goes_where_the_destination_says"
EACH = "test_each_time_stands_by_itself"
UPWARDS = "test_alpha_prime_is_never_positive"
ALSO_RIGHT = [PowerOfTwenty, ExactPowerOfTwenty, Steep]
WRONG = [
    Wrong(GoesBack, ALPHA, "it rises before t"),
    Wrong(OtherEnds, "test_the_declared_ends_are_true", "ends says alpha(1) is 0.1, and alpha gives 0"),
    Wrong(HalfTheSlope, DERIVATIVE, "it is the derivative of alpha"),
    Wrong(SlopeUpwards, UPWARDS, "with its sign"),
    Wrong(InfiniteWeight, FINITE, "it is inf at t"),
    Wrong(WeightOfAnother, BELONGS, "-alpha' / (1 - alpha)"),
    Wrong(MinSnr, BELONGS, "an objective's own weighting belongs into"),
    Wrong(NarrowInterval, "test_the_interval_covers_the_noise", "hold alpha still outside of it"),
    Wrong(IntervalBackwards, "test_the_interval_covers_the_noise", "two times in order"),
    Wrong(HalfTheMasks, "test_what_does_not_survive_is_masked", "mask_probability is 1 - alpha"),
    Wrong(LinearTime, TIME_OF, "the inverse of mask_probability"),
    Wrong(FallingMasks, TIME_OF, "it is inherited, a bisection: mend mask_probability"),
    Wrong(SaysMasks, "test_the_destination_is_what_the_options_say", "NoiseScheduleOptions"),
    Wrong(ForgetsTheMask, TAKEN, "which is 1 - alpha"),
    Wrong(OfTwelveTokens, TAKEN, "over a vocabulary of 5", options=MixtureOptions),
    Wrong(MixesInSecret, GOES_TO, "or call it a mixture"),
    Wrong(TakesBack, NEVER_BACK, "b / alpha must not fall", options=MixtureOptions),
    Wrong(Flattens, "test_shapes_are_kept", "alpha gave float64"),
    Wrong(SingleTimes, "test_shapes_are_kept", "alpha of float64 gave float32"),
    Wrong(OfTheLargestTime, EACH, "no mean, least or largest"),
    Wrong(ClampsInPlace, EACH, "wrote into it: work on a copy"),
]
