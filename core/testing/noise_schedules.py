"""The contract of noise schedules, as tests."""

from __future__ import annotations

import torch

from opendllm.core.testing.contract import PluginContract, check_close
from opendllm.registries.noise_schedules import NoiseSchedule
from opendllm.registries.options import noise_destination

VOCABULARY = 12


class NoiseScheduleContract(PluginContract):
    """alpha falls from one declared end to the other, and everything else follows from it."""

    kind = "noise_schedules"

    def schedule(self) -> NoiseSchedule:
        """The plugin."""
        return self.built(NoiseSchedule)  # type: ignore[type-abstract]

    def times(self) -> torch.Tensor:
        """[201] float64 over the schedule's interval, its ends left out."""
        low, high = self.schedule().interval
        return torch.linspace(low, high, 203, dtype=torch.float64)[1:-1]

    def test_alpha_falls_and_stays_a_probability(self) -> None:
        """0 <= alpha <= 1, never rising."""
        times = self.times()
        alpha = self.schedule().alpha(times)
        outside = times[~((alpha >= 0) & (alpha <= 1))].tolist()
        assert not outside, (
            f"alpha was expected in [0, 1], and is {alpha[~((alpha >= 0) & (alpha <= 1))][0]} at t = "
            f"{outside[0]:.3f}: it is the chance that a token survives"
        )
        rises = times[1:][alpha.diff() > 0].tolist()
        assert not rises, (
            f"alpha was expected to fall, and it rises before t = {rises[0]:.3f}: noise never goes back; "
            f"give 1 - alpha if you meant the chance of noise"
        )

    def test_the_declared_ends_are_true(self) -> None:
        """`ends` is what alpha gives at 0 and 1."""
        schedule = self.schedule()
        found = schedule.alpha(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
        wrong = [
            f"ends says alpha({time}) is {said:g}, and alpha gives {came:g}: say in `ends` what it gives"
            for time, said, came in zip((0, 1), schedule.ends, found, strict=True)
            if not abs(said - came) <= 1e-6
        ]
        assert not wrong, "; ".join(wrong)

    def test_alpha_prime_is_the_derivative(self) -> None:
        """Against autograd."""
        times = self.times().requires_grad_()
        schedule = self.schedule()
        (gradient,) = torch.autograd.grad(schedule.alpha(times).sum(), times)
        check_close(
            schedule.alpha_prime(times),
            gradient,
            "alpha_prime",
            "it is the derivative of alpha in t, by autograd here",
        )

    def test_the_weight_is_finite(self) -> None:
        """At every time that training draws: one infinite weight is the end of a run."""
        times = self.times()
        weight = self.schedule().elbo_weight(times)
        wrong = ~torch.isfinite(weight)
        assert not bool(wrong.any()), (
            f"a finite elbo_weight was expected, and it is {weight[wrong][0]} at t = {times[wrong][0]:.3f}: "
            f"shorten `interval`, or mend the formula -alpha' / (1 - alpha)"
        )

    def test_the_weight_integrates_to_what_alpha_falls_by(self) -> None:
        """The integral of w (1 - alpha) over the interval is alpha(low) - alpha(high)."""
        schedule, times = self.schedule(), self.times()
        integrand = schedule.elbo_weight(times) * schedule.mask_probability(times)
        check_close(
            torch.trapezoid(integrand, times),
            schedule.alpha(times[0]) - schedule.alpha(times[-1]),
            "the integral of elbo_weight * mask_probability, which is what alpha falls by",
            "elbo_weight is -alpha' / (1 - alpha), and mask_probability 1 - alpha",
            rtol=1e-3,
            atol=1e-4,
        )

    def test_a_mask_probability_leads_back_to_its_time(self) -> None:
        """`time_of` inverts `mask_probability`."""
        schedule, times = self.schedule(), self.times()
        check_close(
            schedule.time_of(schedule.mask_probability(times)),
            times,
            "time_of(mask_probability(t))",
            "time_of is the inverse of mask_probability; leave it out to have it found by bisection",
            rtol=0,
            atol=1e-6,
        )

    def test_noise_takes_what_does_not_survive(self) -> None:
        """b sums to 1 - alpha over the vocabulary, and is nowhere negative."""
        schedule, times = self.schedule(), self.times()
        mass = schedule.noise_mass(times, VOCABULARY)
        check_close(
            mass.mask + (VOCABULARY - 1) * mass.other,
            1 - schedule.alpha(times),
            "the sum of noise_mass over the vocabulary, which is 1 - alpha",
            "`mask` is the mask token's mass, `other` that of each other token",
        )
        least = float(torch.minimum(mass.mask, mass.other).min())
        assert least >= 0, f"a noise mass is {least:g}, and none may be below 0: mend noise_mass"

    def test_the_derivatives_of_noise_are_derivatives(self) -> None:
        """`noise_mass_prime`, against autograd."""
        times, schedule = self.times().requires_grad_(), self.schedule()
        mass, slope = (
            schedule.noise_mass(times, VOCABULARY),
            schedule.noise_mass_prime(times, VOCABULARY),
        )
        for name, part, found in (("mask", mass.mask, slope.mask), ("other", mass.other, slope.other)):
            (gradient,) = torch.autograd.grad(part.sum(), times, retain_graph=True)
            check_close(
                found,
                gradient,
                f"noise_mass_prime's `{name}`",
                "it is the derivative of noise_mass in t, by autograd here",
            )

    def test_the_destination_is_what_the_options_say(self) -> None:
        """A manifest is checked by the options alone."""
        said, found = noise_destination(self.plugin_options()), self.schedule().destination
        assert said == found, (
            f"the options' noise_destination is {said!r}, and the schedule's destination {found!r}: derive "
            f"the options from NoiseScheduleOptions and let both say the same"
        )

    def test_shapes_are_kept(self) -> None:
        """Any shape in, the same shape out."""
        schedule, times = self.schedule(), self.times().reshape(3, -1)
        for name in ("alpha", "alpha_prime", "elbo_weight"):
            found = getattr(schedule, name)(times).shape
            assert found == times.shape, (
                f"{name} of times {list(times.shape)} is {list(found)}: keep the shape of t"
            )
